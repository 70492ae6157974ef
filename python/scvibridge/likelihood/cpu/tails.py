"""Both tails of the Poisson and the negative binomial, the smaller one to full relative accuracy.

The tails are incomplete beta functions, F(x) = I_p(theta, x + 1) and SF(x) = I_q(x + 1, theta) with
p = theta / (theta + mean) and q = 1 - p (incomplete gamma functions for infinite theta). Each is
the mass next to x times a continued fraction, DLMF 8.17.22, of which only every second convergent
is computed. The fractions are expressed in mean and 1 / theta, so that the Poisson is not a special
case, and in the distance of x from the mean, following Didonato and Morris (algorithm 708, ACM TOMS
18, 1992), so that nothing cancels near the mean.
"""

from __future__ import annotations

import math

import numpy as np

from scvibridge.likelihood.cpu.compilation import kernel
from scvibridge.likelihood.cpu.mass import log_mass

LOG_HALF = math.log(0.5)

_TOLERANCE = 2.0**-52

# Near the mean, a fraction needs some multiple of the square root of the mean. The limit ensures
# that the loop ends.
_MAX_TERMS = 2_000_000


@kernel
def log_complement(log_probability: float) -> float:
    """Return log(1 - P) for log P, without cancellation at either end."""
    if log_probability >= 0.0:
        return -np.inf
    if log_probability > LOG_HALF:
        return math.log(-math.expm1(log_probability))
    return math.log1p(-math.exp(log_probability))


@kernel
def upper_fraction(count: float, mean: float, theta: float) -> float:
    """Return the ratio of the upper tail to the mass next to it: SF(x) / f(x + 1).

    Converges for every x, and fast where x > mean + mean / theta - 2.
    """
    odds = mean / theta
    p = 1.0 / (1.0 + odds)
    q = odds * p
    b_q = mean * p
    a = count + 1.0
    distance = 1.0 + p * (a - mean)
    numerator_before, denominator_before = 0.0, 1.0
    numerator, denominator = 1.0, distance
    fraction = numerator / denominator
    for m in range(1, _MAX_TERMS):
        a_2m = a + 2.0 * m
        tilt = m * (b_q - m * q)
        alpha = (a * q + b_q + (m - 1) * q) * tilt * (a_2m + 1.0)
        # The first step has another scale, because a - 1 is 0 for a count of 0.
        if m > 1:
            alpha *= (a + (m - 1)) * (a_2m - 3.0)
        beta = tilt * (a_2m + 1.0) + (a_2m - 1.0) * (
            (a + m) * (distance + m * (1.0 + p)) + m * (a_2m + 1.0)
        )
        numerator, numerator_before = beta * numerator + alpha * numerator_before, numerator
        denominator, denominator_before = (
            beta * denominator + alpha * denominator_before,
            denominator,
        )
        scale = 1.0 / denominator
        updated = numerator * scale
        if abs(updated - fraction) <= _TOLERANCE * abs(updated):
            return (a + 1.0) * updated
        fraction = updated
        numerator, denominator = fraction, 1.0
        numerator_before *= scale
        denominator_before *= scale
    return (a + 1.0) * fraction


@kernel
def lower_fraction(count: float, mean: float, theta: float) -> float:
    """Return the ratio of the lower tail to the mass next to it: F(x) / ((x + 1) f(x + 1)).

    Converges fast where x < mean + mean / theta.
    """
    phi = 1.0 / theta
    p = 1.0 / (1.0 + mean * phi)
    q = mean * phi * p
    b = count + 1.0
    distance = 1.0 + p * (mean - b)
    numerator_before, denominator_before = 0.0, 1.0
    numerator, denominator = 1.0, distance
    fraction = numerator / denominator
    for m in range(1, _MAX_TERMS):
        above = 1.0 + (2 * m + 1) * phi
        below = 1.0 + (2 * m - 1) * phi
        tilt = m * (b - m) * p
        alpha = (1.0 + (b + (m - 1)) * phi) * tilt * p * above
        if m > 1:
            alpha *= (1.0 + (m - 1) * phi) * (1.0 + (2 * m - 3) * phi)
        beta = tilt * phi * above + below * (
            (1.0 + m * phi) * (distance + m * (1.0 + q)) + m * above
        )
        numerator, numerator_before = beta * numerator + alpha * numerator_before, numerator
        denominator, denominator_before = (
            beta * denominator + alpha * denominator_before,
            denominator,
        )
        scale = 1.0 / denominator
        updated = numerator * scale
        if abs(updated - fraction) <= _TOLERANCE * abs(updated):
            return (1.0 + phi) * updated
        fraction = updated
        numerator, denominator = fraction, 1.0
        numerator_before *= scale
        denominator_before *= scale
    return (1.0 + phi) * fraction


@kernel
def mass_ratio(count: float, mean: float, theta: float) -> float:
    """Return the ratio of neighbouring masses, f(x + 1) / f(x)."""
    phi = 1.0 / theta
    return mean * (1.0 + count * phi) / ((1.0 + mean * phi) * (count + 1.0))


@kernel
def is_beyond_mean(count: float, mean: float, theta: float) -> bool:
    """Return whether to use the upper tail's fraction: beyond mean + mean / theta."""
    return count + 2.0 > mean + mean / theta


@kernel
def log_mass_and_tails(count: float, mean: float, theta: float) -> tuple[float, float, float]:
    """Return the logs of P(X = x), the lower tail P(X <= x) and the upper tail P(X > x).

    Parameters
    ----------
    count : float64
        Whole number, 0 or more.
    mean : float64
        Above 0.
    theta : float64
        Inverse dispersion, above 0; infinity gives the Poisson.

    Returns
    -------
    log_density, log_lower, log_upper : float64

    Notes
    -----
    The error of the smaller tail is a few units in the last place of its logarithm. The exception
    is a theta far below 1 with a count below mean / theta: the upper tail is then small, but is
    computed as a difference from 1, and its relative error grows to about 1e-14 / theta.
    """
    log_density = log_mass(count, mean, theta)
    if count == 0.0:
        return log_density, log_density, log_complement(log_density)
    ratio = mass_ratio(count, mean, theta)
    if is_beyond_mean(count, mean, theta):
        ratio *= upper_fraction(count, mean, theta)
        log_upper = min(log_density + math.log(ratio), 0.0)
        return log_density, log_complement(log_upper), log_upper
    ratio *= (count + 1.0) * lower_fraction(count, mean, theta)
    log_lower = min(log_density + math.log(ratio), 0.0)
    return log_density, log_lower, log_complement(log_lower)
