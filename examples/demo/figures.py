"""Draw the pictures of the demo, each before and after the correction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import scipy.sparse as sp
from matplotlib import pyplot as plt

from scvibridge import pl
from scvibridge.diagnostics.report.blocks import plain
from scvibridge.diagnostics.report.figures import dot_area, draw_dots

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.figure import Figure

    from examples.demo.cells import DemoCells
    from examples.demo.measures import GeneEffects


GENE_COLOURS = ("#D55E00", "#0072B2")

MIN_CELLS_OF_ROW = 5

LEFT_ALONE = "detected in too few cells: only depth corrected"

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "savefig.dpi": 150,
    "savefig.bbox": "tight",
}


def save(figure: Figure, path: Path) -> Path:
    """Save and close a figure."""
    figure.savefig(path)
    plt.close(figure)
    return path


# ---- cells -----------------------------------------------------------------------------------


def draw_cells(counts: AnnData, path: Path) -> Path:
    """Draw the cells by batch and by type, before and after."""
    with mpl.rc_context(STYLE):
        axes = pl.embedding_before_after(counts)
        return save(axes[0, 0].figure, path)


# ---- genes -----------------------------------------------------------------------------------


def draw_genes(effects: GeneEffects, path: Path) -> Path:
    """Draw the batch effect of each gene in the raw and in the corrected counts, in log2."""
    area = 6 + 60 * effects.weights / effects.weights.max()
    panels = (("raw counts", effects.before), ("corrected counts", effects.after))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.2), sharey=True, layout="constrained")
        for panel, (title, values), colour in zip(axes, panels, GENE_COLOURS, strict=True):
            y = values / np.log(2)
            for genes, style in (
                (~effects.left_alone, {"c": colour, "alpha": 0.4, "linewidths": 0}),
                (effects.left_alone, {"c": "none", "edgecolors": "0.55", "linewidths": 0.6}),
            ):
                panel.scatter(effects.x[genes], y[genes], s=area[genes], **style)
            panel.axhline(0, color="0.3", linewidth=1)
            if effects.x_is_the_truth:
                panel.axline((0, 0), slope=1, color="0.3", linewidth=1, linestyle="--")
            panel.set(xlabel=effects.x_label, title=title)
        axes[0].set_ylabel(effects.y_label)
        limit = 1.05 * np.nanmax(np.abs(effects.before)) / np.log(2)
        axes[0].set_ylim(-limit, limit)
        axes[1].scatter([], [], s=14, c="none", edgecolors="0.55", label=LEFT_ALONE)
        axes[1].legend(loc="upper right", frameon=False, handletextpad=0.1)
        return save(figure, path)


# ---- markers ---------------------------------------------------------------------------------


def draw_markers(
    cells: DemoCells,
    expression: dict[str, np.ndarray],
    counts: dict[str, sp.spmatrix],
    path: Path,
) -> Path:
    """Draw dot plots of markers: colour from normalized expression, area from the counts.

    Parameters
    ----------
    expression
        Normalized expression of all genes by panel title, shape ``(n_cells, n_genes)``.
    counts
        Counts by panel title; the share above zero is the area of a dot.
    """
    genes = cells.adata.var_names.get_indexer(cells.markers)
    groups = rows_of_dot_plot(cells)
    logged = {title: np.log1p(values[:, genes]) for title, values in expression.items()}
    means = {title: group_means(values, groups) for title, values in logged.items()}
    top = np.maximum.reduce([table.max(axis=0) for table in means.values()])
    height = 1.8 + 0.19 * len(groups)
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 2, figsize=(4 + 0.36 * len(genes), height), sharey=True, layout="constrained"
        )
        for panel, (title, table) in zip(axes, means.items(), strict=True):
            seen = group_means((sp.csr_matrix(counts[title])[:, genes] > 0).toarray(), groups)
            dots = draw_dots(panel, table / np.maximum(top, 1e-12), seen)
            panel.set_title(title)
            panel.set_xticks(range(len(genes)), [plain(g, 14) for g in cells.markers], rotation=90)
        axes[0].set_yticks(range(len(groups)), list(groups))
        axes[0].invert_yaxis()
        colour_axes = figure.colorbar(dots, ax=axes, shrink=0.5, aspect=15)
        colour_axes.set_label("mean log(1 + normalized expression),\nshare of the gene's largest")
        add_area_legend(figure)
        return save(figure, path)


def rows_of_dot_plot(
    cells: DemoCells, n_types: int = 7, n_others: int = 2
) -> dict[str, np.ndarray]:
    """Select cells of the largest types, from the target batch and the largest others."""
    labels, batches = (cells.adata.obs[key] for key in (cells.labels_key, cells.batch_key))
    others = batches[batches != cells.target].value_counts().index[:n_others]
    rows = {}
    for kind in labels.value_counts().index[:n_types]:
        for batch in (cells.target, *others):
            members = ((labels == kind) & (batches == batch)).to_numpy()
            if members.sum() >= MIN_CELLS_OF_ROW:
                rows[f"{kind} | {batch}"] = members
    return rows


def group_means(values: np.ndarray, groups: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the mean over the cells of each group, shape ``(n_groups, n_genes)``."""
    return np.array([values[members].mean(axis=0) for members in groups.values()])


def add_area_legend(figure: Figure) -> None:
    """Add a legend of dot areas below the panels."""
    shares = (0.1, 0.5, 1.0)
    handles = [
        plt.scatter([], [], s=dot_area(share), c="0.6", label=f"{share:.0%}") for share in shares
    ]
    figure.legend(
        handles=handles,
        title="cells with counts of the gene",
        loc="outside lower center",
        ncols=len(shares),
        frameon=False,
    )
