"""Depth of the target: how many counts a cell is given, as a ratio on the model's own rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence


# Beyond this ratio most counts of a cell are the model's invention rather than its own data.
HIGH_DEPTH_RATIO = 2.0

# Below this one most of a cell's own counts are thrown away.
LOW_DEPTH_RATIO = 0.5


@dataclass(frozen=True)
class DepthModel:
    """Depth ratios, estimated once and applied to whichever cells are asked for.

    Attributes
    ----------
    library_size
        A number, ``"observed"``, ``"latent"``, ``"median"`` or ``"scaled"``.
    target_median
        Median library of the target's cells (``"median"``), else NaN.
    batch_ratio
        One ratio for each batch of the model (``"scaled"``), else None.
    notes
        What the user should know of the estimate.
    """

    library_size: str | float
    target_median: float = float("nan")
    batch_ratio: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    def ratio(self, library: np.ndarray, batch: np.ndarray) -> np.ndarray:
        """Depth ratio k of each cell; 1 for a cell without counts, which stays empty.

        Parameters
        ----------
        library
            The cells' own library, shape ``(n_cells,)``.
        batch
            Codes of their batches, shape ``(n_cells,)``.
        """
        if self.library_size in ("observed", "latent"):
            return np.ones(len(library))
        if self.batch_ratio is not None:
            return np.asarray(self.batch_ratio[batch])
        depth = self.target_median if self.library_size == "median" else float(self.library_size)
        with np.errstate(divide="ignore"):
            return np.where(library > 0, depth / library, 1.0)


def estimate_depth(
    library_size: str | float,
    library: np.ndarray,
    batch: np.ndarray,
    targets: list[int],
    labels: np.ndarray | None,
    batch_names: Sequence[Any],
) -> DepthModel:
    """Estimate what a depth by name means on some data.

    Parameters
    ----------
    library_size
        The depth that was asked for.
    library
        Own library of the cells to estimate from, shape ``(n_cells,)``.
    batch
        Codes of their batches, shape ``(n_cells,)``.
    targets
        Codes of the target batches, whose cells are pooled.
    labels
        Codes of the cells' labels, -1 where missing, or None without labels.
    batch_names
        Names of the model's batches.

    Raises
    ------
    ValueError
        If the median of the target is asked for and the data hold no cell of it.
    """
    if library_size not in ("median", "scaled"):
        return DepthModel(library_size)
    used = library > 0
    library, batch = library[used], batch[used]
    labels = None if labels is None else labels[used]
    in_target = np.isin(batch, targets)
    if not in_target.any():
        raise ValueError(
            f"library_size={library_size!r} needs cells of the target batch with counts, and the "
            "data have none: give a number or 'observed', or pass adata= with cells of the target"
        )
    if library_size == "median":
        return DepthModel(library_size, target_median=float(np.median(library[in_target])))
    return _scaled(library, batch, in_target, labels, batch_names)


def _scaled(
    library: np.ndarray,
    batch: np.ndarray,
    in_target: np.ndarray,
    labels: np.ndarray | None,
    batch_names: Sequence[Any],
) -> DepthModel:
    """One ratio for each batch, so that depth is corrected between batches and kept within."""
    ratios = np.ones(len(batch_names))
    notes = []
    if labels is None:
        notes.append(
            "depth: without labels the batches' plain medians were compared, which also "
            "carry differences of composition"
        )
    for code in np.unique(batch):
        own = batch == code
        if np.array_equal(own, in_target):
            continue
        log_ratio = None if labels is None else _within_labels(library, own, in_target, labels)
        if log_ratio is None:
            log_ratio = float(np.log(np.median(library[in_target]) / np.median(library[own])))
            if labels is not None:
                notes.append(
                    f"depth: {batch_names[code]!r} shares no label with the target; plain medians"
                )
        ratios[code] = np.exp(log_ratio)
    return DepthModel("scaled", batch_ratio=ratios, notes=notes)


def _within_labels(
    library: np.ndarray, own: np.ndarray, in_target: np.ndarray, labels: np.ndarray
) -> float | None:
    """Weighted mean, over shared labels, of the log ratio of medians; None without any.

    A label weighs n_own n_target / (n_own + n_target), which is inversely proportional to the
    variance of a difference of two means.
    """
    log_ratios, weights = [], []
    for label in np.unique(labels[labels >= 0]):
        of_label = labels == label
        a, b = library[in_target & of_label], library[own & of_label]
        if len(a) and len(b):
            log_ratios.append(np.log(np.median(a) / np.median(b)))
            weights.append(len(a) * len(b) / (len(a) + len(b)))
    return float(np.average(log_ratios, weights=weights)) if log_ratios else None
