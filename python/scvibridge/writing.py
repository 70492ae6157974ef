"""Writing results of any number of cells: h5ad, zarr and 10x HDF5 files, block after block.

The tables are written by anndata; the large matrices here, in the encoding that anndata defines,
from blocks that come one after the other and are never held together.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

import anndata as ad
import h5py
import numpy as np
import zarr

from scvibridge.files import write_elements
from scvibridge.hdf5 import NewFile, new_hdf5
from scvibridge.process_state import warnings_ignored
from scvibridge.readback import RESULT_ATTRIBUTE
from scvibridge.ten_x import write_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.plan import Block, Field, Plan

# HDF5. Chunks of 512 KiB at most (64 bit indices; 256 KiB in h5ad) fit into the cache that R's
# HDF5 has for a dataset, 1 MiB, so that a row or gene after the other can be read without
# unpacking a chunk again. Chunks of twice the length saved 1-3 % of the size of counts.
_H5_LENGTH = 2**16
_H5_CELLS, _H5_GENES = 256, 512
# Deflate can be configured how to look for repetitions, and any HDF5 reads the outcome. Bytes are
# shuffled first, so counts have long runs of zeros: run lengths alone take 1.4 bytes for a nonzero
# (value and column), as level 1 does, in 60 % of its time; higher levels save up to 7 % at twice
# the time or more. Means in float32 do not repeat: Huffman codes alone make 3.37 bytes of 4 where
# level 1 makes 3.47, in a third of its time.
_H5_LEVEL = 1
_WHOLE_NUMBERS, _REAL_NUMBERS = zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY

# Zarr has a file for each chunk, so they are larger; its own choice of compressor is fast.
_ZARR_LENGTH = 2**19
_ZARR_CELLS, _ZARR_GENES = 512, 1024

_MAX_THREADS = 4


def write(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
) -> None:
    """Write a result, in the format that the ending of its path says.

    Parameters
    ----------
    path
        Ends in ``.h5ad``, ``.zarr`` or ``.h5``; nothing is there yet.
    plan
        What the result is made of. A 10x HDF5 file holds ``X`` alone.
    skeleton
        The result without the matrices of the plan.
    blocks
        The blocks of the plan, in order.
    row_lengths
        Nonzeros of each cell by the name of the sparse field, shape ``(n_cells,)``.
    """
    marks = {RESULT_ATTRIBUTE: plan.result} if plan.fingerprint else {}
    write_format = {".h5ad": _write_h5ad, ".zarr": _write_zarr, ".h5": _write_10x_h5}[path.suffix]
    write_format(path, plan, skeleton, blocks, row_lengths, marks)


def _write_h5ad(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
    marks: dict[str, str],
) -> None:
    with new_hdf5(path) as file, _Chunks(file) as chunks:
        write_elements(file, skeleton, compression="gzip")
        file.attrs.update(marks)
        store = _HDF5Store(file, chunks)
        _fill(blocks, _matrices(store, plan, row_lengths))


def _write_zarr(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
    marks: dict[str, str],
) -> None:
    # As AnnData.write_zarr does, which lets everybody know that its default format may change.
    root = zarr.open_group(path, mode="w", zarr_format=_zarr_format())
    ad.io.write_elem(root, "/", skeleton)
    # Opened anew, since `root` does not know the attributes that were written just now.
    zarr.open_group(path, mode="r+").attrs.update(marks)
    store = _ZarrStore(root)
    _fill(blocks, _matrices(store, plan, row_lengths))
    zarr.consolidate_metadata(root.store)


def _zarr_format() -> Any:
    """The format that anndata writes: zarr's own default once there is no setting for it."""
    with warnings_ignored(DeprecationWarning):
        return getattr(ad.settings, "zarr_write_format", None)


def _write_10x_h5(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
    marks: dict[str, str],
) -> None:
    counts = next(field for field in plan.fields if field.name == "X")
    with new_hdf5(path) as file, _Chunks(file) as chunks:
        write_names(file, skeleton)
        file.attrs.update(marks)
        store = _HDF5Store(file, chunks)
        matrix = _SparseMatrix(
            store, "matrix", (plan.n_cells, counts.n_columns), row_lengths["X"], counts, np.int64
        )
        _fill(blocks, [("X", matrix)])


# ---- matrices of blocks ----------------------------------------------------------------------


class _Matrix(Protocol):
    def append(self, rows: Any) -> None:
        """Add the rows of the next cells."""

    def close(self) -> None:
        """Write what is still held back."""


def _fill(blocks: Iterable[Block], matrices: list[tuple[str, _Matrix]]) -> None:
    for block in blocks:
        for name, matrix in matrices:
            matrix.append(block[name])
        del block
    for _, matrix in matrices:
        matrix.close()


def _matrices(
    store: _Store, plan: Plan, row_lengths: Mapping[str, np.ndarray]
) -> list[tuple[str, _Matrix]]:
    fields = [field for field in plan.fields if not field.is_of_tables]
    return [_matrix(store, plan, field, row_lengths) for field in fields]


def _matrix(
    store: _Store, plan: Plan, field: Field, row_lengths: Mapping[str, np.ndarray]
) -> tuple[str, _Matrix]:
    shape = (plan.n_cells, field.n_columns)
    if field.sparse:
        lengths = row_lengths[field.name]
        return field.name, _SparseMatrix(store, field.name, shape, lengths, field, np.int32)
    return field.name, store.table(field.name, shape, field.dtype)


class _SparseMatrix:
    """A CSR matrix in the encoding of anndata, with 64 bit row pointers."""

    def __init__(
        self,
        store: _Store,
        name: str,
        shape: tuple[int, int],
        row_lengths: np.ndarray,
        field: Field,
        index_type: type,
    ) -> None:
        indptr = np.concatenate([[0], np.cumsum(row_lengths, dtype=np.int64)])
        attributes = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
        store.group(name, {**attributes, "shape": list(shape)})
        n_nonzero = int(indptr[-1])
        self._data = store.vector(f"{name}/data", n_nonzero, field.dtype)
        self._indices = store.vector(f"{name}/indices", n_nonzero, np.dtype(index_type))
        pointers = store.vector(f"{name}/indptr", len(indptr), indptr.dtype)
        pointers.append(indptr)
        pointers.close()

    def append(self, rows: Any) -> None:
        """Add the rows of the next cells, a CSR matrix."""
        self._data.append(rows.data)
        self._indices.append(rows.indices)

    def close(self) -> None:
        """Write what is still held back."""
        self._data.close()
        self._indices.close()


class _Pieces:
    """Rows (or single values) that come in pieces of any length and go on in pieces of one."""

    def __init__(self, length: int, sink: Callable[[int, np.ndarray], None]) -> None:
        self._length = length
        self._sink = sink
        self._start = 0
        self._held: list[np.ndarray] = []
        self._n_held = 0

    def append(self, rows: np.ndarray) -> None:
        """Add the next rows; they must not change later."""
        while len(rows):
            taken, rows = np.split(rows, [min(self._length - self._n_held, len(rows))])
            self._held.append(taken)
            self._n_held += len(taken)
            if self._n_held == self._length:
                self.close()
        # What is held must not keep the block alive that it is a view of.
        if self._held:
            self._held[-1] = self._held[-1].copy()

    def close(self) -> None:
        """Write the values still held back."""
        if self._n_held:
            piece = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            self._sink(self._start, piece)
            self._start += self._n_held
        self._held, self._n_held = [], 0


class _Store(Protocol):
    """A file or folder in which matrices are made."""

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> _Pieces:
        """Create a one-dimensional array, to be filled in order."""

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> _Pieces:
        """Create a dense matrix in anndata's encoding, to be filled row by row."""


_DENSE = {"encoding-type": "array", "encoding-version": "0.2.0"}


# ---- HDF5 ------------------------------------------------------------------------------------


class _HDF5Store:
    def __init__(self, file: h5py.File, chunks: _Chunks) -> None:
        self._file = file
        self._chunks = chunks

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""
        self._file.require_group(name).attrs.update(attributes)

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> _Pieces:
        """Create a one-dimensional dataset; like anndata's, it can be resized."""
        chunk = min(_H5_LENGTH, max(length, 1))
        return self._dataset(name, (length,), (chunk,), dtype, maxshape=(None,))

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> _Pieces:
        """Create a dense dataset in chunks of as many values as fit, for any number of columns."""
        chunk = _dense_chunk(shape, _H5_CELLS, _H5_GENES)
        pieces = self._dataset(name, shape, chunk, dtype)
        self._file[name].attrs.update(_DENSE)
        return pieces

    def _dataset(
        self,
        name: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        dtype: np.dtype[Any],
        maxshape: tuple[int | None, ...] | None = None,
    ) -> _Pieces:
        dataset = self._file.create_dataset(
            name,
            shape=shape,
            dtype=dtype,
            chunks=chunk,
            maxshape=maxshape,
            shuffle=True,
            compression="gzip",
            compression_opts=_H5_LEVEL,
        )
        return _Pieces(chunk[0], lambda start, rows: self._chunks.put(dataset, start, rows))


class _Chunks:
    """Chunks of HDF5 datasets, compressed by some threads and written by the caller's own.

    HDF5 itself compresses in one thread, and holds a lock over it.
    """

    def __init__(self, file: NewFile) -> None:
        self._file = file

    def __enter__(self) -> Self:
        n_threads = min(_MAX_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(n_threads)
        self._waiting: deque[tuple[h5py.Dataset, tuple[int, ...], Future[bytes]]] = deque()
        self._most_waiting = 2 * n_threads
        return self

    def put(self, dataset: h5py.Dataset, start: int, rows: np.ndarray) -> None:
        """Write rows that fill the chunks they begin in, or are the last ones."""
        if rows.ndim == 1:
            self._put_chunk(dataset, (start,), rows)
            return
        width = dataset.chunks[1]
        for column in range(0, rows.shape[1], width):
            self._put_chunk(dataset, (start, column), rows[:, column : column + width])

    def _put_chunk(
        self, dataset: h5py.Dataset, offset: tuple[int, ...], values: np.ndarray
    ) -> None:
        while len(self._waiting) >= self._most_waiting:
            self._write_next()
        job = self._pool.submit(_compress, values, dataset.chunks, dataset.dtype)
        self._waiting.append((dataset, offset, job))

    def _write_next(self) -> None:
        dataset, offset, job = self._waiting.popleft()
        dataset.id.write_direct_chunk(offset, job.result())
        self._file.check()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            while error is None and self._waiting:
                self._write_next()
        finally:
            self._pool.shutdown(cancel_futures=True)


def _compress(values: np.ndarray, chunk: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Bytes of a chunk behind HDF5's filters shuffle and deflate."""
    # The last chunk of a dataset is as large as the others.
    padded = np.zeros(chunk, dtype=dtype)
    padded[tuple(map(slice, values.shape))] = values
    shuffled = padded.view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()
    strategy = _REAL_NUMBERS if dtype.kind == "f" else _WHOLE_NUMBERS
    deflate = zlib.compressobj(_H5_LEVEL, memLevel=9, strategy=strategy)
    return deflate.compress(shuffled) + deflate.flush()


def _dense_chunk(shape: tuple[int, int], n_cells: int, n_genes: int) -> tuple[int, int]:
    """Chunk of a dense matrix: a narrow one has more rows in it."""
    columns = max(1, min(shape[1], n_genes))
    rows = max(1, min(shape[0], n_cells * n_genes // columns))
    return rows, columns


# ---- zarr ------------------------------------------------------------------------------------


class _ZarrStore:
    def __init__(self, root: zarr.Group) -> None:
        self._root = root

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""
        self._root.require_group(name).attrs.update(attributes)

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> _Pieces:
        """Create a one-dimensional array."""
        chunk = min(_ZARR_LENGTH, max(length, 1))
        # Chunks that are written together are compressed together.
        return self._array(name, (length,), (chunk,), dtype, length=2 * chunk)

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> _Pieces:
        """Create a dense array."""
        chunk = _dense_chunk(shape, _ZARR_CELLS, _ZARR_GENES)
        pieces = self._array(name, shape, chunk, dtype, length=chunk[0])
        self._root[name].attrs.update(_DENSE)
        return pieces

    def _array(
        self,
        name: str,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        dtype: np.dtype[Any],
        length: int,
    ) -> _Pieces:
        array = self._root.create_array(name, shape=shape, dtype=dtype, chunks=chunk)

        def put(start: int, rows: np.ndarray) -> None:
            array[start : start + len(rows)] = rows

        return _Pieces(length, put)
