"""Probability mass of the Poisson and the negative binomial, by Loader's saddle-point expansion.

C. Loader, "Fast and accurate computation of binomial probabilities" (2000): Stirling's formula
cancels exactly, and the remaining deviances are computed without cancellation. Here the expansion
is extended to a real size theta, however small.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import kernel

_LOG_TWO_PI = math.log(2.0 * math.pi)

# Stirling's error as a polynomial in the scaled 1/n, fitted at Chebyshev nodes with 60 digits. The
# largest errors are 4e-18 on [1, 3] and 1.2e-17 on [3, 16].
_NEAR_CENTRE, _NEAR_HALF_WIDTH = 2.0 / 3.0, 1.0 / 3.0

_NEAR = np.array(
    [
        0.05481412105191765,
        0.026731350597190864,
        -0.0004525563954044296,
        -3.885053949982224e-05,
        8.158030212948814e-06,
        -7.56720689196256e-07,
        -1.9704871750328266e-08,
        2.6208157814418737e-08,
        -6.7051371347779835e-09,
        1.047485608237007e-09,
        -5.323697646666353e-11,
        -3.279134832640652e-11,
        1.5887398199351503e-11,
        -4.68945960832444e-12,
        7.950919249484889e-13,
    ]
)

_MIDDLE_CENTRE, _MIDDLE_HALF_WIDTH = 19.0 / 96.0, 13.0 / 96.0

_MIDDLE = np.array(
    [
        0.016471754863127883,
        0.011241311622382297,
        -2.91799010925918e-05,
        -6.19620965719218e-06,
        2.1862941209560387e-07,
        1.946001611720121e-08,
        -2.8288575592423286e-09,
        1.4996685167870705e-11,
        3.992607755646097e-11,
        -5.2035487004438765e-12,
        -2.119061221361815e-13,
        1.5999183364952124e-13,
    ]
)

# Coefficients of the asymptotic series in 1/n, 1/n**3, ... (DLMF 5.11.1). Six terms are exact in
# double precision from 16 on.
_FAR = np.array([1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360])


@kernel
def _polynomial(coefficients: npt.NDArray[np.float64], argument: float) -> float:
    value = 0.0
    for index in range(coefficients.shape[0] - 1, -1, -1):
        value = value * argument + coefficients[index]
    return value


@kernel
def stirling_error(size: float) -> float:
    """Return the error of Stirling's formula for real n > 0.

    The error is log Gamma(n + 1) - log(sqrt(2 pi n) (n / e)**n).

    Parameters
    ----------
    size : float64

    Returns
    -------
    float64
        Accurate to about one unit in the last place of 1.
    """
    if size >= 16.0:
        return _polynomial(_FAR, 1.0 / (size * size)) / size
    if size >= 3.0:
        return _polynomial(_MIDDLE, (1.0 / size - _MIDDLE_CENTRE) / _MIDDLE_HALF_WIDTH)
    if size >= 1.0:
        return _polynomial(_NEAR, (1.0 / size - _NEAR_CENTRE) / _NEAR_HALF_WIDTH)
    return stirling_error(size + 1.0) + (size + 0.5) * math.log((size + 1.0) / size) - 1.0


@kernel
def _deviance(excess: float, ratio: float) -> float:
    """Return t - log(1 + t) for t = `excess`; 1 + t is passed as `ratio`, for large t."""
    if abs(excess) > 0.2:
        return excess - math.log(ratio)
    half = excess / (2.0 + excess)
    square = half * half
    term = 2.0 * square
    series = 0.0
    for order in range(3, 41, 2):
        updated = series + term / order
        if updated == series:
            break
        series = updated
        term *= square
    return half * (excess - series)


@kernel
def log_mass_of_zero(mean: float, theta: float) -> float:
    """Return log P(0) = -theta log(1 + mean / theta), which is -mean for infinite theta."""
    if theta == np.inf:
        return -mean
    return -theta * math.log1p(mean / theta)


@kernel
def log_mass(count: float, mean: float, theta: float) -> float:
    """Return the log mass of a negative binomial with variance mean + mean**2 / theta.

    Parameters
    ----------
    count : float64
        Whole number, 0 or more.
    mean : float64
        0 or more.
    theta : float64
        Inverse dispersion, above 0; infinity gives the Poisson.

    Returns
    -------
    float64
    """
    if count == 0.0:
        return log_mass_of_zero(mean, theta)
    if mean == 0.0:
        return -np.inf
    if theta == np.inf:
        misfit = count * _deviance((mean - count) / count, mean / count)
        return -misfit - stirling_error(count) - 0.5 * (_LOG_TWO_PI + math.log(count))
    total = count + theta
    scale = theta + mean
    misfit = theta * _deviance((count - mean) / scale, total / scale)
    share = theta / scale
    misfit += count * _deviance(share * (mean - count) / count, total / scale * (mean / count))
    error = stirling_error(total) - stirling_error(theta) - stirling_error(count)
    return error - misfit + 0.5 * (math.log(theta / total / count) - _LOG_TWO_PI)
