"""Plot the figures of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.diagnostics.report.blocks import plain
from scvibridge.diagnostics.report.drawing import picture
from scvibridge.diagnostics.report.palette import AFTER, BEFORE, CHANCE, OTHER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scvibridge.diagnostics.report.blocks import Picture
    from scvibridge.diagnostics.report.evidence import Folds
    from scvibridge.diagnostics.report.palette import Colours


_GRID: dict[str, Any] = {"color": "#E3E7EC", "linewidth": 0.7}

_HALF = (4.6, 3.7)

_WHISKERS = (5, 25, 50, 75, 95)

_FEWEST_GENES_OF_BIN = 5


# ---- cells in the plane ----------------------------------------------------------------------


def draw_plane(
    title: str, points: np.ndarray, groups: pd.Series, colours: Colours, *, written: bool
) -> Picture:
    """Scatter cells in two dimensions, in random order so that no group hides another.

    Parameters
    ----------
    points, groups
        Coordinates, shape ``(n_cells, 2)``, and the group of each cell.
    written
        Whether to write the names of the coloured groups at the position of their cells.
    """

    def draw(figure: Figure) -> None:
        scatter_cells(figure.subplots(), points, groups, colours, written=written)

    alt = f"{len(points):,} cells in two dimensions, coloured by {colours.title}: {title}"
    return picture(title, alt, _HALF, draw)


def scatter_cells(
    axes: Axes, points: np.ndarray, groups: pd.Series, colours: Colours, *, written: bool
) -> None:
    """Scatter cells in two dimensions; see :func:`draw_plane`."""
    order = np.random.default_rng(0).permutation(len(points))
    colour = groups.map(colours.of).to_numpy()[order]
    area = float(np.clip(9000 / len(points), 3.5, 30))
    x, y = points[order].T
    axes.scatter(x, y, c=colour, s=area, linewidths=0, alpha=0.8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#D5DAE0")
    if written:
        _write_names(axes, points, groups, list(colours.named))


def _write_names(axes: Axes, points: np.ndarray, groups: pd.Series, names: list[str]) -> None:
    from matplotlib import patheffects

    outline = [patheffects.withStroke(linewidth=2.6, foreground="white", alpha=0.9)]
    taken: list[float] = []
    low, high = points[:, 1].min(), points[:, 1].max()
    middles = {name: np.median(points[(groups == name).to_numpy()], axis=0) for name in names}
    middles = {name: middle for name, middle in middles.items() if not np.isnan(middle).any()}
    for name, (x, y) in sorted(middles.items(), key=lambda item: item[1][1]):
        place = _free_place(y, taken, (high - low) / 22)
        taken.append(place)
        axes.text(
            x, place, plain(name, 22), ha="center", va="center", fontsize=9,
            path_effects=outline, color="#111820",
        )  # fmt: skip


def _free_place(y: float, taken: list[float], apart: float) -> float:
    """Return the nearest height above `y` without another name."""
    for other in sorted(taken):
        if abs(other - y) < apart:
            y = other + apart
    return y


# ---- batch effect of genes -------------------------------------------------------------------


def draw_fold_histogram(folds: Folds) -> Picture:
    """Plot the distribution of folds between batches: before, after, and by chance."""
    before, after, chance = (v[~np.isnan(v)] / np.log(2) for v in vars(folds).values())
    limit = float(np.clip(np.quantile(np.abs(before), 0.995) * 1.1, 0.2, 6.0))
    edges = np.linspace(-limit, limit, 61).tolist()

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=True, axis="y", **_GRID)
        within = [np.clip(values, -limit, limit) for values in (chance, before, after)]
        axes.hist(within[0], edges, color="#C9CED5", label="after, by chance")
        axes.hist(
            within[1], edges, histtype="step", color=BEFORE, linewidth=1.8, linestyle="--",
            label="before",
        )  # fmt: skip
        axes.hist(within[2], edges, histtype="step", color=AFTER, linewidth=1.8, label="after")
        axes.set(xlabel="log2 fold of a gene, batch over target", ylabel="genes, over all batches")
        figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=9)

    alt = (
        "Histogram of the log2 folds of genes between batches and target, within types: raw "
        "counts, corrected counts, and corrected counts with shuffled batches."
    )
    return picture("Folds before, after, and by chance", alt, _HALF, draw)


def draw_fold_scatter(
    folds: dict[str, Folds], depth_only: Callable[[str], np.ndarray], colours: Colours
) -> Picture:
    """Plot each gene's fold after the correction against that before, coloured by batch."""

    def draw(figure: Figure) -> None:
        scatter_folds(figure.subplots(), folds, depth_only, colours)

    alt = (
        "Scatter plot of each gene's log2 fold between a batch and the target: raw counts on the "
        "x axis, corrected counts on the y axis. Points at zero height have no batch effect left."
    )
    return picture("Each gene, before and after", alt, _HALF, draw)


def scatter_folds(
    axes: Axes,
    folds: dict[str, Folds],
    depth_only: Callable[[str], np.ndarray],
    colours: Colours,
) -> None:
    """Scatter the folds of genes; points are hollow if only depth was corrected in the batch."""
    axes.grid(visible=True, **_GRID)
    limit = 0.1
    for name, of_batch in folds.items():
        x, y = of_batch.before / np.log(2), of_batch.after / np.log(2)
        style: dict[str, Any] = {"s": 9, "alpha": 0.45, "linewidths": 0}
        left_alone = depth_only(name)
        axes.scatter(x[~left_alone], y[~left_alone], color=colours.of(name), **style)
        hollow: dict[str, Any] = {"s": 12, "facecolors": "none", "linewidths": 0.7}
        axes.scatter(x[left_alone], y[left_alone], edgecolors=colours.of(name), **hollow)
        known = np.abs(np.concatenate([x, y]))
        limit = max(limit, float(np.nanmax(known)) if not np.isnan(known).all() else 0.1)
    axes.axline((0, 0), slope=1, color="#5B6470", linewidth=1, linestyle="--")
    axes.axhline(0, color="#5B6470", linewidth=1)
    limit *= 1.05
    axes.set(
        xlim=(-limit, limit), ylim=(-limit, limit),
        xlabel="log2 fold before", ylabel="log2 fold after",
    )  # fmt: skip


# ---- depth, zeros, mean and variance ---------------------------------------------------------


def draw_boxes(
    title: str, label: str, values: dict[str, tuple[np.ndarray, np.ndarray]], colours: Colours,
    *, in_logs: bool,
) -> Picture:  # fmt: skip
    """Plot boxes of cells' values by batch: hollow before, filled after; whiskers at 5 and 95 %."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=True, axis="x", **_GRID)
        for row, (name, pair) in enumerate(values.items()):
            for offset, some, filled in ((-0.2, pair[0], False), (0.2, pair[1], True)):
                _draw_box(axes, row + offset, some, colours.of(name), filled)
        axes.set_yticks(range(len(values)), [plain(name, 18) for name in values])
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlabel(label)
        if in_logs:
            axes.set_xscale("log")
            _label_decades(axes.xaxis)

    height = max(2.6, 1.0 + 0.42 * len(values))
    alt = f"{title} by batch, before (hollow) and after (filled): {label}."
    return picture(title, alt, (_HALF[0], height), draw)


def _label_decades(axis: Any) -> None:
    """Use plain numbers on a log axis, since matplotlib's powers are formulas.

    Ticks between them would take most of the time of drawing.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    low, high = axis.get_view_interval()
    if high / low < 30:  # below two decades, label more than powers of ten
        axis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())


def _draw_box(axes: Axes, y: float, values: np.ndarray, colour: str, filled: bool) -> None:
    low, first, middle, third, high = np.percentile(values, _WHISKERS)
    axes.plot([low, high], [y, y], color=colour, linewidth=1.2)
    face = colour if filled else "white"
    axes.barh(
        y, third - first, left=first, height=0.32, facecolor=face, edgecolor=colour, linewidth=1.4
    )
    axes.plot(
        [middle, middle], [y - 0.16, y + 0.16], color="white" if filled else colour, linewidth=2
    )


def draw_mean_variance(
    title: str, curves: dict[str, tuple[np.ndarray, np.ndarray]], colours: Colours
) -> Picture:
    """Plot the variance-to-mean ratio of genes against their mean, one line for each batch.

    Parameters
    ----------
    curves
        By batch: mean and variance over mean, from `binned_medians`.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.grid(visible=True, **_GRID)
        for name in sorted(curves, key=lambda name: colours.of(name) != OTHER):
            axes.plot(
                *curves[name], color=colours.of(name), linewidth=1.8, marker="o", markersize=3
            )
        axes.axhline(1, color="#5B6470", linewidth=1, linestyle="--")
        axes.set(xscale="log", yscale="log", xlabel="mean count of a gene")
        _label_decades(axes.xaxis)
        _label_decades(axes.yaxis)
        axes.set_ylabel("variance / mean (Poisson: 1)")

    alt = f"Lines of variance over mean against the mean of genes, one for each batch: {title}."
    return picture(title, alt, (_HALF[0], 3.2), draw)


def binned_medians(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return median mean and median variance over mean of genes, in equal bins of log mean."""
    seen = (mean > 0) & (variance > 0)
    mean, ratio = mean[seen], variance[seen] / mean[seen]
    bins = np.floor(np.log10(mean) * 4).astype(int)
    sizes = {b: int((bins == b).sum()) for b in np.unique(bins)}
    kept = [b for b, size in sizes.items() if size >= _FEWEST_GENES_OF_BIN]
    x = np.array([np.median(mean[bins == b]) for b in kept])
    return x, np.array([np.median(ratio[bins == b]) for b in kept])


# ---- markers ---------------------------------------------------------------------------------


def draw_dot_plot(
    genes: Sequence[str], groups: Sequence[str], colour: np.ndarray, share: np.ndarray
) -> Picture:
    """Plot one dot for each type and gene.

    Parameters
    ----------
    colour, share
        From 0 to 1, shape ``(n_groups, n_genes)``: mean expression relative to the gene's largest
        (colour), and the share of cells with counts (area).
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        dots = draw_dots(axes, colour, share)
        axes.set_xticks(range(len(genes)), [plain(gene, 14) for gene in genes], rotation=90)
        axes.set_yticks(range(len(groups)), [plain(name, 22) for name in groups])
        axes.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(groups) - 0.4, -0.6))
        bar = figure.colorbar(dots, ax=axes, shrink=0.9, aspect=16, pad=0.01)
        bar.set_label("relative to largest", fontsize=9)
        _add_area_legend(figure)

    size = (max(5.0, 2.9 + 0.27 * len(genes)), 1.9 + 0.27 * len(groups))
    alt = f"Dot plot of {len(genes)} marker genes in {len(groups)} types."
    return picture("Markers", alt, size, draw, is_wide=True)


def draw_dots(axes: Axes, colour: np.ndarray, share: np.ndarray) -> Any:
    """Plot the dots of a dot plot; return what a colour bar needs."""
    rows, columns = np.indices(colour.shape)
    axes.grid(visible=True, **_GRID)
    return axes.scatter(
        columns.ravel(),
        rows.ravel(),
        c=colour.ravel(),
        s=dot_area(share).ravel(),
        cmap="Blues",
        vmin=0,
        vmax=1,
        edgecolors="#5B6470",
        linewidths=0.4,
    )


def dot_area(share: np.ndarray | float) -> np.ndarray:
    """Return the area of a dot for a share of cells from 0 to 1."""
    return 1 + 75 * np.asarray(share)


def _add_area_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    shares = (0.1, 0.5, 1.0)
    handles = [
        Line2D(
            [], [], marker="o", linestyle="", color=CHANCE, label=f"{share:.0%}",
            markersize=float(np.sqrt(dot_area(share))),
        )
        for share in shares
    ]  # fmt: skip
    figure.legend(
        handles=handles,
        title="cells with counts",
        title_fontsize=9,
        loc="outside lower left",
        ncols=len(shares),
        frameon=False,
    )
