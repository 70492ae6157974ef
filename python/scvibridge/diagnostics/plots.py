"""Plots of results and diagnostics on matplotlib axes: ``scvibridge.pl``.

They show single figures of the report, and return the axes so that these can be adapted or saved.
They need matplotlib: ``pip install 'scvibridge[report]'``.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils.arguments import check_choice, check_types
from scvibridge.correction.support.tables import TOO_FEW
from scvibridge.diagnostics.batch_support import BatchSupport
from scvibridge.diagnostics.calibration.calibration import Calibration
from scvibridge.diagnostics.gene_effects import gene_effects
from scvibridge.diagnostics.report import evidence, figures, measures
from scvibridge.diagnostics.report.blocks import plain
from scvibridge.diagnostics.report.palette import (
    BATCH_COLOURS,
    TYPE_COLOURS,
    Colours,
    colours_of,
)
from scvibridge.diagnostics.report.reading import MISSING, Groups, Result, open_result
from scvibridge.likelihood.cpu.philox import check_seed

if TYPE_CHECKING:
    from os import PathLike

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["batch_effect", "calibration", "embedding_before_after", "support"]

LAYOUTS = ("tsne", "umap")
FIGURES = {
    "variance": "variance of normal scores (1: as predicted by the model)",
    "ks_rejection": "share of genes rejected by the test",
}
# Show names such as "$x$" literally, not as formulas.
_AS_WRITTEN: dict[str, Any] = {"parse_math": False}
_AS_EXPECTED, _SMALL, _LARGE, _UNKNOWN = "#0072B2", "#E69F00", "#D55E00", "#8A8A8A"
_MISFIT_COLOURS = {"none": _AS_EXPECTED, "small": _SMALL, "large": _LARGE, "": _UNKNOWN}


def batch_effect(
    counts: AnnData | str | PathLike[str],
    labels_key: str | None = None,
    seed: int = 0,
    ax: Any = None,
) -> Axes:
    """Plot the batch effect of each gene after the correction against that before.

    A point is a gene in one batch. Its batch effect is the log2 fold of its share of counts, batch
    over target, averaged within cell types. Points on the horizontal line have no batch effect
    left; points on the dashed line are unchanged. The title has the root mean square over genes
    before and after, and how much of it is left beyond chance.

    Parameters
    ----------
    counts
        The result of :func:`scvibridge.corrected_counts`, or the path of an h5ad file or a zarr
        folder, which is read block by block.
    labels_key
        Column of ``obs`` with cell types; by default the one used to compute the result.
    seed
        Seed of the shuffled batches from which chance is estimated, 0 to 2**32 - 1.
    ax
        Axes to plot into; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If `counts` is not a corrected-counts result with the raw counts, has no such column, or no
        batch can be compared with the target.

    Examples
    --------
    >>> scvibridge.pl.batch_effect(counts)  # doctest: +SKIP
    """
    check_types(batch_effect, locals())
    check_matplotlib()
    effects = gene_effects(counts, labels_key, seed)
    result, folds, spread = effects.result, effects.folds, effects.spread
    axes = _axes(ax)
    colours = _batch_colours(result)
    figures.scatter_folds(axes, folds, result.depth_only, colours)
    axes.set_title(
        f"{spread.n_genes:,} genes: RMS {spread.before:.2f} before, {spread.after:.2f} after; "
        f"left {spread.left:.2f}"
    )
    _add_legend(axes, Colours("batch", {name: colours.of(name) for name in folds}, 0))
    return axes


def support(result: BatchSupport, ax: Any = None) -> Axes:
    """Plot the share of cells without support in the target, for each label and batch.

    Parameters
    ----------
    result
        The result of :func:`scvibridge.batch_support`.
    ax
        Axes to plot into; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        With an image of labels x batches. The text in a square is the share of unsupported cells
        (``?`` if there are too few to tell), their number, and whether the target has none of the
        label: then no cell is supported, whatever is near it.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError
        If `result` is not a result of batch_support.

    Examples
    --------
    >>> result = scvibridge.batch_support(model, transform_batch="V3")  # doctest: +SKIP
    >>> scvibridge.pl.support(result)  # doctest: +SKIP
    """
    _check_kind(result, BatchSupport, "batch_support")
    check_matplotlib()
    table = result.labels
    rows, columns = (list(dict.fromkeys(table[key])) for key in ("label", "batch"))
    shares = np.full((len(rows), len(columns)), np.nan)
    axes = _axes(ax)
    for record in table.to_dict("records"):
        place = rows.index(record["label"]), columns.index(record["batch"])
        judged = record["n_cells"] > 0 and record["verdict"] != TOO_FEW
        shares[place] = record["unsupported"] if judged else np.nan
        if record["n_cells"] > 0:
            dark = bool(judged and record["unsupported"] > 0.5)
            axes.text(
                place[1], place[0], _text_of(record, judged=judged), ha="center", va="center",
                fontsize=8, color="white" if dark else "#1D2733", **_AS_WRITTEN,
            )  # fmt: skip
    axes.imshow(shares, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [plain(name, 18) for name in columns], **_AS_WRITTEN)
    axes.set_yticks(range(len(rows)), [plain(name, 28) for name in rows], **_AS_WRITTEN)
    targets = ", ".join(plain(name, 18) for name in result.settings["transform_batch"])
    axes.set_title(f"cells without support in {targets}", **_AS_WRITTEN)
    return axes


def calibration(result: Calibration, figure: str = "variance", ax: Any = None) -> Axes:
    """Plot a calibration: a figure of each batch against its range in reference data.

    Parameters
    ----------
    result
        The result of :func:`scvibridge.calibration`.
    figure
        ``"variance"`` (of the normal scores of the counts) or ``"ks_rejection"`` (share of genes
        that the Kolmogorov-Smirnov test rejects at 5 %).
    ax
        Axes to plot into; a new figure if None.

    Returns
    -------
    matplotlib.axes.Axes
        A row for each batch: a bar for the range in the reference data, which are sampled from the
        model, and a point for the figure: blue for no misfit, yellow for a small one, red for a
        large one. Batches with too few held-out cells have neither.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        If `result` is not a result of calibration, or `figure` is unknown.

    Examples
    --------
    >>> result = scvibridge.calibration(model)  # doctest: +SKIP
    >>> scvibridge.pl.calibration(result)  # doctest: +SKIP
    """
    _check_kind(result, Calibration, "calibration")
    check_choice(figure, tuple(FIGURES), "figure")
    check_matplotlib()
    table = result.batches
    axes = _axes(ax)
    rows = np.arange(len(table))
    low, high = (
        table[f"{figure}_reference_{end}"].to_numpy(dtype=float) for end in ("low", "high")
    )
    axes.barh(rows, high - low, left=low, height=0.5, color="#D5DAE0", label="reference data")
    colour = [_MISFIT_COLOURS.get(str(misfit), _UNKNOWN) for misfit in table["misfit"]]
    axes.scatter(table[figure].to_numpy(dtype=float), rows, c=colour, s=40, zorder=3)
    axes.set_yticks(rows, [plain(name, 18) for name in table.index], **_AS_WRITTEN)
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlabel(FIGURES[figure])
    axes.set_title("held-out cells (points) and data sampled from the model (bars)")
    return axes


def embedding_before_after(
    counts: AnnData | str | PathLike[str],
    labels_key: str | None = None,
    layout: str = "tsne",
    seed: int = 0,
    figure: Figure | SubFigure | None = None,
) -> np.ndarray:
    """Plot raw and corrected counts in two dimensions, by batch and by cell type.

    Both layouts are computed from 20 principal components of the log-normalised counts, not from
    the latent space. Distances in them mean little; rely on the measures in the
    :func:`scvibridge.report`.

    Parameters
    ----------
    counts
        The result of :func:`scvibridge.corrected_counts`, or the path of an h5ad file or a zarr
        folder. At most 3,000 cells are shown, chosen by the hashes of their names.
    labels_key
        Column of ``obs`` with cell types; by default the one used to compute the result.
    layout
        ``"tsne"``, or ``"umap"``, which needs umap-learn.
    seed
        Seed of the layouts, 0 to 2**32 - 1.
    figure
        Figure to plot into; a new one if None.

    Returns
    -------
    numpy.ndarray
        Array of :class:`matplotlib.axes.Axes`, shape ``(n_colours, 2)``: raw counts on the left,
        corrected ones on the right; colours by batch and, with cell types, by type below.

    Raises
    ------
    ImportError
        If matplotlib is not installed, or umap-learn for ``layout="umap"``.
    ValueError
        If `counts` is not a corrected-counts result with the raw counts, has no such column, or
        fewer than five cells or genes.

    Examples
    --------
    >>> scvibridge.pl.embedding_before_after(counts)  # doctest: +SKIP
    """
    check_types(embedding_before_after, locals())
    check_choice(layout, LAYOUTS, "layout")
    check_matplotlib()
    seed = int(check_seed(seed))
    result = open_result(counts, labels_key)
    points = _laid_out(result, layout, seed)
    coloured: list[tuple[Groups, Colours]] = [(result.batch, _batch_colours(result))]
    if result.labels is not None:
        types = colours_of(result.labels, "cell type", TYPE_COLOURS, without=MISSING)
        coloured.append((result.labels, types))
    figure = _new_figure(9.0, 3.8 * len(coloured)) if figure is None else figure
    axes = np.atleast_2d(figure.subplots(len(coloured), 2, squeeze=False))
    for row, (groups, colours) in zip(axes, coloured, strict=True):
        names: pd.Series = groups.of(result.chosen)
        for one, title, where in zip(row, ("raw counts", "corrected counts"), points, strict=True):
            figures.scatter_cells(one, where, names, colours, written=False)
            one.set_title(f"{title}, by {colours.title}")
        _add_legend(row[-1], colours, outside=True)
    return axes


# ---- helpers ---------------------------------------------------------------------------------


def check_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises
    ------
    ImportError
        If it is not.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plots need matplotlib: pip install 'scvibridge[report]'")


def _text_of(record: dict[Any, Any], *, judged: bool) -> str:
    """Return the text in the square of a label and batch."""
    share = f"{record['unsupported']:.0%}" if judged else "?"
    lacking = "\nnone in target" if record["n_target"] == 0 else ""
    return f"{share} of {record['n_cells']:,}{lacking}"


def _check_kind(result: Any, kind: type, function: str) -> None:
    if not isinstance(result, kind):
        raise TypeError(
            f"result must be the result of scvibridge.{function}(), got {type(result).__name__}"
        )


def _axes(ax: Any) -> Axes:
    if ax is not None:
        return ax
    return _new_figure(5.6, 4.4).subplots()


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib import pyplot as plt

    return plt.figure(figsize=(width, height), layout="constrained")


def _batch_colours(result: Result) -> Colours:
    """Return the colours of batches, the same as in the report."""
    n_targets = sum(name in result.targets for name in result.batch.names)
    return colours_of(result.batch, "batch", BATCH_COLOURS, first=n_targets)


def _laid_out(result: Result, layout: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    fewest = evidence.FEWEST_CELLS
    if len(result.chosen) < fewest or result.raw.shape[1] < fewest:
        raise ValueError(f"a layout needs at least {fewest} cells and {fewest} genes")
    if layout == "tsne":
        return evidence.layouts(result, seed)
    if importlib.util.find_spec("umap") is None:
        raise ImportError("layout='umap' needs umap-learn: pip install umap-learn")
    raw, corrected = result.counts_of_chosen
    return _umap(raw, seed), _umap(corrected, seed)


def _umap(counts: Any, seed: int) -> np.ndarray:
    import umap

    components = measures.principal_components(counts, seed=seed)
    n_neighbors = min(15, len(components) - 1)
    reducer = umap.UMAP(n_neighbors=n_neighbors, random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(components))


def _add_legend(axes: Axes, colours: Colours, *, outside: bool = False) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=plain(name, 24))
        for name, colour in colours.named.items()
    ]
    place: dict[str, Any] = {"loc": "best"}
    if outside:
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    legend = axes.legend(handles=handles, title=colours.title, frameon=False, fontsize=8, **place)
    for text in legend.get_texts():
        text.set(**_AS_WRITTEN)
