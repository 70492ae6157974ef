"""Compute counts with plain torch operations, on the device of the tensors.

The computation is that of `scvibridge.likelihood.gpu.triton_backend`, one operation at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from scvibridge.likelihood.gpu.parameters import Entries, dense_entries, entries_at, row_and_gene
from scvibridge.likelihood.gpu.random_numbers import open_uniforms
from scvibridge.likelihood.gpu.strips import (
    FEWEST_ROUNDINGS,
    LARGEST_SUM,
    LOG_SHRINKAGE,
    PENDING,
    ROUNDING,
    SHRINKAGE,
    SMALLEST_UNIFORM,
    Strip,
)

if TYPE_CHECKING:
    from torch import Tensor


WALKS = (256,)

"""Longest walks. Each step is several launches; the host is faster for a few large counts."""


def strip_entries(device: torch.device) -> int:
    """Return the number of entries of a strip, which need some 170 bytes each."""
    return 2**23 if device.type == "cuda" else 2**19


# -- the first pass: which entries may be above 0 -------------------------------------------------


def screen(strip: Strip) -> tuple[Tensor, Tensor]:
    """Flag entries whose count may be above 0, assuming that the observed counts are 0.

    Returns
    -------
    flags : bool, shape (h, G)
        False if the count is certainly 0.
    invalid : bool, shape (h,)
        Rows with a mean that is negative or not finite, or a logit that is NaN.
    """
    target = dense_entries(strip.target)
    uniform = open_uniforms(
        strip.cells[:, None], strip.genes[None, :], strip.seed, second=strip.source is not None
    )
    valid = _is_valid(target)
    stays = torch.zeros((), dtype=torch.bool, device=uniform.device)
    if strip.source is not None:
        source = dense_entries(strip.source)
        valid &= _is_valid(source)
        uniform *= _probability_of_zero(source)
        # If zeros are at least as likely under the target, a zero stays zero.
        stays = (
            (target.mean <= source.mean)
            & (target.theta <= source.theta)
            & (target.logit >= source.logit)
        )
    slack = ROUNDING * (FEWEST_ROUNDINGS - _log_zero(target))
    if strip.source is not None:
        slack = slack - ROUNDING * _log_zero(source)
    zero = _probability_of_zero(target)
    surely_zero = stays | ((zero > SMALLEST_UNIFORM) & (uniform <= zero * (1.0 - slack)))
    return ~surely_zero, ~valid.expand(strip.shape).all(dim=1)


def _is_valid(entries: Entries) -> Tensor:
    mean, logit = entries.mean, entries.logit
    return (mean >= 0.0) & (mean < torch.inf) & ~torch.isnan(logit)


def _log_zero(entries: Entries) -> Tensor:
    """Return the log probability of 0 under the count component."""
    mean, theta = entries.mean, entries.theta
    return torch.where(torch.isinf(theta), -mean, -theta * torch.log1p(mean / theta))


def _dropout(logit: Tensor) -> tuple[Tensor, Tensor]:
    """Return pi and 1 - pi, neither computed by subtraction from 1."""
    return 1.0 / (1.0 + torch.exp(-logit)), 1.0 / (1.0 + torch.exp(logit))


def _probability_of_zero(entries: Entries) -> Tensor:
    dropped, kept = _dropout(entries.logit)
    return dropped + kept * torch.exp(_log_zero(entries))


# -- the second pass: the counts of a list of entries ---------------------------------------------


def solve(strip: Strip, positions: Tensor, observed: Tensor | None, longest: int) -> Tensor:
    """Sample or map the counts of some entries by walking upwards from 0.

    Parameters
    ----------
    strip
        The strip of rows.
    positions
        Positions of N entries in the flattened strip, int64.
    observed
        Their counts, int32; None to sample counts.
    longest
        Maximum number of steps.

    Returns
    -------
    Tensor of int32, shape (N,)
        The counts; `PENDING` if a count is farther away than `longest`, or if rounding could affect
        it.
    """
    target = entries_at(strip.target, positions)
    uniform = uniforms_at(strip, positions)
    roundings = FEWEST_ROUNDINGS - _log_zero(target)
    counts = torch.full_like(positions, PENDING, dtype=torch.int32)
    counts[target.mean == 0.0] = 0
    is_open = counts == PENDING
    if strip.source is not None and observed is not None:
        source = entries_at(strip.source, positions)
        kept = (observed > 0) & (source.mean == 0.0)
        if strip.keep_unchanged:
            kept |= (observed > 0) & _are_equal(source, target)
        counts = torch.where(kept, observed, counts)
        roundings += observed - _log_zero(source)
        is_open &= ~kept & (observed <= longest)
        uniform = _transform(observed, uniform, source, is_open)
    is_open &= (uniform > SMALLEST_UNIFORM) & (target.mean < longest)
    _walk_to(uniform, roundings, target, longest, is_open, counts)
    return counts


def uniforms_at(strip: Strip, positions: Tensor) -> Tensor:
    """Return the uniforms of some entries of a strip."""
    rows, genes = row_and_gene(positions, strip.shape[1])
    return open_uniforms(
        strip.cells[rows], strip.genes[genes], strip.seed, second=strip.source is not None
    )


def _are_equal(source: Entries, target: Entries) -> Tensor:
    return (
        (source.mean == target.mean)
        & (source.theta == target.theta)
        & (source.logit == target.logit)
    )


@dataclass
class _Walk:
    """Sums of masses from 0 upwards: F(x - 1), f(x), and how often to scale both down."""

    mean: Tensor
    phi: Tensor
    below: Tensor
    mass: Tensor
    level: Tensor

    @classmethod
    def at_zero(cls, entries: Entries) -> _Walk:
        log_zero = _log_zero(entries)
        level = torch.floor(-log_zero / LOG_SHRINKAGE)
        mass = torch.exp(log_zero + level * LOG_SHRINKAGE)
        return cls(entries.mean, 1.0 / entries.theta, torch.zeros_like(mass), mass, level)

    def take(self, places: Tensor) -> _Walk:
        return _Walk(
            self.mean[places],
            self.phi[places],
            self.below[places],
            self.mass[places],
            self.level[places],
        )

    def advance(self, count: int) -> None:
        """Advance from `count` to the next one."""
        self.below = self.below + self.mass
        ratio = (
            self.mean * (1.0 + count * self.phi) / ((1.0 + self.mean * self.phi) * (count + 1.0))
        )
        mass = self.mass * ratio
        large = self.below > LARGEST_SUM
        self.below = torch.where(large, self.below * SHRINKAGE, self.below)
        self.mass = torch.where(large, mass * SHRINKAGE, mass)
        self.level = torch.where(large, self.level - 1.0, self.level)


def _transform(observed: Tensor, uniform: Tensor, source: Entries, is_open: Tensor) -> Tensor:
    """Compute the randomised probability integral transform of the mixture; tiny masses are 0."""
    dropped, kept = _dropout(source.logit)
    start = _Walk.at_zero(source)
    below, mass, level = start.below.clone(), start.mass.clone(), start.level.clone()
    places = torch.nonzero(is_open & (observed > 0)).ravel()
    walk, count = start.take(places), 0
    while places.numel():
        walk.advance(count)
        count += 1
        here = observed[places] == count
        arrived = places[here]
        below[arrived], mass[arrived] = walk.below[here], walk.mass[here]
        level[arrived] = walk.level[here]
        remaining = torch.nonzero(~here).ravel()
        places, walk = places[remaining], walk.take(remaining)
    kept = torch.where(level > 0, 0.0, kept)
    # For a count above 0 all of the dropout is below it, for a count of 0 a share.
    dropped = torch.where(observed > 0, dropped, uniform * dropped)
    return dropped + kept * (below + uniform * mass)


def _walk_to(
    uniform: Tensor,
    roundings: Tensor,
    target: Entries,
    longest: int,
    is_open: Tensor,
    counts: Tensor,
) -> None:
    """Fill `counts` with quantiles of the mixture where `is_open` and the result is certain."""
    dropped, kept = _dropout(target.logit)
    places = torch.nonzero(is_open).ravel()
    walk, count = _Walk.at_zero(target.at(places)), 0
    while places.numel() and count < longest:
        some = uniform[places]
        slack = some * ROUNDING * (roundings[places] + count)
        reached_sum = torch.where(walk.level > 0, 0.0, walk.below + walk.mass)
        cumulative = dropped[places] + kept[places] * reached_sum
        counts[places[cumulative > some + slack]] = count
        remaining = torch.nonzero(~(cumulative >= some - slack)).ravel()
        places, walk = places[remaining], walk.take(remaining)
        walk.advance(count)
        count += 1
