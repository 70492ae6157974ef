"""Counts that follow a law: its simulation by numpy, and tests of a sample against it."""

from __future__ import annotations

import numpy as np
from scipy import stats


def component(mean, theta):
    if np.isinf(theta):
        return stats.poisson(mean)
    return stats.nbinom(theta, theta / (theta + mean))


def chi_square(counts, mean, theta, dropped=0.0):
    """p-value of a chi-square test in bins of at least 5 expected counts."""
    law = component(mean, theta)
    edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 40)))
    if dropped:
        edges = np.union1d([0.0], edges)
    cumulative = dropped + (1 - dropped) * law.cdf(edges)
    expected = counts.size * np.diff(np.concatenate([[0.0], cumulative, [1.0]]))
    bins = np.searchsorted(edges, counts)
    observed = np.bincount(bins, minlength=expected.size).astype(float)
    while expected.size > 1 and expected.min() < 5:
        # Joined with its neighbour, which exists on at least one side.
        index = int(np.argmin(expected))
        other = index - 1 if index > 0 else 1
        for values in (expected, observed):
            values[other] += values[index]
        expected, observed = np.delete(expected, index), np.delete(observed, index)
    if expected.size == 1:
        return None
    return stats.chisquare(observed, expected).pvalue


def assert_holm(pvalues, level=0.01):
    """The smallest of Holm's adjusted p-values is Bonferroni's."""
    pvalues = np.array([p for p in pvalues if p is not None])
    assert pvalues.min() * pvalues.size > level


def simulate(rng, mean, theta, dropped=0.0):
    """Counts by numpy's own generators."""
    rate = mean if np.isinf(theta) else None
    n_cells = 4000
    if rate is None:
        counts = rng.poisson(rng.gamma(theta, mean / theta, n_cells))
    else:
        counts = rng.poisson(rate, n_cells)
    return np.where(rng.random(n_cells) < dropped, 0, counts)
