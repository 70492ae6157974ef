"""Estimate the batch effects that the decoder misses from samples, to be removed with its own.

A decoder that was trained for few epochs, or that leaves some of a batch effect in the latent
space, removes only a fraction of the effect. The rest is visible in the samples: their mean counts,
corrected by the decoder's effects, differ more between batches than between samples of one batch.
This difference is estimated for each gene. The portion beyond chance is added to the effects of the
groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils.grouped import add_sums
from scvibridge.correction.group_sums import CellSums, ObservedSums
from scvibridge.correction.own_parameters import expected_counts, own_parameters
from scvibridge.correction.residual_plan import average_rows
from scvibridge.correction.residual_statistics import beyond_chance, effect_sd, moderate_variances
from scvibridge.io.blocks import blocks, minibatch_entries

if TYPE_CHECKING:
    from scvibridge.correction.batch_effects import GroupEffects
    from scvibridge.correction.residual_plan import ResidualEffect, ResidualPlan
    from scvibridge.correction.residual_statistics import Design
    from scvibridge.correction.sample_factors import SampleGroups
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.encoder import Cells, Encoder

# Pseudocounts of each sample, at the mean depth of the samples of a label.
PRIOR_COUNTS = 0.5

# A gene with fewer counts in the batch or in the target gets no residual effect.
MIN_COUNTS = 10

# Keeps logs and quotients finite for groups without counts.
_LEAST = 1e-12

# Variance of a label's log means between samples, used to weight labels.
_LABEL_VARIANCE = 0.02


@dataclass(frozen=True)
class SampleSums:
    """Sums of counts over groups of cells.

    Attributes
    ----------
    counts
        Observed sums, shape ``(n_groups, n_genes)``.
    corrected
        Expected sums after the decoder's effects are removed, same shape.
    """

    counts: np.ndarray
    corrected: np.ndarray


def add_residuals(
    groups: GroupEffects, plan: ResidualPlan, sums: SampleSums, low: np.ndarray
) -> GroupEffects:
    """Add the residual effects to the decoder's, in place.

    Parameters
    ----------
    groups
        Effects of the groups; their table of log ratios is changed.
    plan
        The effects that can be estimated.
    sums
        Counts of the groups of cells that the plan was made for.
    low
        Genes without a batch effect in each batch, shape ``(n_batches, n_genes)``.

    Notes
    -----
    The log means of a sample are averaged over labels, and the batch coefficients of ``~ batch +
    condition`` are estimated from the averages. Label effects are estimated in the same way from
    the deviations of a label's log means from the averages. For an estimate r with moderated
    standard error se, r (1 - se / sqrt(tau^2 + se^2)) is removed, so that the remainder varies as
    much as expected by chance. tau, the standard deviation over genes of the true residual effects
    of a batch or label, is estimated by maximum likelihood.
    """
    means = _LogMeans(plan, sums)
    average = means.average()
    table = groups.shift.log_ratio
    of_batches: dict[int, np.ndarray] = {}
    sds: list[list[float]] = [[], []]
    for residual in plan.effects:
        batch, label = residual.batch, residual.label
        if label < 0:
            found = _estimate(plan.common, residual, average, means.abundance(), means)
            of_batches[batch] = found.effect
            own = table[batch]
        elif batch in of_batches and groups.label_rows[batch, label] >= 0:
            members, design = plan.of_labels[label]
            log_means = means.of_label(label)
            deviations = log_means - average[plan.sample[members]]
            found = _estimate(design, residual, deviations, log_means.mean(axis=0), means)
            own = table[groups.label_rows[batch, label]]
        else:
            continue
        found.effect[low[batch]] = 0.0
        own += found.effect
        sds[int(label >= 0)].append(found.sd)
    for batch, effect in of_batches.items():
        of_labels = groups.label_rows[batch]
        table[of_labels[of_labels >= 0]] += effect
    squares = [float(np.mean(np.square(found))) if found else 0.0 for found in sds]
    return replace(groups, residual_sd=np.sqrt(squares))


@dataclass(frozen=True)
class _Estimated:
    """Effect to remove for a batch or a label in a batch, and the SD of the true effects."""

    effect: np.ndarray
    sd: float


def _estimate(
    design: Design,
    residual: ResidualEffect,
    values: np.ndarray,
    abundance: np.ndarray,
    means: _LogMeans,
) -> _Estimated:
    """Estimate a residual effect from the values of samples, ``(n_samples, n_genes)``."""
    effect = np.zeros(values.shape[1])
    usable = means.has_counts(residual)
    variances = design.variances(values[:, usable])
    # Without variation between samples, effects cannot be distinguished from chance.
    if usable.sum() < 2 or np.median(variances) <= 0:
        return _Estimated(effect, 0.0)
    moderated = moderate_variances(variances, design.df, abundance[usable])
    weights = residual.contrast.weights
    estimates = weights @ values[:, usable]
    errors = np.sqrt((weights @ weights) * moderated)
    # A change that all genes share does not change frequencies.
    estimates = estimates - np.average(estimates, weights=1.0 / errors**2)
    sd = effect_sd(estimates, errors)
    effect[usable] = beyond_chance(estimates, errors, sd)
    return _Estimated(effect, sd)


class _LogMeans:
    """Corrected log frequencies of the units of a plan."""

    def __init__(self, plan: ResidualPlan, sums: SampleSums) -> None:
        self._plan, self._sums = plan, sums
        self._labels = np.unique(plan.label).tolist()
        used = plan.unit >= 0
        self._label = np.where(used, plan.label[plan.unit], np.iinfo(np.int64).min)
        self._batch = np.where(used, plan.common.batch[plan.sample[plan.unit]], -1)
        # The effects of each label are consecutive.
        self._last: tuple[int | None, np.ndarray] = (None, np.empty(0))

    def of_label(self, label: int) -> np.ndarray:
        """Return the log frequencies of the units of a label, ``(n_units, n_genes)``.

        A pseudocount in proportion to depth keeps samples of different depth comparable.
        """
        if self._last[0] != label:
            self._last = (label, self._of_label(label))
        return self._last[1]

    def _of_label(self, label: int) -> np.ndarray:
        groups = np.flatnonzero(self._label == label)
        corrected = self._sums.corrected[groups]
        totals = corrected.sum(axis=1, keepdims=True)
        prior = PRIOR_COUNTS * totals / max(totals.mean(), 1.0)
        log_means = np.log((corrected + prior + _LEAST) / (totals + 2 * prior + _LEAST))
        _, place = np.unique(self._plan.unit[groups], return_inverse=True)
        return average_rows(log_means, place.ravel(), int(place.max()) + 1)

    def average(self) -> np.ndarray:
        """Average the centred log frequencies of each sample over its labels.

        Labels are weighted by inverse variance, which depends on their counts and samples.
        """
        n_samples, n_genes = self._plan.n_samples, self._sums.counts.shape[1]
        sums, weights = np.zeros((2, n_samples, n_genes))
        for label in self._labels:
            log_means = self.of_label(label)
            counts = self._sums.counts[self._label == label].mean(axis=0)
            weight = _LEAST + counts / (1.0 + _LABEL_VARIANCE * counts)
            place = self._plan.sample[self._plan.label == label]
            sums[place] += weight * (log_means - log_means.mean(axis=0))
            weights[place] += weight
        return np.asarray(sums / weights)

    def abundance(self) -> np.ndarray:
        """Return the log of the sum of the counts of each gene."""
        return np.asarray(np.log(self._sums.counts[self._label >= -1].sum(axis=0) + PRIOR_COUNTS))

    def has_counts(self, residual: ResidualEffect) -> np.ndarray:
        """Return which genes have enough counts in the batch and in the target."""
        label = residual.label
        used = self._label == label if label >= 0 else self._label >= -1
        sides = (self._batch == residual.batch, np.isin(self._batch, self._plan.targets))
        own, target = (self._sums.counts[used & side].sum(axis=0) for side in sides)
        return np.asarray(np.minimum(own, target) >= MIN_COUNTS)


def sum_samples(
    encoder: Encoder,
    samples: SampleGroups,
    groups: GroupEffects,
    group_rows: np.ndarray,
    batch_size: int | None,
    progress: bool,
) -> SampleSums:
    """Sum the counts of groups of cells, and correct the sums for the decoder's effects.

    Parameters
    ----------
    encoder
        Reads the cells; holds the latents of the chosen cells if the model is zero-inflated.
    samples
        The groups, and the cells to sum.
    groups, group_rows
        The decoder's effects, and the row that each group of cells uses.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.

    Notes
    -----
    The sums are multiplied by exp(D). With dropout, they are multiplied by the ratio of the
    expected counts after the correction to those before.
    """
    adapter, rows, group = encoder.adapter, samples.chosen, samples.group
    n_groups, n_genes = samples.keys.shape[1], len(adapter.genes)
    counts = np.zeros((n_groups, n_genes))
    expected = np.zeros((2, n_groups, n_genes)) if adapter.zero_inflated else None
    task: ObservedSums | _ShiftedSums = ObservedSums(encoder.data, rows, group)
    if expected is not None:
        task = _ShiftedSums(adapter, encoder, rows, group, groups, group_rows)
    add_sums(
        encoder.data.pool,
        task,
        blocks(len(rows), n_genes, batch_size, minibatch_entries(adapter.device)),
        adapter.device,
        (counts,) if expected is None else (counts, *expected),
        "Summing samples",
        progress,
    )
    ratio = np.exp(groups.shift.log_ratio[group_rows])
    if expected is not None:
        ratio = np.divide(expected[1], expected[0], out=ratio, where=expected[0] > 0)
    return SampleSums(counts, counts * ratio)


@dataclass(frozen=True)
class _ShiftedSums(CellSums):
    """Task: sum observed counts, and expected ones before and after the decoder's effects."""

    effects: GroupEffects
    effect_rows: np.ndarray

    def values(self, group: np.ndarray, cells: Cells) -> tuple[Any, ...]:
        """Return observed counts, and expected ones before and after the effects."""
        own = own_parameters(self.adapter, cells)
        shifted = _shifted(own, self.effects, self.effect_rows[group])
        return cells.require_counts(None), expected_counts(own), expected_counts(shifted)


def _shifted(
    parameters: BlockParameters, groups: GroupEffects, rows: np.ndarray
) -> BlockParameters:
    """Change rates and dropout by the effects of groups of cells."""
    shift, device = groups.shift, parameters.rate.device
    ratio = torch.as_tensor(np.exp(shift.log_ratio[rows]), device=device)
    logits = parameters.zi_logits
    if logits is not None and shift.zi_shift is not None:
        logits = logits + torch.as_tensor(shift.zi_shift[rows], device=device)
    return replace(parameters, rate=parameters.rate * ratio, zi_logits=logits)
