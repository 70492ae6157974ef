"""Simulate any number of counts of several batches and cell types, in blocks of cells.

A block depends only on the seed and on its index: the first cells of a large file are the cells of
a small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCHES = ("V1", "V2", "V3")
CELL_TYPES = ("B", "CD4", "CD8", "DC", "Mono", "NK")
BLOCK_CELLS = 1000
_TYPE_SD, _BATCH_SD, _DEPTH_SD = 0.6, 0.3, 0.4
_DEPTH_OF_BATCH = (1.0, 1.25, 0.8)
_CHUNK = 2**17


@dataclass(frozen=True)
class Simulation:
    """Negative binomial counts with mean T_n r_ng, whose rates r vary with gene, type and batch.

    Attributes
    ----------
    n_cells, n_genes
        Size.
    mean_total
        Mean of the totals T of the cells; the mean of each batch is 0.8 to 1.25 times that.
    gene_sd
        Standard deviation of the log rates of genes: the larger, the fewer the nonzeros.
    seed
        Seed of the random numbers.
    """

    n_cells: int
    n_genes: int
    mean_total: float
    gene_sd: float
    seed: int = 1

    def blocks(self) -> Iterator[ad.AnnData]:
        """Simulate the cells, at most `BLOCK_CELLS` at a time."""
        for index in range(-(-self.n_cells // BLOCK_CELLS)):
            whole = self._block(index)
            yield whole[: self.n_cells - index * BLOCK_CELLS].copy()

    def cells(self) -> ad.AnnData:
        """Simulate all cells at once, in memory."""
        return ad.concat(list(self.blocks()), merge="same")

    def _rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Return log rates (types, batches, genes) and inverse dispersions (genes,)."""
        rng = np.random.default_rng([self.seed, 0])
        gene = rng.normal(0, self.gene_sd, self.n_genes)
        of_type = rng.normal(0, _TYPE_SD, (len(CELL_TYPES), 1, self.n_genes))
        of_batch = rng.normal(0, _BATCH_SD, (1, len(BATCHES), self.n_genes))
        theta = np.exp(rng.normal(np.log(2.0), 0.5, self.n_genes))
        return gene + of_type + of_batch, theta.astype(np.float32)

    def _block(self, index: int) -> ad.AnnData:
        log_rates, theta = self._rates()
        rates = np.exp(log_rates)
        rates /= rates.sum(axis=-1, keepdims=True)
        rng = np.random.default_rng([self.seed, 1, index])
        batch = rng.integers(len(BATCHES), size=BLOCK_CELLS)
        cell_type = rng.integers(len(CELL_TYPES), size=BLOCK_CELLS)
        depth = np.exp(rng.normal(-(_DEPTH_SD**2) / 2, _DEPTH_SD, BLOCK_CELLS))
        totals = self.mean_total * depth * np.take(_DEPTH_OF_BATCH, batch)
        mean = (totals[:, None] * rates[cell_type, batch]).astype(np.float32)
        gamma = rng.standard_gamma(
            np.broadcast_to(theta, mean.shape), size=mean.shape, dtype=np.float32
        )
        counts = rng.poisson(gamma * (mean / theta))
        first = index * BLOCK_CELLS
        obs = pd.DataFrame(
            {
                "batch": pd.Categorical.from_codes(batch, list(BATCHES)),
                "cell_type": pd.Categorical.from_codes(cell_type, list(CELL_TYPES)),
            },
            index=[f"cell_{number:07d}" for number in range(first, first + BLOCK_CELLS)],
        )
        var = pd.DataFrame(index=[f"gene_{number:05d}" for number in range(self.n_genes)])
        return ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def write_cells(simulation: Simulation, path: Path) -> None:
    """Write simulated cells to an h5ad file, one block in memory at a time."""
    partial = path.with_suffix(".partial")
    tables = []
    with h5py.File(partial, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for block in simulation.blocks():
            tables.append(block.obs)
            if "X" not in file:
                ad.io.write_elem(file, "X", block.X, dataset_kwargs={"chunks": (_CHUNK,)})
            else:
                ad.io.sparse_dataset(file["X"]).append(block.X)
        ad.io.write_elem(file, "obs", pd.concat(tables))
        ad.io.write_elem(file, "var", block.var)
    partial.rename(path)
