"""Read counts of many genes, one block in memory at a time, in as few passes as possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.progress import track
from scvibridge.models.cell_data import reads_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.models.cell_data import Counts


GENES_PER_BLOCK = 1024

# Memory limit for the counts of one pass, and the memory per nonzero.
_BYTES_PER_PASS, _BYTES_PER_ENTRY = 1_500_000_000, 6


def gene_blocks(
    counts: Counts, nonzeros: np.ndarray, progress: bool
) -> Iterator[list[sp.csr_matrix]]:
    """Read counts pass by pass.

    Parameters
    ----------
    counts
        Counts of all cells, ``(n_cells, n_genes)``.
    nonzeros
        Number of cells in which each gene is detected, ``(n_genes,)``.
    progress
        Whether to show progress.

    Yields
    ------
    For each block of consecutive genes, their counts in all cells.
    """
    n_genes = counts.shape[1]
    cut = [
        np.arange(first, min(first + GENES_PER_BLOCK, n_genes))
        for first in range(0, n_genes, GENES_PER_BLOCK)
    ]
    while cut:
        sizes = np.cumsum([nonzeros[block].sum() * _BYTES_PER_ENTRY for block in cut])
        fit = max(1, int(np.searchsorted(sizes, _BYTES_PER_PASS, side="right")))
        some, cut = cut[:fit], cut[fit:]
        yield read_columns(counts, some, nonzeros, progress)


def read_columns(
    counts: Counts, columns: list[np.ndarray], nonzeros: np.ndarray, progress: bool
) -> list[sp.csr_matrix]:
    """Read counts of some genes in all cells in one pass; return one matrix per group."""
    n_cells, n_genes = counts.shape
    made = [_Growing(n_cells, len(group), int(nonzeros[group].sum())) for group in columns]
    for read in track(reads_of(n_cells, n_genes), "Reading counts of added genes", progress):
        by_gene = counts.rows(read).tocsc()
        for matrix, group in zip(made, columns, strict=True):
            matrix.add(by_gene[:, _as_range(group)].tocsr())
    return [matrix.finished() for matrix in made]


def _as_range(columns: np.ndarray) -> slice | np.ndarray:
    """Convert consecutive columns to a slice, which is read contiguously."""
    consecutive = len(columns) > 0 and columns[-1] - columns[0] == len(columns) - 1
    return slice(columns[0], columns[-1] + 1) if consecutive else columns


class _Growing:
    """A CSR matrix filled by rows; its number of entries is known in advance."""

    def __init__(self, n_rows: int, n_columns: int, n_entries: int) -> None:
        self._shape = (n_rows, n_columns)
        self._data = np.empty(n_entries, dtype=np.uint16)
        self._indices = np.empty(n_entries, dtype=np.int32)
        self._indptr = np.zeros(n_rows + 1, dtype=np.int64)
        self._n_rows = 0

    def add(self, rows: sp.csr_matrix) -> None:
        """Append rows."""
        first, n_rows = self._indptr[self._n_rows], rows.shape[0]
        if rows.data.max(initial=0) > np.iinfo(self._data.dtype).max:
            self._data = self._data.astype(np.int32)
        self._data[first : first + rows.nnz] = rows.data
        self._indices[first : first + rows.nnz] = rows.indices
        self._indptr[self._n_rows + 1 : self._n_rows + n_rows + 1] = first + rows.indptr[1:]
        self._n_rows += n_rows

    def finished(self) -> sp.csr_matrix:
        """Return the matrix."""
        return sp.csr_matrix((self._data, self._indices, self._indptr), shape=self._shape)
