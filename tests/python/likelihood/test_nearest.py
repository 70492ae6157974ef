"""Nearest points against scikit-learn's, and what may not depend on the other points."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scvibridge.likelihood.cpu.nearest import Tiles, nearest


@pytest.mark.parametrize("n_dimensions", [1, 2, 5, 10, 31])
@pytest.mark.parametrize("n_others", [12, 512, 1500])
def test_as_scikit_learn(n_dimensions, n_others):
    rng = np.random.default_rng(n_others + n_dimensions)
    points = rng.normal(size=(70, n_dimensions))
    others = rng.normal(size=(n_others, n_dimensions))
    distances, positions = nearest(points, Tiles.of(others), 12)
    theirs = NearestNeighbors(algorithm="kd_tree").fit(others).kneighbors(points, 12)
    np.testing.assert_allclose(distances, theirs[0], rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(positions, theirs[1])


def test_equal_pairs_have_equal_distances():
    rng = np.random.default_rng(3)
    others = rng.normal(size=(900, 7)).astype(np.float32)
    distances, positions = nearest(others, Tiles.of(others), 5)
    assert (distances[:, 0] == 0).all()
    alone = [nearest(others[row : row + 1], Tiles.of(others[: 600 + row]), 5) for row in range(300)]
    kept = (positions[:300] < 600 + np.arange(300)[:, None]).all(axis=1)
    assert kept.sum() > 50
    for row in np.flatnonzero(kept):
        assert (alone[row][0] == distances[row]).all()
        assert (alone[row][1] == positions[row]).all()


def test_equal_points_come_in_their_order():
    others = np.repeat(np.arange(4.0), 3)[:, None]
    distances, positions = nearest(np.array([[1.0]]), Tiles.of(others), 6)
    assert positions.tolist() == [[3, 4, 5, 0, 1, 2]]
    assert distances.tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize("n_dimensions", [2, 3])
def test_ties_and_clusters_as_by_sorting_all_distances(n_dimensions):
    """Whole coordinates, most of whose distances are shared, in clusters far from each other."""
    rng = np.random.default_rng(n_dimensions)
    others = rng.integers(0, 6, (2000, n_dimensions)) + 100.0 * rng.integers(0, 3, (2000, 1))
    points = np.concatenate([others[:100], rng.integers(-50, 400, (100, n_dimensions))])
    square = ((points[:, None] - others) ** 2).sum(axis=2)
    distances, positions = nearest(points, Tiles.of(others), 90)
    assert positions.tolist() == np.argsort(square, axis=1, kind="stable")[:, :90].tolist()
    assert distances.tolist() == np.sqrt(np.sort(square, axis=1)[:, :90]).tolist()


def test_missing_coordinates_are_near_to_nothing():
    rng = np.random.default_rng(5)
    others = rng.normal(size=(500, 3))
    others[::7, 1] = np.nan
    whole = np.flatnonzero(~np.isnan(others[:, 1]))
    distances, positions = nearest(others[:3], Tiles.of(others), 9)
    found = nearest(others[:3], Tiles.of(others[whole]), 9)
    assert positions[1:].tolist() == whole[found[1][1:]].tolist()
    assert distances[1:].tolist() == found[0][1:].tolist()
    assert positions[0].tolist() == [-1] * 9


@pytest.mark.parametrize("k", [0, 4])
def test_numbers_of_neighbours(k):
    with pytest.raises(ValueError, match="1 to 3 neighbours"):
        nearest(np.zeros((2, 2)), Tiles.of(np.zeros((3, 2))), k)
