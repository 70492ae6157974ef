"""Check the structure of sparse matrices in files, and in AnnData objects backed by files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

from scvibridge._utils.sparse_structure import (
    check_pointers,
    check_structure,
    damaged_file,
    matrices_of,
)
from scvibridge.io.file_boundary import check_boundary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData


_ON_DISK = ("csr_matrix", "csc_matrix")

# Modules of the matrices of cupy.
_ON_GPU = ("cupy", "cupyx")


def check_matrices(adata: AnnData, prefix: str = "adata.") -> None:
    """Check all sparse matrices of an AnnData that are in memory; `prefix` is put before names.

    Raises
    ------
    ValueError
        As for `check_structure`; the message names the matrix.
    """
    check_given(adata)
    for place, matrix in matrices_of(adata):
        check_structure(matrix, f"{prefix}{place}")


def check_given(adata: AnnData) -> None:
    """Check the source of an AnnData that the caller created: its file, or the parent of a view.

    A view selects from its parent's matrices when they are used.

    Raises
    ------
    ValueError
        As for `check_structure` and `scvibridge.io.file_boundary.check_boundary`.
    TypeError
        If a matrix is in the memory of a GPU.
    """
    if adata.filename is not None:
        check_boundary(Path(adata.filename))
    parent = getattr(adata, "_adata_ref", None) if adata.is_view else None
    if parent is not None:
        check_matrices(parent)
    else:
        _check_in_host_memory(adata)


def _check_in_host_memory(adata: AnnData) -> None:
    held = {"X": adata.X, **{f"layers[{name!r}]": matrix for name, matrix in adata.layers.items()}}
    for place, matrix in held.items():
        if type(matrix).__module__.split(".")[0] in _ON_GPU:
            raise TypeError(
                f"{place} of the data is in GPU memory (cupy): convert the data with "
                "rapids_singlecell.get.anndata_to_CPU(adata); device='cuda' then runs the model "
                "on the GPU"
            )


def check_file(path: Path) -> None:
    """Check the lengths of all sparse matrices of a file, as `check_stored` does."""
    if path.suffix.lower() == ".zarr":
        check_stored(zarr.open(path, mode="r"))
        return
    with h5py.File(path, "r") as file:
        check_stored(file)


def check_stored(group: Any) -> None:
    """Check the lengths of all sparse matrices below a group of an open HDF5 or zarr file.

    Readers drop what is stored beyond the last row, so it can only be detected here. The indices
    are checked when they are read.

    Raises
    ------
    ValueError
        If the vectors of a matrix do not match each other.
    """
    for name in group:
        child = group[name]
        if not hasattr(child, "keys"):
            continue
        if child.attrs.get("encoding-type") in _ON_DISK:
            _check_stored_matrix(child, child.name.lstrip("/"))
        else:
            check_stored(child)


def _check_stored_matrix(group: Any, place: str) -> None:
    missing = [name for name in ("data", "indices", "indptr") if name not in group]
    if missing:
        raise ValueError(f"{damaged_file(place)}: it lacks {', '.join(missing)}")
    data, indices, indptr = (group[name] for name in ("data", "indices", "indptr"))
    if len(data.shape) != 1 or data.shape != indices.shape or len(indptr.shape) != 1:
        raise ValueError(
            f"{damaged_file(place)}: data has shape {data.shape}, indices {indices.shape} and "
            f"indptr {indptr.shape}"
        )
    shape = [int(size) for size in group.attrs.get("shape", ())]
    if len(shape) == 2:
        is_csr = group.attrs["encoding-type"] == "csr_matrix"
        pointers = np.asarray(indptr[...])
        check_pointers(pointers, shape[0 if is_csr else 1], data.shape[0], place)
        if isinstance(data, zarr.Array):
            _check_complete(data, indices, pointers, place)


def _check_complete(
    data: zarr.Array, indices: zarr.Array, pointers: np.ndarray, place: str
) -> None:
    """Check that no chunk of a matrix in a zarr folder is lost, such as by an interrupted copy.

    zarr reads a chunk without a file as zeros: the counts would be 0, or those of the first gene.
    It also leaves out the files of chunks of zeros, but a sparse matrix has none, unless no row has
    more than one value.
    """
    for start, stop in _chunks_of_zeros(data):
        raise _lost(f"{place}/data", start, stop, " (if they are zeros, remove them first, "
                    "adata.X.eliminate_zeros())")  # fmt: skip
    for start, stop in _chunks_of_zeros(indices):
        first, last = np.searchsorted(pointers, [start, stop - 1], side="right")
        if stop - start > last - first + 1:  # more values than rows
            raise _lost(f"{place}/indices", start, stop)


def _chunks_of_zeros(values: zarr.Array) -> Iterator[tuple[int, int]]:
    """Yield the ranges of chunks of zeros; none is read if all have files."""
    if values.nchunks_initialized >= values.nchunks:
        return
    step = values.chunks[0]
    for start in range(0, values.shape[0], step):
        stop = min(start + step, values.shape[0])
        if not np.asarray(values[start:stop]).any():
            yield start, stop


def _lost(place: str, start: int, stop: int, otherwise: str = "") -> ValueError:
    return ValueError(
        f"{place} is incomplete: the file of its values {start} to {stop - 1} is missing. Copy the "
        f"folder again{otherwise}"
    )
