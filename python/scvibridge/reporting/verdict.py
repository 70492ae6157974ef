"""The verdict: what the figures of a report say, in plain words, and what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.confounding import UNCHECKED
from scvibridge.reporting import added, design, evidence
from scvibridge.reporting.blocks import (
    CAUTION,
    GOOD,
    STOP,
    Items,
    Text,
    counted,
    figure,
    listed,
    percent,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from scvibridge.reporting.evidence import Folds, Plane, Spread
    from scvibridge.reporting.reading import Result
    from scvibridge.reporting.support import Support
    from scvibridge.reporting.tallies import Tallies

# Above which the verdict speaks up.
MOST_UNSUPPORTED = 0.05
MOST_HIGH_DEPTH = 0.05
MOST_FALLBACK = 0.1
# Same-batch neighbours over those of mixed batches; and share of the batch effect gone.
MIXED = 1.5
MOSTLY_GONE = 2 / 3
HARDLY_GONE = 0.1

_HEADLINES = {
    GOOD: "Fit for tools that need counts and cannot take the batch as a covariate",
    CAUTION: "Usable with care: read the points marked below before you rely on it",
    STOP: "Do not compare conditions with these counts",
}
_FAILED = "The batch effect is still there: these counts are not corrected"
_NOTHING = "Nothing was corrected: these are the raw counts"
_SIMULATION = "A simulation by the model, not the cells' own data"


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on."""

    result: Result
    tallies: Tallies
    folds: dict[str, Folds]
    spread: Spread
    plane: Plane | None
    support: Support | None
    calibration: Any = None

    @property
    def others(self) -> np.ndarray:
        """Which cells come from no target batch, shape ``(n_cells,)``."""
        return ~evidence.in_target(self.result)


@dataclass(frozen=True)
class Tile:
    """A number at the top, what it is, and how to read it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The verdict, the sentences that it rests on, and the numbers at the top."""

    level: str
    headline: str
    findings: list[Text]
    tiles: list[Tile]


def judge(found: Evidence) -> Verdict:
    """Say what was found, the worst of which is the verdict."""
    findings = [Text(_what_was_done(found.result)), *_findings(found)]
    levels = {finding.level for finding in findings}
    level = STOP if STOP in levels else CAUTION if CAUTION in levels else GOOD
    headline = _NOTHING if _is_unchanged(found) else _HEADLINES[level]
    if found.spread.gone < HARDLY_GONE:
        headline = _FAILED
    if found.result.provenance.get("method") == "sample":
        headline = _SIMULATION if level != STOP else f"{_SIMULATION}. {headline}"
    return Verdict(level, headline, findings, list(_tiles(found)))


def _is_unchanged(found: Evidence) -> bool:
    """Whether no count of any cell differs from the raw ones, going by the counts alone."""
    rows = np.ones(found.result.n_cells, dtype=bool)
    return bool(found.result.kept.any()) and evidence.changed_share(found.tallies, rows) == 0


def _what_was_done(result: Result) -> str:
    made = result.provenance
    n_cells, n_genes = result.raw.shape
    key = f" ({plain(result.batch.key, 60)})" if result.batch.key else ""
    how = {
        "label": f"one batch effect per batch and {plain(made.get('labels_key', 'label'), 60)}",
        "global": "one batch effect per batch",
        "cell": "each cell's own batch effect",
    }.get(str(made.get("effect")), "a draw from the model for each cell")
    return (
        f"{counted(n_cells, 'cell')} and {counted(n_genes, 'gene')} of "
        f"{counted(len(result.batch.names), 'batch', 'batches')}{key} were given counts as if from "
        f"{listed(result.targets)}: method {made.get('method')}, {how}, "
        f"depth {made.get('library_size')}, seed {made.get('seed')}."
    )


# ---- findings --------------------------------------------------------------------------------


def _findings(found: Evidence) -> Iterator[Text]:
    yield from design.of_correction(found.result, unchanged=_is_unchanged(found))
    yield design.of_confounding(found.result)
    yield from design.of_replicates(found.result)
    yield from _of_method(found.result)
    yield from _of_support(found.support)
    yield from _of_changes(found)
    yield from _of_genes(found.spread)
    yield from _of_mixing(found.plane)
    yield from _of_fit(found.calibration)
    yield from added.finding(found.result)
    yield from _of_flags(found.result)


def _of_method(result: Result) -> Iterator[Text]:
    made = result.provenance
    if made.get("method") == "sample":
        yield Text(
            "Counts are drawn from the model: a simulation of each cell. Differences between "
            "single cells that the model does not know are gone.",
            CAUTION,
        )
    if made.get("effect") == "cell":
        yield Text(
            "Each cell's own batch effect was removed, which leaks the condition of interest: "
            "take labels_key instead wherever conditions matter.",
            CAUTION,
        )


def _of_support(support: Support | None) -> Iterator[Text]:
    if support is None or math.isnan(support.of_others):
        return
    if support.of_others > MOST_UNSUPPORTED:
        yield Text(
            f"{percent(support.of_others)} of the cells of other batches have hardly a cell of the "
            "target near them: their counts are extrapolated.",
            CAUTION,
        )
    else:
        yield Text(
            f"{percent(support.of_others)} of the cells lack support in the target batch.", GOOD
        )


def _of_changes(found: Evidence) -> Iterator[Text]:
    rows = found.others
    if rows.any():
        yield Text(
            f"{percent(evidence.changed_share(found.tallies, rows))} of the nonzero entries of "
            "cells from other batches changed (nonzero before or after); the counts moved amount "
            f"to {percent(evidence.moved_share(found.tallies, rows))} of theirs."
        )
    if (~rows).any():
        share = evidence.changed_share(found.tallies, ~rows)
        changed = f"{percent(share)} changed" if share > 0 else "none changed"
        yield Text(f"Of the target's own nonzero entries {changed}.")


def _of_genes(spread: Spread) -> Iterator[Text]:
    if math.isnan(spread.before):
        return
    words = (
        f"Between batches and target, within types, genes differ by a log2 fold of "
        f"{figure(spread.before)} before and {figure(spread.after)} after (root mean square); "
        f"chance alone gives {figure(spread.chance)}"
    )
    if math.isnan(spread.gone):
        yield Text(f"{words}. There was hardly a batch effect to remove.")
        return
    if spread.gone < HARDLY_GONE:
        removed = (
            "it grew" if spread.gone < 0 else f"{percent(spread.gone)} of the variance is gone"
        )
        yield Text(
            f"{words}. Beyond chance, {removed}: a model that was trained too "
            "little, or on too few cells, does that. Look at its training before all else.",
            STOP,
        )
        return
    level = GOOD if spread.gone >= MOSTLY_GONE else CAUTION
    yield Text(f"{words}. Of the variance beyond chance {percent(spread.gone)} is gone.", level)


def _of_mixing(plane: Plane | None) -> Iterator[Text]:
    if plane is None or math.isnan(plane.mixing[0]):
        return
    before, after = plane.mixing
    level = GOOD if after <= max(MIXED, 1.05 * min(before, MIXED)) else CAUTION
    yield Text(
        f"Cells have {figure(before)} times the same-batch neighbours that mixed batches would "
        f"give before, {figure(after)} times after (1: mixed).",
        level,
    )


def _of_fit(calibration: Any) -> Iterator[Text]:
    if calibration is None or "flagged" not in calibration.batches:
        return
    names = _flagged(calibration.batches)
    if names:
        yield Text(f"The model does not fit the held-out cells of {listed(names)}.", CAUTION)
    of_added = getattr(calibration, "added", None)
    names = [] if of_added is None else _flagged(of_added.batches)
    if names:
        yield Text(
            "What was fitted to the added genes does not fit the held-out cells of "
            f"{listed(names)}.",
            CAUTION,
        )


def _flagged(batches: pd.DataFrame) -> list[str]:
    return [str(name) for name in batches.index[batches["flagged"].astype(bool)]]


def _of_flags(result: Result) -> Iterator[Text]:
    if not result.kept.all():
        yield Text(
            f"{counted(int((~result.kept).sum()), 'cell')} without support were masked: their rows "
            "are empty, and nothing here but the tables of support counts them."
        )
    share = evidence.high_depth_share(result)
    if share > MOST_HIGH_DEPTH:
        yield Text(
            f"{percent(share)} of the cells were given more than twice their own depth: such "
            "counts are partly invented.",
            CAUTION,
        )
    share = evidence.low_depth_share(result)
    if share > MOST_HIGH_DEPTH:
        yield Text(
            f"{percent(share)} of the cells were given less than half of their own depth: most of "
            "their counts are thrown away, and power of tests with them.",
            CAUTION,
        )
    fallback = result.flag("effect_fallback")
    if fallback is not None and fallback.mean() > MOST_FALLBACK:
        yield Text(
            f"{percent(float(fallback.mean()))} of the cells took the effect of their whole batch, "
            "since their type is too rare there, missing, or absent from the target.",
            CAUTION,
        )


# ---- numbers at the top ----------------------------------------------------------------------


def _tiles(found: Evidence) -> Iterator[Tile]:
    rows = found.others
    if rows.any():
        share = percent(evidence.changed_share(found.tallies, rows))
        yield Tile("Counts changed", share, "nonzero entries, cells of other batches")
    if not math.isnan(found.spread.before):
        before_after = _arrow(found.spread.before, found.spread.after)
        chance = figure(found.spread.chance)
        yield Tile("Batch effect of genes", before_after, f"log2 fold, RMS; chance: {chance}")
    if found.plane is not None and not math.isnan(found.plane.mixing[0]):
        yield Tile("Same-batch neighbours", _arrow(*found.plane.mixing), "1: batches are mixed")
    if found.plane is not None and not math.isnan(found.plane.silhouette[0]):
        yield Tile("Types kept apart", _arrow(*found.plane.silhouette), "silhouette; higher: apart")
    if found.support is not None and not math.isnan(found.support.of_others):
        yield Tile(
            "Cells without support", percent(found.support.of_others), "of those of other batches"
        )


def _arrow(before: float, after: float) -> str:
    return f"{figure(before)} \N{RIGHTWARDS ARROW} {figure(after)}"


# ---- uses ------------------------------------------------------------------------------------


def uses(result: Result) -> list[Items]:
    """What the matrix may be used for and what not."""
    return [
        Items("It may be used for", _may(result), GOOD),
        Items("It must not be used for", _must_not(result), STOP),
    ]


def _may(result: Result) -> list[str]:
    if result.provenance.get("method") == "sample":
        return [
            "looking at what the model believes: predictive checks, simulated data of known origin",
            "trying out tools on counts that look like the target's",
        ]
    allowed = [
        "tools that need counts and cannot take the batch as a covariate",
        "telling cell types apart: markers of types, references for annotation or deconvolution",
        "pictures of counts beside those of other cells of the target batch",
    ]
    if result.confounding == "balanced" and design.has_conditions(result):
        allowed.append(
            "a look at conditions, to be confirmed on the raw counts with the batch in the design"
        )
    return allowed


def _must_not(result: Result) -> list[str]:
    made = result.provenance
    refused = [
        (
            "differential expression between donors or samples (pseudobulk DESeq2, edgeR): give it "
            "the raw counts, layers['raw_counts'], with the batch in the design"
        ),
        "judging how replicates vary: variance between the batches was taken away",
        "clustering, neighbours and embeddings, where the latent space (X_scvi) does better",
    ]
    status = result.confounding
    if status.startswith("confounded"):
        refused.insert(0, "any comparison of conditions: the condition went with the batch")
    elif status.startswith(UNCHECKED) and len(result.batch.names) > 1:
        refused.insert(
            0, "any comparison of conditions, unless condition_key was given and the design passes"
        )
    if made.get("method") == "sample":
        refused.insert(0, "statements about single cells: these are draws from the model")
    elif made.get("effect") == "global":
        refused.append("comparing types between batches: technology effects by type stayed")
    elif made.get("effect") == "cell":
        refused.insert(0, "comparing conditions: the cell's own batch effect carries the condition")
    return refused
