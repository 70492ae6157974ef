"""Write matrices and tables into HDF5 files and zarr folders, chunk by chunk."""

from __future__ import annotations

import os
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    import zarr

    from scvibridge.io.hdf5 import NewFile


# HDF5. Chunks of at most 512 KiB (64-bit indices; 256 KiB in h5ad) fit into the cache of 1 MiB
# that R's HDF5 has per dataset, so that successive rows or genes can be read without decompressing
# a chunk again. Chunks of twice the length saved 1-3 % of the size of counts.
_H5_LENGTH = 2**16

_H5_CELLS, _H5_GENES = 256, 512

# Deflate can be configured how to search for repetitions, and any HDF5 reads the output. Bytes are
# shuffled first, so counts have long runs of zeros: run-length encoding alone takes 1.4 bytes per
# nonzero (value and column), as level 1 does, in 60 % of its time; higher levels save up to 7 % at
# twice the time or more. Means in float32 do not repeat: Huffman codes alone produce 3.37 bytes of
# 4 where level 1 produces 3.47, in a third of its time.
_H5_LEVEL = 1

_WHOLE_NUMBERS, _REAL_NUMBERS = zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY

# Zarr uses one file per chunk, so they are larger; its default compressor is fast.
_ZARR_LENGTH = 2**19

_ZARR_CELLS, _ZARR_GENES = 512, 1024

_MAX_THREADS = 4


class Pieces:
    """Rows (or single values) added in pieces of any length and written in equal pieces.

    Parameters
    ----------
    length
        Length of the written pieces.
    sink
        Writes a piece, given its position.
    start
        Position of the first piece.
    """

    def __init__(
        self, length: int, sink: Callable[[int, np.ndarray], None], start: int = 0
    ) -> None:
        self._length = length
        self._sink = sink
        self._start = start
        self._held: list[np.ndarray] = []
        self._n_held = 0

    def append(self, rows: np.ndarray) -> None:
        """Append the next rows; they must not change later."""
        while len(rows):
            taken, rows = np.split(rows, [min(self._length - self._n_held, len(rows))])
            self._held.append(taken)
            self._n_held += len(taken)
            if self._n_held == self._length:
                self.close()
        # Buffered rows must not keep alive the block that they are a view of.
        if self._held:
            self._held[-1] = self._held[-1].copy()

    def close(self) -> None:
        """Write the values that are still buffered."""
        if self._n_held:
            piece = self._held[0] if len(self._held) == 1 else np.concatenate(self._held)
            self._sink(self._start, piece)
            self._start += self._n_held
        self._held, self._n_held = [], 0


class Store(Protocol):
    """A file or folder in which matrices are created."""

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> Pieces:
        """Create a one-dimensional array, to be filled in order."""

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pieces:
        """Create a dense matrix in anndata's encoding, to be filled row by row."""


_DENSE = {"encoding-type": "array", "encoding-version": "0.2.0"}


# ---- HDF5 ------------------------------------------------------------------------------------


class HDF5Store:
    """Matrices and tables in an HDF5 file."""

    def __init__(self, file: h5py.File, chunks: Chunks) -> None:
        self._file = file
        self._chunks = chunks

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""
        self._file.require_group(name).attrs.update(attributes)

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> Pieces:
        """Create a one-dimensional dataset; like anndata's, it can be resized."""
        chunk = min(_H5_LENGTH, max(length, 1))
        return self._dataset(name, (length,), (chunk,), dtype, maxshape=(None,))

    def growing_vector(self, name: str, dtype: np.dtype[Any]) -> Pieces:
        """Create a one-dimensional dataset that becomes as long as what is appended."""
        return self._dataset(name, (0,), (_H5_LENGTH,), dtype, maxshape=(None,))

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pieces:
        """Create a dense dataset, with as many values per chunk as fit."""
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
    ) -> Pieces:
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

        def put(start: int, rows: np.ndarray) -> None:
            if start + len(rows) > len(dataset):
                dataset.resize(start + len(rows), axis=0)
            self._chunks.put(dataset, start, rows)

        return Pieces(chunk[0], put)


class Chunks:
    """Chunks of HDF5 datasets, compressed by several threads and written by the caller's thread.

    HDF5 itself compresses in one thread, and holds a lock meanwhile.
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
    """Return the bytes of a chunk after HDF5's shuffle and deflate filters."""
    # The last chunk of a dataset is as large as the others.
    padded = np.zeros(chunk, dtype=dtype)
    padded[tuple(map(slice, values.shape))] = values
    shuffled = padded.view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()
    strategy = _REAL_NUMBERS if dtype.kind == "f" else _WHOLE_NUMBERS
    deflate = zlib.compressobj(_H5_LEVEL, memLevel=9, strategy=strategy)
    return deflate.compress(shuffled) + deflate.flush()


def _dense_chunk(shape: tuple[int, int], n_cells: int, n_genes: int) -> tuple[int, int]:
    """Return the chunk shape of a dense matrix: a narrow matrix has more rows per chunk."""
    columns = max(1, min(shape[1], n_genes))
    rows = max(1, min(shape[0], n_cells * n_genes // columns))
    return rows, columns


# ---- zarr ------------------------------------------------------------------------------------


class ZarrStore:
    """Matrices and tables in a zarr folder."""

    def __init__(self, root: zarr.Group) -> None:
        self._root = root

    def group(self, name: str, attributes: dict[str, Any]) -> None:
        """Create a group."""
        self._root.require_group(name).attrs.update(attributes)

    def vector(self, name: str, length: int, dtype: np.dtype[Any]) -> Pieces:
        """Create a one-dimensional array."""
        chunk = min(_ZARR_LENGTH, max(length, 1))
        # Chunks that are written together are compressed together.
        return self._array(name, (length,), (chunk,), dtype, length=2 * chunk)

    def table(self, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> Pieces:
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
    ) -> Pieces:
        # zarr 2 has no create_array(), and zarr 3 deprecates create_dataset().
        create = getattr(self._root, "create_array", None) or self._root.create_dataset
        array = create(name, shape=shape, dtype=dtype, chunks=chunk)

        def put(start: int, rows: np.ndarray) -> None:
            array[start : start + len(rows)] = rows

        return Pieces(length, put)
