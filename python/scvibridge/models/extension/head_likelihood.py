"""The negative binomial log-likelihood of an output head and its derivatives."""

from __future__ import annotations

import torch

_EXACT_TERMS = 3


def digamma_gain(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Compute psi(x + theta) - psi(theta) for whole numbers x, ``(n, n_genes)``.

    Notes
    -----
    The first terms of sum over k < x of 1/(theta + k), then the asymptotic series of psi
    (Abramowitz and Stegun, 6.3.18), whose error is below 1e-6 from 3 on. All entries are computed
    alike: selecting the nonzero ones takes longer.
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
    x: torch.Tensor, log_mean: torch.Tensor, theta: torch.Tensor | None
) -> torch.Tensor:
    """Compute log-probabilities of counts, ``(n, n_genes)``."""
    mean = log_mean.exp()
    cell, gene = x.nonzero(as_tuple=True)
    some = x[cell, gene]
    if theta is None:
        found = -mean
        found[cell, gene] += some * log_mean[cell, gene] - torch.lgamma(some + 1)
        return found
    found = -theta * torch.log1p(mean / theta)
    # In double precision, because large numbers are subtracted.
    own, some = theta.expand_as(x)[cell, gene].double(), some.double()
    found[cell, gene] += (
        torch.lgamma(some + own)
        - torch.lgamma(own)
        - torch.lgamma(some + 1)
        + some * (log_mean[cell, gene] - torch.log(own + mean[cell, gene]))
    ).float()
    return found


def deviance(x: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor | None) -> torch.Tensor:
    """Compute twice the log-likelihood missing to means equal to the counts, ``(n, n_genes)``."""
    gain = torch.xlogy(x, x / mean)
    if theta is None:
        return 2.0 * (gain - (x - mean))
    return 2.0 * (gain - (x + theta) * torch.log1p((x - mean) / (mean + theta)))
