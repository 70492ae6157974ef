"""How far the decoder's batch effects can be trusted: shrunk by what held-out cells say of them.

The decoder fits a batch effect to every gene and label, also to those of which a batch shows a
handful of counts, or where batches do not differ at all: much of it is then noise. Cells that the
model was not trained on tell how much, since what they show does not share the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from scvibridge.decoding import blocks, minibatch_entries
from scvibridge.effects import choose_cells, group_selections
from scvibridge.parameters import expected_counts, own_parameters
from scvibridge.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scvibridge.decoding import Encoder
    from scvibridge.effects import GroupEffects, Grouping
    from scvibridge.sources import CellData

# Prior of log10 kappa: between 10x chemistries, and in simulated batches, kappa is about 10. It
# decides where no cell was held out, and hardly matters where some hundred were.
PRIOR_LOG_KAPPA, PRIOR_SD = 1.0, 1.5
_KAPPAS = 10.0 ** np.linspace(-2.0, 6.0, 81)
# Steps of log10 P, and what stands for none.
_STEP, _LEAST_INFORMATION = 0.01, 1e-9


@dataclass(frozen=True)
class Compared:
    """Sums of counts over groups, and over the target's cells that each is compared with.

    Attributes
    ----------
    own, target
        Shape ``(n_rows, n_genes)``, rows as those of :class:`effects.GroupEffects`.
    """

    own: np.ndarray
    target: np.ndarray

    def information(self) -> np.ndarray:
        """Inverse of 1 / own + 1 / target, the variance of a log ratio of Poisson counts."""
        total = self.own + self.target
        return np.divide(self.own * self.target, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True)
class Evidence:
    """What the shrinkage of group effects rests on.

    Attributes
    ----------
    seen
        Observed counts of all cells: what the model could learn from.
    observed, expected
        Counts of held-out cells, and those that the model expects under their own batch; or None.
    """

    seen: Compared
    observed: Compared | None
    expected: Compared | None


def gather(
    encoder: Encoder,
    grouping: Grouping,
    targets: list[int],
    held_out: np.ndarray,
    batch_size: int | None,
    progress: bool,
) -> Evidence:
    """Sum the counts of groups, and compare held-out cells with what the model expects.

    Parameters
    ----------
    encoder
        Reads the cells.
    grouping
        The groups of all cells.
    targets
        Codes of the target batches.
    held_out
        Positions of cells that the model was not trained on, sorted; may be empty.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.
    """
    data, adapter = encoder.data, encoder.adapter
    compare = _comparison(grouping, len(adapter.batches), targets)
    cut = _Cut(len(adapter.genes), batch_size, minibatch_entries(adapter.device), progress)
    chosen = choose_cells(grouping, data.names, np.arange(data.n_cells))
    seen = _sum_counts(data, grouping, chosen, cut)
    used = np.bincount(grouping.group[chosen], minlength=len(grouping.sizes))
    seen *= np.divide(grouping.sizes, used, out=np.zeros(len(used)), where=used > 0)[:, None]
    if len(held_out) == 0:
        return Evidence(compare(seen), None, None)
    observed, expected = _sum_held_out(encoder, grouping, held_out, cut)
    return Evidence(compare(seen), compare(observed), compare(expected))


def shrink(
    groups: GroupEffects, evidence: Evidence, kappa: float | np.ndarray | None
) -> GroupEffects:
    """Shrink effects of batches towards none, and those of labels towards their batch's.

    Parameters
    ----------
    groups
        The decoder's effects.
    evidence
        Counts of the groups, and of held-out cells.
    kappa
        Given for both levels or each of them, or None: estimated.

    Notes
    -----
    D' = a D_batch + b (D_label - D_batch), with a = P / (P + kappa_batch), P the information of
    the counts of a gene in a batch and the target, 1 / (1/O + 1/O_target), and b likewise of the
    label. kappa is the number of counts at which half of an effect is believed. With O/E the
    observed over the expected counts of held-out cells under their own batch, the expectation of
    [O/E of the target - O/E of the batch] is (a - 1) D, whatever the noise in D: kappa minimises
    the squared differences, weighted by the inverse of their Poisson variance, plus a weak prior.
    """
    parent = _parents(groups)
    is_batch = parent == np.arange(len(parent))
    part = groups.shift.log_ratio - np.where(is_batch[:, None], 0.0, groups.shift.log_ratio[parent])
    information = evidence.seen.information()
    weights = np.ones_like(information)
    kappas: list[float] = []
    residual = None if evidence.observed is None else _residual(evidence)
    given = [None, None] if kappa is None else np.broadcast_to(kappa, 2).tolist()
    for level, known in zip((is_batch, ~is_batch), given, strict=True):
        chosen = known
        if chosen is None and residual is not None and level.any():
            delta, precision = residual
            explained = np.where(is_batch[:, None], 0.0, ((weights - 1) * part)[parent])
            chosen = estimate_kappa(
                part[level], (delta - explained)[level], precision[level], information[level]
            )
        kappas.append(10.0**PRIOR_LOG_KAPPA if chosen is None else chosen)
        weights[level] = _believed(information[level], kappas[-1])

    def shrunk(values: np.ndarray) -> np.ndarray:
        own = np.where(is_batch[:, None], 0.0, values[parent])
        return weights * (values - own) + weights[parent] * own

    return replace(groups, shift=groups.shift.map(shrunk), kappa=np.array(kappas))


def estimate_kappa(
    effect: np.ndarray, delta: np.ndarray, precision: np.ndarray, information: np.ndarray
) -> float:
    """Counts at which half of an effect is believed, from held-out differences.

    Parameters
    ----------
    effect
        The decoder's effects D; entries of zero tell nothing.
    delta
        Observed over expected counts of held-out cells, the target's minus the batch's.
    precision
        Inverse variance of `delta`.
    information
        P of each entry: see :func:`shrink`. All of one shape.
    """
    told = (effect != 0) & (precision > 0)
    x, y, w, p = (values[told] for values in (effect, delta, precision, information))
    # The share depends on P alone: sums over entries of about one P do for all kappas. P is 0, or
    # about .5 at least.
    place = np.round(np.log10(np.maximum(p, _LEAST_INFORMATION)) / _STEP).astype(np.int64)
    steps, place = np.unique(place, return_inverse=True)
    shared, squared = (np.bincount(place, part) for part in (w * x * y, w * x**2))
    change = np.array([_believed(10.0 ** (steps * _STEP), kappa) - 1.0 for kappa in _KAPPAS])
    distance = change**2 @ squared - 2.0 * change @ shared
    penalty = ((np.log10(_KAPPAS) - PRIOR_LOG_KAPPA) / PRIOR_SD) ** 2
    return float(_KAPPAS[np.argmin(distance + penalty)])


def _believed(information: np.ndarray, kappa: float) -> np.ndarray:
    """Share of an effect that is believed."""
    if kappa == 0:
        return np.ones_like(information)
    return information / (information + kappa)


def _residual(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Held-out differences of observed over expected counts, and their precision.

    Both sides are brought to the same total first: depth is no batch effect of a gene.
    """
    observed, expected = evidence.observed, evidence.expected
    assert observed is not None  # noqa: S101 - asked by the caller
    assert expected is not None  # noqa: S101 - likewise
    told = (expected.own > 0) & (expected.target > 0)
    ratios = [
        np.divide(o, e, out=np.zeros_like(e), where=told) * _inverse_ratio(o, e)[:, None]
        for o, e in ((observed.own, expected.own), (observed.target, expected.target))
    ]
    return ratios[1] - ratios[0], np.where(told, expected.information(), 0.0)


def _inverse_ratio(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    total = observed.sum(axis=1)
    return np.divide(expected.sum(axis=1), total, out=np.zeros_like(total), where=total > 0)


def _parents(groups: GroupEffects) -> np.ndarray:
    """Row of the batch of each row."""
    parent = np.arange(len(groups.shift.log_ratio))
    batch, label = np.nonzero(groups.label_rows >= 0)
    parent[groups.label_rows[batch, label]] = batch
    return parent


def _comparison(
    grouping: Grouping, n_batches: int, targets: list[int]
) -> Callable[[np.ndarray], Compared]:
    """Give what sums the groups by batch, label and condition to those that are compared."""
    selections, _ = group_selections(grouping, n_batches, targets)
    in_target = np.isin(grouping.keys[0], targets)
    own = np.stack([members for _, members in selections]).astype(float)
    target = own.copy()
    for row, (_, members) in enumerate(selections):
        same = np.isin(grouping.keys[1], grouping.keys[1, members]) if row >= n_batches else True
        target[row] = in_target & same
    return lambda sums: Compared(own @ sums, target @ sums)


@dataclass(frozen=True)
class _Cut:
    """How cells are read, block by block."""

    n_genes: int
    batch_size: int | None
    entries: int
    progress: bool

    def of(self, rows: np.ndarray, description: str) -> Iterator[np.ndarray]:
        cut = blocks(len(rows), self.n_genes, self.batch_size, self.entries)
        return (rows[block] for block in track(cut, description, self.progress))


def _members(grouping: Grouping, rows: np.ndarray) -> sp.csr_matrix:
    place = (grouping.group[rows], np.arange(len(rows)))
    return sp.csr_matrix((np.ones(len(rows)), place), (len(grouping.sizes), len(rows)))


def _sum_counts(data: CellData, grouping: Grouping, rows: np.ndarray, cut: _Cut) -> np.ndarray:
    """Sum the counts of some cells by group, ``(n_groups, n_genes)``."""
    source, total = data.require_counts(), np.zeros((len(grouping.sizes), cut.n_genes))
    for block in cut.of(rows, "Summing counts"):
        total += (_members(grouping, block) @ source.rows(block)).toarray()
    return total


@torch.inference_mode()
def _sum_held_out(
    encoder: Encoder, grouping: Grouping, rows: np.ndarray, cut: _Cut
) -> tuple[np.ndarray, np.ndarray]:
    """Sum observed and expected counts of held-out cells by group."""
    observed, expected = np.zeros((2, len(grouping.sizes), cut.n_genes))
    for block in cut.of(rows, "Judging batch effects"):
        cells, members = encoder.cells(block), _members(grouping, block)
        observed += (members @ cells.counts).toarray()
        expected += members @ expected_counts(own_parameters(encoder.adapter, cells))
    return observed, expected
