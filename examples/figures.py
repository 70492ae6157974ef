"""Draw the pictures of README.md and docs/: ``make figures`` draws all of them again.

Real cells (scanpy's pbmc68k_reduced), half of them with an added batch effect, and a model trained
on them. For the picture of support, one cell type is first removed from the target.

Usage: ``python -m examples.figures [--out FOLDER] [--epochs N]``
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image, ImageChops

import scvibridge as sb
from benchmarks.validity import summary
from benchmarks.validity.report import SHOWN_METHODS
from examples.demo import cells as demo_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.figure import Figure, SubFigure

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
RESULTS = FOLDER.parents[1] / "benchmarks" / "validity" / "results.csv"
EPOCHS = 400
LAYOUT = "umap"
N_REFERENCES = 20
LACKING = "Dendritic"  # the type removed from the target for the picture of support
# Figures of `damage` that are shown, with the titles of their panels.
DAMAGE = {
    "share of nonzero counts changed": "nonzero counts changed",
    "Spearman with the cell's own counts (median)": "rank correlation with\nobserved counts",
    "share of marker genes kept": "marker genes kept",
}
MOST_BYTES = 200_000
_DPI = 110
_COLOURS = 128  # of the palette of a picture
_MARGIN = 10  # pixels
_REPORT_WIDTH, _REPORT_HEIGHT = 1000, 1150


@dataclass(frozen=True)
class Settings:
    """Amount of computation; reduced in tests."""

    epochs: int = EPOCHS
    layout: str = LAYOUT
    n_references: int = N_REFERENCES


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures; return the exit code."""
    top = argparse.ArgumentParser(prog="python -m examples.figures", description=__doc__)
    top.add_argument("--out", type=Path, default=FOLDER, help="folder (default: docs/images)")
    top.add_argument("--epochs", type=int, default=EPOCHS, help=f"default: {EPOCHS}")
    options = top.parse_args(arguments)
    for path in make(options.out, Settings(epochs=options.epochs)):
        sys.stdout.write(f"{path}\n")
    return 0


def make(folder: Path, settings: Settings) -> list[Path]:
    """Draw all pictures.

    Returns
    -------
    The files: ``before_after.png``, ``batch_effect.png``, ``dot_plot.png``, ``calibration.png``,
    ``support.png``, ``damage.png``, ``evidence.png``, and ``report.png`` if Chromium is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    cells = demo_cells.bundled_cells()
    renamed = {cells.target: "batch 1", "thinned": "batch 2"}
    adata = cells.adata
    adata.obs["batch"] = adata.obs["batch"].astype(str).map(renamed).astype("category")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _train(adata, settings)
        counts = sb.corrected_counts(
            model,
            transform_batch="batch 1",
            labels_key="cell_type",
            normalized=True,
            progress=False,
        )
        paths = [
            _before_after(counts, folder, settings),
            _save(sb.pl.batch_effect(counts).figure, folder / "batch_effect.png"),
            _dot_plot(counts, cells.markers, folder),
            _calibration(model, folder, settings),
            _support(adata, folder, settings),
            _damage(adata, folder, settings),
        ]
        page = _report(counts, model, folder, settings)
    paths.append(_evidence(folder))
    return paths if page is None else [*paths, page]


def _train(adata: AnnData, settings: Settings) -> Any:
    return sb.train_scvi(
        adata,
        batch_key="batch",
        labels_key="cell_type",
        n_top_genes=None,
        max_epochs=settings.epochs,
        progress=False,
    )


def _before_after(counts: AnnData, folder: Path, settings: Settings) -> Path:
    figure = plt.figure(figsize=(9.6, 6.6), layout="constrained")
    sb.pl.embedding_before_after(counts, layout=settings.layout, figure=figure)
    return _save(figure, folder / "before_after.png")


def _dot_plot(counts: AnnData, markers: Sequence[str], folder: Path) -> Path:
    """Draw a dot plot of normalized expression, with dot areas from the corrected counts."""
    import scanpy

    plot = scanpy.pl.DotPlot(
        counts,
        [gene for gene in markers if gene in counts.var_names],
        groupby="cell_type",
        layer="normalized",
        standard_scale="var",
        dot_size_df=_shares(counts, markers),
    )
    plot.make_figure()
    return _save(plot.fig, folder / "dot_plot.png")


def _shares(counts: AnnData, markers: Sequence[str]) -> Any:
    """Return the share of cells of each type with corrected counts of each gene."""
    genes = [gene for gene in markers if gene in counts.var_names]
    detected = counts[:, genes].to_df() > 0
    return detected.groupby(counts.obs["cell_type"], observed=True).mean()


def _calibration(model: Any, folder: Path, settings: Settings) -> Path:
    found = sb.calibration(model, n_references=settings.n_references, progress=False)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 2.6), layout="constrained")
    sb.pl.calibration(found, ax=left)
    sb.pl.calibration(found, figure="ks_rejection", ax=right)
    right.set_title("")
    left.set_title("")
    return _save(figure, folder / "calibration.png")


def _support(adata: AnnData, folder: Path, settings: Settings) -> Path:
    is_lacking = (adata.obs["batch"] == "batch 1") & (adata.obs["cell_type"] == LACKING)
    model = _train(adata[~is_lacking.to_numpy()].copy(), settings)
    found = sb.batch_support(
        model, transform_batch="batch 1", labels_key="cell_type", progress=False
    )
    return _save(sb.pl.support(found).figure, folder / "support.png")


def _damage(adata: AnnData, folder: Path, settings: Settings) -> Path:
    """Plot what both methods change between random halves of a batch."""
    methods = ("quantile", "sample")
    tables = [
        sb.damage(
            adata,
            batch_key="batch",
            labels_key="cell_type",
            batch="batch 1",
            method=method,
            max_epochs=settings.epochs,
            progress=False,
        ).set_index("figure")
        for method in methods
    ]
    figure, axes = plt.subplots(
        1, len(DAMAGE), figsize=(9.6, 1.9), layout="constrained", sharey=True
    )
    for ax, (name, title) in zip(axes, DAMAGE.items(), strict=True):
        values = [table.loc[name, "after"] for table in tables]
        ax.barh(methods, values, color=["#0072B2", "#E69F00"], height=0.6)
        for row, value in enumerate(values):
            inside = value > 0.3
            ax.text(
                value + (-0.02 if inside else 0.02), row, f"{value:.2f}", va="center",
                ha="right" if inside else "left", color="white" if inside else "black",
            )  # fmt: skip
        ax.axvline(tables[0].loc[name, "expected"], color="#5B6470", linestyle="--", linewidth=1)
        ax.set_xlim(0, 1.05)
        ax.set_title(title, fontsize=10)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    return _save(figure, folder / "damage.png")


def _evidence(folder: Path) -> Path:
    """Plot false discoveries and power of the committed figures, with two standard errors."""
    table = summary.summarise(pd.read_csv(RESULTS))
    table = table[(table["experiment"] == "simulation") & (table["design"] == "balanced")]
    table = table[(table["tool"] == "edgeR") & table["method"].isin(SHOWN_METHODS)]
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained", sharey=True)
    colours = {"~ batch + condition": "#0072B2", "~ condition": "#E69F00"}
    for ax, shown in zip(axes, ("false discovery proportion", "power"), strict=True):
        for shift, (formula, colour) in zip((-0.15, 0.15), colours.items(), strict=True):
            part = table[(table["formula"] == formula) & (table["figure"] == shown)]
            rows = [SHOWN_METHODS.index(method) + shift for method in part["method"]]
            ax.errorbar(
                part["mean"], rows, xerr=2 * part["se"], fmt="o", markersize=4, color=colour,
                label=formula,
            )  # fmt: skip
        ax.set_xlabel(shown)
        ax.grid(visible=True, axis="x", color="#E3E7EC")
    axes[0].axvline(0.05, color="#5B6470", linestyle="--", linewidth=1)
    axes[0].set_yticks(range(len(SHOWN_METHODS)), SHOWN_METHODS)
    axes[0].set_ylim(len(SHOWN_METHODS) - 0.5, -0.5)
    axes[1].legend(frameon=False, loc="lower left", fontsize=8)
    return _save(figure, folder / "evidence.png")


def _report(counts: AnnData, model: Any, folder: Path, settings: Settings) -> Path | None:
    """Take a screenshot of the top of a report; return None without Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    found = sb.calibration(model, n_references=settings.n_references, progress=False)
    with tempfile.TemporaryDirectory() as scratch:
        page = sb.report(
            counts, Path(scratch) / "report.html", model=model, calibration=found, progress=False
        )
        picture = Path(scratch) / "report.png"
        command = [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={scratch}/profile",
            f"--window-size={_REPORT_WIDTH},{_REPORT_HEIGHT}",
            f"--screenshot={picture}", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603
        return _shrink(picture.read_bytes(), folder / "report.png")


def _save(figure: Figure | SubFigure, path: Path) -> Path:
    content = io.BytesIO()
    whole = figure.figure
    whole.savefig(content, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white")
    plt.close(whole)
    with Image.open(content) as picture:
        trimmed = io.BytesIO()
        _trimmed(picture.convert("RGB")).save(trimmed, format="png")
    return _shrink(trimmed.getvalue(), path)


def _trimmed(picture: Image.Image) -> Image.Image:
    """Cut off white margins, such as those of the invisible axes of scanpy's dot plots."""
    white = Image.new("RGB", picture.size, "white")
    content = ImageChops.difference(picture, white).getbbox()
    if content is None:
        return picture
    left, top, right, bottom = content
    width, height = picture.size
    box = (max(left - _MARGIN, 0), max(top - _MARGIN, 0))
    return picture.crop((*box, min(right + _MARGIN, width), min(bottom + _MARGIN, height)))


def _shrink(content: bytes, path: Path) -> Path:
    """Write a picture with a palette of few colours, at a third of the size."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(
            path, optimize=True
        )
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} has more than {MOST_BYTES:,} bytes")
    return path


if __name__ == "__main__":
    sys.exit(main())
