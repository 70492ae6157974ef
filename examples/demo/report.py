"""Report the batch effect before and after the correction, in numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.demo import figures
from examples.demo.measures import (
    GeneEffects,
    cell_correlation,
    gene_log_ratio,
    slope,
    typical_fold_error,
)
from scvibridge.diagnostics.report import measures

if TYPE_CHECKING:
    from pathlib import Path

    from examples.demo.cells import DemoCells


@dataclass(frozen=True)
class Results:
    """The results of the model.

    Attributes
    ----------
    counts
        Corrected counts with raw counts and normalized expression (AnnData).
    own_expression
        Normalized expression in the cells' own batches, shape ``(n_cells, n_genes)``.
    """

    counts: Any
    own_expression: np.ndarray


@dataclass(frozen=True)
class Report:
    """All figures (before, after), and the effects of genes for a picture."""

    figures: dict[str, tuple[float, float]]
    genes: GeneEffects

    @property
    def lines(self) -> list[str]:
        """Return the figures as a table."""
        width = max(map(len, self.figures))
        head = f"{'':{width}}   before   after"
        rows = [f"{name:{width}}   {a:6.2f}  {b:6.2f}" for name, (a, b) in self.figures.items()]
        return [head, *rows, *self.genes.remark.splitlines()]


def compare(cells: DemoCells, results: Results) -> Report:
    """Measure the batch effect before and after, against the truth if it is known."""
    raw, corrected = results.counts.layers["raw_counts"], results.counts.X
    obs = cells.adata.obs
    batch, label = obs[cells.batch_key], obs[cells.labels_key]
    genes = (
        between_batches(cells, results) if cells.log_kept is None else against_truth(cells, results)
    )
    components = measures.principal_components(raw), measures.principal_components(corrected)
    mixing = [measures.same_batch_neighbours(points, batch, label) for points in components]
    all_figures = {
        **genes.figures,
        "neighbours of the same batch, over that of mixed ones": (mixing[0], mixing[1]),
    }
    return Report(all_figures, genes)


def against_truth(cells: DemoCells, results: Results) -> GeneEffects:
    """Compare the thinned cells with their full counts, for which the effect is known exactly."""
    assert cells.true_counts is not None  # noqa: S101 - as bundled_cells() makes them
    assert cells.log_kept is not None  # noqa: S101
    rows = ~cells.in_target
    truth = cells.true_counts[rows]
    raw, corrected = results.counts.layers["raw_counts"][rows], results.counts.X[rows]
    known = cells.log_kept
    weights = measures.gene_totals(truth)
    before, after = (gene_log_ratio(c, truth) for c in (raw, corrected))
    return GeneEffects(
        x=known / np.log(2),
        before=before,
        after=after,
        weights=weights,
        left_alone=left_alone(results),
        x_label="known effect: log2 of the share of counts that is kept",
        y_label="seen: log2 of counts over full counts, thinned cells",
        x_is_the_truth=True,
        figures={
            "slope of a gene's seen effect on its known one (0: gone)": (
                slope(known, before, weights),
                slope(known, after, weights),
            ),
            "factor by which a gene's total is off, typically (1: right)": (
                typical_fold_error(before, weights),
                typical_fold_error(after, weights),
            ),
            "correlation of one thinned cell with its full counts *": (
                cell_correlation(raw, truth),
                cell_correlation(corrected, truth),
            ),
        },
        remark="* what a single cell has lost does not come back: its rates are corrected, and\n"
        "  its counts stay as noisy as thinning made them",
    )


def between_batches(cells: DemoCells, results: Results) -> GeneEffects:
    """Compare other batches with the target within cell types, for a user's file."""
    obs = cells.adata.obs
    batch, label = obs[cells.batch_key], obs[cells.labels_key]
    raw = results.counts.layers["raw_counts"]
    before = measures.batch_difference(raw, batch, label, cells.target)
    after = measures.batch_difference(results.counts.X, batch, label, cells.target)
    weights = measures.gene_totals(raw)
    return GeneEffects(
        x=np.log10(weights + 1),
        before=before,
        after=after,
        weights=weights,
        left_alone=left_alone(results),
        x_label="log10 of the gene's counts in all cells",
        y_label=f"log2 fold, other batches over {cells.target!r}, within types",
        x_is_the_truth=False,
        figures={
            "fold of a gene between batches, typically (1: none)": (
                measures.typical_batch_fold(before),
                measures.typical_batch_fold(after),
            )
        },
    )


def left_alone(results: Results) -> np.ndarray:
    """Return genes detected in too few cells of some batch to be corrected there."""
    return results.counts.var["scvibridge_low_detection"].to_numpy(dtype=bool)


def draw(cells: DemoCells, results: Results, report: Report, out: Path) -> list[Path]:
    """Draw the three pictures; return their paths."""
    counts = results.counts
    before = "own batches, raw counts"
    after = f"as if from {cells.target!r}, corrected counts"
    return [
        figures.draw_genes(report.genes, out / "genes.png"),
        figures.draw_cells(counts, out / "cells.png"),
        figures.draw_markers(
            cells,
            {before: results.own_expression, after: counts.layers["normalized"]},
            {before: counts.layers["raw_counts"], after: counts.X},
            out / "markers.png",
        ),
    ]
