"""Draw the verdict from the figures of a report, in words, and list what follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scvibridge.correction.findings import UNCHECKED
from scvibridge.diagnostics.report import design, evidence
from scvibridge.diagnostics.report.blocks import (
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
from scvibridge.diagnostics.report.findings import (
    LEAST_GONE,
    Evidence,
    collect_findings,
    is_unchanged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.diagnostics.report.reading import Result


_HEADLINES = {
    GOOD: "Suitable for tools that need counts and cannot use the batch as a covariate",
    CAUTION: "Usable with care: read the points marked below before you rely on it",
    STOP: "Do not compare conditions with these counts",
}

_FAILED = "Do not use these counts as corrected: the batch effect remains"

_UNMIXED = "Do not use these counts as corrected: the model has not mixed the batches"

_NOTHING = "Nothing was corrected: these are the raw counts"

_SIMULATION = "A simulation by the model, not the cells' observed data"


@dataclass(frozen=True)
class Tile:
    """A number at the top of the page, with its label and how to read it."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The verdict, the findings that it is based on, and the numbers at the top."""

    level: str
    headline: str
    findings: list[Text]
    tiles: list[Tile]


def judge(found: Evidence) -> Verdict:
    """Collect the findings; the most severe one determines the verdict."""
    findings = [Text(_what_was_done(found.result)), *collect_findings(found)]
    levels = {finding.level for finding in findings}
    level = STOP if STOP in levels else CAUTION if CAUTION in levels else GOOD
    headline = _HEADLINES[level]
    if is_unchanged(found):
        headline = _NOTHING
    elif found.spread.gone < LEAST_GONE:
        headline = _FAILED
    elif found.support is not None and found.support.unmixed:
        headline = _UNMIXED
    if found.result.provenance.get("method") == "sample":
        headline = _SIMULATION if level != STOP else f"{_SIMULATION}. {headline}"
    return Verdict(level, headline, findings, list(_tiles(found)))


def _what_was_done(result: Result) -> str:
    made = result.provenance
    n_cells, n_genes = result.raw.shape
    key = f" ({plain(result.batch.key, 60)})" if result.batch.key else ""
    how = {
        "label": f"one batch effect per batch and {plain(made.get('labels_key', 'label'), 60)}",
        "global": "one batch effect per batch",
        "local": "a batch effect that varies over the latent space",
        "cell": "each cell's own batch effect",
    }.get(str(made.get("effect")), "a sample from the model for each cell")
    return (
        f"Counts of {counted(n_cells, 'cell')} and {counted(n_genes, 'gene')} in "
        f"{counted(len(result.batch.names), 'batch', 'batches')}{key} were computed as if from "
        f"{listed(result.targets)}: method {made.get('method')}, {how}, "
        f"depth {made.get('library_size')}, seed {made.get('seed')}."
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
        yield Tile("Separation of types", _arrow(*found.plane.silhouette), "silhouette of types")
    if found.support is not None and not math.isnan(found.support.of_others):
        yield Tile("Cells without support", percent(found.support.of_others), "among other batches")


def _arrow(before: float, after: float) -> str:
    return f"{figure(before)} \N{RIGHTWARDS ARROW} {figure(after)}"


# ---- uses ------------------------------------------------------------------------------------


def uses(result: Result) -> list[Items]:
    """List what the matrix can and cannot be used for."""
    return [
        Items("It can be used for", _may(result), GOOD),
        Items("It must not be used for", _must_not(result), STOP),
    ]


def _may(result: Result) -> list[str]:
    if result.provenance.get("method") == "sample":
        return [
            "inspecting what the model has learned: predictive checks, simulated data",
            "trying out tools on counts similar to the target's",
        ]
    allowed = [
        "tools that need counts and cannot use the batch as a covariate",
        "distinguishing cell types: markers of types, references for annotation",
        "plots of counts together with those of cells from the target batch",
    ]
    if result.confounding == "balanced" and design.has_conditions(result):
        allowed.append(
            "exploring conditions, to be confirmed on the raw counts with the batch in the design"
        )
    return allowed


def _must_not(result: Result) -> list[str]:
    made = result.provenance
    refused = [
        (
            "differential expression between donors or samples (pseudobulk DESeq2, edgeR): use the "
            "raw counts, layers['raw_counts'], with the batch in the design"
        ),
        "assessing the variation of replicates: variance between batches was removed",
        "clustering, neighbours and embeddings: use the latent space (X_scvi)",
    ]
    status = result.confounding
    if status.startswith("confounded"):
        refused.insert(0, "comparing conditions: the condition was removed with the batch")
    elif status.startswith(UNCHECKED) and len(result.batch.names) > 1:
        refused.insert(
            0, "comparing conditions, unless condition_key was passed and the design is balanced"
        )
    if made.get("method") == "sample":
        refused.insert(0, "statements about single cells: these are samples from the model")
    elif made.get("effect") == "global":
        refused.append("comparing types between batches: technology effects by type remain")
    elif made.get("effect") == "cell":
        refused.insert(
            0, "comparing conditions: the cell's own batch effect contains the condition"
        )
    return refused
