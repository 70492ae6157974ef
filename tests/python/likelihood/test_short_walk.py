"""Short walks, compared with scipy, at and between the steps of distribution functions."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import callable_from_python
from scipy import stats

from scvibridge.likelihood.cpu.short_walk import (
    LONGEST,
    TOLERANCE,
    UNDECIDED,
    Entries,
    counts_of_uniforms,
    masses_of_zero,
    new_scratch,
    uniforms_of_counts,
)

start = callable_from_python(masses_of_zero)
to_counts = callable_from_python(counts_of_uniforms)
to_uniforms = callable_from_python(uniforms_of_counts)
scratch_of = callable_from_python(new_scratch)

PARAMETERS = [(0.05, 0.5), (0.7, 3.0), (4.0, 0.3), (9.0, 1e3), (20.0, 2.0), (35.0, 25.0)]
DROPPED = [0.0, 0.4]


def walk_of(mean, theta, dropped, n):
    """The parameters, masses of zero and arrays of n entries with the same parameters."""
    logit = np.log(dropped / (1 - dropped)) if dropped else -np.inf
    entries = Entries(np.full(n, mean), np.full(n, 1 / theta), np.full(n, logit))
    scratch, zero, mass = scratch_of(n), np.empty(n), np.empty(n)
    feasible = np.empty(n, dtype=bool)
    start(entries, n, dropped > 0, scratch, zero, mass, feasible)
    assert feasible.all()
    return entries, scratch, zero, mass


def cdf(count, mean, theta, dropped):
    return dropped + (1 - dropped) * stats.nbinom.cdf(count, theta, theta / (theta + mean))


@pytest.mark.parametrize("dropped", DROPPED)
@pytest.mark.parametrize(("mean", "theta"), PARAMETERS)
def test_uniforms_between_two_steps_give_the_upper_count(mean, theta, dropped):
    steps = cdf(np.arange(-1, LONGEST), mean, theta, dropped)
    steps[0] = 0.0
    expected = np.flatnonzero(np.diff(steps) > 1e-9)
    low, high = steps[expected], steps[expected + 1]
    # Near both steps and in the middle, in an order in which neighbours end at different counts.
    near = 0.01 * np.minimum(high - low, 1e-6)
    uniform = np.concatenate([low + near, (low + high) / 2, high - near])
    expected = np.tile(expected, 3)
    order = np.random.default_rng(1).permutation(expected.size)
    uniform, expected = uniform[order], expected[order]
    n = expected.size
    entries, scratch, zero, mass = walk_of(mean, theta, dropped, n)
    wanted, count = np.ones(n, dtype=bool), np.full(n, -7)
    wanted[::5] = False
    to_counts(entries, n, uniform, zero, mass, wanted, scratch, count)
    assert n > 10
    np.testing.assert_array_equal(count[wanted], expected[wanted])
    assert np.all(count[~wanted] == -7)


@pytest.mark.parametrize("dropped", DROPPED)
@pytest.mark.parametrize(("mean", "theta"), PARAMETERS)
def test_uniforms_at_a_step_and_far_counts_are_left_undecided(mean, theta, dropped):
    steps = cdf(np.arange(LONGEST), mean, theta, dropped)
    steps = steps[steps < 1 - 1e-9]
    beyond = cdf(LONGEST - 1, mean, theta, dropped)
    far = (beyond + 1) / 2
    uniform = np.concatenate([steps - TOLERANCE / 4, steps + TOLERANCE / 4, np.full(20, far)])
    uniform = uniform[: None if far - beyond > 1e-9 else 2 * steps.size]
    n = uniform.size
    entries, scratch, zero, mass = walk_of(mean, theta, dropped, n)
    count = np.full(n, -7)
    to_counts(entries, n, uniform, zero, mass, np.ones(n, dtype=bool), scratch, count)
    assert np.all(count == UNDECIDED)


@pytest.mark.parametrize("dropped", DROPPED)
@pytest.mark.parametrize(("mean", "theta"), PARAMETERS)
def test_counts_give_the_uniforms_of_scipy(mean, theta, dropped):
    rng = np.random.default_rng(2)
    observed = rng.permutation(np.repeat(np.arange(LONGEST), 3))
    n = observed.size
    share = rng.random(n)
    law = stats.nbinom(theta, theta / (theta + mean))
    below = np.where(observed > 0, cdf(observed - 1, mean, theta, dropped), 0.0)
    mass = (1 - dropped) * law.pmf(observed) + dropped * (observed == 0)
    entries, scratch, zero, first = walk_of(mean, theta, dropped, n)
    wanted, uniform = np.ones(n, dtype=bool), share.copy()
    wanted[::7] = False
    to_uniforms(entries, n, observed, uniform, zero, first, wanted, scratch)
    expected = below + share * mass
    np.testing.assert_allclose(uniform[wanted], expected[wanted], rtol=1e-12)
    np.testing.assert_array_equal(uniform[~wanted], share[~wanted])
