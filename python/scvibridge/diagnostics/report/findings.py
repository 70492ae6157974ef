"""Collect the findings for and against a result, on which the verdict is based."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction.support.tables import ADVICE_ON_TRAINING, MOST_APART
from scvibridge.diagnostics.calibration.goodness_of_fit import SMALL_MISFIT
from scvibridge.diagnostics.report import added, all_or_none, design, evidence
from scvibridge.diagnostics.report.blocks import (
    CAUTION,
    GOOD,
    STOP,
    Text,
    counted,
    figure,
    listed,
    percent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from scvibridge.diagnostics.report.evidence import Folds, Plane, Spread
    from scvibridge.diagnostics.report.reading import Result
    from scvibridge.diagnostics.report.support import Support
    from scvibridge.diagnostics.report.tallies import Tallies


# Thresholds above which the verdict mentions a finding.
MOST_UNSUPPORTED = 0.05

MOST_HIGH_DEPTH = 0.05

MOST_FALLBACK = 0.1

# Same-batch neighbours relative to those of mixed batches.
MIXED = 1.5

# Shares of the squared batch effect that were removed: most of it, and too little for the counts to
# pass as corrected (more than .7 of the root mean square remains).
MOSTLY_GONE = 2 / 3

LEAST_GONE = 0.5


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict is based on."""

    result: Result
    tallies: Tallies
    folds: dict[str, Folds]
    spread: Spread
    plane: Plane | None
    support: Support | None
    calibration: Any = None

    @property
    def others(self) -> np.ndarray:
        """Whether each cell is outside the target batches, shape ``(n_cells,)``."""
        return ~evidence.in_target(self.result)


def is_unchanged(found: Evidence) -> bool:
    """Return whether the corrected counts are identical to the raw counts."""
    kept = found.result.kept
    # Cells of the target are the same, whatever became of the others.
    known = bool(kept.all() or (kept & found.others).any())
    return known and evidence.changed_share(found.tallies, np.ones(len(kept), dtype=bool)) == 0


# ---- findings --------------------------------------------------------------------------------


def collect_findings(found: Evidence) -> Iterator[Text]:
    """Yield the findings for and against a result, in the order of the report."""
    yield from design.of_correction(found.result, unchanged=is_unchanged(found))
    yield design.of_confounding(found.result)
    yield from design.of_replicates(found.result)
    yield from _of_method(found.result)
    yield from _of_support(found.support)
    yield from _of_changes(found)
    yield from _of_genes(found.spread)
    yield from all_or_none.finding(found.result, all_or_none.find(found.result, found.tallies))
    yield from _of_mixing(found.plane)
    yield from _of_fit(found.calibration)
    yield from added.finding(found.result)
    yield from _of_flags(found.result)


def _of_method(result: Result) -> Iterator[Text]:
    made = result.provenance
    if made.get("method") == "sample":
        yield Text(
            "Counts were sampled from the model: they simulate each cell. Differences between "
            "single cells that the model has not learned are lost.",
            CAUTION,
        )
    if made.get("effect") == "cell":
        yield Text(
            "Each cell's own batch effect was removed, which leaks the condition of interest: "
            "use labels_key instead if conditions matter.",
            CAUTION,
        )


def _of_support(support: Support | None) -> Iterator[Text]:
    if support is None or math.isnan(support.of_others):
        return
    share = percent(support.of_others)
    if support.unmixed:
        apart = percent(min(support.unmixed.values()))
        yield Text(
            f"The model has not mixed {listed(list(support.unmixed))} with the target, although "
            f"the target has cells of the same labels: at least {apart} of the cells with these "
            f"labels are far from them. {ADVICE_ON_TRAINING}.",
            STOP,
        )
    elif support.of_others > MOST_UNSUPPORTED:
        yield Text(
            f"{share} of the cells of other batches have hardly any target cells near them; "
            f"their counts are extrapolated.{_which_it_is(support)}",
            CAUTION,
        )
    else:
        yield Text(f"{share} of the cells have no support in the target batch.", GOOD)


def _which_it_is(support: Support) -> str:
    """Explain that missing cells and unmixed batches cannot be distinguished without labels."""
    if support.of_others <= MOST_APART or support.has_labels:
        return ""
    return (
        " Either the target has no such cells, or the model has not mixed the batches and has to "
        "be trained for longer; pass labels_key= (--labels-key) to find out."
    )


def _of_changes(found: Evidence) -> Iterator[Text]:
    rows = found.others
    if rows.any():
        yield Text(
            f"{percent(evidence.changed_share(found.tallies, rows))} of the nonzero entries of "
            "cells from other batches changed (nonzero before or after); the changes add up to "
            f"{percent(evidence.moved_share(found.tallies, rows))} of their counts."
        )
    if (~rows).any():
        share = evidence.changed_share(found.tallies, ~rows)
        changed = f"{percent(share)} changed" if share > 0 else "none changed"
        yield Text(f"Of the nonzero entries of the target's own cells, {changed}.")


def _of_genes(spread: Spread) -> Iterator[Text]:
    if math.isnan(spread.before):
        return
    words = (
        "Within types, genes differ between batches and target by a log2 fold of "
        f"{figure(spread.before)} before and {figure(spread.after)} after (root mean square over "
        f"genes); {figure(spread.chance)} is expected by chance"
    )
    if math.isnan(spread.gone):
        yield Text(f"{words}. There was hardly any batch effect to remove.")
        return
    left = (
        f"{words}. Beyond chance, {percent(spread.left)} of the batch effect remains in the root "
        f"mean square over genes, and {percent(spread.slope)} on average (slope over genes)"
    )
    if spread.gone < LEAST_GONE:
        yield Text(
            f"{left}. That is too much for corrected counts: the model was trained too briefly, "
            f"with too long a warm-up, or on too few cells. {ADVICE_ON_TRAINING}.",
            STOP,
        )
        return
    yield Text(f"{left}.", GOOD if spread.gone >= MOSTLY_GONE else CAUTION)


def _of_mixing(plane: Plane | None) -> Iterator[Text]:
    if plane is None or math.isnan(plane.mixing[0]):
        return
    before, after = plane.mixing
    level = GOOD if after <= max(MIXED, 1.05 * min(before, MIXED)) else CAUTION
    yield Text(
        f"Cells have {figure(before)} times as many same-batch neighbours as expected for mixed "
        f"batches before the correction, and {figure(after)} times after (1: mixed).",
        level,
    )


def _of_fit(calibration: Any) -> Iterator[Text]:
    if calibration is None or "flagged" not in calibration.batches:
        return
    for found, subject in (
        (calibration, "The model"),
        (getattr(calibration, "added", None), "The fit of the added genes"),
    ):
        if found is None:
            continue
        names = _flagged(found.batches)
        if names:
            yield Text(
                f"{subject} departs substantially from the held-out cells of {listed(names)}: see "
                "the section on its fit.",
                CAUTION,
            )
        elif found.overall["flagged"]:
            yield Text(f"{subject}: {found.overall['verdict']}.", CAUTION)
        elif SMALL_MISFIT in set(found.batches["misfit"]) | {found.overall["misfit"]}:
            yield Text(
                f"{subject} departs little from held-out cells: quantiles of counts in their "
                f"distributions are off by {figure(found.overall['displacement'])} of 1.",
                GOOD,
            )


def _flagged(batches: pd.DataFrame) -> list[str]:
    return [str(name) for name in batches.index[batches["flagged"].astype(bool)]]


def _of_flags(result: Result) -> Iterator[Text]:
    if not result.kept.all():
        yield Text(
            f"{counted(int((~result.kept).sum()), 'cell')} without support were masked: their rows "
            "are empty, and only the tables of support include them."
        )
    share = evidence.high_depth_share(result)
    if share > MOST_HIGH_DEPTH:
        yield Text(
            f"{percent(share)} of the cells were scaled to more than twice their own depth; such "
            "counts are partly invented.",
            CAUTION,
        )
    share = evidence.low_depth_share(result)
    if share > MOST_HIGH_DEPTH:
        yield Text(
            f"{percent(share)} of the cells were scaled to less than half of their depth, "
            "which discards most of their counts and reduces the power of tests.",
            CAUTION,
        )
    fallback = result.flag("effect_fallback")
    if fallback is not None and fallback.mean() > MOST_FALLBACK:
        yield Text(
            f"{percent(float(fallback.mean()))} of the cells used the effect of their batch, "
            "because their label is missing, too rare in the batch, or absent from the target.",
            CAUTION,
        )
