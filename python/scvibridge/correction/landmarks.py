"""Landmarks in the latent space, and how much each cell belongs to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.likelihood.cpu.philox import hash_names

# In simulations with 5 types or a trajectory, 10, 20 and 40 landmarks left as much of the effect.
N_LANDMARKS = 20

# With fewer cells for each landmark, there are fewer landmarks.
CELLS_PER_LANDMARK = 20

# The landmarks are placed by this many cells; more hardly move them.
MOST_CELLS = 4000

_ITERATIONS = 20


@dataclass(frozen=True)
class Landmarks:
    """Points in the latent space.

    Attributes
    ----------
    points
        Their positions, shape ``(n_landmarks, n_latent)``.
    variance
        Squared width of the kernel, shape ``()``: the mean squared distance of a cell to the
        nearest landmark.
    """

    points: np.ndarray
    variance: np.ndarray

    @staticmethod
    def place(location: np.ndarray, names: np.ndarray) -> Landmarks:
        """Place landmarks by k-means, independently of the order of the cells.

        Parameters
        ----------
        location
            Latent means of the cells, shape ``(n_cells, n_latent)``.
        names
            Their names, whose hashes choose the cells to start from.
        """
        order = np.argsort(hash_names(names), kind="stable")[:MOST_CELLS]
        cells = np.asarray(location, dtype=float)[order]
        n_landmarks = min(N_LANDMARKS, -(-len(cells) // CELLS_PER_LANDMARK))
        points = cells[:n_landmarks].copy()
        if not n_landmarks:
            return Landmarks(points, np.ones(()))
        for _ in range(_ITERATIONS):
            nearest = _squared_distances(cells, points).argmin(axis=1)
            used = np.unique(nearest)
            moved = points.copy()
            moved[used] = [cells[nearest == index].mean(axis=0) for index in used]
            if np.array_equal(moved, points):
                break
            points = moved
        variance = _squared_distances(cells, points).min(axis=1).mean()
        return Landmarks(points, np.asarray(variance if variance > 0 else 1.0))

    def memberships(self, location: np.ndarray) -> np.ndarray:
        """Return how much each cell belongs to each landmark: Gaussian kernels with sum 1.

        Parameters
        ----------
        location
            Latent means, shape ``(n_cells, n_latent)``.

        Returns
        -------
        Array of shape ``(n_cells, n_landmarks)``.
        """
        distances = _squared_distances(np.asarray(location, dtype=float), self.points)
        nearest = distances.min(axis=1, keepdims=True, initial=np.inf)
        weights = np.exp((nearest - distances) / (2.0 * self.variance))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def nearest(self, location: np.ndarray) -> np.ndarray:
        """Return the nearest landmark of each cell, shape ``(n_cells,)``."""
        return _squared_distances(np.asarray(location, dtype=float), self.points).argmin(axis=1)


def condition_offsets(
    location: np.ndarray, batch: np.ndarray, condition: np.ndarray | None, n_conditions: int
) -> np.ndarray:
    """Compute how far each condition is from the mean of the conditions in the latent space.

    Offsets are computed within batches, among conditions of at least `MIN_GROUP_CELLS`, and
    averaged over the batches.

    Parameters
    ----------
    location, batch, condition
        Latent means and codes of cells; conditions are -1 where missing, or None.
    n_conditions
        Number of conditions, of which these cells need not have all.

    Returns
    -------
    Array of shape ``(n_conditions + 1, n_latent)``. The last row, for cells without a condition, is
    zero, and so is that of a condition without an offset.
    """
    codes = np.full(len(batch), -1) if condition is None else condition
    sums = np.zeros((n_conditions + 1, location.shape[1]))
    n_batches = np.zeros((n_conditions + 1, 1))
    for code in np.unique(batch):
        members = (batch == code) & (codes >= 0)
        present, sizes = np.unique(codes[members], return_counts=True)
        present = present[sizes >= MIN_GROUP_CELLS]
        if len(present) < 2:
            continue
        means = np.stack([location[members & (codes == c)].mean(axis=0) for c in present])
        sums[present] += means - means.mean(axis=0)
        n_batches[present] += 1
    return np.asarray(sums / np.maximum(n_batches, 1))


def _squared_distances(cells: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return squared distances, ``(n_cells, n_points)``, that do not depend on other cells."""
    found = np.zeros((len(cells), len(points)))
    for index, point in enumerate(points):
        found[:, index] = ((cells - point) ** 2).sum(axis=1)
    return found
