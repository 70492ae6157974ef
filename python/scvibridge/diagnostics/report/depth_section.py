"""Build the report's section on depth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.report import evidence, figures
from scvibridge.diagnostics.report.blocks import (
    Cell,
    Missing,
    Pictures,
    Section,
    Table,
    counted,
    figure,
    percent,
    plain,
)

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.blocks import Block
    from scvibridge.diagnostics.report.palette import Colours
    from scvibridge.diagnostics.report.reading import Result
    from scvibridge.diagnostics.report.tallies import Tallies


MOST_BATCHES = 12


def more_batches(n_batches: int) -> str:
    """Return a sentence on the batches that are not shown."""
    rest = n_batches - MOST_BATCHES
    return f"There are {counted(rest, 'more batch', 'more batches')}." if rest > 0 else ""


# ---- depth, zeros, mean and variance ---------------------------------------------------------


def depth(result: Result, tallies: Tallies, batches: Colours) -> Section:
    """Show depth, zeros and the mean-variance relation by batch, before and after."""
    shown = [name for name in result.batch.names if name in batches.named][:MOST_BATCHES]
    n_genes = result.raw.shape[1]
    totals = _by_batch(result, shown, [np.maximum(c.totals, 1) for c in tallies.cells])
    zeros = _by_batch(result, shown, [1 - c.detected / n_genes for c in tallies.cells])
    blocks: list[Block] = [
        Pictures(
            "Hollow: raw; filled: corrected. Box: middle half of the cells; whiskers: 5 to 95 %.",
            [
                figures.draw_boxes("Depth", "counts of a cell", totals, batches, in_logs=True),
                figures.draw_boxes("Zeros", "share of genes without counts in a cell", zeros,
                                   batches, in_logs=False),
            ],
            [batches],
        ),
        _spread_of_genes(result, tallies, batches),
        _batch_table(result, tallies),
    ]  # fmt: skip
    lead = "Corrected cells should resemble those of the target in depth, zeros and spread."
    return Section("depth", "Depth, zeros, mean and variance", lead, blocks)


def _spread_of_genes(result: Result, tallies: Tallies, batches: Colours) -> Block:
    """Show the variance-to-mean ratio of genes against their mean, by batch, before and after."""
    pictures = []
    for number, title in enumerate(
        ("Mean and variance, raw counts", "Mean and variance, corrected")
    ):
        moments = _moments(result, tallies, number)
        curves = {name: figures.binned_medians(*pair) for name, pair in moments.items()}
        curves = {name: curve for name, curve in curves.items() if len(curve[0])}
        if not curves:
            return Missing("Mean and variance are not shown: there are too few cells or genes.")
        pictures.append(figures.draw_mean_variance(title, curves, batches))
    caption = (
        "Medians over genes with similar means; above the dashed line: more variable than Poisson."
    )
    return Pictures(caption, pictures, [batches])


def _by_batch(
    result: Result, shown: list[str], pair: list[np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found = {}
    for name in shown:
        rows = (result.batch.codes == result.batch.names.index(name)) & result.kept
        if rows.any():
            found[name] = (pair[0][rows], pair[1][rows])
    return found


def _moments(
    result: Result, tallies: Tallies, number: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and variance (with n - 1) of each gene, by batch with at least two cells."""
    sums, sizes = tallies.sums[number], tallies.sizes.sum(axis=1)
    found = {}
    for batch, name in enumerate(result.batch.names):
        n = sizes[batch]
        if n < 2:
            continue
        mean = sums.counts[batch].sum(axis=0) / n
        found[name] = (mean, (sums.squares[batch] - n * mean**2) / (n - 1))
    return found


def _batch_table(result: Result, tallies: Tallies) -> Table:
    rows = []
    n_genes = result.raw.shape[1]
    for batch, name in enumerate(result.batch.names[:MOST_BATCHES]):
        members = (result.batch.codes == batch) & result.kept
        if not members.any():
            continue
        medians = [float(np.median(c.totals[members])) for c in tallies.cells]
        zeros = [float(1 - c.detected[members].mean() / n_genes) for c in tallies.cells]
        texts = [f"{int(members.sum()):,}", *(figure(m, 0) for m in medians),
                 *(percent(z) for z in zeros),
                 percent(evidence.changed_share(tallies, members)),
                 percent(evidence.moved_share(tallies, members))]  # fmt: skip
        suffix = " (target)" if name in result.targets else ""
        rows.append([Cell(plain(name, 40) + suffix), *(Cell(text, "number") for text in texts)])
    head = ["batch", "cells", "median depth, raw", "corrected", "zeros, raw", "corrected",
            "nonzero entries changed", "counts moved"]  # fmt: skip
    note = (
        "Entries: those above zero before or after. Moved: sum of the absolute changes divided by "
        f"the sum of the raw counts. {more_batches(len(result.batch.names))}"
    )
    return Table("Counts by batch", head, rows, note)
