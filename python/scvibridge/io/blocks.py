"""Divide cells into blocks, and join the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from anndata import AnnData

    from scvibridge.io.plan import Block


# Entries (cells x genes) of one block: enough to keep the matrix product busy, few enough that
# several such blocks in double precision stay within a few hundred megabytes.
_ENTRIES_PER_BLOCK = 4_000_000

# A GPU needs far more to be busy, and has the memory for it.
_ENTRIES_ON_DEVICE = 2**27

_MOST_CELLS, _MOST_CELLS_ON_DEVICE = 4096, 65536

# Reserved memory of a sparse result, over what its first rows predict.
_ROOM = 1.1


def minibatch_entries(device: torch.device) -> int:
    """Return the number of entries (cells x genes) to decode at a time on a device."""
    return _ENTRIES_PER_BLOCK if device.type == "cpu" else _ENTRIES_ON_DEVICE


def block_size(n_genes: int, batch_size: int | None, entries: int = _ENTRIES_PER_BLOCK) -> int:
    """Return the number of cells of a block: `batch_size`, or about `entries` entries."""
    most = _MOST_CELLS if entries <= _ENTRIES_PER_BLOCK else _MOST_CELLS_ON_DEVICE
    return batch_size or max(32, min(most, entries // max(n_genes, 1)))


def blocks(
    n_cells: int, n_genes: int, batch_size: int | None, entries: int = _ENTRIES_PER_BLOCK
) -> list[slice]:
    """Divide cells into consecutive blocks of `batch_size` cells, or of about `entries` entries."""
    size = block_size(n_genes, batch_size, entries)
    return [slice(start, min(start + size, n_cells)) for start in range(0, n_cells, size)]


def parts_of(selection: slice, size: int) -> list[slice]:
    """Divide consecutive cells into parts of `size` cells; the last one may be smaller."""
    starts = range(selection.start, selection.stop, size)
    return [slice(start, min(start + size, selection.stop)) for start in starts]


def join(pieces: Iterable[Block], n_cells: int) -> Block:
    """Stack the matrices of consecutive cells, field by field, as they arrive.

    Parameters
    ----------
    pieces
        Matrices by field.
    n_cells
        Number of cells of all pieces.
    """
    stacks: dict[str, _Stack] = {}
    for piece in pieces:
        for name, matrix in piece.items():
            if name not in stacks:
                stacks[name] = _Stack(matrix, n_cells)
            stacks[name].add(matrix)
    return {name: stacked.matrix() for name, stacked in stacks.items()}


def stack(parts: list[Any]) -> Any:
    """Stack blocks of cells; values keep their type."""
    pieces = ({"": part} for part in parts)
    return join(pieces, sum(part.shape[0] for part in parts))[""]


class _Stack:
    """Rows appended to one matrix, in memory that is allocated once."""

    def __init__(self, first: Any, n_cells: int) -> None:
        self._shape = (n_cells, first.shape[1])
        self._is_sparse = sp.issparse(first)
        self._n_rows = self._n_values = 0
        self._values = np.empty(0 if self._is_sparse else n_cells * first.shape[1], first.dtype)
        if self._is_sparse:
            self._indptr = np.zeros(n_cells + 1, dtype=np.int64)
            self._indices = np.empty(0, dtype=first.indices.dtype)

    def add(self, matrix: Any) -> None:
        """Append the rows of a matrix."""
        rows = slice(self._n_rows, self._n_rows + matrix.shape[0])
        values = matrix.data if self._is_sparse else np.asarray(matrix).ravel()
        end = self._n_values + len(values)
        if end > len(self._values):
            # Enough for all rows, unless others have far more values than the first. Unused pages
            # cost nothing; to enlarge an array, numpy would fill the new part with zeros.
            self._resize(max(end, int(_ROOM * end * self._shape[0] / rows.stop)))
        if self._is_sparse:
            self._indptr[rows.start + 1 : rows.stop + 1] = self._n_values + matrix.indptr[1:]
            self._indices[self._n_values : end] = matrix.indices
        self._values[self._n_values : end] = values
        self._n_rows, self._n_values = rows.stop, end

    def _resize(self, size: int) -> None:
        if self._n_values == 0:
            # numpy would fill the new memory with zeros.
            self._values = np.empty(size, dtype=self._values.dtype)
            self._indices = np.empty(size, dtype=self._indices.dtype)
        else:
            self._values.resize(size, refcheck=False)
            self._indices.resize(size, refcheck=False)

    def matrix(self) -> Any:
        """Return the matrix of all rows."""
        if not self._is_sparse:
            return self._values.reshape(self._shape)
        self._resize(self._n_values)
        # scipy requires one integer width for both, and uses the narrow one if possible.
        width = np.int32 if self._n_values <= np.iinfo(np.int32).max else np.int64
        indices = self._indices.astype(width, copy=False)
        indptr = self._indptr.astype(width, copy=False)
        matrix = sp.csr_matrix(self._shape, dtype=self._values.dtype)
        matrix.data, matrix.indices, matrix.indptr = self._values, indices, indptr
        matrix.has_canonical_format = True  # scipy would scan all entries to detect it
        return matrix


def add_matrices(result: AnnData, matrices: Block) -> None:
    """Add matrices to an AnnData, by the names of their fields."""
    for name, matrix in matrices.items():
        place, _, key = name.partition("/")
        if key:
            getattr(result, place)[key] = matrix
        else:
            result.X = matrix
