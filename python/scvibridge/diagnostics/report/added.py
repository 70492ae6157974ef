"""Build the section about genes added to the model, and their finding for the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge.diagnostics.report.blocks import (
    PLAIN,
    Cell,
    Missing,
    Pictures,
    Section,
    Table,
    Text,
    counted,
    figure,
    table_of,
)
from scvibridge.diagnostics.report.drawing import picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scvibridge.diagnostics.report.blocks import Block, Picture
    from scvibridge.diagnostics.report.reading import Result


_FIGURES = ("explained", "theta", "detection_rate")

_NO_FLAG = "none: reliable"

_NOT_LOOKED_AT = (
    "The fit of the added genes was not checked: pass model= (--model), the extended one, or "
    "calibration=, the result of calibration() for it, in R of scvi_calibration()."
)


def quality_of(result: Result) -> pd.DataFrame | None:
    """Return the fit of a result's added genes on held-out cells; None if there are none."""
    var = result.adata.var
    if "scvibridge_added" not in var:
        return None
    rows = np.asarray(var["scvibridge_added"], dtype=bool)
    if not rows.any():
        return None
    unknown = np.full(len(var), np.nan)  # genes of a Poisson model have no theta
    columns = {
        name: np.asarray(var.get(f"scvibridge_{name}", unknown), dtype=float)[rows]
        for name in _FIGURES
    }
    flag = np.asarray(var["scvibridge_flag"].astype(str))[rows]
    return pd.DataFrame({**columns, "flag": flag})


def added_genes(result: Result, calibration: Any) -> list[Section]:
    """Build the section on how reliable the added genes are; empty if there are no added genes."""
    quality = quality_of(result)
    if quality is None:
        return []
    blocks: list[Block] = [Text(_summary(result, quality)), _table(quality)]
    shown = quality["explained"].to_numpy()
    shown = shown[np.isfinite(shown)]
    if len(shown):
        caption = "Left of zero, a gene is predicted no better than by its share of each batch."
        blocks.append(Pictures(caption, [_draw_explained(shown)]))
    of_added = getattr(calibration, "added", None)
    if of_added is None:
        blocks.append(Missing(_NOT_LOOKED_AT))
    else:
        figures_alone = of_added.batches.drop(columns="verdict", errors="ignore")
        blocks.append(Text(of_added.summary()))
        blocks.append(table_of(figures_alone, "Fit of added genes by batch, on held-out cells"))
    lead = (
        "The model was not trained on these genes: an output layer was fitted to them. Held-out "
        "cells show how much of each gene it explains beyond the gene's share of each batch."
    )
    return [Section("added", "Added genes", lead, blocks)]


def finding(result: Result) -> list[Text]:
    """Return the finding about added genes; nothing if there are none."""
    quality = quality_of(result)
    if quality is None:
        return []
    n_flagged = int((quality["flag"] != "").sum())
    return [
        Text(
            f"{counted(len(quality), 'gene')} of these were added to the model after its training; "
            f"for {n_flagged:,}, little more than the share of each batch is known.",
            PLAIN,
        )
    ]


def _summary(result: Result, quality: pd.DataFrame) -> str:
    made = result.provenance.get("extension", {})
    n_own = result.adata.n_vars - len(quality)
    ridge = f", ridge {float(made['ridge']):g}" if "ridge" in made else ""
    features = f" on the model's {made['features']}" if "features" in made else ""
    return (
        f"{counted(len(quality), 'added gene')} in addition to {n_own:,} of the model's own, fitted"
        f"{features}{ridge}. Median held-out deviance explained: "
        f"{figure(float(quality['explained'].median()), 3)}."
    )


def _table(quality: pd.DataFrame) -> Table:
    rows = []
    for flag, genes in quality.groupby("flag"):
        medians = [figure(float(genes[name].dropna().median()), 3) for name in _FIGURES]
        numbers = [f"{len(genes):,}", *medians]
        rows.append([Cell(str(flag) or _NO_FLAG), *(Cell(text, "number") for text in numbers)])
    head = ["flag", "genes", "deviance explained (median)", "theta (median)",
            "share of cells with counts (median)"]  # fmt: skip
    note = (
        "few cells: fewer than 5 have counts of the gene; no gain: nothing is explained beyond "
        "the batch."
    )
    return Table("Quality of the added genes, by flag", head, rows, note)


def _draw_explained(explained: np.ndarray) -> Picture:
    """Plot the distribution of the genes' held-out deviance explained."""
    low, high = np.quantile(explained, [0.01, 1.0])
    edges = np.linspace(min(float(low), -0.01), max(float(high), 0.01), 41)

    def draw(page: Figure) -> None:
        axes = page.subplots()
        axes.grid(visible=True, axis="y", color="#E3E7EC", linewidth=0.7)
        axes.hist(np.clip(explained, edges[0], edges[-1]), edges.tolist(), color="#4C78A8")
        axes.axvline(0, color="#5B6470", linewidth=1, linestyle="--")
        axes.set(xlabel="share of held-out deviance explained", ylabel="added genes")

    alt = "Histogram of the held-out deviance explained of the genes that were added to the model."
    return picture("Deviance explained", alt, (4.6, 3.2), draw)
