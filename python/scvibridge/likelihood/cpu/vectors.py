"""Elementary functions of whole arrays, in loops that the compiler vectorises.

Their relative error is about 1e-14, as `short_walk` requires. Loops contain no calls of C library
functions and no branches, which would prevent vectorisation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scvibridge.likelihood.cpu.compilation import kernel

Floats = npt.NDArray[np.float64]

LARGEST_EXPONENT = 32.0

"""Largest exponent of `exp_minus`; for larger ones it returns the value at this exponent."""

_MANTISSA = np.int64((1 << 52) - 1)

_EXPONENT_OF_ONE = np.int64(1023 << 52)

_MANTISSA_BITS = np.int64(52)

_BIAS = np.int64(1023)

_LOG_TWO = 0.6931471805599453

_SQRT_TWO = 1.4142135623730951

_SMALL = 1e-4


@kernel
def exp_minus(exponent: Floats, n: int, out: Floats) -> None:
    """Fill `out` with exp(-x) for the first `n` of `exponent`, 0 <= x <= 32.

    As the 128th power of exp(-x / 128), whose Taylor series is short.
    """
    for i in range(n):
        x = exponent[i]
        y = -(min(LARGEST_EXPONENT, x)) * (1.0 / 128.0)
        p = y * (1.0 / 3628800.0) + 1.0 / 362880.0
        p = p * y + 1.0 / 40320.0
        p = p * y + 1.0 / 5040.0
        p = p * y + 1.0 / 720.0
        p = p * y + 1.0 / 120.0
        p = p * y + 1.0 / 24.0
        p = p * y + 1.0 / 6.0
        p = p * y + 0.5
        p = p * y + 1.0
        p = p * y + 1.0
        p = p * p
        p = p * p
        p = p * p
        p = p * p
        p = p * p
        p = p * p
        out[i] = p * p


@kernel
def log1p_ratio(argument: Floats, n: int, work_0: Floats, work_1: Floats, out: Floats) -> None:
    """Fill `out` with log(1 + t) / t for the first `n` of `argument`, t >= 0; 1 if t is 0.

    The logarithm of 1 + t = 2**e f is e log 2 + 2 artanh((f - 1) / (f + 1)). What 1 + t lost by
    rounding is added. `work_0` and `work_1` have the same length.
    """
    bits_0, bits_1 = work_0.view(np.int64), work_1.view(np.int64)
    for i in range(n):
        work_0[i] = 1.0 + argument[i]
    for i in range(n):
        bits_1[i] = (bits_0[i] & _MANTISSA) | _EXPONENT_OF_ONE
    for i in range(n):
        fraction = work_1[i]
        power = np.float64((bits_0[i] >> _MANTISSA_BITS) - _BIAS)
        above = fraction > _SQRT_TWO
        fraction = fraction * 0.5 if above else fraction
        power = power + 1.0 if above else power
        s = (fraction - 1.0) / (fraction + 1.0)
        q = s * s
        p = q * (1.0 / 21.0) + 1.0 / 19.0
        p = p * q + 1.0 / 17.0
        p = p * q + 1.0 / 15.0
        p = p * q + 1.0 / 13.0
        p = p * q + 1.0 / 11.0
        p = p * q + 1.0 / 9.0
        p = p * q + 1.0 / 7.0
        p = p * q + 1.0 / 5.0
        p = p * q + 1.0 / 3.0
        logarithm = power * _LOG_TWO + 2.0 * s * (p * q + 1.0)
        t, rounded = argument[i], work_0[i]
        series = 1.0 - t * (0.5 - t * (1.0 / 3.0 - t * 0.25))
        value = (logarithm + (t - (rounded - 1.0)) / rounded) / t
        out[i] = series if t < _SMALL else value


@kernel
def sigmoid(logit: Floats, n: int, work: Floats, out: Floats) -> None:
    """Fill `out` with 1 / (1 + exp(-x)) for the first `n` of `logit`.

    Beyond +-32, the value at that bound is returned, which differs by less than 2e-14.
    """
    for i in range(n):
        x = logit[i]
        work[i] = x if x > 0.0 else -x
    exp_minus(work, n, out)
    for i in range(n):
        e = out[i]
        out[i] = (1.0 if logit[i] > 0.0 else e) / (1.0 + e)
