"""Summarize which cells the target batch supports, by label and batch, with a verdict in words.

A cell has no target cells near it for one of two reasons: the target has no such cells, or the
model has not mixed the batches. Labels distinguish the two cases: if the target has cells of a
label, they should be near the other cells of that label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.spelling import spelled
from scvibridge._utils.wording import list_names
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS

if TYPE_CHECKING:
    from collections.abc import Sequence


SUPPORTED = "supported"

PARTLY = "partly supported"

TOO_FEW = "too few cells to tell"

NO_SUCH_CELLS = "not supported: the target has no such cells"

FEW_SUCH_CELLS = "not supported: the target has few such cells"

APART = "not supported: the target's cells lie elsewhere in the latent space"

ALL_CELLS = "all cells"

UNLABELLED = "no label"

# A group is supported up to the first share of unsupported cells, and unsupported above the second.
_MOST_UNSUPPORTED, _MOSTLY_UNSUPPORTED = 0.1, 0.5

# Warn if more cells are unsupported than this, both in share and in number.
WARNING_SHARE, WARNING_CELLS = 0.05, 50

# The batches are not mixed if a larger share of the cells than this is unsupported although the
# target has cells of their label.
MOST_APART = 0.5

ADVICE_ON_TRAINING = (
    "Train the model for longer (train_scvi() uses scvi-tools' default number of epochs unless "
    "max_epochs is passed) and with a short warm-up of the prior (n_epochs_kl_warmup, by default a "
    "quarter of the epochs)"
)


@dataclass(frozen=True)
class Judged:
    """Scores of the cells, with their batches and labels.

    Attributes
    ----------
    batch, in_target
        Codes of the cells' batches, and whether these are targets, shape ``(n,)``.
    label
        Codes of their labels, -1 if missing; None without labels.
    share, supported
        Scores of the cells, shape ``(n,)``.
    can_tell
        Whether there are enough target cells to call any cell unsupported.
    batch_names, label_names
        Names of the codes.
    n_target
        Number of target cells of each label among the reference cells; without labels, only their
        total, shape ``(1,)``.
    """

    batch: np.ndarray
    in_target: np.ndarray
    label: np.ndarray | None
    share: np.ndarray
    supported: np.ndarray
    can_tell: bool
    batch_names: Sequence[Any]
    label_names: Sequence[Any]
    n_target: np.ndarray

    @property
    def unlabelled(self) -> str:
        """Name for a missing label, which differs from all labels."""
        name = UNLABELLED
        while name in list(self.label_names):
            name = f"({name})"
        return name

    @property
    def _is_by_label(self) -> bool:
        """Whether any cell of other batches has a label."""
        return self.label is not None and bool((self.label[~self.in_target] >= 0).any())

    @cached_property
    def by_label_and_batch(self) -> pd.DataFrame:
        """One row for each label and source batch that has cells."""
        return self._table(by_batch=True)

    @cached_property
    def by_label(self) -> pd.DataFrame:
        """One row for each label, over all source batches."""
        return self._table(by_batch=False)

    def unsupported(self) -> tuple[int, int]:
        """Return the number of unsupported cells, and of cells of other batches."""
        return int((~self.supported & ~self.in_target).sum()), int((~self.in_target).sum())

    def unsupported_by_batch(self) -> np.ndarray:
        """Return the share of unsupported cells of each batch; 0 for the target."""
        n_batches = len(self.batch_names)
        others = ~self.in_target
        cells = np.bincount(self.batch[others], minlength=n_batches)
        found = np.bincount(self.batch[others & ~self.supported], minlength=n_batches)
        return np.asarray(found / np.maximum(cells, 1))

    def mixing_problem(self) -> str | None:
        """Describe batches that the model has not, or may not have, mixed; None otherwise."""
        if not self.can_tell:
            return None
        return mixing_problem(self.by_label_and_batch, by_label=self._is_by_label)

    def warning(self, *, by_label: bool = False) -> str | None:
        """Return a warning if many cells are unsupported, with the reason; None otherwise.

        Parameters
        ----------
        by_label
            Whether the cells of a label have the same batch effect. A minority of unsupported cells
            then uses an effect that was estimated where the target has cells, and is not counted.
        """
        n_unsupported, n_others = self.unsupported()
        table = self.by_label_and_batch
        is_unmixed = self.can_tell and self._is_by_label and bool(batches_apart(table))
        n_counted = n_unsupported
        if by_label:
            n_counted = _n_extrapolated(table, None if self.label is None else self.unlabelled)
        few = n_counted < WARNING_CELLS or n_counted <= WARNING_SHARE * n_others
        if few and not is_unmixed:
            return None
        text = (
            f"support: {n_unsupported} of {n_others} cells of other batches "
            f"({n_unsupported / n_others:.0%}) are not supported: they have hardly any target "
            "cells near them in the latent space"
        )
        problem = self.mixing_problem()
        if problem is not None:
            return f"{text}. {problem}"
        text += "; their counts are extrapolated"
        worst = self._worst_labels()
        if worst:
            text += f". Most affected: {worst}"
        return f"{text} (batch_support() lists them, choose_batch() finds other targets)"

    def _worst_labels(self) -> str:
        if self.label is None:
            return ""
        table = self.by_label
        table = table[(table["unsupported"] > WARNING_SHARE) & (table["label"] != self.unlabelled)]
        table = table.sort_values("unsupported", ascending=False, kind="stable").head(3)
        return ", ".join(
            f"{list_names([label])} ({share:.0%})"
            for label, share in zip(table["label"], table["unsupported"], strict=True)
        )

    def _table(self, *, by_batch: bool) -> pd.DataFrame:
        others = ~self.in_target
        label = np.zeros(len(self.batch), dtype=int) if self.label is None else self.label
        batch = self.batch if by_batch else np.zeros(len(self.batch), dtype=int)
        n_batches = len(self.batch_names)
        codes = label[others].astype(np.int64) * n_batches + batch[others]
        keys, group = np.unique(codes, return_inverse=True)
        labels, batches = np.divmod(keys, n_batches)
        rows = [
            self._row(labels[index], batches[index], np.flatnonzero(others)[group == index])
            for index in range(len(keys))
        ]
        columns = ["label", "batch", "n_cells", "n_target", "share", "unsupported", "verdict"]
        table = pd.DataFrame(rows, columns=columns)
        return table if by_batch else table.drop(columns="batch")

    def _row(self, label: int, batch: int, cells: np.ndarray) -> list[Any]:
        if self.label is None:
            name, n_target = ALL_CELLS, int(self.n_target[0])
        else:
            name = self.unlabelled if label < 0 else self.label_names[label]
            n_target = 0 if label < 0 else int(self.n_target[label])
        share, unsupported = self.share[cells], float((~self.supported[cells]).mean())
        known = share[~np.isnan(share)]
        median = float(np.median(known)) if len(known) else float("nan")
        verdict = self._verdict(len(cells), n_target, unsupported, named=label >= 0)
        shown = self.batch_names[batch]
        return [name, shown, len(cells), n_target, median, unsupported, verdict]

    def _verdict(self, n_cells: int, n_target: int, unsupported: float, *, named: bool) -> str:
        is_label = self.label is not None and named
        if is_label and n_target == 0:
            return NO_SUCH_CELLS
        if not self.can_tell or n_cells < MIN_GROUP_CELLS:
            return TOO_FEW
        if unsupported <= _MOST_UNSUPPORTED:
            return SUPPORTED
        if unsupported <= _MOSTLY_UNSUPPORTED:
            return PARTLY
        return FEW_SUCH_CELLS if is_label and n_target < MIN_GROUP_CELLS else APART


# -- mixing of the batches -----------------------------------------------------------------------


def batches_apart(table: pd.DataFrame) -> dict[str, float]:
    """Return the source batches that the model has not mixed with the target.

    Parameters
    ----------
    table
        Rows by label and batch, from `Judged` with labels.

    Returns
    -------
    By batch, the share of unsupported cells among those whose label the target has.
    """
    # Cells without a label have no target cells of the same label.
    shared = table[table["n_target"] >= MIN_GROUP_CELLS]
    n_unsupported = (shared["unsupported"] * shared["n_cells"]).groupby(shared["batch"].astype(str))
    n_cells = shared["n_cells"].groupby(shared["batch"].astype(str)).sum()
    shares = (n_unsupported.sum() / n_cells)[n_cells >= MIN_GROUP_CELLS]
    return {str(name): float(share) for name, share in shares[shares > MOST_APART].items()}


def mixing_problem(table: pd.DataFrame, *, by_label: bool) -> str | None:
    """Describe batches that the model has not, or may not have, mixed; None otherwise.

    Parameters
    ----------
    table
        Rows by label and batch, or by batch alone.
    by_label
        Whether any row has a label.
    """
    apart = batches_apart(table) if by_label else {}
    if apart:
        least = min(apart.values())
        return (
            f"The model has not mixed {list_names(apart, 5)} with the target, although the target "
            f"has cells of the same labels: at least {least:.0%} of the cells with these labels "
            f"are far from them. Corrected counts would keep the batch effect. {ADVICE_ON_TRAINING}"
        )
    unsupported = (table["unsupported"] * table["n_cells"]).sum() / max(table["n_cells"].sum(), 1)
    if not by_label and unsupported > MOST_APART:
        return (
            "Either the target has no such cells, or the model has not mixed the batches: "
            f"pass labels_key= to find out. In the second case: {ADVICE_ON_TRAINING[0].lower()}"
            f"{ADVICE_ON_TRAINING[1:]}"
        )
    return None


def _n_extrapolated(table: pd.DataFrame, unlabelled: str | None) -> int:
    """Count the unsupported cells of groups in which most cells are unsupported.

    Small groups and cells without labels have no effect of a label, and always count.

    Parameters
    ----------
    table
        Rows by label and batch, or by batch alone.
    unlabelled
        The name for a missing label; None if there are no labels.
    """
    counted = table["unsupported"] > _MOSTLY_UNSUPPORTED
    counted |= table["n_cells"] < MIN_GROUP_CELLS
    counted |= unlabelled is None or table["label"] == unlabelled
    return int(np.rint((table["unsupported"] * table["n_cells"])[counted].sum()))


def count_labels(among: np.ndarray, codes: np.ndarray | None, n_labels: int) -> np.ndarray:
    """Count the cells of each label where `among` is True; without labels all of them, ``(1,)``."""
    if codes is None:
        return np.array([among.sum()])
    return np.bincount(codes[among & (codes >= 0)], minlength=n_labels)


def describe(judged: Judged) -> dict[str, Any]:
    """Return what the provenance records about support."""
    n_unsupported, n_others = judged.unsupported()
    described: dict[str, Any] = {
        "unsupported_cells": n_unsupported,
        "unsupported_share": n_unsupported / max(n_others, 1),
        "unsupported_by_batch": list(judged.unsupported_by_batch()),
    }
    if judged.label is not None and n_others:
        table = judged.by_label_and_batch
        labels = dict(zip(judged.label_names, spelled(judged.label_names), strict=True))
        batches = dict(zip(judged.batch_names, spelled(judged.batch_names), strict=True))
        named = table.assign(
            label=[labels.get(name, str(name)) for name in table["label"]],
            batch=[batches[name] for name in table["batch"]],
        )
        described["support_by_label"] = {name: list(named[name]) for name in named.columns}
    return described
