"""Counts of one entry under the Poisson, the negative binomial or its zero-inflated mixture.

Dropout is passed as the logit of its probability pi; minus infinity means no zero inflation. With F
the distribution function of the count component and F0 that of the mixture:
F0(0) = pi + (1 - pi) f(0); u = v F0(0) for a count of 0, and pi + (1 - pi) (F(x - 1) + v f(x)) for
a count x above 0; the quantile is 0 up to F0(0), and above it that of the component at
(u - pi) / (1 - pi).
"""

from __future__ import annotations

import math

import numpy as np

from scvibridge.likelihood.cpu.compilation import kernel
from scvibridge.likelihood.cpu.mass import log_mass_of_zero
from scvibridge.likelihood.cpu.negative_binomial import quantile, randomised_transform, smaller_tail
from scvibridge.likelihood.cpu.tails import LOG_HALF


@kernel
def dropout(logit: float) -> tuple[float, float]:
    """Return pi and 1 - pi, neither computed by subtraction from 1."""
    if logit == -np.inf:
        return 0.0, 1.0
    odds = math.exp(-abs(logit))
    larger, smaller = 1.0 / (1.0 + odds), odds / (1.0 + odds)
    if logit > 0.0:
        return larger, smaller
    return smaller, larger


@kernel
def _dropout_difference(logit: float, other: float) -> float:
    """Return the difference of two dropout probabilities, exactly 0 for equal logits."""
    if logit == other:
        return 0.0
    if logit < other:
        return -_dropout_above(other, logit)
    return _dropout_above(logit, other)


@kernel
def _dropout_above(logit: float, other: float) -> float:
    probability, _ = dropout(logit)
    _, other_kept = dropout(other)
    return probability * other_kept * -math.expm1(other - logit)


@kernel
def probability_of_zero(mean: float, theta: float, logit: float) -> tuple[float, float]:
    """Return F0(0) and 1 - F0(0), neither computed by subtraction from 1."""
    log_zero = log_mass_of_zero(mean, theta)
    dropped, kept = dropout(logit)
    return dropped + kept * math.exp(log_zero), kept * -math.expm1(log_zero)


@kernel
def _log(value: float) -> float:
    return math.log(value) if value > 0.0 else -np.inf


@kernel
def count_of_uniform(uniform: float, mean: float, theta: float, logit: float) -> int:
    """Return the quantile of the mixture at a uniform in (0, 1), exact in both tails.

    Returns
    -------
    int64
    """
    zero, nonzero = probability_of_zero(mean, theta, logit)
    complement = 1.0 - uniform
    if (uniform <= zero) if uniform <= 0.5 else (complement >= nonzero):
        return 0
    dropped, kept = dropout(logit)
    if complement <= 0.5 * kept:
        log_tail, upper = math.log(complement / kept), True
    else:
        log_tail, upper = _log((uniform - dropped) / kept), False
    # Rounding may return the quantile to 0 although u is above the probability of 0.
    return max(quantile(log_tail, upper, mean, theta), 1)


@kernel
def mixture_transform(
    count: int, uniform: float, mean: float, theta: float, logit: float
) -> tuple[float, bool]:
    """Compute the randomised probability integral transform of the mixture, as (log tail, upper).

    See `scvibridge.likelihood.cpu.negative_binomial.randomised_transform`.
    """
    if count == 0:
        zero, nonzero = probability_of_zero(mean, theta, logit)
        lower = uniform * zero
        if lower <= 0.5:
            return math.log(lower), False
        return _log(nonzero + (1.0 - uniform) * zero), True
    log_tail, upper = randomised_transform(count, uniform, mean, theta)
    dropped, kept = dropout(logit)
    if upper:
        return log_tail + math.log(kept), True
    if dropped == 0.0:
        return log_tail, False
    lower = dropped + kept * math.exp(log_tail)
    if lower <= 0.5:
        return math.log(lower), False
    return _log(-kept * math.expm1(log_tail)), True


@kernel
def map_zero(
    uniform: float,
    source_mean: float,
    source_theta: float,
    source_logit: float,
    target_mean: float,
    target_theta: float,
    target_logit: float,
) -> int:
    """Map a count of 0 from a source to a target distribution."""
    zero, nonzero = probability_of_zero(source_mean, source_theta, source_logit)
    target_zero, target_nonzero = probability_of_zero(target_mean, target_theta, target_logit)
    lower = uniform * zero
    upper = nonzero + (1.0 - uniform) * zero
    if (lower <= target_zero) if lower <= 0.5 else (upper >= target_nonzero):
        return 0
    dropped, kept = dropout(target_logit)
    if upper <= 0.5 * kept:
        count = quantile(math.log(upper / kept), True, target_mean, target_theta)
    else:
        count = quantile(_log((lower - dropped) / kept), False, target_mean, target_theta)
    return max(count, 1)


@kernel
def _between_mixtures(
    log_tail: float, upper: bool, source_logit: float, target_logit: float
) -> tuple[float, bool]:
    """Convert a probability of one component to that of the other: (u - pi') / (1 - pi').

    With equal dropout it is unchanged to the last bit, however small it is relative to pi. A log
    tail above 0 means that u is within the dropout of the target.
    """
    if source_logit == target_logit:
        return log_tail, upper
    _, source_kept = dropout(source_logit)
    _, target_kept = dropout(target_logit)
    kept = source_kept / target_kept
    if upper:
        return log_tail + math.log(kept), True
    shift = _dropout_difference(source_logit, target_logit) / target_kept
    lower = shift + kept * math.exp(log_tail)
    if lower <= 0.5:
        # Below the dropout, the upper tail exceeds 1.
        return (math.log(lower), False) if lower > 0.0 else (1.0, True)
    return _log(-kept * math.expm1(log_tail)), True


@kernel
def map_positive(
    count: int,
    uniform: float,
    source_mean: float,
    source_theta: float,
    source_logit: float,
    target_mean: float,
    target_theta: float,
    target_logit: float,
) -> int:
    """Map a count above 0 from a source to a target distribution.

    A count above 0 that is impossible under the source, because its mean is 0, is kept, since it
    has no probability to map.
    """
    if source_mean == 0.0:
        return count
    if target_mean == 0.0:
        return 0
    log_tail, upper = randomised_transform(count, uniform, source_mean, source_theta)
    log_tail, upper = _between_mixtures(log_tail, upper, source_logit, target_logit)
    if log_tail == -np.inf:
        return count if upper else 0
    if log_tail >= 0.0:
        return 0
    if log_tail > LOG_HALF:
        log_tail, upper = smaller_tail(log_tail, upper)
    return quantile(log_tail, upper, target_mean, target_theta)
