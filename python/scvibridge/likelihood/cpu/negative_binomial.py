"""Randomised probability integral transform and quantiles of the Poisson and negative binomial.

A probability is represented by the log of its smaller tail and the side of that tail: log u, or
log(1 - u) if u is above one half. Precision is therefore kept where a double u would round to 1,
and a count whose probability underflows still maps to a finite count.
"""

from __future__ import annotations

import math

import numpy as np

from scvibridge.likelihood.cpu.compilation import kernel
from scvibridge.likelihood.cpu.mass import log_mass, log_mass_of_zero
from scvibridge.likelihood.cpu.tails import (
    LOG_HALF,
    is_beyond_mean,
    log_complement,
    log_mass_and_tails,
    lower_fraction,
    mass_ratio,
    upper_fraction,
)

LARGEST_QUANTILE = 2.0**53

"""Upper limit of the search for a quantile; all integers up to it are exact doubles."""

# Summing term by term is faster for small counts, a continued fraction for larger ones.
_MOST_TERMS_OF_SUM = 32

_LARGEST_MEAN_OF_WALK = 24.0

_LONGEST_WALK = 64

_SMALLEST_LOG_MASS_OF_SUM = -600.0

# A tail is computed by subtraction until it has lost this factor (6 bits), then computed anew.
_LARGEST_LOSS = 1.0 / 64.0

# Enough for Newton steps to double any first guess up to 2**53 and to halve the bounds down to 1.
_MAX_STEPS = 200

_MAX_NEWTON_STEPS = 24

# A guessed ratio of neighbouring tails is kept at least this far from 1.
_FLATTEST = 0.999


@kernel
def smaller_tail(log_tail: float, upper: bool) -> tuple[float, bool]:
    """Return the same probability in terms of its smaller tail, as (log tail, upper)."""
    if log_tail > LOG_HALF:
        return log_complement(log_tail), not upper
    return log_tail, upper


@kernel
def _summed_transform(
    count: int, uniform: float, mean: float, theta: float, log_zero: float
) -> tuple[float, bool]:
    below = 0.0
    mass = math.exp(log_zero)
    above = above_zero = -math.expm1(log_zero)
    for index in range(count):
        below += mass
        mass *= mass_ratio(float(index), mean, theta)
        above -= mass
    lower = below + uniform * mass
    if lower <= 0.5:
        return math.log(lower), False
    if above < _LARGEST_LOSS * above_zero:
        next_mass = mass * mass_ratio(float(count), mean, theta)
        above = next_mass * upper_fraction(float(count), mean, theta)
    return math.log(above + (1.0 - uniform) * mass), True


@kernel
def randomised_transform(
    count: int, uniform: float, mean: float, theta: float
) -> tuple[float, bool]:
    """Compute the randomised probability integral transform, u = F(x - 1) + v f(x).

    In the upper tail, 1 - u = SF(x) + (1 - v) f(x) is computed.

    Parameters
    ----------
    count : int64
        Count x, 0 or more.
    uniform : float64
        Uniform v in the open interval (0, 1).
    mean : float64
        Above 0.
    theta : float64
        Inverse dispersion, above 0; infinity gives the Poisson.

    Returns
    -------
    log_tail : float64
        Log of the smaller of u and 1 - u.
    upper : bool
        True if it is that of 1 - u.
    """
    if count <= _MOST_TERMS_OF_SUM:
        log_zero = log_mass_of_zero(mean, theta)
        if log_zero > _SMALLEST_LOG_MASS_OF_SUM:
            log_tail, upper = _summed_transform(count, uniform, mean, theta, log_zero)
            # The tail of a large count at a tiny mean underflows; its logarithm does not.
            if log_tail > _SMALLEST_LOG_MASS_OF_SUM:
                return log_tail, upper
    size = float(count)
    upper = is_beyond_mean(size, mean, theta)
    if upper:
        ratio = mass_ratio(size, mean, theta) * upper_fraction(size, mean, theta)
        ratio += 1.0 - uniform
    else:
        # Compute F(x - 1) directly: F(x) - f(x) would cancel far below the mean.
        ratio = uniform + (size * lower_fraction(size - 1.0, mean, theta) if size > 0.0 else 0.0)
    log_tail = min(log_mass(size, mean, theta) + math.log(ratio), 0.0)
    return smaller_tail(log_tail, upper)


@kernel
def _walk(log_tail: float, upper: bool, mean: float, theta: float, log_zero: float) -> int:
    """Search upwards from 0; return -1 if the quantile is beyond the longest walk."""
    target = math.exp(log_tail)
    mass = math.exp(log_zero)
    if upper:
        tail = reference = -math.expm1(log_zero)
        for count in range(_LONGEST_WALK):
            if tail <= target:
                return count
            mass *= mass_ratio(float(count), mean, theta)
            tail -= mass
            if tail < _LARGEST_LOSS * reference:
                next_mass = mass * mass_ratio(count + 1.0, mean, theta)
                tail = reference = next_mass * upper_fraction(count + 1.0, mean, theta)
    else:
        tail = mass
        for count in range(_LONGEST_WALK):
            if tail >= target:
                return count
            mass *= mass_ratio(float(count), mean, theta)
            tail += mass
    return -1


@kernel
def _normal_quantile(log_tail: float, upper: bool) -> float:
    """Return the normal quantile to 5e-4 (Abramowitz and Stegun 26.2.23), in either tail."""
    t = math.sqrt(-2.0 * log_tail)
    value = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (
        1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    )
    return value if upper else -value


@kernel
def _first_guess(log_tail: float, upper: bool, mean: float, theta: float) -> float:
    """Guess a quantile from a gamma of the same mean, variance and skewness (Wilson and Hilferty).

    For small theta, the gamma's power law in the lower tail and its exponential decay in the upper
    tail are used instead.
    """
    odds = mean / theta
    if theta < 0.3:
        if not upper:
            return mean / theta * math.exp((log_tail + math.lgamma(theta + 1.0)) / theta)
        excess = log_tail - math.log(theta)
        if excess > 0.0:
            return mean / theta * math.exp(-math.exp(min(excess, 5.0)))
        return mean / theta * (0.2 - excess)
    skewness = (1.0 + 2.0 * odds) / math.sqrt(mean * (1.0 + odds))
    normal = _normal_quantile(log_tail, upper)
    if skewness > 1e-3:
        cube = 1.0 + skewness / 6.0 * (normal - skewness / 6.0)
        normal = (cube * cube * cube - 1.0) * 2.0 / skewness
    return mean + normal * math.sqrt(mean * (1.0 + odds))


@kernel
def _log_steps(
    log_tail: float, upper: bool, log_density: float, count: float, mean: float, theta: float
) -> tuple[float, float, bool]:
    """Compute how a log tail changes to the counts before and after, from the mass at the count.

    Returns
    -------
    before, after : float64
    certain : bool
        False if the step that makes the tail smaller would cancel more than a bit. It is then
        computed from the ratio of masses, which is a guess.
    """
    here = math.exp(log_density - log_tail)
    following = here * mass_ratio(count, mean, theta)
    if upper:
        before = math.log1p(here)
        if following < 0.5:
            return before, math.log1p(-following), True
        return before, math.log(min(mass_ratio(count + 1.0, mean, theta), _FLATTEST)), False
    after = math.log1p(following)
    if here < 0.5:
        return math.log1p(-here), after, True
    ratio = mass_ratio(max(count - 1.0, 0.0), mean, theta)
    return -math.log(max(ratio, 1.0 / _FLATTEST)), after, False


@kernel
def _next_count(proposal: float, count: float, below: float, above: float, step: int) -> float:
    """Choose the next count: the proposal, or else by doubling or bisection."""
    if above == np.inf:
        farthest = 2.0 * count + 16.0
        return min(proposal, farthest) if proposal > below else farthest
    if below < proposal < above and step < _MAX_NEWTON_STEPS:
        return proposal
    return math.floor(0.5 * (below + above))


@kernel
def _search(log_target: float, upper: bool, mean: float, theta: float, below: float) -> float:
    """Search by Newton steps on the log tail, within bounds.

    `below` is a count known to be too small.
    """
    above = np.inf
    guess = math.floor(_first_guess(log_target, upper, mean, theta))
    count = min(max(guess, below + 1.0), 0.5 * LARGEST_QUANTILE)
    for step in range(_MAX_STEPS):
        log_density, log_lower, log_upper = log_mass_and_tails(count, mean, theta)
        log_tail = log_upper if upper else log_lower
        before, after, certain = _log_steps(log_tail, upper, log_density, count, mean, theta)
        missing = log_target - log_tail
        if (missing >= 0.0) if upper else (missing <= 0.0):
            if (certain or upper) and ((missing < before) if upper else (missing > before)):
                return count
            above = count
            proposal = min(math.ceil(count - missing / before), count - 1.0)
        else:
            if (certain or not upper) and ((missing >= after) if upper else (missing <= after)):
                return count + 1.0
            below = count
            proposal = max(math.ceil(count + missing / after), count + 1.0)
        if above - below <= 1.0:
            return above
        if below >= LARGEST_QUANTILE:
            break
        count = _next_count(proposal, count, below, above, step)
    return LARGEST_QUANTILE


@kernel
def quantile(log_tail: float, upper: bool, mean: float, theta: float) -> int:
    """Return the smallest x with F(x) >= u.

    Parameters
    ----------
    log_tail : float64
        Log of u, or of 1 - u.
    upper : bool
        True if `log_tail` is the log of 1 - u.
    mean : float64
        0 or more.
    theta : float64
        Inverse dispersion, above 0; infinity gives the Poisson.

    Returns
    -------
    int64
        The quantile, or 2**53 if it is larger.
    """
    if mean == 0.0:
        return 0
    log_tail, upper = smaller_tail(log_tail, upper)
    log_zero = log_mass_of_zero(mean, theta)
    short = mean <= _LARGEST_MEAN_OF_WALK and log_zero > _SMALLEST_LOG_MASS_OF_SUM
    if short and log_tail > _SMALLEST_LOG_MASS_OF_SUM:
        count = _walk(log_tail, upper, mean, theta, log_zero)
        if count >= 0:
            return count
        return int(_search(log_tail, upper, mean, theta, _LONGEST_WALK - 1.0))
    if (log_complement(log_zero) <= log_tail) if upper else (log_zero >= log_tail):
        return 0
    return int(_search(log_tail, upper, mean, theta, 0.0))
