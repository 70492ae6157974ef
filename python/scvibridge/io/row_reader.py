"""Read rows of any matrix that an AnnData can hold, in memory, on disk or lazily."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import h5py
import numpy as np
import scipy.sparse as sp
import zarr
from anndata.abc import CSCDataset, CSRDataset

from scvibridge._utils.sparse_structure import (
    check_pointers,
    check_structure,
    check_vectors,
    in_native_type,
    native_type,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


# Requested rows this close to each other are read in one go, up to a maximum number; so are those
# that are within a chunk, which a file reads and decompresses as a whole.
_NEAR = 32

_MAX_ROWS = 4096

# Maximum number of bytes of dense rows read at a time.
_DENSE_BYTES = 2**26


class _Rows(Protocol):
    """A matrix of which consecutive rows can be read."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    near: int

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read the rows from `start` to before `stop`; at least one row."""


class RowReader:
    """Reads rows of any matrix that an AnnData can hold.

    It can be pickled: files are reopened when it is unpickled.

    Parameters
    ----------
    matrix
        In memory: a numpy array or a scipy sparse matrix (CSC is converted to CSR). On disk:
        anndata's sparse dataset by row (CSR), an HDF5 dataset or a zarr array. A dask array, as
        from anndata's lazy reading, in blocks of rows. Or the result of `row_ordered`.

    Attributes
    ----------
    shape
        Shape of the matrix.
    dtype
        Type of its values.

    Raises
    ------
    TypeError
        If the matrix is stored by column on disk, so that its rows cannot be read: see
        `row_ordered` and `with_rows`.
    """

    def __init__(self, matrix: Any) -> None:
        self._rows = _rows_of(matrix)
        self.shape: tuple[int, int] = (int(self._rows.shape[0]), int(self._rows.shape[1]))
        self.dtype = np.dtype(self._rows.dtype)

    def read(self, rows: slice | np.ndarray) -> sp.csr_matrix:
        """Read rows, in the requested order.

        Parameters
        ----------
        rows
            A slice, or positions in any order.

        Returns
        -------
        CSR matrix of those rows, with the value type of the matrix.

        Raises
        ------
        IndexError
            If a position is outside the matrix.
        ValueError
            If the file is truncated or damaged.
        """
        if isinstance(rows, slice):
            start, stop, step = rows.indices(self.shape[0])
            if step == 1:
                return self._range(start, stop)
            rows = np.arange(start, stop, step)
        positions = np.asarray(rows, dtype=np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < self.shape[0]:
            raise IndexError(f"rows must be within the {self.shape[0]} of the matrix")
        return self._positions(positions)

    def _positions(self, positions: np.ndarray) -> sp.csr_matrix:
        if isinstance(self._rows, _InMemory):
            return self._rows.take(positions)
        order = np.argsort(positions, kind="stable")
        wanted = positions[order]
        parts = [
            self._range(run[0], run[-1] + 1)[run - run[0]]
            for run in _runs(wanted, self._rows.near)
            if len(run)
        ]
        found = _stack(parts, self.shape[1], self.dtype)
        if np.array_equal(wanted, positions):
            return found
        return found[np.argsort(order, kind="stable")]

    def _range(self, start: int, stop: int) -> sp.csr_matrix:
        if stop <= start:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        try:
            return self._rows.read(start, stop)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"rows {start} to {stop - 1} could not be read: {error}") from error


def with_rows(matrix: Any) -> Any:
    """Load a matrix that is stored by column on disk; return others unchanged."""
    return matrix.to_memory() if isinstance(matrix, CSCDataset) else matrix


def _runs(wanted: np.ndarray, near: int) -> Iterator[np.ndarray]:
    """Split sorted positions where they are far apart, and into spans of limited length."""
    is_far = np.diff(wanted) > near
    for run in np.split(wanted, np.flatnonzero(is_far) + 1):
        if len(run):
            yield from np.split(run, np.flatnonzero(np.diff((run - run[0]) // _MAX_ROWS)) + 1)


def _stack(parts: list[sp.csr_matrix], n_columns: int, dtype: np.dtype[Any]) -> sp.csr_matrix:
    if not parts:
        return sp.csr_matrix((0, n_columns), dtype=dtype)
    return parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr", dtype=dtype)


def _rows_of(matrix: Any) -> _Rows:
    if isinstance(matrix, PiecewiseRows):
        return matrix
    if isinstance(matrix, CSRDataset):
        return _CSROnDisk(matrix)
    if isinstance(matrix, CSCDataset):
        raise TypeError("the matrix is stored by column on disk (CSC): its rows cannot be read")
    if isinstance(matrix, h5py.Dataset | zarr.Array):
        return _DenseRows(matrix)
    if is_dask(matrix):
        return _DaskRows(matrix)
    return _InMemory(matrix)


def is_dask(matrix: Any) -> bool:
    """Return whether a matrix is a dask array; dask need not be installed."""
    return hasattr(matrix, "dask") and hasattr(matrix, "numblocks")


class _ClosedDataset(NamedTuple):
    """An HDF5 dataset that is not open."""

    file: str
    name: str


def _closed(value: Any) -> Any:
    if not isinstance(value, h5py.Dataset):
        return value
    return _ClosedDataset(str(Path(value.file.filename).resolve()), value.name)


def _opened(value: Any) -> Any:
    return h5py.File(value.file, "r")[value.name] if isinstance(value, _ClosedDataset) else value


class _InMemory:
    near = _NEAR

    def __init__(self, matrix: Any) -> None:
        check_structure(matrix, "the matrix")
        self._matrix = (
            sp.csr_matrix(matrix) if sp.issparse(matrix) else in_native_type(np.asarray(matrix))
        )
        self.shape: tuple[int, int] = self._matrix.shape
        self.dtype = self._matrix.dtype

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read consecutive rows."""
        return sp.csr_matrix(self._matrix[start:stop])

    def take(self, positions: np.ndarray) -> sp.csr_matrix:
        """Read any rows."""
        return sp.csr_matrix(self._matrix[positions])


class _CSROnDisk:
    def __init__(self, matrix: CSRDataset) -> None:
        self.shape: tuple[int, int] = matrix.shape
        self.dtype = native_type(matrix.dtype)
        self._data, self._indices = matrix.group["data"], matrix.group["indices"]
        self._place = str(matrix.group.name).lstrip("/")
        self._indptr = pointers_of(matrix)
        chunk = self._data.chunks[0] if self._data.chunks else 0
        self.near = max(_NEAR, chunk * self.shape[0] // max(1, int(self._indptr[-1])))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with HDF5 datasets as references, for other processes to open."""
        return {name: _closed(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reopen the file."""
        self.__dict__.update({name: _opened(value) for name, value in state.items()})

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read consecutive rows."""
        indptr = self._indptr[start : stop + 1]
        span = slice(int(indptr[0]), int(indptr[-1]))
        shape = (stop - start, self.shape[1])
        data, indices = (in_native_type(part[span]) for part in (self._data, self._indices))
        indptr = indptr - indptr[0]
        check_vectors(data, indices, indptr, shape, self._place)
        return sp.csr_matrix((data, indices, indptr), shape=shape)


def pointers_of(matrix: CSRDataset | CSCDataset) -> np.ndarray:
    """Read and check the row pointers (for CSC: column pointers) of a matrix on disk.

    Raises
    ------
    ValueError
        If they do not match the matrix.
    """
    group = matrix.group
    indptr = np.asarray(group["indptr"][...])
    n_rows = matrix.shape[0] if matrix.format == "csr" else matrix.shape[1]
    n_stored = min(group["data"].shape[0], group["indices"].shape[0])
    check_pointers(indptr, n_rows, n_stored, str(group.name).lstrip("/"))
    return indptr.astype(np.int64)


class PiecewiseRows:
    """A matrix that can be read only in certain pieces; the last one is cached."""

    near = _NEAR

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[Any], bounds: np.ndarray) -> None:
        self.shape = shape
        self.dtype = native_type(dtype)
        self._bounds = bounds
        self._kept: tuple[int, sp.csr_matrix] | None = None

    @property
    def n_pieces(self) -> int:
        """Number of pieces."""
        return len(self._bounds) - 1

    def read(self, start: int, stop: int) -> sp.csr_matrix:
        """Read consecutive rows."""
        first, last = np.searchsorted(self._bounds, [start, stop - 1], side="right") - 1
        parts = []
        for number in range(first, last + 1):
            low, high = self._bounds[number], self._bounds[number + 1]
            piece = self._piece(number)
            is_whole = start <= low and high <= stop
            parts.append(piece if is_whole else piece[max(start - low, 0) : stop - low])
        return _stack(parts, self.shape[1], self.dtype)

    def _read_piece(self, number: int) -> sp.csr_matrix:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with HDF5 datasets as references, for other processes to open."""
        return {name: _closed(value) for name, value in self.__dict__.items()} | {"_kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Reopen the file."""
        self.__dict__.update({name: _opened(value) for name, value in state.items()})

    def _piece(self, number: int) -> sp.csr_matrix:
        if self._kept is None or self._kept[0] != number:
            self._kept = None  # before memory is allocated for the next one
            self._kept = (number, self._read_piece(number))
        return self._kept[1]


class _DenseRows(PiecewiseRows):
    """Dense rows, in pieces of whole chunks."""

    def __init__(self, matrix: h5py.Dataset | zarr.Array) -> None:
        n_rows, n_columns = matrix.shape
        chunk_rows = matrix.chunks[0] if matrix.chunks else 1
        fitting = max(1, _DENSE_BYTES // max(1, n_columns * matrix.dtype.itemsize))
        height = max(chunk_rows, fitting // chunk_rows * chunk_rows)
        super().__init__((n_rows, n_columns), matrix.dtype, bounds_of(n_rows, height))
        self._matrix = matrix
        # Rows of tall chunks are read in strips of columns.
        self._width = max(1, min(n_columns, _DENSE_BYTES // (height * matrix.dtype.itemsize)))

    def _read_piece(self, number: int) -> sp.csr_matrix:
        rows = slice(int(self._bounds[number]), int(self._bounds[number + 1]))
        strips = [
            sp.csr_matrix(in_native_type(self._matrix[rows, column : column + self._width]))
            for column in range(0, self.shape[1], self._width)
        ]
        return strips[0] if len(strips) == 1 else sp.hstack(strips, format="csr")


class _DaskRows(PiecewiseRows):
    """Rows of a dask array, read in its blocks."""

    def __init__(self, matrix: Any) -> None:
        bounds = np.concatenate([[0], np.cumsum(matrix.chunks[0])])
        super().__init__(tuple(matrix.shape), matrix.dtype, bounds)
        self._matrix = matrix

    def __getstate__(self) -> dict[str, Any]:
        """Return the state; a worker that waits for other workers may wait forever.

        Raises
        ------
        TypeError
            If the array is in the memory of workers.
        """
        if _is_in_workers(self._matrix):
            raise TypeError("the Dask array is in the memory of workers")
        return super().__getstate__()

    def _read_piece(self, number: int) -> sp.csr_matrix:
        strips = [
            sp.csr_matrix(in_native_type(computed_block(self._matrix, number, column)))
            for column in range(self._matrix.numblocks[1])
        ]
        return strips[0] if len(strips) == 1 else sp.hstack(strips, format="csr")


def computed_block(matrix: Any, row: int, column: int) -> Any:
    """Compute a block of a dask array in this process, unless the array is in that of workers.

    By default, a task of a worker would wait for other tasks, which wait for it.

    Raises
    ------
    ValueError
        If it is a damaged sparse matrix.
    """
    where = {} if _is_in_workers(matrix) else {"scheduler": "threads"}
    block = matrix.blocks[row, column].compute(**where)
    check_structure(block, f"block ({row}, {column}) of the dask array")
    return block


def _is_in_workers(matrix: Any) -> bool:
    """Return whether a dask array is held by the workers of a cluster (``persist()``)."""
    layers = matrix.__dask_graph__().layers.values()
    tasks = (
        next(iter(layer.mapping.values()), None) for layer in layers if hasattr(layer, "mapping")
    )
    return any(type(task).__module__.partition(".")[0] == "distributed" for task in tasks)


def bounds_of(length: int, step: int) -> np.ndarray:
    """Return the starts of steps, and the end of the last one."""
    return np.append(np.arange(0, length, step), length)
