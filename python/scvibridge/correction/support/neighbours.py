"""Score how close a cell is to the cells of the target batch in the latent space.

Two scores are computed among reference cells:

* the share of target cells among the cell's k nearest neighbours, divided by their share among all
  cells: 1 if batches are well mixed, 0 if no target cell is near;
* the conformal p-value of the cell's distance to its 10th nearest target cell: the share of target
  cells whose own distance is at least as large.

A cell is unsupported if the share is below .25 and the p-value at most .2, or if the p-value is at
most .001. The share detects types that the target lacks. On its own, it would also flag cells in
regions with few target cells, or slightly outside them, because it compares densities.
Therefore the nearest target cells also have to be far away. A type with fewer cells than a
neighbourhood is only detected by the p-value.

If k exceeds a tenth of the cells (a target of fewer than 100 cells, or fewer than 300 cells in
total), there is no share. The p-value, which is at least 1 / (1 + n) for n target cells, then flags
no cell as unsupported: support is undetermined.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np

from scvibridge.likelihood.cpu.nearest import Tiles, nearest

# More reference cells hardly change a score, and each cell is compared with all of them.
MOST_REFERENCE_CELLS = 20_000

LOW_SHARE = 0.25

FAR = 0.2

VERY_FAR = 0.001

_RANK = 10

_FEWEST_NEIGHBOURS = 30

# Expected number of target cells among a cell's neighbours if batches are fully mixed.
_EXPECTED = 10

# Neighbourhoods with a larger share of all cells are not local.
_LARGEST_PART = 0.1


def sample_cells(
    strata: np.ndarray, hashes: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose reference cells: all, or from each stratum those whose names have the lowest hashes.

    Each stratum gets its share of `most`, but at least half of what an equal split would give it,
    so that small strata can still be found.

    Parameters
    ----------
    strata
        Codes from 0, shape ``(n_cells,)``.
    hashes
        Hashed names of the cells. The choice does not depend on their order.
    most
        Approximate number of cells to choose; `MOST_REFERENCE_CELLS` if None.

    Returns
    -------
    rows : numpy.ndarray
        Positions of the chosen cells, sorted.
    weight : numpy.ndarray
        Number of cells that each chosen cell represents.
    """
    most = MOST_REFERENCE_CELLS if most is None else most
    n_cells = len(strata)
    if n_cells <= most:
        return np.arange(n_cells), np.ones(n_cells)
    sizes = np.bincount(strata)
    least = most // (2 * np.count_nonzero(sizes))
    quota = np.minimum(sizes, np.maximum(np.rint(most * sizes / n_cells).astype(int), least))
    order = np.lexsort((hashes, strata))
    first = np.cumsum(sizes) - sizes
    place = np.arange(n_cells) - first[strata[order]]
    rows = np.sort(order[place < quota[strata[order]]])
    weight = sizes / np.maximum(quota, 1)
    return rows, weight[strata[rows]]


@dataclass(frozen=True)
class Scores:
    """Scores of some cells, shape ``(n,)`` each; NaN if a score cannot be computed."""

    share: np.ndarray
    p_value: np.ndarray


@dataclass(frozen=True)
class TargetNeighbours:
    """Reference cells, some of which belong to the target.

    Attributes
    ----------
    latent
        Latent means, shape ``(n_reference, n_latent)``.
    keys
        Hashes of the cells' names, so that a cell is not counted as its own neighbour.
    weight
        Number of cells that each represents.
    in_target
        Whether each belongs to the target.
    """

    latent: np.ndarray
    keys: np.ndarray
    weight: np.ndarray
    in_target: np.ndarray

    @cached_property
    def n_neighbours(self) -> int | None:
        """Number k = max(30, 10 / the target's share); None if above a tenth of the cells."""
        n_cells, n_target = len(self.in_target), int(self.in_target.sum())
        k = max(_FEWEST_NEIGHBOURS, ceil(_EXPECTED * n_cells / max(n_target, 1)))
        return k if k <= _LARGEST_PART * n_cells else None

    @property
    def can_tell(self) -> bool:
        """Whether there are enough target cells to call any cell unsupported."""
        return self.n_neighbours is not None

    @cached_property
    def own_distances(self) -> np.ndarray:
        """Distances of target cells to their 10th nearest other target cell, sorted."""
        latent = self.latent[self.in_target]
        if len(latent) <= _RANK:
            return np.empty(0)
        return np.sort(self._distances(latent, np.arange(len(latent))))

    @cached_property
    def _cells(self) -> Tiles:
        return Tiles.of(self.latent)

    @cached_property
    def _targets(self) -> Tiles:
        return Tiles.of(self.latent[self.in_target])

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        """Drop what can be computed again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, for storage."""
        return self.__getstate__()

    def scores(self, keys: np.ndarray, latent: np.ndarray) -> Scores:
        """Score cells by the hashes of their names and their latent means."""
        position = self._positions(keys)
        share = np.full(len(keys), np.nan)
        p_value = np.full(len(keys), np.nan)
        if len(keys) and self.n_neighbours is not None:
            share = self._share(latent, position, self.n_neighbours)
        if len(keys) and len(self.own_distances):
            in_target = np.cumsum(self.in_target) - 1
            is_target = (position >= 0) & self.in_target[position]
            distances = self._distances(latent, np.where(is_target, in_target[position], -1))
            p_value = self._p_values(distances)
        return Scores(share, p_value)

    def supported(self, scores: Scores) -> np.ndarray:
        """Return which cells meet no criterion for being unsupported."""
        # Comparisons with NaN are false.
        apart = (scores.share < LOW_SHARE) & (scores.p_value <= FAR)
        return ~(apart | (scores.p_value <= VERY_FAR))

    def _positions(self, keys: np.ndarray) -> np.ndarray:
        """Return the positions of cells among the reference cells; -1 for other cells."""
        place = np.searchsorted(self.keys, keys, sorter=self._order)
        position = self._order[np.minimum(place, len(self._order) - 1)]
        return np.where(self.keys[position] == keys, position, -1)

    def _share(self, latent: np.ndarray, position: np.ndarray, k: int) -> np.ndarray:
        _, others = nearest(latent, self._cells, k + 1)
        excluded = others == position[:, None]
        excluded[~excluded.any(axis=1), -1] = True
        weight = np.where(excluded, 0.0, self.weight[others])
        of_target = np.where(self.in_target[others], weight, 0.0).sum(axis=1)
        overall = self.weight[self.in_target].sum() / self.weight.sum()
        return np.asarray(of_target / weight.sum(axis=1) / overall)

    def _distances(self, latent: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return the distance to the 10th nearest target cell other than the one at `position`."""
        distance, others = nearest(latent, self._targets, _RANK + 1)
        own = (others[:, :_RANK] == position[:, None]).any(axis=1)
        return np.where(own, distance[:, _RANK], distance[:, _RANK - 1])

    def _p_values(self, distances: np.ndarray) -> np.ndarray:
        n_target = len(self.own_distances)
        as_far = n_target - np.searchsorted(self.own_distances, distances, side="left")
        return np.asarray((1 + as_far) / (1 + n_target))
