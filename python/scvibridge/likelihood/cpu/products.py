"""Multiply sparse counts by dense weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from scvibridge._utils.torch_threads import share_rows
from scvibridge.likelihood.cpu.compilation import entry, kernel

Floats = npt.NDArray[np.float32]

# The weights of this many genes stay in a core's cache while a chunk of rows is processed.
_GENES_PER_TILE = 2048

_ROWS_PER_CHUNK = 64

_TABLE_LENGTH = 256

_LOGARITHMS = np.log1p(np.arange(_TABLE_LENGTH)).astype(np.float32)


@kernel
def _value(count: int, logarithm: bool) -> np.float32:
    if not logarithm:
        return np.float32(count)
    if count < _TABLE_LENGTH:
        return _LOGARITHMS[count]
    return np.float32(math.log1p(float(count)))


@kernel
def _add_row(value: np.float32, weights: Floats, out: Floats) -> None:
    for column in range(out.shape[0]):
        out[column] += value * weights[column]


@kernel
def _add_four_rows(
    values: tuple[np.float32, np.float32, np.float32, np.float32],
    weights: tuple[Floats, Floats, Floats, Floats],
    out: Floats,
) -> None:
    a, b, c, d = values
    of_a, of_b, of_c, of_d = weights
    for column in range(out.shape[0]):
        out[column] += (a * of_a[column] + b * of_b[column]) + (c * of_c[column] + d * of_d[column])


@kernel
def _multiply_chunk(
    indptr: npt.NDArray[np.integer[Any]],
    indices: npt.NDArray[np.integer[Any]],
    data: npt.NDArray[np.integer[Any]],
    weights: Floats,
    logarithm: bool,
    first: int,
    last: int,
    out: Floats,
) -> None:
    reached = indptr[first:last].copy()
    for tile in range(0, weights.shape[0], _GENES_PER_TILE):
        end = tile + _GENES_PER_TILE
        for row in range(first, last):
            stored, stop = reached[row - first], indptr[row + 1]
            # Four at a time, so that the sums of a row are loaded and stored a quarter as often.
            while stored + 3 < stop and indices[stored + 3] < end:
                _add_four_rows(
                    (
                        _value(data[stored], logarithm),
                        _value(data[stored + 1], logarithm),
                        _value(data[stored + 2], logarithm),
                        _value(data[stored + 3], logarithm),
                    ),
                    (
                        weights[indices[stored]],
                        weights[indices[stored + 1]],
                        weights[indices[stored + 2]],
                        weights[indices[stored + 3]],
                    ),
                    out[row],
                )
                stored += 4
            while stored < stop and indices[stored] < end:
                _add_row(_value(data[stored], logarithm), weights[indices[stored]], out[row])
                stored += 1
            reached[row - first] = stored


@entry
def _multiply(
    indptr: npt.NDArray[np.integer[Any]],
    indices: npt.NDArray[np.integer[Any]],
    data: npt.NDArray[np.integer[Any]],
    weights: Floats,
    logarithm: bool,
    out: Floats,
) -> None:
    for first in range(0, out.shape[0], _ROWS_PER_CHUNK):
        last = min(first + _ROWS_PER_CHUNK, out.shape[0])
        _multiply_chunk(indptr, indices, data, weights, logarithm, first, last, out)


def multiply_counts(
    indptr: npt.NDArray[np.integer[Any]],
    indices: npt.NDArray[np.integer[Any]],
    data: npt.NDArray[np.integer[Any]],
    weights: Floats,
    logarithm: bool,
    out: Floats,
) -> None:
    """Add to `out` (n, H) the product of counts, or of log(1 + counts), with `weights` (G, H).

    The counts are CSR with sorted indices. Each row is summed in the order of its genes,
    independently of the other rows.
    """

    def multiply(rows: slice) -> None:
        some = indptr[rows.start : rows.stop + 1].astype(np.int64, copy=False)
        _multiply(some, indices, data, weights, logarithm, out[rows])

    share_rows(multiply, out.shape[0], _ROWS_PER_CHUNK)
