"""Find the nearest of some points by computing all distances."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scvibridge._utils.torch_threads import share_rows
from scvibridge.likelihood.cpu.compilation import entry, kernel
from scvibridge.likelihood.cpu.vectors import Floats

# The other points of a tile stay in a core's cache for all points of a chunk.
_POINTS_PER_CHUNK = 32

_OTHERS_PER_TILE = 512


@kernel
def _square_distances(point: Floats, columns: Floats, first: int, n: int, out: Floats) -> None:
    """Fill `out` with the squared distances of a point to `n` of those in `columns` (d, m)."""
    n_dimensions = columns.shape[0]
    paired = n_dimensions // 2 * 2
    for other in range(n):
        out[other] = 0.0
    # Two dimensions at a time, so that the sums are loaded and stored half as often.
    for dimension in range(0, paired, 2):
        place_0, place_1 = point[dimension], point[dimension + 1]
        others_0, others_1 = columns[dimension, first:], columns[dimension + 1, first:]
        for other in range(n):
            apart_0, apart_1 = others_0[other] - place_0, others_1[other] - place_1
            out[other] += apart_0 * apart_0 + apart_1 * apart_1
    if paired < n_dimensions:
        place_0, others_0 = point[paired], columns[paired, first:]
        for other in range(n):
            apart_0 = others_0[other] - place_0
            out[other] += apart_0 * apart_0


@kernel
def _select(
    values: Floats, n: int, first: int, least: Floats, positions: npt.NDArray[np.int64]
) -> None:
    """Insert the first `n` values, whose positions begin at `first`, into the smallest so far."""
    k = least.shape[0]
    for other in range(n):
        value = values[other]
        if value < least[k - 1]:
            place = k - 1
            while place > 0 and value < least[place - 1]:
                least[place] = least[place - 1]
                positions[place] = positions[place - 1]
                place -= 1
            least[place] = value
            positions[place] = first + other


@entry
def _fill_nearest(
    points: Floats, columns: Floats, distances: Floats, positions: npt.NDArray[np.int64]
) -> None:
    n_points, n_others = points.shape[0], columns.shape[1]
    for chunk in range((n_points + _POINTS_PER_CHUNK - 1) // _POINTS_PER_CHUNK):
        square = np.empty(_OTHERS_PER_TILE)
        start = chunk * _POINTS_PER_CHUNK
        for first in range(0, n_others, _OTHERS_PER_TILE):
            n = min(_OTHERS_PER_TILE, n_others - first)
            for point in range(start, min(start + _POINTS_PER_CHUNK, n_points)):
                _square_distances(points[point], columns, first, n, square)
                _select(square, n, first, distances[point], positions[point])


def nearest(
    points: npt.NDArray[np.floating], others: npt.NDArray[np.floating], k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Find the `k` nearest of some points to each of others.

    Each distance is the root of a sum of squares in a fixed order. Equal pairs therefore have
    equal distances, regardless of the other points passed along with them.

    Parameters
    ----------
    points
        Shape ``(n, d)``.
    others
        The points among which to search, shape ``(m, d)``, m >= k.
    k
        Number of neighbours, at least 1.

    Returns
    -------
    distances : numpy.ndarray
        Euclidean distances in ascending order, shape ``(n, k)``.
    positions : numpy.ndarray
        Rows of `others`, shape ``(n, k)``. Among equal distances the first row comes first.

    Raises
    ------
    ValueError
        If there are fewer than `k` other points.
    """
    if not 1 <= k <= len(others):
        raise ValueError(f"there must be 1 to {len(others)} neighbours, got {k}")
    distances = np.full((len(points), k), np.inf)
    positions = np.full((len(points), k), -1)
    columns = np.ascontiguousarray(others.T, dtype=np.float64)
    rows = np.ascontiguousarray(points, dtype=np.float64)

    def fill(part: slice) -> None:
        _fill_nearest(rows[part], columns, distances[part], positions[part])

    share_rows(fill, len(points), _POINTS_PER_CHUNK)
    return np.sqrt(distances, out=distances), positions
