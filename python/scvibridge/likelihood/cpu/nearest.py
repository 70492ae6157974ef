"""Find the nearest of some points.

The points to search among are divided into tiles of points that lie close together. Only distances
to the points of tiles that are near enough are computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scvibridge._utils.torch_threads import share_rows
from scvibridge.likelihood.cpu.compilation import entry, kernel
from scvibridge.likelihood.cpu.vectors import Floats

_MOST_PER_TILE = 64

# Number of points for which another thread is worth while.
_FEWEST_POINTS = 32


@dataclass(frozen=True)
class Tiles:
    """Points to search among, divided into tiles.

    Attributes
    ----------
    columns
        Coordinates, shape ``(d, m)``, tile by tile.
    rows
        Rows of the points as they were given, shape ``(m,)``.
    starts
        Where each tile begins, and the end of the last one, shape ``(n_tiles + 1,)``.
    low, high
        Smallest and largest coordinates in each tile, shape ``(d, n_tiles)``.
    """

    columns: Floats
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    low: Floats
    high: Floats

    @classmethod
    def of(cls, points: npt.NDArray[np.floating]) -> Tiles:
        """Divide points, shape ``(m, d)``: halve them along the longest side of their box."""
        given = np.asarray(points, dtype=np.float64)
        tiles, left = list[npt.NDArray[np.intp]](), [np.arange(len(given))]
        while left:
            some = left.pop()
            if len(some) <= _MOST_PER_TILE:
                tiles.append(some)
                continue
            inside = given[some]
            longest = np.argmax(np.ptp(inside, axis=0))
            half = len(some) // 2
            order = some[np.argpartition(inside[:, longest], half)]
            left += [order[:half], order[half:]]
        rows = np.concatenate(tiles).astype(np.int64)
        sides = [(given[tile].min(axis=0), given[tile].max(axis=0)) for tile in tiles]
        low, high = (np.ascontiguousarray(np.transpose(side)) for side in zip(*sides, strict=True))
        # The coordinates of a point may be missing: its tile is near to every point.
        return cls(
            np.ascontiguousarray(given[rows].T),
            rows,
            np.cumsum([0, *map(len, tiles)]),
            np.where(np.isnan(low), -np.inf, low),
            np.where(np.isnan(high), np.inf, high),
        )

    def __len__(self) -> int:
        """Return the number of points."""
        return len(self.rows)


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
def _square_distances_of_boxes(point: Floats, low: Floats, high: Floats, out: Floats) -> None:
    """Fill `out` with the squared distances of a point to boxes (d, n_boxes).

    They are rounded in the same way as the distances to the points in the boxes, and therefore
    never exceed them.
    """
    n_dimensions, n = low.shape
    paired = n_dimensions // 2 * 2
    for box in range(n):
        out[box] = 0.0
    for dimension in range(0, paired, 2):
        place_0, place_1 = point[dimension], point[dimension + 1]
        for box in range(n):
            apart_0 = max(low[dimension, box] - place_0, place_0 - high[dimension, box], 0.0)
            apart_1 = max(
                low[dimension + 1, box] - place_1, place_1 - high[dimension + 1, box], 0.0
            )
            out[box] += apart_0 * apart_0 + apart_1 * apart_1
    if paired < n_dimensions:
        place_0 = point[paired]
        for box in range(n):
            apart_0 = max(low[paired, box] - place_0, place_0 - high[paired, box], 0.0)
            out[box] += apart_0 * apart_0


@kernel
def _select(
    values: Floats,
    rows: npt.NDArray[np.int64],
    first: int,
    n: int,
    least: Floats,
    positions: npt.NDArray[np.int64],
) -> None:
    """Insert the values of `n` rows into the smallest so far; of equal ones the first row wins."""
    k = least.shape[0]
    for other in range(n):
        value = values[other]
        if value <= least[k - 1]:
            row, place = rows[first + other], k
            while place > 0 and (
                value < least[place - 1]
                or (value == least[place - 1] and row < positions[place - 1])
            ):
                place -= 1
                if place + 1 < k:
                    least[place + 1] = least[place]
                    positions[place + 1] = positions[place]
            if place < k:
                least[place] = value
                positions[place] = row


@entry
def _fill_nearest(
    points: Floats,
    columns: Floats,
    rows: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    low: Floats,
    high: Floats,
    distances: Floats,
    positions: npt.NDArray[np.int64],
) -> None:
    n_tiles, k = starts.shape[0] - 1, distances.shape[1]
    boxes, square = np.empty(n_tiles), np.empty(_MOST_PER_TILE)
    for point in range(points.shape[0]):
        _square_distances_of_boxes(points[point], low, high, boxes)
        home = np.argmin(boxes)
        # Neighbouring tiles tend to be close to each other.
        for step in range(2 * n_tiles):
            tile = home + (step + 1) // 2 * (1 - 2 * (step % 2))
            if tile < 0 or tile >= n_tiles or boxes[tile] > distances[point, k - 1]:
                continue
            first, n = starts[tile], starts[tile + 1] - starts[tile]
            _square_distances(points[point], columns, first, n, square)
            _select(square, rows, first, n, distances[point], positions[point])


def nearest(
    points: npt.NDArray[np.floating], others: Tiles, k: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Find the `k` nearest of some points to each of others.

    Each distance is the root of a sum of squares in a fixed order. Equal pairs therefore have
    equal distances, regardless of the other points passed along with them.

    Parameters
    ----------
    points
        Shape ``(n, d)``.
    others
        The points among which to search, m >= k of them.
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
    given = np.ascontiguousarray(points, dtype=np.float64)

    def fill(part: slice) -> None:
        _fill_nearest(
            given[part],
            others.columns,
            others.rows,
            others.starts,
            others.low,
            others.high,
            distances[part],
            positions[part],
        )

    share_rows(fill, len(points), _FEWEST_POINTS)
    return np.sqrt(distances, out=distances), positions
