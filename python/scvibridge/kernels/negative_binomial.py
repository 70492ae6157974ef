"""Randomised probability integral transform and quantiles of the Poisson and negative binomial.

A probability is carried as the log of the smaller tail and the side that it is on: as log u, or as
log(1 - u) where u is above one half. So nothing is lost where a double u would round to 1, and a
count whose probability underflows still maps to a finite count.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from scvibridge.kernels.mass import log_mass, log_mass_of_zero
from scvibridge.kernels.tails import (
    LOG_HALF,
    log_complement,
    log_tails,
    mass_ratio,
    tail_ratio,
    upper_fraction,
)

LARGEST_QUANTILE = 2.0**53
"""Where the search for a quantile ends; every whole number up to there is a double."""

# Summing term by term is the fast way for small counts; beyond, a continued fraction is.
_MOST_TERMS_OF_SUM = 32
_LARGEST_MEAN_OF_WALK = 24.0
_LONGEST_WALK = 64
_SMALLEST_LOG_MASS_OF_SUM = -600.0
# A tail is obtained by subtraction until it has lost this factor (6 bits), then computed afresh.
_LARGEST_LOSS = 1.0 / 64.0
_MAX_STEPS = 200


@njit(cache=True, nogil=True, error_model="numpy")
def smaller_tail(log_tail, upper):  # type: ignore[no-untyped-def]
    """Return the same probability by its smaller tail, as (log tail, upper)."""
    if log_tail > LOG_HALF:
        return log_complement(log_tail), not upper
    return log_tail, upper


@njit(cache=True, nogil=True, error_model="numpy")
def _summed_transform(count, uniform, mean, theta, log_zero):  # type: ignore[no-untyped-def]
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


@njit(cache=True, nogil=True, error_model="numpy")
def randomised_transform(count, uniform, mean, theta):  # type: ignore[no-untyped-def]
    """Randomised probability integral transform, u = F(x - 1) + v f(x).

    In the upper tail it is 1 - u = SF(x) + (1 - v) f(x).

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
        True where it is 1 - u.
    """
    if count <= _MOST_TERMS_OF_SUM:
        log_zero = log_mass_of_zero(mean, theta)
        if log_zero > _SMALLEST_LOG_MASS_OF_SUM:
            log_tail, upper = _summed_transform(count, uniform, mean, theta, log_zero)
            # The tail of a large count at a tiny mean underflows; its logarithm does not.
            if log_tail > _SMALLEST_LOG_MASS_OF_SUM:
                return log_tail, upper
    size = float(count)
    ratio, upper = tail_ratio(size, mean, theta)
    part = (1.0 - uniform) if upper else -(1.0 - uniform)
    log_tail = min(log_mass(size, mean, theta) + math.log(ratio + part), 0.0)
    return smaller_tail(log_tail, upper)


@njit(cache=True, nogil=True, error_model="numpy")
def _walk(log_tail, upper, mean, theta, log_zero):  # type: ignore[no-untyped-def]
    """Search from 0 upwards; return -1 where the quantile is beyond the longest walk."""
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


@njit(cache=True, nogil=True, error_model="numpy")
def _normal_quantile(log_tail, upper):  # type: ignore[no-untyped-def]
    """Normal quantile to 5e-4 (Abramowitz and Stegun 26.2.23), in whichever tail."""
    t = math.sqrt(-2.0 * log_tail)
    value = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (
        1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))
    )
    return value if upper else -value


@njit(cache=True, nogil=True, error_model="numpy")
def _first_guess(log_tail, upper, mean, theta):  # type: ignore[no-untyped-def]
    """Guess a quantile: a gamma of the same mean, variance and skewness (Wilson and Hilferty).

    Where theta is small, the gamma's power law in the lower tail and its exponential one in the
    upper tail are used instead.
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


@njit(cache=True, nogil=True, error_model="numpy")
def _log_slope(log_tail, upper, log_density, count, mean, theta):  # type: ignore[no-untyped-def]
    """Change of a log tail from one count to the next, for a Newton step."""
    share = math.exp(min(log_density - log_tail, 0.0))
    if upper:
        share *= mass_ratio(count, mean, theta)
        if share < 0.5:
            return math.log1p(-share)
        return math.log(min(mass_ratio(count + 1.0, mean, theta), 0.999))
    if share < 0.5:
        return -math.log1p(-share)
    return -math.log(min(1.0 / mass_ratio(max(count - 1.0, 0.0), mean, theta), 0.999))


@njit(cache=True, nogil=True, error_model="numpy")
def _search(log_target, upper, mean, theta, below):  # type: ignore[no-untyped-def]
    """Newton steps on the log tail between bounds, with bisection where a step leaves them.

    `below` is a count known to be too small (-1 for none).
    """
    above = np.inf
    count = min(max(math.floor(_first_guess(log_target, upper, mean, theta)), below + 1.0), 2.0**52)
    for step in range(_MAX_STEPS):
        log_lower, log_upper = log_tails(count, mean, theta)
        log_tail = log_upper if upper else log_lower
        enough = log_tail <= log_target if upper else log_tail >= log_target
        if enough:
            above = count
        else:
            below = count
        if above - below <= 1.0:
            return above
        if below >= LARGEST_QUANTILE:
            return LARGEST_QUANTILE
        slope = _log_slope(log_tail, upper, log_mass(count, mean, theta), count, mean, theta)
        proposal = math.ceil(count + (log_target - log_tail) / slope)
        if enough:
            # A right guess is proved by the count below it.
            proposal = min(proposal, count - 1.0)
        else:
            proposal = max(proposal, count + 1.0)
        if above == np.inf:
            count = min(proposal, 2.0 * count + 16.0) if proposal > below else 2.0 * count + 16.0
        elif below < proposal < above and step < 24:
            count = proposal
        else:
            count = math.floor(0.5 * (below + above))
    return above


@njit(cache=True, nogil=True, error_model="numpy")
def quantile(log_tail, upper, mean, theta):  # type: ignore[no-untyped-def]
    """Smallest x with F(x) >= u.

    Parameters
    ----------
    log_tail : float64
        Log of u, or of 1 - u.
    upper : bool
        True where `log_tail` is that of 1 - u.
    mean : float64
        0 or more.
    theta : float64
        Inverse dispersion, above 0; infinity gives the Poisson.

    Returns
    -------
    int64
        The quantile; 2**53 where it is larger.
    """
    if mean == 0.0:
        return 0
    log_tail, upper = smaller_tail(log_tail, upper)
    log_zero = log_mass_of_zero(mean, theta)
    below = -1.0
    if (
        mean <= _LARGEST_MEAN_OF_WALK
        and log_zero > _SMALLEST_LOG_MASS_OF_SUM
        and log_tail > _SMALLEST_LOG_MASS_OF_SUM
    ):
        count = _walk(log_tail, upper, mean, theta, log_zero)
        if count >= 0:
            return count
        below = _LONGEST_WALK - 1.0
    elif (not upper and log_zero >= log_tail) or (upper and log_complement(log_zero) <= log_tail):
        return 0
    else:
        below = 0.0
    return int(_search(log_tail, upper, mean, theta, below))
