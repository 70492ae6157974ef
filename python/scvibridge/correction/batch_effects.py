"""Estimate the batch effects that quantile counts remove, for labels in batches or for batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from scvibridge._utils.grouped import GroupSums, add_sums
from scvibridge.io.blocks import blocks, minibatch_entries
from scvibridge.models import cell_sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.expression.records import Running
    from scvibridge.models.adapters import Adapter, Covariates, Decoded, Target


EFFECTS = ("label", "global", "local", "cell")

# Effects that are estimated once, on the reference cells.
ESTIMATED = ("label", "global", "local")

# Estimate the shrinkage of the effects from held-out cells.
AUTO = "auto"

# If shrinkage keeps a smaller share of the decoder's effects, almost nothing is removed.
HARDLY_KEPT = 0.1

# The mean over fewer cells follows individual cells, and with them the condition.
MIN_GROUP_CELLS = 20

# Averaging more cells does not improve the mean, whose accuracy is limited by the decoder's.
MOST_GROUP_CELLS = 2000

# Entries (groups by genes) of a table computed for a block of genes: 32 MB. About 16 are in memory.
ENTRIES_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class Shift:
    """Change of the decoder's parameters from source to target, ``(n, n_genes)`` each.

    ``log_ratio`` is D, the log ratio of frequencies. ``zi_shift`` and ``log_theta_ratio`` are the
    differences of the logit of the dropout probability and of the log inverse dispersion, or None
    if the likelihood has no such parameter.
    """

    log_ratio: np.ndarray
    zi_shift: np.ndarray | None = None
    log_theta_ratio: np.ndarray | None = None

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Shift:
        """Apply a function to each array."""

        def mapped(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else function(values)

        return Shift(function(self.log_ratio), mapped(self.zi_shift), mapped(self.log_theta_ratio))


@dataclass(frozen=True)
class GroupEffects:
    """Mean shifts of groups of cells: one for each batch, then one for each label in a batch.

    Attributes
    ----------
    shift
        One row for each group. The first ``n_batches`` rows are the batches.
    label_rows
        Row of each batch and label, shape ``(n_batches, n_labels)``; -1 if the group is too small
        or the target lacks the label, so that the row of the batch is used.
    kappa
        Number of counts at which half of an effect is kept, for batches and for labels, shape
        ``(2,)``; 0 if effects are not shrunk. See :mod:`shrinkage`.
    kept
        Size of the shrunk effects divided by that of the decoder's, averaged over counts, shape
        ``()``; 1 if effects are not shrunk.
    residual_sd
        Standard deviations over genes of the residual effects of batches and of labels, shape
        ``(2,)``; empty if none were estimated. See :mod:`residual_effects`.
    """

    shift: Shift
    label_rows: np.ndarray
    kappa: np.ndarray = field(default_factory=lambda: np.zeros(2))
    kept: np.ndarray = field(default_factory=lambda: np.ones(()))
    residual_sd: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that the likelihood does not have."""
        named = {**vars(self), **vars(self.shift)}
        named.pop("shift")
        return {name: values for name, values in named.items() if values is not None}

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> GroupEffects:
        """Build an instance from the result of :meth:`arrays`."""
        further = dict(arrays)
        log_ratio = further.pop("log_ratio")
        parts = [further.pop(name, None) for name in ("zi_shift", "log_theta_ratio")]
        return GroupEffects(Shift(log_ratio, *parts), **further)

    def rows(self, batch: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the row of each cell, and whether it falls back on the effect of its batch."""
        if labels is None:
            return batch, np.zeros(len(batch), dtype=bool)
        # Labels that none of the cells to estimate on have may be beyond the last column.
        has_column = (labels >= 0) & (labels < self.label_rows.shape[1])
        rows = np.full(len(batch), -1)
        rows[has_column] = self.label_rows[batch[has_column], labels[has_column]]
        return np.where(rows >= 0, rows, batch), rows < 0


@dataclass(frozen=True)
class Grouping:
    """Cells by batch, label and condition.

    Attributes
    ----------
    keys
        Codes of batch, label and condition of each group, shape ``(3, n_groups)``.
    group
        Group of each cell, shape ``(n_cells,)``.
    sizes
        Number of cells of each group, shape ``(n_groups,)``.
    by_label
        Whether labels were passed.
    """

    keys: np.ndarray
    group: np.ndarray
    sizes: np.ndarray
    by_label: bool


def group_cells(
    batch: np.ndarray, labels: np.ndarray | None, condition: np.ndarray | None
) -> Grouping:
    """Group cells by batch, label (-1 where missing) and condition; the last two may be None."""
    label_column = np.full(len(batch), -1) if labels is None else labels
    condition_column = np.zeros(len(batch), dtype=np.int64) if condition is None else condition
    keys, group = np.unique(
        np.stack([batch, label_column, condition_column]), axis=1, return_inverse=True
    )
    group = group.ravel()
    return Grouping(keys, group, np.bincount(group, minlength=keys.shape[1]), labels is not None)


def choose_cells(grouping: Grouping, names: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Choose the cells to estimate from: at most `MOST_GROUP_CELLS` of each group.

    The cells whose names have the smallest hashes are chosen, so that the choice does not depend
    on the order of the cells.

    Parameters
    ----------
    grouping, names
        Groups and names of all cells.
    rows
        Positions of the cells to choose from, sorted.

    Returns
    -------
    Positions of the chosen cells, sorted.
    """
    group = grouping.group[rows]
    chosen = [
        cell_sampling.choose_cells(names, rows[group == index], MOST_GROUP_CELLS)
        for index in np.unique(group)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def genes_at_a_time(n_groups: int, n_genes: int) -> list[slice]:
    """Split genes into consecutive blocks so that tables of groups by genes use bounded memory."""
    size = max(1, min(n_genes, ENTRIES_AT_A_TIME // max(n_groups, 1)))
    return [slice(start, min(start + size, n_genes)) for start in range(0, n_genes, size)]


def estimate_groups(
    adapter: Adapter,
    grouping: Grouping,
    chosen: np.ndarray,
    location: np.ndarray,
    covariates: Covariates,
    low_detection: np.ndarray,
    running: Running,
) -> GroupEffects:
    """Average the decoder's log ratio between target and observed batch over each group of cells.

    Parameters
    ----------
    adapter
        The model.
    grouping
        The groups of all cells.
    chosen
        Positions of the cells to estimate from.
    location, covariates
        Latent means and covariates of the chosen cells.
    low_detection
        Genes without a batch effect in each batch, shape ``(n_batches, n_genes)``.
    running
        Cells in a minibatch, whether to show progress, and where to compute.

    Notes
    -----
    D = mean over the cells of batch s and label c of
    [log mean_b rho(z, b) - log rho(z, s)], b over the target batches. If conditions were passed,
    they weigh equally in each mean.

    The sums are replaced by the means in place, one block of genes at a time, to avoid a second
    table of the same size.
    """
    group = grouping.group[chosen]
    n_groups = grouping.keys.shape[1]
    selections = group_selections(grouping, len(adapter.batches), adapter.target)
    n_rows = max(n_groups, len(selections.batch))
    sums = _sum_shifts(adapter, location, covariates, group, n_rows, running)
    used = np.bincount(group, minlength=n_groups)
    scale = np.divide(grouping.sizes, used, out=np.zeros(n_groups), where=used > 0)
    weights = _weights(selections.members, grouping.keys[2], grouping.sizes)
    kept = low_detection.copy()
    if adapter.target.unchanged_batch is not None:
        kept[adapter.target.unchanged_batch] = (
            True  # nothing is removed from the target's own cells
        )
    cut = genes_at_a_time(n_groups, len(adapter.genes))

    def average(table: np.ndarray) -> np.ndarray:
        for genes in cut:
            means = weights @ (table[:n_groups, genes] * scale[:, None])
            means[kept[selections.batch, genes]] = 0.0
            table[: len(means), genes] = means
        return table[: len(selections.batch)]

    return GroupEffects(sums.map(average), selections.label_rows)


def _sum_shifts(
    adapter: Adapter,
    location: np.ndarray,
    covariates: Covariates,
    group: np.ndarray,
    n_rows: int,
    running: Running,
) -> Shift:
    """Sum the shifts of the cells of each group, block by block, in tables of `n_rows` rows."""
    n_genes = len(adapter.genes)
    own_logits = adapter.zero_inflated
    own_theta = adapter.dispersion == "gene-cell"
    total = Shift(
        np.zeros((n_rows, n_genes)),
        np.zeros((n_rows, n_genes)) if own_logits else None,
        np.zeros((n_rows, n_genes)) if own_theta else None,
    )
    add_sums(
        running.pool,
        _SumsOfShifts(adapter, location, covariates, group),
        blocks(len(group), n_genes, running.batch_size, minibatch_entries(adapter.device)),
        adapter.device,
        list(vars(total).values()),
        "Estimating batch effects",
        running.progress,
    )
    return total


_Latents = tuple[np.ndarray, "Covariates", np.ndarray]

"""Latent means, covariates and groups of some cells."""


@dataclass(frozen=True)
class _SumsOfShifts:
    """Task: sum the decoder's log ratios between target and observed batch over groups of cells."""

    adapter: Adapter
    location: np.ndarray
    covariates: Covariates
    group: np.ndarray

    # A few numbers for each cell.
    reads_here = True

    def without_source(self) -> _SumsOfShifts:
        none = slice(0, 0)
        return _SumsOfShifts(
            self.adapter, self.location[none], self.covariates.take(none), self.group[none]
        )

    def read(self, block: slice, /) -> _Latents:
        return self.location[block], self.covariates.take(block), self.group[block]

    @torch.inference_mode()
    def compute(self, loaded: _Latents, /) -> GroupSums:
        location, covariates, group = loaded
        # One after the other, so that what is decoded is freed once it has its logarithm: a fourth
        # array of a block would be more than an arena of the allocator keeps for the next block.
        own = _to_compare(self.adapter.decode(location, covariates, None))
        target = _to_compare(self.adapter.decode_target(location, covariates))
        return _sum_by_group(own, target, group)


_Compared = tuple["torch.Tensor | None", ...]

"""The parts of a :class:`Shift` before a difference is taken."""


def _to_compare(decoded: Decoded) -> _Compared:
    return decoded.log_rate, decoded.zi_logits, decoded.log_theta


def _sum_by_group(own: _Compared, target: _Compared, group: np.ndarray) -> GroupSums:
    """Sum each part of a :class:`Shift` over the cells of each group, using a matrix product."""
    present, place = np.unique(group, return_inverse=True)
    members = np.zeros((len(present), len(group)), dtype=np.float32)
    members[place.ravel(), np.arange(len(group))] = 1.0

    def summed(before: torch.Tensor | None, after: torch.Tensor | None) -> np.ndarray | None:
        if before is None or after is None:
            return None
        indicator = torch.as_tensor(members, device=before.device)
        sums: np.ndarray = (indicator @ (after - before)).cpu().numpy()
        return sums

    return GroupSums(present, tuple(map(summed, own, target)))


@dataclass(frozen=True)
class Selections:
    """The groups whose effects are estimated: each batch, then each large enough label in a batch.

    Attributes
    ----------
    batch
        Batch of each row, shape ``(n_rows,)``.
    members
        Which groups of a :class:`Grouping` belong to each row, ``(n_rows, n_groups)``.
    label_rows
        Row of each batch and label, shape ``(n_batches, n_labels)``; -1 without one.
    """

    batch: np.ndarray
    members: sp.csr_matrix
    label_rows: np.ndarray


def group_selections(grouping: Grouping, n_batches: int, target: Target) -> Selections:
    """Choose the groups whose effects are estimated."""
    batch, label, sizes = grouping.keys[0], grouping.keys[1], grouping.sizes
    n_labels = max(int(label.max()) + 1, 1)
    label_rows = np.full((n_batches, n_labels), -1)
    columns = np.arange(len(batch))
    rows, of_rows = [batch], [columns]
    batches = np.arange(n_batches)
    if grouping.by_label:
        known = label >= 0
        cells = np.zeros((n_batches, n_labels), dtype=np.int64)
        np.add.at(cells, (batch[known], label[known]), sizes[known])
        in_target = cells[target.codes].sum(axis=0) > 0
        own = np.nonzero((cells >= MIN_GROUP_CELLS) & in_target)
        label_rows[own] = n_batches + np.arange(len(own[0]))
        batches = np.concatenate([batches, own[0]])
        row = np.where(known, label_rows[batch, label], -1)
        rows.append(row[row >= 0])
        of_rows.append(columns[row >= 0])
    place = (np.concatenate(rows), np.concatenate(of_rows))
    shape = (len(batches), len(batch))
    members = sp.csr_matrix((np.ones(len(place[0])), place), shape)
    return Selections(batches, members, label_rows)


def _weights(members: sp.csr_matrix, condition: np.ndarray, sizes: np.ndarray) -> sp.csr_matrix:
    """Compute the weights of the sums in each group's mean, such that conditions weigh equally.

    Cells without a condition have weight 0, unless no cell of the group has a condition.
    """
    rows, columns = members.nonzero()
    of_entry = condition[columns]
    has_known = np.zeros(members.shape[0], dtype=bool)
    has_known[rows[of_entry >= 0]] = True
    used = (of_entry >= 0) | ~has_known[rows]
    rows, columns, of_entry = rows[used], columns[used], of_entry[used]
    pairs, place = np.unique(np.stack([rows, of_entry]), axis=1, return_inverse=True)
    place = place.ravel()
    cells = np.bincount(place, sizes[columns])
    n_conditions = np.bincount(pairs[0], minlength=members.shape[0])
    weights = 1.0 / (n_conditions[rows] * cells[place])
    return sp.csr_matrix((weights, (rows, columns)), members.shape)
