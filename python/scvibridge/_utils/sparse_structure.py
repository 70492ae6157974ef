"""Check the structure of sparse matrices that come from files, from R, or from the caller.

scipy does not check the vectors of a sparse matrix, and its compiled routines, like the kernels of
this package, read and write wherever an index points. An index outside the matrix therefore
corrupts memory. Every matrix is checked here before anything else uses its indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData


_COMPRESSED = ("csr", "csc")

_PLACES = ("layers", "obsm", "varm", "obsp", "varp")


def native_type(dtype: Any) -> np.dtype[Any]:
    """Return the type in which scipy's sparse matrices can hold the values of a type of numbers.

    They hold neither half precision nor another byte order than that of the machine.
    """
    found = np.dtype(dtype)
    return np.dtype(np.float32) if found == np.float16 else found.newbyteorder("=")


def in_native_type(values: Any) -> Any:
    """Return an array of numbers in its `native_type`, and any other object unchanged."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        return values
    return values.astype(native_type(values.dtype), copy=False)


def check_structure(matrix: Any, place: str = "the matrix of counts") -> None:
    """Check the indices of a sparse matrix; other matrices have none.

    Parameters
    ----------
    matrix
        A scipy sparse matrix of any format.
    place
        Its name in the error, such as ``"layers['raw']"``.

    Raises
    ------
    ValueError
        If an index is outside the matrix, or its vectors do not match each other.
    """
    if not sp.issparse(matrix):
        return
    if matrix.format in _COMPRESSED:
        shape = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
        check_vectors(matrix.data, matrix.indices, matrix.indptr, shape, place)
    elif matrix.format == "bsr":
        n_rows, n_columns = (
            size // block for size, block in zip(matrix.shape, matrix.blocksize, strict=True)
        )
        check_vectors(matrix.data, matrix.indices, matrix.indptr, (n_rows, n_columns), place)
    elif matrix.format == "coo":
        for positions, size in zip((matrix.row, matrix.col), matrix.shape, strict=True):
            _check_same_length(matrix.data, positions, place)
            check_range(positions, size, place)
    else:
        check_structure(matrix.tocsr(), place)


def check_vectors(
    data: Any, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int], place: str
) -> None:
    """Check the vectors of a compressed matrix.

    Parameters
    ----------
    data, indices, indptr
        Values, their position within a row, and where each row starts (for CSC: columns). Of
        `data` only the length is used.
    shape
        Number of rows, and number of positions within a row.
    place
        The name of the matrix in the error.

    Raises
    ------
    ValueError
        If they do not describe a matrix of that shape.
    """
    _check_same_length(data, indices, place)
    check_pointers(indptr, shape[0], len(indices), place)
    check_range(indices, shape[1], place)


def check_pointers(indptr: np.ndarray, n_rows: int, n_stored: int, place: str) -> None:
    """Check the row pointers of a compressed matrix with `n_stored` values.

    Raises
    ------
    ValueError
        If they do not start at 0, decrease, or do not end at the number of values.
    """
    if indptr.ndim != 1 or len(indptr) != n_rows + 1 or indptr.dtype.kind not in "iu":
        raise ValueError(
            f"{damaged_file(place)}: indptr has shape {indptr.shape} and type {indptr.dtype}, "
            f"expected {n_rows + 1} whole numbers"
        )
    if indptr[0] != 0:
        raise ValueError(f"{damaged_file(place)}: indptr starts at {indptr[0]}, not at 0")
    if (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"{damaged_file(place)}: indptr decreases")
    if indptr[-1] != n_stored:
        raise ValueError(
            f"{damaged_file(place)}: indptr ends at {indptr[-1]}, but {n_stored} values are stored"
        )


def check_range(indices: np.ndarray, size: int, place: str) -> None:
    """Check that indices are between ``0`` and ``size - 1``.

    Raises
    ------
    ValueError
        If one is not.
    """
    if len(indices) == 0:
        return
    if indices.dtype.kind not in "iu":
        raise ValueError(f"{damaged_file(place)}: its indices are of type {indices.dtype}")
    for index in (int(indices.min()), int(indices.max())):
        if not 0 <= index < size:
            raise ValueError(
                f"{damaged_file(place)}: index {index} lies outside of 0 to {size - 1}"
            )


def matrices_of(adata: AnnData) -> Iterator[tuple[str, Any]]:
    if not adata.isbacked:
        yield "X", adata.X
    if adata.raw is not None and not adata.isbacked:
        yield "raw.X", adata.raw.X
        yield from _entries("raw.varm", adata.raw.varm)
    for place in _PLACES:
        yield from _entries(place, getattr(adata, place))
    yield from _entries("uns", adata.uns)


def _entries(place: str, values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if name is None:  # X, which anndata lists among the layers since version 0.13
            continue
        if isinstance(value, Mapping):
            yield from _entries(f"{place}[{name!r}]", value)
        elif not isinstance(value, pd.DataFrame):
            yield f"{place}[{name!r}]", value


def _check_same_length(data: Any, indices: np.ndarray, place: str) -> None:
    if indices.ndim != 1 or len(data) != len(indices):
        raise ValueError(f"{damaged_file(place)}: {len(data)} values have indices {indices.shape}")


def damaged_file(place: str) -> str:
    return f"{place} is a damaged sparse matrix"
