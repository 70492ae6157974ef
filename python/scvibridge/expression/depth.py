"""Depth of the target: how a cell's counts are scaled, as a ratio to the model's own rate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments
from scvibridge._utils.values_as_text import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence


# Above this ratio, most counts of a cell come from the model and not from its own data.
HIGH_DEPTH_RATIO = 2.0

# Below this ratio, most of a cell's own counts are discarded.
LOW_DEPTH_RATIO = 0.5

# Standard deviation of a normal distribution over its median absolute deviation, and variance of
# the median of a sample over that of its mean.
_MAD_TO_SD, _MEDIAN_VARIANCE = 1.4826, np.pi / 2


@dataclass(frozen=True)
class Depth:
    """Depth of the target, as requested and, once learned, as ratios to the cells' own depth.

    Attributes
    ----------
    asked
        A number, ``"observed"``, ``"latent"``, ``"median"`` or ``"scaled"``.
    target_median
        Median library of the target's cells (``"median"``, once learned), otherwise NaN.
    batch_ratio
        One ratio for each batch of the model (``"scaled"``, once learned), otherwise None.
    notes
        Messages for the user about the estimate.
    """

    asked: str | float
    target_median: float = float("nan")
    batch_ratio: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(library_size: Any) -> Depth:
        """Check the argument `library_size`: a number, or one of four names."""
        return Depth(arguments.check_library_size(library_size))

    @property
    def keeps_own(self) -> bool:
        """Whether each cell keeps its library in the model."""
        return self.asked in ("observed", "latent")

    @property
    def is_latent(self) -> bool:
        """Whether it is the model's latent library."""
        return self.asked == "latent"

    @property
    def is_learnt(self) -> bool:
        """Whether it has to be learned from cells of the target."""
        return self.asked in ("median", "scaled")

    @property
    def is_common(self) -> bool:
        """Whether all cells are scaled to the same depth."""
        return self.asked == "median" or not isinstance(self.asked, str)

    @property
    def is_by_batch(self) -> bool:
        """Whether it has one factor for each batch."""
        return self.asked == "scaled"

    @property
    def needs_counts(self) -> bool:
        """Whether a matrix of means needs the totals of observed counts for it."""
        return isinstance(self.asked, str) and not self.is_latent

    def ratio(self, library: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Compute the depth ratio k of each cell; 1 for cells without counts, which stay empty.

        Parameters
        ----------
        library
            The cells' own library, shape ``(n_cells,)``.
        batch
            Codes of the cells' batches, shape ``(n_cells,)``.
        """
        if self.keeps_own:
            return np.ones(len(library))
        if self.batch_ratio is not None:
            return np.asarray(self.batch_ratio[batch])
        depth = float(self.target_median if self.is_learnt else self.asked)
        with np.errstate(divide="ignore"):
            return np.where(library > 0, depth / library, 1.0)

    def learn(
        self,
        library: np.ndarray,
        batch: np.ndarray,
        in_target: np.ndarray,
        labels: np.ndarray | None,
        batch_names: Sequence[Any],
    ) -> Depth:
        """Learn a depth that was requested by name from data; return other depths unchanged.

        Parameters
        ----------
        library
            Own library of the reference cells, shape ``(n_cells,)``.
        batch
            Codes of their batches, shape ``(n_cells,)``.
        in_target
            Whether each cell belongs to a target batch, shape ``(n_cells,)``. The cells of several
            target batches are pooled.
        labels
            Codes of the cells' labels, -1 if missing, or None without labels.
        batch_names
            Names of the model's batches.

        Raises
        ------
        ValueError
            If the depth depends on cells of the target, and the data have none.
        """
        if not self.is_learnt:
            return self
        used = library > 0
        library, batch, in_target = library[used], batch[used], in_target[used]
        labels = None if labels is None else labels[used]
        if not in_target.any():
            raise ValueError(
                f"library_size={self.asked!r} needs cells of the target batch with counts, but the "
                "data have none: pass a number or 'observed', or pass adata= with cells of the "
                "target"
            )
        if self.is_by_batch:
            ratios, notes = _scaled(library, batch, in_target, labels, batch_names)
            return replace(self, batch_ratio=ratios, notes=tuple(notes))
        return replace(self, target_median=float(np.median(library[in_target])))


def _scaled(
    library: np.ndarray,
    batch: np.ndarray,
    in_target: np.ndarray,
    labels: np.ndarray | None,
    batch_names: Sequence[Any],
) -> tuple[np.ndarray, list[str]]:
    """Compute one ratio for each batch, which corrects depth between but not within batches."""
    ratios = np.ones(len(batch_names))
    notes = []
    if labels is None:
        notes.append(
            "depth: without labels, medians of whole batches were compared, which also differ if "
            "batches differ in composition"
        )
    for code in np.unique(batch):
        own = batch == code
        if np.array_equal(own, in_target):
            continue
        groups = [] if labels is None else _shared_groups(library, own, in_target, labels)
        if not groups:
            groups = [(library[in_target], library[own])]
            if labels is not None:
                notes.append(
                    f"depth: {quoted(batch_names[code])} has no label in common with the target; "
                    "medians of whole batches were compared"
                )
        ratios[code] = np.exp(_log_ratio(groups, holds_own=bool((own & in_target).any())))
    return ratios, notes


def _shared_groups(
    library: np.ndarray, own: np.ndarray, in_target: np.ndarray, labels: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the libraries of target and batch for each label that both have."""
    of_labels = [labels == label for label in np.unique(labels[labels >= 0])]
    groups = [(library[in_target & some], library[own & some]) for some in of_labels]
    return [(a, b) for a, b in groups if len(a) and len(b)]


def _log_ratio(groups: list[tuple[np.ndarray, np.ndarray]], *, holds_own: bool) -> float:
    """Estimate the log depth ratio of a batch, shrunk by its standard error.

    Parameters
    ----------
    groups
        Libraries of the cells of the target and of the batch, for each group of cells.
    holds_own
        Whether the target includes the batch.

    Notes
    -----
    The estimate d is the mean, over groups, of the log ratio of medians. A group has weight
    w = n m / (n + m) for n and m cells, which is inversely proportional to the variance of a
    difference of two means. It is shrunk to d max(0, 1 - se^2 / d^2), the positive-part estimator
    of James and Stein. The variance of the log median of n cells is pi / 2 sigma^2 / n, and sigma
    is 1.4826 times the median absolute deviation of log depths from the log median of their group.
    If the target includes the batch itself, the medians share cells, and the variance of their
    difference is that of 1 / n - 1 / m.
    """
    log_ratios, weights, variances, deviations = [], [], [], []
    for a, b in groups:
        log_ratios.append(np.log(np.median(a) / np.median(b)))
        weights.append(len(a) * len(b) / (len(a) + len(b)))
        variances.append(1 / len(b) + (-1 if holds_own else 1) / len(a))
        deviations += [np.abs(np.log(x / np.median(x))) for x in (a, b)]
    sigma = _MAD_TO_SD * np.median(np.concatenate(deviations))
    share = np.array(weights) / np.sum(weights)
    difference = float(share @ log_ratios)
    variance = float(_MEDIAN_VARIANCE * sigma**2 * (share**2 @ variances))
    if difference**2 <= variance:
        return 0.0
    return difference - variance / difference
