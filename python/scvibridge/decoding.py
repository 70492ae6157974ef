"""Working through cells in blocks: encode once, decode under one batch or several."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.kernels.philox import (
    LATENT_STREAM,
    LIBRARY_STREAM,
    hash_names,
    standard_normals,
)
from scvibridge.models import Decoded, Latent
from scvibridge.progress import track

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scvibridge.inputs import CellData
    from scvibridge.models import Covariates, SCVIAdapter

# Entries of one block of cells by genes: large enough to keep the matrix product busy, small
# enough that a handful of such blocks in double precision stay within a few hundred megabytes.
_ENTRIES_PER_BLOCK = 4_000_000


@dataclass(frozen=True)
class Cells:
    """Encoded cells: their data, covariates and latent posterior, rows agreeing."""

    names: np.ndarray
    counts: sp.csr_matrix | None
    covariates: Covariates
    latent: Latent

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.names)

    def take(self, rows: np.ndarray | slice) -> Cells:
        """Return some of the cells."""
        return Cells(
            self.names[rows],
            None if self.counts is None else self.counts[rows],
            self.covariates.take(rows),
            self.latent.take(rows),
        )

    def integer_counts(self, genes: np.ndarray | None) -> sp.csr_matrix:
        """Counts of some genes (all if None) as int64; an error where the data hold none."""
        if self.counts is None:
            raise ValueError("the data hold no counts")
        counts = self.counts if genes is None else self.counts[:, genes]
        return counts.astype(np.int64)

    def library(self) -> np.ndarray:
        """Own library l_n: the factor on the decoder's frequencies, shape ``(n_cells,)``."""
        return np.exp(self.latent.log_library)

    def totals(self) -> np.ndarray | None:
        """Observed totals, shape ``(n_cells,)``; None where the data hold no counts."""
        if self.counts is None:
            return None
        return np.asarray(self.counts.sum(axis=1), dtype=float).ravel()


def blocks(n_cells: int, n_genes: int, batch_size: int | None) -> list[slice]:
    """Cut cells into consecutive blocks of `batch_size` cells, or of a size that fits memory."""
    size = batch_size or max(32, min(4096, _ENTRIES_PER_BLOCK // max(n_genes, 1)))
    return [slice(start, min(start + size, n_cells)) for start in range(0, n_cells, size)]


def is_everything(rows: np.ndarray, n_cells: int) -> bool:
    """Whether a selection is all cells in their order, so that nothing need be copied."""
    return len(rows) == n_cells and np.array_equal(rows, np.arange(n_cells))


def encode(
    adapter: SCVIAdapter,
    data: CellData,
    rows: np.ndarray,
    batch_size: int | None,
    progress: bool,
) -> Cells:
    """Encode the cells at `rows` of the data, each once."""
    names = np.asarray(data.adata.obs_names.astype(str), dtype=object)[rows]
    covariates = data.covariates.take(rows)
    if data.counts is None:
        return Cells(names, None, covariates, adapter.minified_latent(rows))
    counts = data.counts if is_everything(rows, data.n_cells) else data.counts[rows]
    parts = [
        adapter.encode(counts[block], covariates.take(block))
        for block in track(
            blocks(len(rows), len(adapter.genes), batch_size), "Encoding cells", progress
        )
    ]
    return Cells(names, counts, covariates, Latent.concatenate(parts))


def decode_target(
    adapter: SCVIAdapter, z: np.ndarray, covariates: Covariates, targets: list[int] | None
) -> Decoded:
    """Decode a block as if it came from the target batches, averaged; its own where None."""
    codes: list[int | None] = [None] if targets is None else list(targets)
    return mix_targets(adapter, [adapter.decode(z, covariates, code) for code in codes])


def mix_targets(adapter: SCVIAdapter, parts: list[Decoded]) -> Decoded:
    """Average what the decoder says of several target batches.

    Frequencies and dropout probabilities are averaged, and of gene-cell dispersions the
    reciprocals, so that the average is again one likelihood and its counts are integers.
    """
    if len(parts) == 1:
        return parts[0]
    log_n = float(np.log(len(parts)))
    log_scale = torch.logsumexp(torch.stack([p.log_scale for p in parts]), dim=0) - log_n
    mixed = Decoded(log_scale, None, None)
    if adapter.zero_inflated:
        logits = torch.stack([p.zi_logits for p in parts])  # type: ignore[misc]
        log_in = torch.logsumexp(torch.nn.functional.logsigmoid(logits), dim=0)
        log_out = torch.logsumexp(torch.nn.functional.logsigmoid(-logits), dim=0)
        mixed = replace(mixed, zi_logits=log_in - log_out)
    if parts[0].log_theta is not None:
        log_theta = torch.stack([p.log_theta for p in parts])  # type: ignore[misc]
        mixed = replace(mixed, log_theta=log_n - torch.logsumexp(-log_theta, dim=0))
    return mixed


def draw_latent(cells: Cells, seed: int, sample: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the latent variables of a block from their posterior.

    Random numbers are keyed by the cell's name, so that a draw does not depend on the block, the
    order of the cells or which of them are asked for.

    Parameters
    ----------
    cells
        The cells of the block.
    seed
        Seed, 0 to 2**32 - 1.
    sample
        Number of the draw, where there are several.

    Returns
    -------
    z : numpy.ndarray
        Untransformed latent variables, shape ``(n_cells, n_latent)``.
    log_library : numpy.ndarray
        Log of the library, drawn where it is latent, shape ``(n_cells,)``.
    """
    hashes = hash_names(cells.names)
    latent = cells.latent
    n_latent = latent.location.shape[1]
    noise = standard_normals(hashes, n_latent, seed, LATENT_STREAM, sample)
    z = latent.location + latent.scale * noise
    if latent.log_library_scale is None:
        return z, latent.log_library
    noise = standard_normals(hashes, 1, seed, LIBRARY_STREAM, sample)[:, 0]
    return z, latent.log_library + latent.log_library_scale * noise


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Bring a tensor to the host in double precision."""
    array: np.ndarray = tensor.detach().cpu().numpy().astype(np.float64)
    return array
