"""The negative binomial log-likelihood of an output head and its derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from scvibridge.models.extension.head_parameters import Nonzeros

_EXACT_TERMS = 3


def digamma_gain(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Compute psi(x + theta) - psi(theta) for whole numbers x, elementwise.

    Notes
    -----
    The first terms of sum over k < x of 1/(theta + k), then the asymptotic series of psi
    (Abramowitz and Stegun, 6.3.18), whose error is below 1e-6 from 3 on.
    """
    gain = (x > 0) / theta
    for k in range(1, _EXACT_TERMS):
        gain += (x > k) / (theta + k)
    gain += _psi(x.clamp(min=_EXACT_TERMS) + theta)
    gain -= _psi(theta + _EXACT_TERMS)
    return gain


def _psi(y: torch.Tensor) -> torch.Tensor:
    inverse = 1.0 / y
    square = inverse * inverse
    series = (1.0 / 120.0 - square / 252.0) * square - 1.0 / 12.0
    return y.log() - 0.5 * inverse + series * square


def log_likelihood(
    counts: Nonzeros, log_mean: torch.Tensor, theta: torch.Tensor | None
) -> torch.Tensor:
    """Compute log-probabilities of counts, ``(n, n_genes)``."""
    mean, x = log_mean.exp(), counts.count
    if theta is None:
        counts.add_to(mean.neg_(), x * counts.values_of(log_mean) - torch.lgamma(x + 1))
        return mean
    found = -theta * torch.log1p(mean / theta)
    # In double precision, because large numbers are subtracted.
    own, x = counts.values_of(theta).double(), x.double()
    gain = (
        torch.lgamma(x + own)
        - torch.lgamma(own)
        - torch.lgamma(x + 1)
        + x * (counts.values_of(log_mean) - torch.log(own + counts.values_of(mean)))
    )
    counts.add_to(found, gain.float())
    return found


def deviance(x: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor | None) -> torch.Tensor:
    """Compute twice the log-likelihood missing to means equal to the counts, ``(n, n_genes)``."""
    gain = torch.xlogy(x, x / mean)
    if theta is None:
        return 2.0 * (gain - (x - mean))
    return 2.0 * (gain - (x + theta) * torch.log1p((x - mean) / (mean + theta)))
