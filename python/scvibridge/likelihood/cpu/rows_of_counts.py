"""Rows of counts in compressed form, as written by the kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scvibridge.likelihood.cpu.compilation import kernel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from scipy import sparse

FINE = 0

TOO_LARGE = 1

"""Status of a row with a count above `LARGEST_COUNT`."""

INVALID = 2

"""Status of a row with a mean that is negative or not finite, or a logit that is NaN."""

LARGEST_COUNT = 2**31 - 1


def has_too_large(counts: sparse.csr_matrix) -> bool:
    """Return whether a count is above `LARGEST_COUNT`."""
    # As Python's integers: in single precision, the largest count is rounded up to 2**31.
    return bool(counts.nnz) and int(counts.data.max()) > LARGEST_COUNT


class CompressedRows(NamedTuple):
    """Counts of n cells in CSR format, the indices of each row sorted."""

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    data: npt.NDArray[np.int32]


def rows_of(counts: sparse.csr_matrix, rows: slice) -> CompressedRows:
    """Return some rows of a matrix, without copying them."""
    indptr = counts.indptr[rows.start : rows.stop + 1]
    return CompressedRows(indptr, counts.indices, counts.data)


class DrawnRows(NamedTuple):
    """Counts of n cells: `length` elements of `indices` and `data` for each, without gaps."""

    length: npt.NDArray[np.int64]
    """Shape (n,)."""
    indices: npt.NDArray[np.int32]
    """Shape (n * G,)."""
    data: npt.NDArray[np.int32]
    """Shape (n * G,)."""


@kernel
def scatter(counts: CompressedRows, row: int, observed: npt.NDArray[np.int32]) -> None:
    """Write the counts of a row into a dense vector."""
    for stored in range(counts.indptr[row], counts.indptr[row + 1]):
        observed[counts.indices[stored]] = counts.data[stored]


@kernel
def clear(counts: CompressedRows, row: int, observed: npt.NDArray[np.int32]) -> None:
    """Set the entries of a row to 0 again."""
    for stored in range(counts.indptr[row], counts.indptr[row + 1]):
        observed[counts.indices[stored]] = 0
