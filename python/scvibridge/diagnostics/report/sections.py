"""Build the sections of a report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.diagnostics.report import (
    all_or_none,
    evidence,
    figures,
    markers,
    measures,
    provenance,
    verdict,
)
from scvibridge.diagnostics.report.blocks import (
    CAUTION,
    Cell,
    Items,
    Missing,
    Pictures,
    Section,
    Table,
    Text,
    counted,
    figure,
    percent,
    plain,
    table_of,
)
from scvibridge.diagnostics.report.depth_section import MOST_BATCHES, more_batches
from scvibridge.diagnostics.report.modelled import expression_of
from scvibridge.diagnostics.report.reading import MISSING
from scvibridge.diagnostics.report.support import condition_table, support_table, verdict_table

if TYPE_CHECKING:
    import pandas as pd

    from scvibridge.diagnostics.report.blocks import Block
    from scvibridge.diagnostics.report.evidence import Folds, Plane
    from scvibridge.diagnostics.report.modelled import Model
    from scvibridge.diagnostics.report.palette import Colours
    from scvibridge.diagnostics.report.reading import Result
    from scvibridge.diagnostics.report.support import Support
    from scvibridge.diagnostics.report.tallies import Tallies


_MOST_MARKERS = 24

_NO_LABELS = (
    "No cell types are shown: pass labels_key= (--labels-key), a column of obs with cell types."
)


# ---- what was done ---------------------------------------------------------------------------


def done(result: Result) -> Section:
    """Show settings, notes, and how to reproduce the result."""
    blocks: list[Block] = []
    notes = [plain(note, 500) for note in np.atleast_1d(result.provenance.get("notes", []))]
    if notes:
        blocks.append(Items("Notes from the computation", notes, CAUTION))
    blocks.append(
        Text(
            "To reproduce the result, replace MODEL_DIR and DATA.h5ad with the folder of the model "
            "and its data. Random numbers are keyed by the seed and the names of cells and genes, "
            "so these cells and genes get the same counts, whatever else is computed with them."
        )
    )
    if not provenance.is_reproducible(result):
        blocks.append(
            Missing(
                f"This call was also passed {' and '.join(provenance.given_apart(result))}: pass "
                "the same ones again."
            )
        )
    blocks.extend(provenance.reproduction(result))
    blocks.append(provenance.provenance_table(result))
    return Section("done", "What was done", "Settings stored in the result.", blocks)


# ---- support ---------------------------------------------------------------------------------


def supported(result: Result, support: Support | None, why_not: str) -> Section:
    """Show cells by type and batch, and how many of them the target does not support."""
    blocks: list[Block] = []
    if support is None:
        blocks.append(Missing(why_not))
    elif support.summary:
        blocks.append(Text(support.summary))
    blocks.append(support_table(result, support))
    if result.labels is None:
        blocks.append(Missing(_NO_LABELS))
    doubtful = None if support is None else verdict_table(support)
    if doubtful is not None:
        blocks.append(doubtful)
    if result.condition is not None:
        blocks.append(condition_table(result.batch, result.condition))
    lead = (
        "A batch effect can be learned if both batches have cells of a type. Decoding a cell into "
        "a batch without similar cells is extrapolation. Types with fewer than "
        f"{MIN_GROUP_CELLS} cells in a batch (in italics) use the effect of the whole batch."
    )
    return Section("support", "Support by type and batch", lead, blocks)


# ---- cells in the plane ----------------------------------------------------------------------


def plane(result: Result, found: Plane | None, batches: Colours, types: Colours) -> Section:
    """Show the layouts of cells before and after, by batch and by type."""
    lead = (
        "t-SNE of 20 principal components of log-normalised counts. Both layouts start from the "
        "same positions, so groups are in similar places. They show neighbourhoods; rely on the "
        "numbers."
    )
    title = "Cells before and after"
    if found is None:
        few = f"fewer than {evidence.FEWEST_CELLS} cells or genes"
        return Section("cells", title, lead, [Missing(f"Not shown: there are {few}.")])
    blocks: list[Block] = [_plane_pictures(result, found, result.batch, batches, written=False)]
    if result.labels is None:
        blocks.append(Missing(_NO_LABELS))
    else:
        blocks.append(_plane_pictures(result, found, result.labels, types, written=True))
    blocks.append(_plane_table(found))
    return Section("cells", title, lead, blocks)


def _plane_pictures(
    result: Result, found: Plane, groups: Any, colours: Colours, *, written: bool
) -> Pictures:
    names = groups.of(result.chosen)
    titles = "Raw counts", "Corrected counts"
    pictures = [
        figures.draw_plane(title, points, names, colours, written=written)
        for title, points in zip(titles, found.points, strict=True)
    ]
    n_shown, n_cells = len(result.chosen), result.n_cells
    shown = f"{n_shown:,} of {n_cells:,} cells, chosen by the hashes of their names"
    which = shown if n_shown < n_cells else f"All {n_cells:,} cells"
    return Pictures(f"{which}, coloured by {colours.title}.", pictures, [colours])


def _plane_table(found: Plane) -> Table:
    rows = [
        _row("Same-batch neighbours within types, relative to mixed batches", found.mixing,
             "1 if batches are mixed, more if they are separate"),
        _row("Silhouette of types", found.silhouette,
             "higher if types are separate; it should not fall"),
    ]  # fmt: skip
    head = ["measure", "raw", "corrected", "how to read it"]
    return Table("Mixing of batches and separation of types, in principal components", head, rows)


def _row(name: str, pair: tuple[float, float], meaning: str) -> list[Cell]:
    return [Cell(name), *(Cell(figure(value), "number") for value in pair), Cell(meaning)]


# ---- batch effect of genes -------------------------------------------------------------------


def genes(result: Result, folds: dict[str, Folds], tallies: Tallies, batches: Colours) -> Section:
    """Show the batch effect of each gene before and after."""
    title = "Batch effect of each gene"
    lead = (
        "Log fold of each gene's share of counts, batch over target, averaged within cell types, "
        "for genes with at least 30 counts on both sides. The remaining effect should not exceed "
        "chance, which is computed after shuffling the batches of cells within types."
    )
    every = evidence.spread(evidence.pooled(folds))
    if not every.n_genes:
        why = "there is no other batch to compare with the target, or no gene with enough counts"
        return Section("genes", title, lead, [Missing(f"Not computed: {why}.")])
    left_alone = result.left_alone
    pictures = [
        figures.draw_fold_histogram(evidence.pooled(folds)),
        figures.draw_fold_scatter(folds, result.depth_only, batches),
    ]
    caption = "Each gene is shown once per batch; folds beyond the axis are at its ends."
    if left_alone.any():
        caption += (
            f" Hollow: {counted(int(left_alone.sum()), 'gene')} detected in too few cells of some "
            "batch, where only depth is corrected."
        )
    blocks: list[Block] = [Pictures(caption, pictures, [batches]), _fold_table(folds)]
    found = all_or_none.find(result, tallies)
    if found:
        blocks.append(all_or_none.table(result, found))
    if result.labels is None:
        blocks.append(Missing("Without cell types, these also include differences in composition."))
    return Section("genes", title, lead, blocks)


def _fold_table(folds: dict[str, Folds]) -> Table:
    rows = []
    for name, of_batch in list(folds.items())[:MOST_BATCHES]:
        found = evidence.spread(of_batch)
        values = (found.before, found.after, found.chance)
        left = (found.left, found.slope)
        rows.append(
            [Cell(plain(name, 40)), Cell(f"{found.n_genes:,}", "number"),
             *(Cell(figure(value), "number") for value in values),
             *(Cell(percent(value), "number") for value in left)]
        )  # fmt: skip
    head = ["batch", "genes", "before", "after", "by chance", "left, RMS", "left, slope"]
    note = (
        "Before, after and by chance: root mean square over genes. Left: the remainder beyond "
        "chance, as the ratio of root mean squares (errors of all genes count) and as the slope "
        f"of the folds after on those before (errors of genes cancel). {more_batches(len(folds))}"
    )
    return Table("Log2 folds of genes, batch over target", head, rows, note)


# ---- calibration and damage ------------------------------------------------------------------


def calibrated(found: Any, why_not: str, damage: pd.DataFrame | None) -> Section:
    """Show whether the model fits held-out cells, and what a correction damages."""
    blocks: list[Block] = []
    if found is None:
        blocks.append(Missing(why_not))
    else:
        # Added genes have a separate section.
        own = replace(found, added=None) if getattr(found, "added", None) else found
        blocks.append(Text(str(own.summary())))
        figures_alone = found.batches.drop(columns="verdict", errors="ignore")
        blocks.append(table_of(figures_alone, "Fit by batch, on held-out cells"))
    if damage is None:
        blocks.append(
            Missing(
                "What a correction changes where nothing should change is unknown: pass damage=, "
                "the result of damage(adata, batch_key), in R scvi_damage(adata, batch_key), "
                "which trains a model."
            )
        )
    else:
        blocks.append(table_of(damage, "Null pseudo-batches: one batch split at random"))
        if "note" in damage.attrs:
            blocks.append(Text(plain(damage.attrs["note"])))
    lead = (
        "Counts are mapped through the model's distributions, so these should fit: the quantile of "
        "each held-out count in its distribution should be uniform."
    )
    return Section("calibration", "Does the model fit?", lead, blocks)


# ---- markers ---------------------------------------------------------------------------------


def marker_genes(result: Result, model: Model | None, types: Colours) -> Section:
    """Build a dot plot of the genes that distinguish cell types."""
    title = "Markers of cell types"
    lead = "The genes that differ most between one type and the others, in the corrected counts."
    if result.labels is None:
        return Section("markers", title, lead, [Missing(_NO_LABELS)])
    label = result.labels.of(result.chosen)
    _, corrected = result.counts_of_chosen
    n_types = max(1, len(types.named))
    per_type = int(np.clip(_MOST_MARKERS // n_types, 2, 6))
    found = markers.top_markers(corrected, label, n_types, per_type, without=MISSING)
    if not len(found.genes):
        few = f"Not shown: there are fewer than two types of {markers.FEWEST_CELLS} cells."
        return Section("markers", title, lead, [Missing(few)])
    blocks: list[Block] = []
    values, source = expression_of(result, found.genes, model)
    if values is None:
        blocks.append(Missing(f"{source}. Log-normalised corrected counts are shown instead."))
        values = measures.log_normalised(corrected)[:, found.genes].toarray()
        shown = "log-normalised corrected counts"
    else:
        values = np.log1p(values)
        shown = f"log(1 + normalized expression), {source}"
    means = markers.means_by_type(values, label, found.types)
    seen = (corrected[:, found.genes] > 0).toarray()
    drawn = figures.draw_dot_plot(
        [result.genes[gene] for gene in found.genes],
        found.types,
        means / np.maximum(means.max(axis=0), 1e-12),
        markers.means_by_type(seen, label, found.types),
    )
    caption = (
        f"Colour: mean of {shown}, relative to the gene's largest. Area: share of cells with "
        "corrected counts of the gene. For visual inspection only; do not test these means."
    )
    blocks.append(Pictures(caption, [drawn]))
    return Section("markers", title, lead, blocks)


# ---- uses ------------------------------------------------------------------------------------


def what_for(result: Result) -> Section:
    """List what the matrix can and cannot be used for."""
    lead = "The same file has the raw counts, in layers['raw_counts'], and the latent space."
    return Section("uses", "What this matrix is for", lead, list(verdict.uses(result)))
