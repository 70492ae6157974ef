"""The batch effect that quantile counts remove: per cell, per label and batch, or per batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.decoding import Cells, blocks, decode_target, to_numpy
from scvibridge.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.inputs import CellData
    from scvibridge.models import Decoded, SCVIAdapter

EFFECTS = ("label", "global", "cell")

# A group mean over fewer cells follows the single cells in it, and with them the condition.
MIN_GROUP_CELLS = 20

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

    def take(self, rows: np.ndarray) -> Shift:
        """Return some of the rows."""
        return self.map(lambda values: values[rows])

    def without(self, mask: np.ndarray) -> Shift:
        """Return the shift with zeros where `mask` holds."""
        return self.map(lambda values: np.where(mask, 0.0, values))

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Shift:
        """Apply a function to each part."""

        def mapped(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else function(values)

        return Shift(function(self.log_ratio), mapped(self.zi_logits), mapped(self.log_theta))


def shift_between(own: Decoded, target: Decoded) -> Shift:
    """Return what changes between two decodings of the same cells."""

    def difference(name: str) -> np.ndarray | None:
        after, before = getattr(target, name), getattr(own, name)
        return None if before is None else to_numpy(after) - to_numpy(before)

    log_ratio = difference("log_scale")
    assert log_ratio is not None  # noqa: S101 - decoders always give a scale
    return Shift(log_ratio, difference("zi_logits"), difference("log_theta"))


@dataclass(frozen=True)
class Detection:
    """In how many cells of each batch a gene was seen, ``counts`` of shape (n_batches, n_genes)."""

    counts: np.ndarray
    targets: list[int]

    def low(self) -> np.ndarray:
        """Genes hardly seen in source or target, shape ``(n_batches, n_genes)``."""
        in_target = self.counts[self.targets].sum(axis=0)
        return (self.counts < MIN_DETECTED_CELLS) | (in_target < MIN_DETECTED_CELLS)


def detect(data: CellData, n_batches: int, targets: list[int]) -> Detection:
    """Count, for each batch and gene, the cells with at least one count."""
    if data.counts is None:
        raise ValueError("the data hold no counts")
    seen = np.zeros((n_batches, data.counts.shape[1]), dtype=np.int64)
    for code in np.unique(data.covariates.batch):
        seen[code] = data.counts[data.covariates.batch == code].getnnz(axis=0)
    return Detection(seen, targets)


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
    """

    shift: Shift
    label_rows: np.ndarray

    def rows(self, batch: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Row of each cell, and whether it had to fall back on the effect of its batch."""
        if labels is None:
            return batch, np.zeros(len(batch), dtype=bool)
        rows = np.where(labels >= 0, self.label_rows[batch, labels], -1)
        return np.where(rows >= 0, rows, batch), rows < 0


def estimate_groups(
    adapter: SCVIAdapter,
    cells: Cells,
    targets: list[int],
    low_detection: np.ndarray,
    labels: np.ndarray | None,
    condition: np.ndarray | None,
    batch_size: int | None,
    progress: bool,
) -> GroupEffects:
    """Average the decoder's log ratio between target and own batch over groups of cells.

    Parameters
    ----------
    adapter, cells
        The model and the encoded cells to estimate from.
    targets
        Codes of the target batches.
    low_detection
        Genes left alone in each batch, shape ``(n_batches, n_genes)``.
    labels
        Codes of the labels (-1 where missing); None for one effect a batch.
    condition
        Codes of the condition, which then weighs equally in each mean; or None.

    Notes
    -----
    D = mean over the cells of batch s and label c of
    [log mean_b rho(z, b) - log rho(z, s)], b over the target batches.
    """
    batch = cells.covariates.batch
    label_column = np.full(len(batch), -1) if labels is None else labels
    condition_column = np.zeros(len(batch), dtype=np.int64) if condition is None else condition
    keys, group = np.unique(
        np.stack([batch, label_column, condition_column]), axis=1, return_inverse=True
    )
    group = group.ravel()
    sums = _sum_shifts(adapter, cells, targets, group, keys.shape[1], batch_size, progress)
    sizes = np.bincount(group, minlength=keys.shape[1])
    n_batches = len(adapter.batches)
    selections, label_rows = _plan_groups(keys, sizes, n_batches, targets, labels is not None)
    shift = _average(sums, sizes, keys, selections)
    mask = np.stack([low_detection[b] | ([b] == targets) for b, _ in selections])
    return GroupEffects(shift.without(mask), label_rows)


def _sum_shifts(
    adapter: SCVIAdapter,
    cells: Cells,
    targets: list[int],
    group: np.ndarray,
    n_groups: int,
    batch_size: int | None,
    progress: bool,
) -> Shift:
    """Sum the shifts of all cells of each group, block by block."""
    total: Shift | None = None
    n_genes = len(adapter.genes)
    cut = blocks(cells.n_cells, n_genes, batch_size)
    for block in track(cut, "Estimating batch effects", progress):
        z, covariates = cells.latent.location[block], cells.covariates.take(block)
        own = adapter.decode(z, covariates, None)
        shift = shift_between(own, decode_target(adapter, z, covariates, targets))
        if total is None:
            total = shift.map(lambda _: np.zeros((n_groups, n_genes)))
        _add_groups(total, shift, group[block])
    assert total is not None  # noqa: S101 - an empty selection is refused before
    return total


def _add_groups(total: Shift, shift: Shift, group: np.ndarray) -> None:
    order = np.argsort(group, kind="stable")
    present, starts = np.unique(group[order], return_index=True)
    for name in total.__dataclass_fields__:
        values = getattr(shift, name)
        if values is not None:
            getattr(total, name)[present] += np.add.reduceat(values[order], starts, axis=0)


def _plan_groups(
    keys: np.ndarray, sizes: np.ndarray, n_batches: int, targets: list[int], with_labels: bool
) -> tuple[list[tuple[int, np.ndarray]], np.ndarray]:
    """Choose the groups: each batch, then each label of a batch that is large enough.

    Returns the batch and the members (a mask over `keys`) of each group, and the row of each
    batch and label.
    """
    batch, label = keys[0], keys[1]
    selections = [(b, batch == b) for b in range(n_batches)]
    n_labels = max(int(label.max()) + 1, 1)
    label_rows = np.full((n_batches, n_labels), -1)
    if not with_labels:
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


def cell_shift(
    own: Decoded, target: Decoded, batch: np.ndarray, targets: list[int], low_detection: np.ndarray
) -> Shift:
    """Shift of each cell by itself (``effect="cell"``)."""
    untouched = low_detection[batch]
    if len(targets) == 1:
        untouched = untouched | (batch == targets[0])[:, None]
    return shift_between(own, target).without(untouched)
