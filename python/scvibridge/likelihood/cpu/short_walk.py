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

# Steps between which finished entries stay: few enough that the compiler unrolls their loop.
_STRIDE = 4

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
    uniform: Floats
    """The uniform u that ends the walk, or the share v of the last mass."""
    counts: npt.NDArray[np.int64]
    """The count found so far, or the one that ends the walk."""


class Scratch(NamedTuple):
    """Arrays with the length of a row, reused for each row."""

    walk: Walk
    unfinished: npt.NDArray[np.int32]
    """One element longer than the row: see `_list_unfinished`."""
    work: npt.NDArray[np.float64]
    """Shape (4, length)."""


@kernel
def new_scratch(n: int) -> Scratch:
    """Return arrays for rows of `n` genes."""
    floats = np.empty((9, n))
    walk = Walk(
        np.empty(n, dtype=np.int32),
        floats[4],
        floats[5],
        floats[6],
        floats[7],
        floats[8],
        np.empty(n, dtype=np.int64),
    )
    return Scratch(walk, np.empty(n + 1, dtype=np.int32), floats[:4])


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
def _factor(step: float, phi: float, k: int) -> float:
    """Return f(k + 1) / f(k)."""
    return step * (1.0 + float(k) * phi) * _INVERSE[k]


@kernel
def _list_unfinished(walk: Walk, n: int, reached: int, unfinished: npt.NDArray[np.int32]) -> int:
    """List the entries whose count is above the one that all have reached; return their number.

    Every entry is written, and the position advanced or not; branches would be mispredicted.
    """
    left = 0
    for i in range(n):
        unfinished[left] = i
        left += walk.counts[i] > reached
    return left


@kernel
def _keep(walk: Walk, unfinished: npt.NDArray[np.int32], n: int) -> None:
    """Move the listed entries to the front."""
    for new in range(n):
        old = unfinished[new]
        walk.position[new] = walk.position[old]
        walk.mass[new] = walk.mass[old]
        walk.step[new] = walk.step[old]
        walk.phi[new] = walk.phi[old]
        walk.below[new] = walk.below[old]
        walk.uniform[new] = walk.uniform[old]
        walk.counts[new] = walk.counts[old]


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
    walk, unfinished = scratch.walk, scratch.unfinished
    _start_to_counts(entries, n, uniform, dropped, mass, wanted, walk)
    for i in range(n):
        count[i] = walk.counts[i] if wanted[i] else count[i]
    reached = _STRIDE - 1
    active = _list_unfinished(walk, n, reached, unfinished)
    _keep(walk, unfinished, active)
    while active > _FEW and reached < LONGEST - 1:
        _walk_to_counts(walk, active, reached)
        for i in range(active):
            count[walk.position[i]] = walk.counts[i]
        reached += _STRIDE
        left = _list_unfinished(walk, active, reached, unfinished)
        if left < active:
            _keep(walk, unfinished, left)
        active = left
    for i in range(active):
        count[walk.position[i]] = _count_alone(walk, i, reached)


@kernel
def _start_to_counts(
    entries: Entries,
    n: int,
    uniform: Floats,
    dropped: Floats,
    mass: Floats,
    wanted: npt.NDArray[np.bool_],
    walk: Walk,
) -> None:
    """Walk to the count `_STRIDE` - 1; entries that are not wanted are finished."""
    mean, phi = entries.mean, entries.phi
    for i in range(n):
        step = mean[i] / (1.0 + mean[i] * phi[i])
        reached_mass, goal = mass[i], uniform[i]
        below = dropped[i] + reached_mass
        nearest = abs(goal - below)
        count = np.int64(goal > below)
        for k in range(_STRIDE - 1):
            reached_mass *= _factor(step, phi[i], k)
            below += reached_mass
            nearest = min(nearest, abs(goal - below))
            count += np.int64(goal > below)
        walk.step[i] = step
        walk.mass[i] = reached_mass
        walk.below[i] = below
        walk.uniform[i] = goal
        decided = count if (nearest >= TOLERANCE) | (goal > below) else UNDECIDED
        walk.counts[i] = decided if wanted[i] else 0
    for i in range(n):
        walk.position[i] = i
        walk.phi[i] = phi[i]


@kernel
def _walk_to_counts(walk: Walk, n: int, reached: int) -> None:
    """Walk on by `_STRIDE` counts from the one that all have reached, below their uniforms."""
    for i in range(n):
        mass, below, goal = walk.mass[i], walk.below[i], walk.uniform[i]
        nearest = goal - below
        count = np.int64(reached + 1)
        for k in range(_STRIDE):
            mass *= _factor(walk.step[i], walk.phi[i], reached + k)
            below += mass
            nearest = min(nearest, abs(goal - below))
            count += np.int64(goal > below)
        walk.mass[i] = mass
        walk.below[i] = below
        walk.counts[i] = count if (nearest >= TOLERANCE) | (goal > below) else UNDECIDED


@kernel
def _count_alone(walk: Walk, i: int, reached: int) -> int:
    """Walk on from the count that all have reached, below the uniform of this entry."""
    mass, below, goal = walk.mass[i], walk.below[i], walk.uniform[i]
    nearest = goal - below
    for k in range(reached, LONGEST - 1):
        mass *= _factor(walk.step[i], walk.phi[i], k)
        below += mass
        nearest = min(nearest, abs(goal - below))
        if goal <= below:
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
    walk, unfinished = scratch.walk, scratch.unfinished
    for i in range(n):
        walk.counts[i] = observed[i] if wanted[i] else 0
    for i in range(n):
        is_zero = wanted[i] & (observed[i] == 0)
        uniform[i] *= dropped[i] + mass[i] if is_zero else 1.0
    active = _list_unfinished(walk, n, 0, unfinished)
    _start_to_uniforms(entries, active, uniform, dropped, mass, unfinished, walk)
    reached = 0
    while active > _FEW:
        _walk_to_uniforms(walk, active, reached)
        for i in range(active):
            uniform[walk.position[i]] = walk.below[i] + walk.uniform[i] * walk.mass[i]
        reached += _STRIDE
        left = _list_unfinished(walk, active, reached, unfinished)
        if left < active:
            _keep(walk, unfinished, left)
        active = left
    for i in range(active):
        uniform[walk.position[i]] = _uniform_alone(walk, i, reached)


@kernel
def _start_to_uniforms(
    entries: Entries,
    n: int,
    uniform: Floats,
    dropped: Floats,
    mass: Floats,
    unfinished: npt.NDArray[np.int32],
    walk: Walk,
) -> None:
    """Start with the listed entries at zero."""
    for i in range(n):
        entry = unfinished[i]
        walk.position[i] = entry
        walk.counts[i] = walk.counts[entry]
        walk.mass[i] = mass[entry]
        walk.step[i] = entries.mean[entry]
        walk.phi[i] = entries.phi[entry]
        walk.below[i] = dropped[entry]
        walk.uniform[i] = uniform[entry]
    for i in range(n):
        walk.step[i] = walk.step[i] / (1.0 + walk.step[i] * walk.phi[i])


@kernel
def _walk_to_uniforms(walk: Walk, n: int, reached: int) -> None:
    """Walk on by `_STRIDE` counts from the one that all have reached, or to the entry's count."""
    for i in range(n):
        mass, below = walk.mass[i], walk.below[i]
        for k in range(_STRIDE):
            goes_on = walk.counts[i] > reached + k
            below += mass if goes_on else 0.0
            mass *= _factor(walk.step[i], walk.phi[i], reached + k) if goes_on else 1.0
        walk.mass[i] = mass
        walk.below[i] = below


@kernel
def _uniform_alone(walk: Walk, i: int, reached: int) -> float:
    """Walk on from the count that all have reached, to the count of this entry."""
    mass, below = walk.mass[i], walk.below[i]
    for k in range(reached, walk.counts[i]):
        below += mass
        mass *= _factor(walk.step[i], walk.phi[i], k)
    return below + walk.uniform[i] * mass
