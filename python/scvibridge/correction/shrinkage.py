"""Shrink the decoder's batch effects by as much as held-out cells show them to be noise.

The decoder fits a batch effect for every gene and label, including those with only a few counts in
a batch and those that do not differ between batches. Many of these effects are noise. Cells that
the model was not trained on show how many, since their counts do not share the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.grouped import add_sums
from scvibridge.correction.batch_effects import choose_cells, genes_at_a_time, group_selections
from scvibridge.correction.group_sums import ExpectedSums, ObservedSums
from scvibridge.io.blocks import blocks, minibatch_entries

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge._utils.pools import Task
    from scvibridge.correction.batch_effects import GroupEffects, Grouping
    from scvibridge.expression.records import Running
    from scvibridge.models.adapters import Target
    from scvibridge.models.encoder import Encoder


# Prior of log10 kappa: between 10x chemistries, and in simulated batches, kappa is about 10. The
# prior decides if no cell was held out; with some hundred held-out cells it hardly matters.
PRIOR_LOG_KAPPA, PRIOR_SD = 1.0, 1.5

_KAPPAS = 10.0 ** np.linspace(-2.0, 6.0, 81)

# Step of log10 P, and the value used for P = 0.
_STEP, _LEAST_INFORMATION = 0.01, 1e-9


@dataclass(frozen=True)
class Compared:
    """Sums of counts over groups, and over the target cells that each group is compared with.

    Attributes
    ----------
    own, target
        Shape ``(n_rows, n_genes)``, with the rows of :class:`effects.GroupEffects`.
    """

    own: np.ndarray
    target: np.ndarray

    def over_genes(self) -> Compared:
        """Return the sums over genes, in tables with one column."""
        return Compared(*(table.sum(axis=1)[:, None] for table in (self.own, self.target)))

    def information(self) -> np.ndarray:
        """Return the inverse of 1 / own + 1 / target, the variance of a Poisson log ratio."""
        total = self.own + self.target
        return np.divide(self.own * self.target, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True)
class HeldOut:
    """Counts of cells that the model was not trained on.

    Attributes
    ----------
    observed, expected
        Observed counts, and those expected by the model under the observed batch.
    """

    observed: Compared
    expected: Compared

    def over_genes(self) -> HeldOut:
        """Return the sums over genes, in tables with one column."""
        return HeldOut(self.observed.over_genes(), self.expected.over_genes())


def shrink(
    groups: GroupEffects,
    encoder: Encoder,
    grouping: Grouping,
    held_out: np.ndarray,
    kappa: np.ndarray | None,
    batch_size: int | None,
    progress: bool,
) -> GroupEffects:
    """Shrink batch effects towards zero, and label effects towards their batch's effect, in place.

    Parameters
    ----------
    groups
        The decoder's effects. Their tables are changed.
    encoder
        Reads the cells.
    grouping
        The groups of all cells.
    held_out
        Positions of cells that the model was not trained on, sorted. May be empty.
    kappa
        One value for both levels or one for each; None to estimate them.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.

    Notes
    -----
    D' = a D_batch + b (D_label - D_batch), with a = P / (P + kappa_batch), where P is the
    information of a gene's counts in a batch and the target, 1 / (1/O + 1/O_target), and b likewise
    for the label. kappa is the number of counts at which an effect is shrunk by half. With O/E the
    ratio of observed to expected counts of held-out cells under the observed batch, the expectation
    of [O/E of the target - O/E of the batch] is (a - 1) D, whatever the noise in D. kappa minimises
    the squared differences, weighted by their inverse Poisson variance, plus a weak prior.
    """
    source = Source(encoder, grouping, held_out, batch_size, progress)
    parent = _parents(groups)
    is_batch = parent == np.arange(len(parent))
    given = [None, None] if kappa is None else np.broadcast_to(kappa, 2).tolist()
    kappas: list[float] = []
    for level, known in zip((is_batch, ~is_batch), given, strict=True):
        chosen = known
        if chosen is None and len(held_out) and level.any():
            chosen = _estimate_level(groups.shift.log_ratio, source, parent, level, kappas)
        kappas.append(10.0**PRIOR_LOG_KAPPA if chosen is None else chosen)
    log_ratio = groups.shift.log_ratio
    sizes = np.zeros(2)
    for genes in source.blocks:
        seen = source.seen(genes)
        information = seen.information()
        sizes[0] += (seen.own * np.abs(log_ratio[:, genes])).sum()
        levels = [believed(information, k) for k in kappas]
        weights = np.where(is_batch[:, None], levels[0], levels[1])
        for table in vars(groups.shift).values():
            if table is not None:
                _shrink_table(table[:, genes], weights, parent, is_batch)
        sizes[1] += (seen.own * np.abs(log_ratio[:, genes])).sum()
    kept = sizes[1] / sizes[0] if sizes[0] > 0 else 1.0
    return replace(groups, kappa=np.array(kappas), kept=np.array(kept))


def _estimate_level(
    log_ratio: np.ndarray,
    source: Source,
    parent: np.ndarray,
    level: np.ndarray,
    kappas: list[float],
) -> float:
    """Estimate kappa for batches or, once theirs is known, for labels, by blocks of genes."""
    is_batch = (parent == np.arange(len(parent)))[:, None]
    tally = KappaTally()
    for genes in source.blocks:
        information = source.seen(genes).information()
        effect = log_ratio[:, genes]
        part = effect - np.where(is_batch, 0.0, effect[parent])
        delta, precision = held_out_difference(source.held_out(genes), source.totals())
        if kappas:
            weights = believed(information, kappas[0])
            delta = delta - np.where(is_batch, 0.0, ((weights - 1) * part)[parent])
        tally.add(part[level], delta[level], precision[level], information[level])
    return tally.kappa()


def _shrink_table(
    values: np.ndarray, weights: np.ndarray, parent: np.ndarray, is_batch: np.ndarray
) -> None:
    """Shrink a table of effects in place."""
    own = np.where(is_batch[:, None], 0.0, values[parent])
    values[:] = weights * (values - own) + weights[parent] * own


class KappaTally:
    """Estimate kappa, the counts at which an effect is shrunk by half, from held-out differences.

    The share of an effect that is kept depends only on P, so sums over entries of similar P suffice
    for every kappa.
    """

    def __init__(self) -> None:
        self._sums: dict[int, np.ndarray] = {}

    def add(
        self, effect: np.ndarray, delta: np.ndarray, precision: np.ndarray, information: np.ndarray
    ) -> None:
        """Add entries.

        Parameters
        ----------
        effect
            The decoder's effects D. Zeros carry no information.
        delta
            Ratio of observed to expected counts of held-out cells, target minus batch.
        precision
            Inverse variance of `delta`.
        information
            P of each entry, see :func:`shrink`. All arrays have the same shape.
        """
        informative = (effect != 0) & (precision > 0)
        x, y, w, p = (values[informative] for values in (effect, delta, precision, information))
        # P is either 0 or at least about .5.
        place = np.round(np.log10(np.maximum(p, _LEAST_INFORMATION)) / _STEP).astype(np.int64)
        steps, place = np.unique(place, return_inverse=True)
        sums = np.stack([np.bincount(place, part) for part in (w * x * y, w * x**2)], axis=1)
        for step, both in zip(steps.tolist(), sums, strict=True):
            self._sums[step] = self._sums.get(step, 0.0) + both

    def kappa(self) -> float:
        """Return the kappa that fits best."""
        steps = np.array(sorted(self._sums), dtype=np.int64)
        sums = np.array([self._sums[step] for step in steps.tolist()]).reshape(-1, 2)
        change = np.array([believed(10.0 ** (steps * _STEP), kappa) - 1.0 for kappa in _KAPPAS])
        distance = change**2 @ sums[:, 1] - 2.0 * change @ sums[:, 0]
        penalty = ((np.log10(_KAPPAS) - PRIOR_LOG_KAPPA) / PRIOR_SD) ** 2
        return float(_KAPPAS[np.argmin(distance + penalty)])


def believed(information: np.ndarray, kappa: float) -> np.ndarray:
    """Return the share of each effect that is kept."""
    if kappa == 0:
        return np.ones_like(information)
    return information / (information + kappa)


def held_out_difference(held_out: HeldOut, totals: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Return held-out differences of observed over expected counts, and their precision.

    Both sides are first scaled to the same total over all genes, because depth is not a batch
    effect of a gene.
    """
    observed, expected = held_out.observed, held_out.expected
    comparable = (expected.own > 0) & (expected.target > 0)
    sides = (
        (observed.own, expected.own, totals.observed.own, totals.expected.own),
        (observed.target, expected.target, totals.observed.target, totals.expected.target),
    )
    ratios = [
        np.divide(o, e, out=np.zeros_like(e), where=comparable)
        * np.divide(all_e, all_o, out=np.zeros_like(all_o), where=all_o > 0)
        for o, e, all_o, all_e in sides
    ]
    return ratios[1] - ratios[0], np.where(comparable, expected.information(), 0.0)


def _parents(groups: GroupEffects) -> np.ndarray:
    """Return, for each row, the row of its batch."""
    parent = np.arange(len(groups.shift.log_ratio))
    batch, label = np.nonzero(groups.label_rows >= 0)
    parent[groups.label_rows[batch, label]] = batch
    return parent


def _comparison(
    grouping: Grouping, n_batches: int, target: Target
) -> Callable[[np.ndarray], Compared]:
    """Return a function that sums groups to the rows of effects and to the cells compared with."""
    selections = group_selections(grouping, n_batches, target)
    in_target = target.holds(grouping.keys[0])
    own = selections.members
    # Labels are compared with the target's cells of the label, batches with all target cells.
    of_label = np.full(len(selections.batch), -1)
    batch, label = np.nonzero(selections.label_rows >= 0)
    of_label[selections.label_rows[batch, label]] = label
    by_label = [np.flatnonzero(in_target & (grouping.keys[1] == c)) for c in np.unique(label)]
    members = dict(zip(np.unique(label).tolist(), by_label, strict=True))
    everything = np.flatnonzero(in_target)
    columns = [everything if c < 0 else members[c] for c in of_label.tolist()]
    starts = np.cumsum([0, *map(len, columns)])
    entries = np.ones(starts[-1])
    compared = sp.csr_matrix((entries, np.concatenate(columns), starts), own.shape)
    return lambda sums: Compared(own @ sums, compared @ sums)


class Source:
    """Sum counts one block of genes at a time, and only once if all genes fit in a block.

    Parameters
    ----------
    encoder, grouping, held_out, batch_size, progress
        As in :func:`shrink`.
    """

    def __init__(
        self,
        encoder: Encoder,
        grouping: Grouping,
        held_out: np.ndarray,
        batch_size: int | None,
        progress: bool,
    ) -> None:
        data, adapter = encoder.data, encoder.adapter
        self._encoder, self._grouping, self._held_out = encoder, grouping, held_out
        self._compare = _comparison(grouping, len(adapter.batches), adapter.target)
        n_genes = len(adapter.genes)
        self._cut = _Cut(n_genes, batch_size, minibatch_entries(adapter.device), progress)
        self._chosen = choose_cells(grouping, data.names, np.arange(data.n_cells))
        used = np.bincount(grouping.group[self._chosen], minlength=len(grouping.sizes))
        self._scale = np.divide(grouping.sizes, used, out=np.zeros(len(used)), where=used > 0)
        self.blocks = genes_at_a_time(len(grouping.sizes), n_genes)
        self._seen: Compared | None = None
        self._compared: HeldOut | None = None
        self._totals: HeldOut | None = None

    def seen(self, genes: slice) -> Compared:
        """Sum the observed counts of all cells, from which the model could learn."""
        if self._seen is not None:
            return self._seen
        seen = np.zeros((len(self._grouping.sizes), genes.stop - genes.start))
        group = self._grouping.group[self._chosen]
        task = ObservedSums(self._encoder.data, self._chosen, group, genes)
        self._cut.add(self._encoder, task, self._chosen, (seen,), "Summing counts")
        seen *= self._scale[:, None]
        found = self._compare(seen)
        if len(self.blocks) == 1:
            self._seen = found
        return found

    def held_out(self, genes: slice) -> HeldOut:
        """Compare held-out cells with what the model expects."""
        if self._compared is not None:
            return self._compared
        found = self._sum_held_out(genes)
        if len(self.blocks) == 1:
            self._compared = found
        return found

    def totals(self) -> HeldOut:
        """Return the sums of held-out cells over all genes, in tables with one column."""
        if self._totals is None and self._compared is not None:
            self._totals = self._compared.over_genes()
        if self._totals is None:
            self._totals = self._sum_held_out(None)
        return self._totals

    def _sum_held_out(self, genes: slice | None) -> HeldOut:
        sums = _sum_held_out(self._encoder, self._grouping, self._held_out, self._cut, genes)
        return HeldOut(*(self._compare(some) for some in sums))


@dataclass(frozen=True)
class _Cut:
    """How to read cells block by block."""

    n_genes: int
    batch_size: int | None
    entries: int
    progress: bool

    def add(
        self,
        encoder: Encoder,
        task: Task,
        rows: np.ndarray,
        totals: tuple[np.ndarray, ...],
        description: str,
    ) -> None:
        cut = blocks(len(rows), self.n_genes, self.batch_size, self.entries)
        device = encoder.adapter.device
        add_sums(encoder.data.pool, task, cut, device, totals, description, self.progress)


def sum_held_out(
    encoder: Encoder, grouping: Grouping, rows: np.ndarray, running: Running
) -> tuple[np.ndarray, np.ndarray]:
    """Sum observed and expected counts of held-out cells by group, ``(n_groups, n_genes)`` each."""
    adapter = encoder.adapter
    entries = minibatch_entries(adapter.device)
    cut = _Cut(len(adapter.genes), running.batch_size, entries, running.progress)
    return _sum_held_out(encoder, grouping, rows, cut, slice(0, cut.n_genes))


def _sum_held_out(
    encoder: Encoder, grouping: Grouping, rows: np.ndarray, cut: _Cut, genes: slice | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum observed and expected counts of held-out cells by group; over all genes if None."""
    n_columns = 1 if genes is None else genes.stop - genes.start
    observed, expected = np.zeros((2, len(grouping.sizes), n_columns))
    group = grouping.group[rows]
    task = ExpectedSums(encoder.adapter, encoder, rows, group, genes, over_genes=genes is None)
    cut.add(encoder, task, rows, (observed, expected), "Judging batch effects")
    return observed, expected
