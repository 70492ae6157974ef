"""Write results of any number of cells block by block: h5ad, zarr and 10x HDF5 files.

The tables are written by anndata. The large matrices are written here, in the encoding that anndata
defines, from successive blocks that are never all in memory.
"""

from __future__ import annotations

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
    with new_hdf5(path) as file, Chunks(file) as chunks:
        write_elements(file, skeleton, compression="gzip")
        file.attrs.update(marks)
        store = HDF5Store(file, chunks)
        _fill(blocks, _matrices(store, plan, row_lengths))


def _write_zarr(
    path: Path,
    plan: Plan,
    skeleton: AnnData,
    blocks: Iterable[Block],
    row_lengths: Mapping[str, np.ndarray],
    marks: dict[str, str],
) -> None:
    # As in AnnData.write_zarr, which warns that its default format may change.
    root = zarr.open_group(path, mode="w", **_zarr_format())
    write_parts(root, skeleton, {})
    # Reopened, because `root` does not have the attributes that were just written.
    zarr.open_group(path, mode="r+").attrs.update(marks)
    store = ZarrStore(root)
    _fill(blocks, _matrices(store, plan, row_lengths))
    zarr.consolidate_metadata(root.store)


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
    marks: dict[str, str],
) -> None:
    counts = next(field for field in plan.fields if field.name == "X")
    with new_hdf5(path) as file, Chunks(file) as chunks:
        write_names(file, skeleton)
        file.attrs.update(marks)
        store = HDF5Store(file, chunks)
        matrix = _SparseMatrix(
            store, "matrix", (plan.n_cells, counts.n_columns), row_lengths["X"], counts, np.int64
        )
        _fill(blocks, [("X", matrix)])


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


class _SparseMatrix:
    """A CSR matrix in anndata's encoding.

    Row pointers have the type of the column indices, unless there are too many values: anndata
    keeps the types of a file, and older scipy cannot select rows where they differ.
    """

    def __init__(
        self,
        store: Store,
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
        if n_nonzero <= np.iinfo(index_type).max:
            indptr = indptr.astype(index_type)
        self._data = store.vector(f"{name}/data", n_nonzero, field.dtype)
        self._indices = store.vector(f"{name}/indices", n_nonzero, np.dtype(index_type))
        pointers = store.vector(f"{name}/indptr", len(indptr), indptr.dtype)
        pointers.append(indptr)
        pointers.close()

    def append(self, rows: Any) -> None:
        """Append the rows of the next cells, a CSR matrix."""
        self._data.append(rows.data)
        self._indices.append(rows.indices)

    def close(self) -> None:
        """Write what is still buffered."""
        self._data.close()
        self._indices.close()
