"""Draw the pictures of the demo, each before and after the correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import scipy.sparse as sp
from matplotlib import pyplot as plt

from scvibridge.diagnostics.report.blocks import plain
from scvibridge.diagnostics.report.figures import dot_area, draw_dots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from examples.demo.cells import DemoCells
    from examples.demo.measures import GeneEffects


# Okabe and Ito's palette, which colour-blind readers can distinguish; the target comes first.
BATCH_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")

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


# ---- cells in the plane ----------------------------------------------------------------------


def in_the_plane(components: np.ndarray) -> np.ndarray:
    """Compute the UMAP of principal components, shape ``(n_cells, 2)``."""
    import warnings

    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with a seed it runs in one thread, and warns about it
        embedding = UMAP(
            n_neighbors=min(30, len(components) - 1), min_dist=0.6, random_state=0, n_jobs=1
        )
        return np.asarray(embedding.fit_transform(components))


def draw_cells(cells: DemoCells, before: np.ndarray, after: np.ndarray, path: Path) -> Path:
    """Draw a UMAP of the cells, coloured by batch and by type, before and after.

    Parameters
    ----------
    before, after
        Coordinates, shape ``(n_cells, 2)``.
    """
    obs = cells.adata.obs
    batches = batch_colours(cells)
    types = type_colours(obs[cells.labels_key])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(8.5, 7), layout="constrained")
        for column, (title, points) in enumerate(
            [("raw counts", before), (f"corrected counts, as if from {cells.target!r}", after)]
        ):
            scatter(axes[0, column], points, obs[cells.batch_key], batches)
            scatter(axes[1, column], points, obs[cells.labels_key], types)
            axes[0, column].set_title(title)
        add_legend(axes[0, 1], batches, "batch")
        add_legend(axes[1, 1], types, "cell type")
        figure.suptitle("UMAP of the log-normalised counts", fontsize=11)
        return save(figure, path)


def scatter(axes: Axes, points: np.ndarray, values: pd.Series, colours: dict[str, str]) -> None:
    """Draw points in random order, so that no group hides another."""
    order = np.random.default_rng(0).permutation(len(points))
    colour = values.astype(str).map(colours).to_numpy()[order]
    x, y = points[order].T
    axes.scatter(x, y, c=colour, s=12, linewidths=0, alpha=0.8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="0.8")


def add_legend(axes: Axes, colours: dict[str, str], title: str) -> None:
    """Add a legend of colours to the right of the axes."""
    for name, colour in colours.items():
        axes.scatter([], [], c=colour, s=25, label=name)
    axes.legend(title=title, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def batch_colours(cells: DemoCells) -> dict[str, str]:
    """Return a colour for each batch, the target first."""
    others = [b for b in cells.adata.obs[cells.batch_key].cat.categories if b != cells.target]
    names = [cells.target, *others]
    few = len(names) <= len(BATCH_COLOURS)
    return colour_names(names, BATCH_COLOURS if few else mpl.color_sequences["tab20"])


def type_colours(labels: pd.Series) -> dict[str, str]:
    """Return a colour for each cell type."""
    names = list(labels.cat.categories)
    return colour_names(names, mpl.color_sequences["tab10" if len(names) <= 10 else "tab20"])


def colour_names(names: list[str], colours: Sequence[Any]) -> dict[str, str]:
    """Assign each name a colour, reusing colours from the start if there are more names."""
    return {name: mpl.colors.to_hex(colours[i % len(colours)]) for i, name in enumerate(names)}


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
