"""Convert matrices stored by column on disk to an order in which rows can be read."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset

from scvibridge._utils.sparse_structure import check_range, in_native_type
from scvibridge.io.paths import explaining_space
from scvibridge.io.row_reader import PiecewiseRows, bounds_of, computed_block, is_dask, pointers_of
from scvibridge.io.shards import sync_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Nonzeros read at a time; sorting them takes about 50 bytes for each.
_SPILL_LENGTH = 2**20

_UINT16_VALUES = 2**16

_Entries = tuple[np.ndarray, np.ndarray, np.ndarray]

"""Rows, columns and values of some nonzeros."""


def row_ordered(matrix: Any, scratch: Path, block: int = 4096) -> Any:
    """Convert a matrix to one that `RowReader` can read, regardless of its order on disk.

    A matrix stored by column on disk (CSC, or lazily in blocks of columns) is copied once to files
    of some rows each. At most a few million nonzeros, or one block of a lazy matrix, are in memory
    at any time.

    Parameters
    ----------
    matrix
        A matrix of an AnnData.
    scratch
        Folder for the copy of this matrix only; created if it does not exist. A complete copy found
        there is reused.
    block
        Number of rows in a file of the copy: all of them are in memory when one is read.

    Returns
    -------
    `matrix` itself, unless it is stored by column.
    """
    is_lazy = is_dask(matrix) and matrix.numblocks[1] > 1 and max(matrix.chunks[0]) > block
    if not is_lazy and not isinstance(matrix, CSCDataset):
        return matrix
    copy = _SpilledRows(scratch / "rows", tuple(matrix.shape), np.dtype(matrix.dtype), block)
    if not copy.is_complete():
        copy.write(_entries_of_blocks(matrix) if is_lazy else _entries_of_columns(matrix))
    return copy


def _entries_of_columns(matrix: CSCDataset) -> Iterator[_Entries]:
    data, indices = matrix.group["data"], matrix.group["indices"]
    indptr = pointers_of(matrix)
    place = str(matrix.group.name).lstrip("/")
    for start, stop in pairwise(bounds_of(int(indptr[-1]), _SPILL_LENGTH)):
        first, last = np.searchsorted(indptr, [start, stop - 1], side="right") - 1
        lengths: np.ndarray = np.diff(np.clip(indptr[first : last + 2], start, stop))
        columns = np.repeat(np.arange(first, last + 1), lengths)
        rows = indices[int(start) : int(stop)]
        check_range(rows, matrix.shape[0], place)
        yield rows, columns, data[int(start) : int(stop)]


def _entries_of_blocks(matrix: Any) -> Iterator[_Entries]:
    first_rows, first_columns = (np.cumsum((0, *sizes)) for sizes in matrix.chunks)
    for column in range(matrix.numblocks[1]):
        for row in range(matrix.numblocks[0]):
            block = sp.coo_matrix(in_native_type(computed_block(matrix, row, column)))
            rows, columns = block.row + first_rows[row], block.col + first_columns[column]
            for start, stop in pairwise(bounds_of(block.nnz, _SPILL_LENGTH)):
                yield rows[start:stop], columns[start:stop], block.data[start:stop]


class _SpilledRows(PiecewiseRows):
    """A copy of a matrix in files of consecutive rows, each with its nonzeros in any order."""

    def __init__(
        self, folder: Path, shape: tuple[int, int], dtype: np.dtype[Any], block: int
    ) -> None:
        super().__init__(shape, dtype, bounds_of(shape[0], block))
        self._folder = folder
        self._block = block
        self._record = np.dtype(
            [("row", _index_type(block)), ("column", _index_type(shape[1])), ("value", self.dtype)]
        )

    def _description(self) -> dict[str, Any]:
        return {"shape": list(self.shape), "dtype": self.dtype.str, "block": self._block}

    def is_complete(self) -> bool:
        """Return whether the files exist, belong to this matrix and have their full length."""
        try:
            found = json.loads((self._folder / "manifest.json").read_text(encoding="utf-8"))
            sizes = [self._path(number).stat().st_size for number in range(self.n_pieces)]
        except (FileNotFoundError, ValueError):
            return False
        return found == {**self._description(), "sizes": sizes}

    def _path(self, number: int, folder: Path | None = None) -> Path:
        return (folder or self._folder) / f"{number:06d}.bin"

    def write(self, entries: Iterator[_Entries]) -> None:
        """Write all files; they are renamed into place once complete."""
        temporary = self._folder.with_name(f"{self._folder.name}.tmp")
        for folder in (temporary, self._folder):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.mkdir(parents=True)
        paths = [self._path(number, temporary) for number in range(self.n_pieces)]
        for path in paths:
            path.touch()
        with explaining_space("a copy of the counts by cell", self._folder.parent):
            for rows, columns, values in entries:
                self._append(paths, rows, columns, values)
        sizes = [path.stat().st_size for path in paths]
        with (temporary / "manifest.json").open("w", encoding="utf-8") as file:
            json.dump({**self._description(), "sizes": sizes}, file)
        sync_tree(temporary)
        temporary.replace(self._folder)

    def _append(
        self, paths: list[Path], rows: np.ndarray, columns: np.ndarray, values: np.ndarray
    ) -> None:
        numbers: np.ndarray = (rows // self._block).astype(_index_type(len(paths)))
        order = np.argsort(numbers, kind="stable")
        records = np.empty(len(rows), dtype=self._record)
        records["row"] = (rows % self._block)[order]
        records["column"] = columns[order]
        records["value"] = values[order]
        ends = np.cumsum(np.bincount(numbers, minlength=len(paths)))
        for number, (start, stop) in enumerate(pairwise((0, *ends))):
            if stop > start:
                with paths[number].open("ab") as file:
                    # Not tofile(), whose error on a full disk does not say so.
                    file.write(records[start:stop].data)

    def _read_piece(self, number: int) -> sp.csr_matrix:
        records = np.fromfile(self._path(number), dtype=self._record)
        n_rows = int(self._bounds[number + 1] - self._bounds[number])
        positions = (records["row"].astype(np.int32), records["column"].astype(np.int32))
        entries = sp.coo_matrix((records["value"], positions), shape=(n_rows, self.shape[1]))
        # Otherwise scipy would sum duplicate entries, in a type that may not hold the sum.
        entries.has_canonical_format = True
        return entries.tocsr()


def _index_type(size: int) -> type:
    return np.uint16 if size <= _UINT16_VALUES else np.int32
