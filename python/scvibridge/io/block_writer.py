"""Write results of any number of cells block by block: h5ad, zarr and 10x HDF5 files.

The tables are written by anndata. The large matrices are written here, in the encoding that anndata
defines, from successive blocks that are never all in memory.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Protocol

import anndata as ad
import numpy as np
import zarr

from scvibridge._utils.process_state import warnings_ignored
from scvibridge.io.h5ad import write_elements, write_parts
from scvibridge.io.hdf5 import new_hdf5
from scvibridge.io.readback import RESULT_ATTRIBUTE
from scvibridge.io.stores import Chunks, HDF5Store, Store, ZarrStore
from scvibridge.io.ten_x import write_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.io.plan import Block, Field, Plan


# Groups of an AnnData that may contain matrices of a plan.
_MAPPINGS = ("layers", "obsm")


def write(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
) -> None:
    """Write a result in the format given by the extension of its path.

    Parameters
    ----------
    path
        Ends in ``.h5ad``, ``.zarr`` or ``.h5``; must not exist yet.
    plan
        The plan of the result. A 10x HDF5 file contains only ``X``.
    skeleton
        The result without the matrices of the plan.
    blocks
        The blocks of the plan, in order.
    row_lengths
        Nonzeros of each cell by the name of the sparse field, shape ``(n_cells,)``.
    """
    write_format = {".h5ad": _write_h5ad, ".zarr": _write_zarr, ".h5": _write_10x_h5}[path.suffix]
    write_format(path, plan, skeleton, blocks, row_lengths)


def _marks(plan: Plan) -> dict[str, str]:
    return {RESULT_ATTRIBUTE: plan.result} if plan.fingerprint else {}


def _write_h5ad(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
) -> None:
    with new_hdf5(path) as file, Chunks(file) as chunks:
        write_elements(file, skeleton, compression="gzip")
        file.attrs.update(_marks(plan))
        store = HDF5Store(file, chunks)
        _fill(blocks, _matrices(store, plan, row_lengths))


def _write_zarr(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
) -> None:
    store = ZarrStore(_new_zarr(path, plan, skeleton))
    _fill(blocks, _matrices(store, plan, row_lengths))
    close_zarr(path)


def create_zarr(path: Path, plan: Plan, row_lengths: Mapping[str, np.ndarray]) -> None:
    """Create a zarr folder with the arrays of the matrices, to be filled, and without tables.

    Parameters are those of :func:`write`.
    """
    root = zarr.open_group(path, mode="w", **_zarr_format())
    for mapping in _MAPPINGS:
        ad.io.write_elem(root, mapping, {})
    _matrices(ZarrStore(root), plan, row_lengths)


def add_zarr_tables(path: Path, plan: Plan, skeleton: AnnData) -> None:
    """Write everything but the matrices into a folder from :func:`create_zarr`."""
    write_parts(zarr.open_group(path, mode="r+"), skeleton, {})
    zarr.open_group(path, mode="r+").attrs.update(_marks(plan))


def close_zarr(path: Path) -> None:
    """Write what a complete zarr folder says of all its arrays."""
    zarr.consolidate_metadata(zarr.open_group(path, mode="r+").store)


def _new_zarr(path: Path, plan: Plan, skeleton: AnnData) -> zarr.Group:
    # As in AnnData.write_zarr, which warns that its default format may change.
    root = zarr.open_group(path, mode="w", **_zarr_format())
    write_parts(root, skeleton, {})
    # Reopened, because `root` does not have the attributes that were just written.
    zarr.open_group(path, mode="r+").attrs.update(_marks(plan))
    return root


def _zarr_format() -> dict[str, Any]:
    """Return the format that anndata writes: zarr's default if anndata has no setting for it."""
    if not hasattr(zarr.Group, "create_array"):
        return {}  # zarr 2 has one format
    with warnings_ignored(DeprecationWarning):
        return {"zarr_format": getattr(ad.settings, "zarr_write_format", None)}


def _write_10x_h5(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
) -> None:
    counts = next(field for field in plan.fields if field.name == "X")
    with new_hdf5(path) as file, Chunks(file) as chunks:
        write_names(file, skeleton)
        file.attrs.update(_marks(plan))
        store = HDF5Store(file, chunks)
        matrix = _SparseMatrix(
            store, "matrix", (plan.n_cells, counts.n_columns), row_lengths["X"], counts, np.int64
        )
        _fill(blocks, [("X", matrix)])


class GrowingFile:
    """An h5ad or 10x HDF5 file to which blocks are appended before the rest is known.

    Parameters
    ----------
    path
        Ends in ``.h5ad`` or ``.h5``; must not exist yet.
    plan
        The plan of the result. A 10x HDF5 file contains only ``X``.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path, self._plan = path, plan
        self._is_10x = path.suffix == ".h5"
        self._open = ExitStack()
        self._file = self._open.enter_context(new_hdf5(path))
        store = HDF5Store(self._file, self._open.enter_context(Chunks(self._file)))
        if self._is_10x:
            field = next(field for field in plan.fields if field.name == "X")
            shape = (plan.n_cells, field.n_columns)
            whole: _Matrix = _GrowingMatrix(store, "matrix", shape, field, np.int64)
            self._matrices = [("X", whole)]
        else:
            for mapping in _MAPPINGS:
                ad.io.write_elem(self._file, mapping, {})
            fields = (field for field in plan.fields if not field.is_of_tables)
            self._matrices = [(field.name, _growing(store, plan, field)) for field in fields]

    def append(self, block: Block) -> None:
        """Append the next block."""
        for name, matrix in self._matrices:
            matrix.append(block[name])

    def finish(self, skeleton: AnnData) -> Path:
        """Write everything else, and close the file; `skeleton` is as for :func:`write`.

        Raises
        ------
        OSError
            If the file could not be written, for lack of space or another reason.
        """
        with self._open:
            for _, matrix in self._matrices:
                matrix.close()
            if self._is_10x:
                write_names(self._file, skeleton)
            else:
                write_elements(self._file, skeleton, compression="gzip")
            self._file.attrs.update(_marks(self._plan))
        return self._path

    def abandon(self) -> None:
        """Close an incomplete file; nothing happens if it is finished."""
        with suppress(OSError):
            self._open.__exit__(_AbandonedError, _AbandonedError(), None)


class _AbandonedError(Exception):
    """A file is closed before it is complete."""


# ---- matrices of blocks ----------------------------------------------------------------------


class _Matrix(Protocol):
    def append(self, rows: Any) -> None:
        """Append the rows of the next cells."""

    def close(self) -> None:
        """Write what is still buffered."""


def _fill(blocks: Iterable[Block], matrices: list[tuple[str, _Matrix]]) -> None:
    for block in blocks:
        for name, matrix in matrices:
            matrix.append(block[name])
        del block
    for _, matrix in matrices:
        matrix.close()


def _matrices(
    store: Store, plan: Plan, row_lengths: Mapping[str, np.ndarray]
) -> list[tuple[str, _Matrix]]:
    fields = [field for field in plan.fields if not field.is_of_tables]
    return [_matrix(store, plan, field, row_lengths) for field in fields]


def _matrix(
    store: Store, plan: Plan, field: Field, row_lengths: Mapping[str, np.ndarray]
) -> tuple[str, _Matrix]:
    shape = (plan.n_cells, field.n_columns)
    if field.sparse:
        lengths = row_lengths[field.name]
        return field.name, _SparseMatrix(store, field.name, shape, lengths, field, np.int32)
    return field.name, store.table(field.name, shape, field.dtype)


def _growing(store: HDF5Store, plan: Plan, field: Field) -> _Matrix:
    shape = (plan.n_cells, field.n_columns)
    if field.sparse:
        return _GrowingMatrix(store, field.name, shape, field, np.int32)
    return store.table(field.name, shape, field.dtype)


class _GrowingMatrix:
    """A CSR matrix as below, whose numbers of nonzeros are only known from its rows."""

    def __init__(
        self,
        store: HDF5Store,
        name: str,
        shape: tuple[int, int],
        field: Field,
        index_type: type,
    ) -> None:
        self._store, self._name = store, name
        store.group(name, _attributes(shape))
        self._data = store.growing_vector(f"{name}/data", field.dtype)
        self._indices = store.growing_vector(f"{name}/indices", np.dtype(index_type))
        self._lengths: list[np.ndarray] = []

    def append(self, rows: Any) -> None:
        """Append the rows of the next cells, a CSR matrix."""
        self._data.append(rows.data)
        self._indices.append(rows.indices)
        self._lengths.append(np.diff(rows.indptr))

    def close(self) -> None:
        """Write what is still buffered, and the pointers to the rows."""
        self._data.close()
        self._indices.close()
        _write_pointers(self._store, self._name, np.concatenate([*self._lengths, []]))


def _attributes(shape: tuple[int, int]) -> dict[str, Any]:
    return {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape)}


def _write_pointers(store: Store, name: str, row_lengths: np.ndarray) -> np.ndarray:
    """Write the 64-bit pointers to the rows of a CSR matrix, and return them."""
    indptr = np.concatenate([[0], np.cumsum(row_lengths, dtype=np.int64)])
    pointers = store.vector(f"{name}/indptr", len(indptr), indptr.dtype)
    pointers.append(indptr)
    pointers.close()
    return indptr


class _SparseMatrix:
    """A CSR matrix in anndata's encoding, with 64-bit row pointers."""

    def __init__(
        self,
        store: Store,
        name: str,
        shape: tuple[int, int],
        row_lengths: np.ndarray,
        field: Field,
        index_type: type,
    ) -> None:
        store.group(name, _attributes(shape))
        n_nonzero = int(_write_pointers(store, name, row_lengths)[-1])
        self._data = store.vector(f"{name}/data", n_nonzero, field.dtype)
        self._indices = store.vector(f"{name}/indices", n_nonzero, np.dtype(index_type))

    def append(self, rows: Any) -> None:
        """Append the rows of the next cells, a CSR matrix."""
        self._data.append(rows.data)
        self._indices.append(rows.indices)

    def close(self) -> None:
        """Write what is still buffered."""
        self._data.close()
        self._indices.close()
