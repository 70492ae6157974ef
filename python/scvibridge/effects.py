"""The batch effect that quantile counts remove: per cell, per label and batch, or per batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge import subsets
from scvibridge.decoding import blocks, decode_target, minibatch_entries
from scvibridge.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.models import Adapter, Covariates, Decoded

EFFECTS = ("label", "global", "cell")

# Shrinkage of the effects: estimated from held-out cells.
AUTO = "auto"

# A group mean over fewer cells follows the single cells in it, and with them the condition.
MIN_GROUP_CELLS = 20

# A mean over more cells would be no better than the decoder that it is taken from.
MOST_GROUP_CELLS = 2000

# A gene seen in fewer cells of a batch has no batch effect that could be estimated.
MIN_DETECTED_CELLS = 5


@dataclass(frozen=True)
class Shift:
    """Change of the decoder's parameters from source to target, ``(n, n_genes)`` each.

    ``log_ratio`` is D, the log ratio of frequencies; ``zi_logits`` and ``log_theta`` are
    differences of the logit of the dropout probability and of the log inverse dispersion, None
    where the likelihood has none of its own.
    """

    log_ratio: np.ndarray
    zi_logits: np.ndarray | None = None
    log_theta: np.ndarray | None = None

    def without(self, mask: np.ndarray) -> Shift:
        """Return the shift with zeros where `mask` holds."""
        return self.map(lambda values: np.where(mask, 0.0, values))

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Shift:
        """Apply a function to each part."""

        def mapped(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else function(values)

        return Shift(function(self.log_ratio), mapped(self.zi_logits), mapped(self.log_theta))


@dataclass(frozen=True)
class Detection:
    """In how many cells of each batch a gene was seen, ``counts`` of shape (n_batches, n_genes)."""

    counts: np.ndarray
    targets: list[int]

    def low(self) -> np.ndarray:
        """Genes hardly seen in source or target, shape ``(n_batches, n_genes)``."""
        in_target = self.counts[self.targets].sum(axis=0)
        return (self.counts < MIN_DETECTED_CELLS) | (in_target < MIN_DETECTED_CELLS)


@dataclass(frozen=True)
class GroupEffects:
    """Mean shifts of groups of cells: one for each batch, then one for each label in a batch.

    Attributes
    ----------
    shift
        Rows of the groups, the first ``n_batches`` of them the batches' own.
    label_rows
        Row of each batch and label, shape ``(n_batches, n_labels)``; -1 where the group is too
        small or the label is absent from the target, so that the batch's row is taken.
    kappa
        Counts at which half of an effect of a batch, and of a label, is believed; None where all
        of it is: see :mod:`shrinkage`.
    """

    shift: Shift
    label_rows: np.ndarray
    kappa: np.ndarray | None = None

    @cached_property
    def ratio(self) -> np.ndarray:
        """Factor exp(D) on the frequencies, shape ``(n_groups, n_genes)``."""
        return np.exp(self.shift.log_ratio)

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the arrays by name; what is None is left out."""
        named = {"label_rows": self.label_rows, "kappa": self.kappa, **vars(self.shift)}
        return {name: values for name, values in named.items() if values is not None}

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> GroupEffects:
        """Make of what :meth:`arrays` gave."""
        parts = [arrays.get(name) for name in ("zi_logits", "log_theta")]
        shift = Shift(arrays["log_ratio"], *parts)
        return GroupEffects(shift, arrays["label_rows"], arrays.get("kappa"))

    def rows(self, batch: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Row of each cell, and whether it had to fall back on the effect of its batch."""
        if labels is None:
            return batch, np.zeros(len(batch), dtype=bool)
        rows = np.where(labels >= 0, self.label_rows[batch, labels], -1)
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
        Whether labels were given.
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

    They are those whose names have the smallest hashes, so that the choice does not depend on the
    order of the cells.

    Parameters
    ----------
    grouping, names
        Groups and names of all cells.
    rows
        Positions of those to choose from, sorted.

    Returns
    -------
    Their positions, sorted.
    """
    group = grouping.group[rows]
    chosen = [
        subsets.choose_cells(names, rows[group == index], MOST_GROUP_CELLS)
        for index in np.unique(group)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)


def estimate_groups(
    adapter: Adapter,
    grouping: Grouping,
    chosen: np.ndarray,
    location: np.ndarray,
    covariates: Covariates,
    targets: list[int],
    low_detection: np.ndarray,
    batch_size: int | None,
    progress: bool,
) -> GroupEffects:
    """Average the decoder's log ratio between target and own batch over groups of cells.

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
    targets
        Codes of the target batches.
    low_detection
        Genes left alone in each batch, shape ``(n_batches, n_genes)``.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.

    Notes
    -----
    D = mean over the cells of batch s and label c of
    [log mean_b rho(z, b) - log rho(z, s)], b over the target batches. Conditions, where they were
    given, weigh equally in each mean.
    """
    group = grouping.group[chosen]
    n_groups = grouping.keys.shape[1]
    sums = _sum_shifts(
        adapter, location, covariates, targets, group, n_groups, batch_size, progress
    )
    used = np.bincount(group, minlength=n_groups)
    scale = np.divide(grouping.sizes, used, out=np.zeros(n_groups), where=used > 0)
    sums = sums.map(lambda values: values * scale[:, None])
    n_batches = len(adapter.batches)
    selections, label_rows = group_selections(grouping, n_batches, targets)
    shift = _average(sums, grouping.sizes, grouping.keys, selections)
    mask = np.stack([low_detection[b] | ([b] == targets) for b, _ in selections])
    return GroupEffects(shift.without(mask), label_rows)


@torch.inference_mode()
def _sum_shifts(
    adapter: Adapter,
    location: np.ndarray,
    covariates: Covariates,
    targets: list[int],
    group: np.ndarray,
    n_groups: int,
    batch_size: int | None,
    progress: bool,
) -> Shift:
    """Sum the shifts of the cells of each group, block by block."""
    n_genes = len(adapter.genes)
    own_logits = adapter.zero_inflated
    own_theta = adapter.dispersion == "gene-cell"
    total = Shift(
        np.zeros((n_groups, n_genes)),
        np.zeros((n_groups, n_genes)) if own_logits else None,
        np.zeros((n_groups, n_genes)) if own_theta else None,
    )
    cut = blocks(len(group), n_genes, batch_size, minibatch_entries(adapter.device))
    for block in track(cut, "Estimating batch effects", progress):
        some = covariates.take(block)
        own = adapter.decode(location[block], some, None)
        target = decode_target(adapter, location[block], some, targets)
        _add_groups(total, own, target, group[block])
    return total


def _add_groups(total: Shift, own: Decoded, target: Decoded, group: np.ndarray) -> None:
    """Add the differences of a block to the sums of its groups, by a product of matrices."""
    present, place = np.unique(group, return_inverse=True)
    members = np.zeros((len(present), len(group)), dtype=np.float32)
    members[place.ravel(), np.arange(len(group))] = 1.0
    for name, decoded in zip(vars(total), ("log_scale", "zi_logits", "log_theta"), strict=True):
        sums, after, before = (
            getattr(total, name),
            getattr(target, decoded),
            getattr(own, decoded),
        )
        if sums is not None:
            indicator = torch.as_tensor(members, device=before.device)
            sums[present] += (indicator @ (after - before)).cpu().numpy()


def group_selections(
    grouping: Grouping, n_batches: int, targets: list[int]
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Choose the groups of effects: each batch, then each label of a batch that is large enough.

    Returns the batch and the members (a mask over the groups of `grouping`) of each, and the row
    of each batch and label.
    """
    batch, label, sizes = grouping.keys[0], grouping.keys[1], grouping.sizes
    selections = [(b, batch == b) for b in range(n_batches)]
    n_labels = max(int(label.max()) + 1, 1)
    label_rows = np.full((n_batches, n_labels), -1)
    if not grouping.by_label:
        return selections, label_rows
    in_target = set(label[np.isin(batch, targets)].tolist())
    for b in np.unique(batch):
        for c in np.unique(label[(batch == b) & (label >= 0)]):
            members = (batch == b) & (label == c)
            if c in in_target and sizes[members].sum() >= MIN_GROUP_CELLS:
                label_rows[b, c] = len(selections)
                selections.append((int(b), members))
    return selections, label_rows


def _average(
    sums: Shift, sizes: np.ndarray, keys: np.ndarray, selections: list[tuple[int, np.ndarray]]
) -> Shift:
    """Mean shift of each group, in which the conditions weigh equally."""
    weights = np.stack([_weights(members, keys[2], sizes) for _, members in selections])
    return sums.map(lambda values: weights @ values)


def _weights(members: np.ndarray, condition: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weight of the sum of each key in the mean of a group, shape ``(n_keys,)``."""
    known = members & (condition >= 0)
    used = known if known.any() else members
    weights = np.zeros(len(sizes))
    conditions = np.unique(condition[used])
    for c in conditions:
        of_condition = used & (condition == c)
        weights[of_condition] = 1.0 / (len(conditions) * sizes[of_condition].sum())
    return weights
