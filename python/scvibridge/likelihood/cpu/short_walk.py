"""Quantiles and distribution functions of many entries at once, by short walks from zero.

Most counts are small. Their distribution functions are summed term by term, for all entries of a
row together, in vector loops. Entries that such a sum cannot decide, because it is closer to the
uniform than `TOLERANCE` or would be too long, are left to the functions for single entries
(`scvibridge.likelihood.cpu.zero_inflation`). The result is the same either way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import kernel
from scvibridge.likelihood.cpu.vectors import Floats, exp_minus, log1p_ratio, sigmoid

TOLERANCE = 1e-12

"""Uniforms closer to a step of the distribution function are left undecided.

The sums are exact to 1e-13: the logarithm of the first term to 3e-14 (30 times a few units in the
last place), its power to 2e-14, and each of up to 64 terms adds three roundings.
"""

UNDECIDED = -1

"""Count of an entry that the walk leaves undecided."""

LONGEST = 64

_LARGEST_MEAN = 40.0

# Entries that are too few for vector loops walk on one after the other.
_FEW = 16

_LARGEST_EXPONENT = 30.0

_INVERSE = 1.0 / np.arange(1, LONGEST + 1, dtype=np.float64)


class Entries(NamedTuple):
    """Parameters of the chosen entries of a row; the first n elements of each array are used."""

    mean: Floats
    phi: Floats
    """Dispersion 1 / theta, 0 for the Poisson."""
    logit: Floats
    """Logit of the dropout; only used with zero inflation."""


class Walk(NamedTuple):
    """State of the walk of each entry; the first n elements of each array are used."""

    position: npt.NDArray[np.int32]
    """Index of the entry among the chosen ones."""
    mass: Floats
    """Probability of the count that the walk has reached."""
    step: Floats
    """m / (1 + m phi), so that f(k + 1) / f(k) = step (1 + k phi) / (k + 1)."""
    phi: Floats
    below: Floats
    """Sum of the masses."""
    goal: Floats
    """The uniform, or the count, that ends the walk."""
    passed: Floats
    """Number of steps of the distribution function below the uniform."""
    nearest: Floats
    """Smallest distance of the uniform to a step so far."""


class Scratch(NamedTuple):
    """Arrays with the length of a row, reused for each row."""

    walk: Walk
    work: npt.NDArray[np.float64]
    """Shape (4, length)."""


@kernel
def new_scratch(n: int) -> Scratch:
    """Return arrays for rows of `n` genes."""
    floats = np.empty((11, n))
    walk = Walk(
        np.empty(n, dtype=np.int32),
        floats[4],
        floats[5],
        floats[6],
        floats[7],
        floats[8],
        floats[9],
        floats[10],
    )
    return Scratch(walk, floats[:4])


@kernel
def masses_of_zero(
    entries: Entries,
    n: int,
    zero_inflated: bool,
    scratch: Scratch,
    dropped: Floats,
    mass: Floats,
    short: npt.NDArray[np.bool_],
) -> None:
    """Fill `mass` with (1 - pi) f(0) and `dropped` with pi; `short` marks feasible short walks."""
    exponent, work_0, work_1, ratio = scratch.work[0], scratch.work[1], scratch.work[2], mass
    mean, phi = entries.mean, entries.phi
    for i in range(n):
        exponent[i] = mean[i] * phi[i]
    log1p_ratio(exponent, n, work_0, work_1, ratio)
    for i in range(n):
        exponent[i] = mean[i] * ratio[i]
    for i in range(n):
        short[i] = (exponent[i] < _LARGEST_EXPONENT) & (mean[i] < _LARGEST_MEAN)
    exp_minus(exponent, n, mass)
    if not zero_inflated:
        for i in range(n):
            dropped[i] = 0.0
        return
    sigmoid(entries.logit, n, work_0, dropped)
    for i in range(n):
        mass[i] *= 1.0 - dropped[i]


@kernel
def _start(
    entries: Entries,
    n: int,
    mass: Floats,
    below: Floats,
    goal: Floats,
    wanted: npt.NDArray[np.bool_],
    walk: Walk,
) -> None:
    """Start with all entries; those that are not wanted have already reached their goal."""
    mean, phi = entries.mean, entries.phi
    for i in range(n):
        walk.position[i] = i
        walk.passed[i] = 0.0
        walk.nearest[i] = 1.0
    for i in range(n):
        walk.step[i] = mean[i] / (1.0 + mean[i] * phi[i])
    for i in range(n):
        walk.mass[i] = mass[i]
        walk.phi[i] = phi[i]
    for i in range(n):
        walk.below[i] = below[i]
        walk.goal[i] = goal[i] if wanted[i] else -1.0


@kernel
def _keep(walk: Walk, old: int, new: int) -> None:
    walk.position[new] = walk.position[old]
    walk.mass[new] = walk.mass[old]
    walk.step[new] = walk.step[old]
    walk.phi[new] = walk.phi[old]
    walk.below[new] = walk.below[old]
    walk.goal[new] = walk.goal[old]
    walk.passed[new] = walk.passed[old]
    walk.nearest[new] = walk.nearest[old]


@kernel
def _next_masses(walk: Walk, n: int, reached: int) -> None:
    """Advance from f(k) to f(k + 1), for the count k that all have reached."""
    mass, step, phi = walk.mass, walk.step, walk.phi
    k, inverse = float(reached), _INVERSE[reached]
    for i in range(n):
        mass[i] = mass[i] * (step[i] * (1.0 + k * phi[i]) * inverse)


@kernel
def _compare(walk: Walk, n: int) -> None:
    below, goal, count, nearest = walk.below, walk.goal, walk.passed, walk.nearest
    for i in range(n):
        distance = goal[i] - below[i]
        distance = distance if distance > 0.0 else -distance
        nearest[i] = min(nearest[i], distance)
    for i in range(n):
        count[i] += 1.0 if goal[i] > below[i] else 0.0


@kernel
def _add(total: Floats, values: Floats, n: int) -> None:
    for i in range(n):
        total[i] += values[i]


@kernel
def _is_due(reached: int) -> bool:
    """Return whether to remove finished entries now: after 2, 4, 8, ... steps."""
    return reached > 0 and reached & (reached + 1) == 0


@kernel
def counts_of_uniforms(
    entries: Entries,
    n: int,
    uniform: Floats,
    dropped: Floats,
    mass: Floats,
    wanted: npt.NDArray[np.bool_],
    scratch: Scratch,
    count: npt.NDArray[np.int64],
) -> None:
    """Fill `count` with the smallest x with u <= F(x), or `UNDECIDED`, for `wanted` entries.

    `dropped` and `mass` are from `masses_of_zero`.
    """
    walk, first = scratch.walk, scratch.work[0]
    for i in range(n):
        first[i] = dropped[i] + mass[i]
    _start(entries, n, mass, first, uniform, wanted, walk)
    active = n
    for reached in range(LONGEST):
        _compare(walk, active)
        if _is_due(reached) or reached == LONGEST - 1:
            left = 0
            for i in range(active):
                # Without branches, which would be mispredicted: all are written and kept, and the
                # place of a finished one is overwritten by the next.
                place = walk.position[i]
                is_clear = walk.nearest[i] >= TOLERANCE
                passed = np.int64(walk.passed[i])
                found = passed if is_clear else UNDECIDED
                count[place] = found if wanted[place] else count[place]
                _keep(walk, i, left)
                left += 1 if passed > reached else 0
            active = left
            if active <= _FEW:
                for i in range(active):
                    count[walk.position[i]] = _count_alone(walk, i, reached)
                return
        _next_masses(walk, active, reached)
        _add(walk.below, walk.mass, active)
    for i in range(active):
        count[walk.position[i]] = UNDECIDED


@kernel
def _count_alone(walk: Walk, i: int, reached: int) -> int:
    """Walk on from the count that all have reached, below the uniform of this entry."""
    mass, below, nearest = walk.mass[i], walk.below[i], walk.nearest[i]
    for k in range(reached, LONGEST - 1):
        mass = mass * (walk.step[i] * (1.0 + float(k) * walk.phi[i]) * _INVERSE[k])
        below += mass
        nearest = min(nearest, abs(walk.goal[i] - below))
        if walk.goal[i] <= below:
            return k + 1 if nearest >= TOLERANCE else UNDECIDED
    return UNDECIDED


@kernel
def uniforms_of_counts(
    entries: Entries,
    n: int,
    observed: npt.NDArray[np.int64],
    uniform: Floats,
    dropped: Floats,
    mass: Floats,
    wanted: npt.NDArray[np.bool_],
    scratch: Scratch,
) -> None:
    """Replace v in `uniform` by u = F(x - 1) + v f(x) for `wanted` entries; x < `LONGEST`.

    `dropped` and `mass` are from `masses_of_zero`.
    """
    walk, first, goal = scratch.walk, scratch.work[0], scratch.work[1]
    for i in range(n):
        first[i] = dropped[i]
        goal[i] = np.float64(observed[i])
    _start(entries, n, mass, first, goal, wanted, walk)
    active = 0
    for i in range(n):
        count = walk.goal[i]
        uniform[i] *= dropped[i] + mass[i] if count == 0.0 else 1.0
        _keep(walk, i, active)
        active += count > 0.0
    reached = 0
    while active > _FEW:
        _add(walk.below, walk.mass, active)
        _next_masses(walk, active, reached)
        reached += 1
        left = 0
        for i in range(active):
            entry, has_more = walk.position[i], walk.goal[i] > reached
            found = walk.below[i] + uniform[entry] * walk.mass[i]
            uniform[entry] = uniform[entry] if has_more else found
            _keep(walk, i, left)
            left += has_more
        active = left
    for i in range(active):
        entry = walk.position[i]
        uniform[entry] = _uniform_alone(walk, i, reached, uniform[entry])


@kernel
def _uniform_alone(walk: Walk, i: int, reached: int, uniform: float) -> float:
    """Walk on from the count that all have reached, to the count of this entry."""
    mass, below = walk.mass[i], walk.below[i]
    for k in range(reached, int(walk.goal[i])):
        below += mass
        mass = mass * (walk.step[i] * (1.0 + float(k) * walk.phi[i]) * _INVERSE[k])
    return below + uniform * mass
