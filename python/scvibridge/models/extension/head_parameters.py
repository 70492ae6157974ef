"""Parameters of an output head, and the cells it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

    Reader = Callable[[np.ndarray], sp.csr_matrix]


_LARGEST_LOG_MEAN = 30.0


@dataclass(frozen=True)
class Nonzeros:
    """The counts above zero of some cells and genes, in the order of the cells.

    Attributes
    ----------
    cell, gene
        Row and column of each count, shape ``(n_nonzeros,)``.
    count
        The counts, float32, shape ``(n_nonzeros,)``.
    """

    cell: torch.Tensor
    gene: torch.Tensor
    count: torch.Tensor

    @classmethod
    def of(cls, counts: sp.csr_matrix, device: torch.device) -> Nonzeros:
        """Return those of a CSR matrix without stored zeros."""
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        return cls(
            torch.as_tensor(cell, device=device),
            torch.as_tensor(counts.indices.astype(np.int64), device=device),
            torch.as_tensor(counts.data.astype(np.float32), device=device),
        )

    def values_of(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the entries of a matrix of all cells, or of one row for all, at these places."""
        return matrix[0, self.gene] if len(matrix) == 1 else matrix[self.cell, self.gene]

    def add_to(self, matrix: torch.Tensor, values: torch.Tensor) -> None:
        """Add values to the entries of a matrix at these places."""
        matrix.view(-1)[self.cell * matrix.shape[1] + self.gene] += values


@dataclass(frozen=True)
class HeadCells:
    """Cells, with everything a head needs to know about them except counts.

    Attributes
    ----------
    features
        Standardised h, float32, shape ``(n_cells, n_features)``.
    batch
        Codes of the model's batches, shape ``(n_cells,)``.
    n_batches
        Number of batches.
    log_total
        Log of the cells' totals over all genes, float32, shape ``(n_cells,)``.
    """

    features: torch.Tensor
    batch: torch.Tensor
    n_batches: int
    log_total: torch.Tensor

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.batch)


@dataclass(frozen=True)
class HeadData(HeadCells):
    """The data that a head is fitted to: cells, and their counts of some genes.

    Attributes
    ----------
    counts
        Returns the counts of cells, given their rows here, ``(n, n_genes)``.
    n_genes
        Number of genes.
    """

    counts: Reader
    n_genes: int

    def sums(self) -> np.ndarray:
        """Sum the counts of each gene over the cells of each batch, ``(n_batches, n_genes)``."""
        batch, sums = self.batch.cpu().numpy(), np.zeros((self.n_batches, self.n_genes))
        for rows in cut_to_genes(self.n_cells, self.n_genes):
            counts = self.counts(rows)
            for code in np.unique(batch[rows]):
                sums[code] += np.asarray(counts[batch[rows] == code].sum(axis=0)).ravel()
        return sums


@dataclass
class Parameters:
    """Parameters of a head during fitting: tensors with genes in columns."""

    weights: torch.Tensor
    intercept: torch.Tensor
    batch: torch.Tensor
    log_theta: torch.Tensor | None

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors that are not None."""
        given = (self.weights, self.intercept, self.batch, self.log_theta)
        return [values for values in given if values is not None]

    def copy(self) -> Parameters:
        """Return a copy that later steps do not change."""
        theta = None if self.log_theta is None else self.log_theta.clone()
        return Parameters(self.weights.clone(), self.intercept.clone(), self.batch.clone(), theta)

    def log_mean(
        self, features: torch.Tensor, batch: torch.Tensor, log_total: torch.Tensor
    ) -> torch.Tensor:
        """Compute the log of the means of cells, ``(n, n_genes)``."""
        offset = (self.intercept + self.batch)[batch] + log_total[:, None]
        return torch.addmm(offset, features, self.weights).clamp_(max=_LARGEST_LOG_MEAN)

    def theta(self, batch: torch.Tensor) -> torch.Tensor | None:
        """Return inverse dispersions of cells, one row or one per cell."""
        if self.log_theta is None:
            return None
        rows = self.log_theta if len(self.log_theta) == 1 else self.log_theta[batch]
        return rows.exp()


def joined(blocks: list[Parameters]) -> list[np.ndarray]:
    """Concatenate parameters of gene blocks: weights, intercept, batch, and theta if any."""
    parts = zip(*(block.tensors() for block in blocks), strict=True)
    return [torch.cat(part, dim=-1).cpu().numpy() for part in parts]


def cut_to_genes(n_cells: int, n_genes: int) -> list[np.ndarray]:
    """Divide cells into blocks of at most a few million entries."""
    size = max(1, min(2048, 4_000_000 // max(n_genes, 1)))
    return [np.arange(first, min(first + size, n_cells)) for first in range(0, n_cells, size)]
