"""Measure the difference between raw and corrected counts of cells that need no correction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from scvibridge._utils.spelling import spelled
from scvibridge.diagnostics.report.measures import gene_totals, log_fold_within_types

if TYPE_CHECKING:
    from collections.abc import Iterator


# Maximum number of dense entries in memory.
_ENTRIES = 4_000_000

# Fewest cells of a type in each half for a test, and fewest cells in which a gene is detected.
_FEWEST_CELLS, _FEWEST_DETECTIONS = 10, 10

_LEVEL = 0.05

_MOST_MARKERS = 50

_DEPTH = 1e4

FOLD_FIGURE = "log2 fold of genes between the halves (RMS)"


def tabulate(
    raw: sp.csr_matrix,
    corrected: sp.csr_matrix,
    second: np.ndarray,
    labels: pd.Series | None,
    target: sp.csr_matrix | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tabulate what a correction of the second half changed.

    Parameters
    ----------
    raw, corrected
        Counts of all cells of both halves.
    second
        Whether each cell belongs to the second half, shape ``(n,)``.
    labels
        Cell types (categorical), or None.
    target
        Counts whose first half the corrected second half is compared with; if None, `corrected`,
        whose first half differs from the raw counts if all cells are scaled to one depth.

    Returns
    -------
    The table of figures, and one for each cell type.
    """
    before, after = raw[second], corrected[second]
    first, first_after = raw[~second], (corrected if target is None else target)[~second]
    types = _types(second, labels)
    by_label = pd.DataFrame(
        [
            {
                "label": name,
                "n_cells": int(rows.sum()),
                "differential_before": n_differential(first[rows[~second]], before[rows[second]]),
                "differential_after": n_differential(
                    first_after[rows[~second]], after[rows[second]]
                ),
            }
            for name, rows in types.items()
        ],
        columns=["label", "n_cells", "differential_before", "differential_after"],
    )
    differential = by_label[["differential_before", "differential_after"]].sum()
    rows = [
        *_changes(before, after),
        *_sizes(before, after),
        _fold_row(
            (first, before),
            (first_after, after),
            [(rows[~second], rows[second]) for rows in types.values()],
        ),
        ("differential genes between the halves", *differential, 0.0),
    ]
    if len(types) > 1:
        markers = [
            top_markers(counts, [rows[part] for rows in types.values()])
            for counts, part in (
                (first, ~second),
                (first_after, ~second),
                (before, second),
                (after, second),
            )
        ]
        by_label["markers_kept"] = _shared(markers[2], markers[3])
        rows += _marker_rows(*markers)
    table = pd.DataFrame(rows, columns=["figure", "before", "after", "expected"])
    return table.astype(dict.fromkeys(["before", "after", "expected"], float)), by_label


def _types(second: np.ndarray, labels: pd.Series | None) -> dict[str, np.ndarray]:
    """Return the cells of each type that has enough in both halves."""
    if labels is None:
        return {"all cells": np.ones(len(second), dtype=bool)}
    names, codes = spelled(labels.cat.categories), labels.cat.codes.to_numpy()
    found = {name: codes == code for code, name in enumerate(names)}
    return {
        name: rows
        for name, rows in found.items()
        if min((rows & second).sum(), (rows & ~second).sum()) >= _FEWEST_CELLS
    }


# -- counts ------------------------------------------------------------------------------------


def _changes(before: sp.csr_matrix, after: sp.csr_matrix) -> list[tuple[str, float, float, float]]:
    entries = before.shape[0] * before.shape[1]
    changed = before != after
    nonzero = before > 0
    return [
        ("share of nonzero counts changed", 0.0, changed.multiply(nonzero).nnz / nonzero.nnz, 0.0),
        ("share of all counts changed", 0.0, changed.nnz / entries, 0.0),
        ("mean absolute change of a count", 0.0, abs(after - before).sum() / entries, 0.0),
        ("share of zeros", *_zeros(before, after), 1 - before.nnz / entries),
    ]


def _zeros(before: sp.csr_matrix, after: sp.csr_matrix) -> tuple[float, float]:
    entries = before.shape[0] * before.shape[1]
    return 1 - before.count_nonzero() / entries, 1 - after.count_nonzero() / entries


def _sizes(before: sp.csr_matrix, after: sp.csr_matrix) -> list[tuple[str, float, float, float]]:
    ratio = float(np.median(_totals(after) / _totals(before)))
    agreement = float(np.nanmedian(rank_correlations(before, after)))
    return [
        ("depth over the cell's own (median)", 1.0, ratio, 1.0),
        ("Spearman with the cell's own counts (median)", 1.0, agreement, 1.0),
    ]


_Halves = tuple[sp.csr_matrix, sp.csr_matrix]

"""Counts of the first and of the second half."""


def _fold_row(
    before: _Halves, after: _Halves, types: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[str, float, float, float]:
    """Compute the root mean square over genes of log2 folds between the halves, within types.

    There is no batch effect between random halves: the value before correction is due to chance.
    NaN if no type has enough cells, or no gene enough counts.
    """
    if not types:
        return (FOLD_FIGURE, float("nan"), float("nan"), float("nan"))
    sizes = np.array([[in_second.sum(), in_first.sum()] for in_first, in_second in types]).T
    folds = []
    for first, second in (before, after):
        own = np.array([gene_totals(first[rows]) for rows, _ in types])
        sums = np.array([gene_totals(second[rows]) for _, rows in types])
        folds.append(log_fold_within_types((sums, own), (sizes[0], sizes[1])))
    known = ~np.isnan(folds[0]) & ~np.isnan(folds[1])
    if not known.any():
        return (FOLD_FIGURE, float("nan"), float("nan"), float("nan"))
    size = [float(np.sqrt(np.mean((fold[known] / np.log(2)) ** 2))) for fold in folds]
    return (FOLD_FIGURE, size[0], size[1], size[0])


def _totals(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1), dtype=float).ravel()


def rank_correlations(first: sp.csr_matrix, second: sp.csr_matrix) -> np.ndarray:
    """Return Spearman's correlation over genes of each cell in two matrices, shape ``(n,)``."""
    n_cells, n_genes = first.shape
    step = max(1, _ENTRIES // max(n_genes, 1))
    found = np.empty(n_cells)
    for start in range(0, n_cells, step):
        rows = slice(start, min(start + step, n_cells))
        a, b = (stats.rankdata(m[rows].toarray(), axis=1) for m in (first, second))
        a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
        spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        found[rows] = np.divide(
            (a * b).sum(axis=1), spread, out=np.full(len(a), np.nan), where=spread > 0
        )
    return found


# -- genes ---------------------------------------------------------------------------------------


def log_normalised(counts: sp.csr_matrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield log(1 + counts per 10,000), dense, for some genes at a time."""
    n_cells, n_genes = counts.shape
    scale = _DEPTH / np.maximum(_totals(counts), 1.0)
    by_gene = counts.tocsc()
    step = max(1, _ENTRIES // max(n_cells, 1))
    for start in range(0, n_genes, step):
        genes = slice(start, min(start + step, n_genes))
        yield genes, np.log1p(by_gene[:, genes].toarray() * scale[:, None])


def n_differential(first: sp.csr_matrix, second: sp.csr_matrix) -> int:
    """Count the genes that differ between two sets of cells.

    Wilcoxon's rank-sum test on log-normalised counts, Benjamini and Hochberg at 5 %, over genes
    detected in at least ten of the cells.
    """
    counts = sp.vstack([first, second]).tocsr()
    n_first = first.shape[0]
    seen = np.asarray((counts > 0).sum(axis=0)).ravel() >= _FEWEST_DETECTIONS
    if not seen.any():
        return 0
    p_values = np.concatenate(
        [
            stats.mannwhitneyu(values[:n_first], values[n_first:], method="asymptotic").pvalue
            for _, values in log_normalised(counts[:, seen])
        ]
    )
    # A gene with the same value in all cells has no p-value.
    adjusted = stats.false_discovery_control(np.nan_to_num(p_values, nan=1.0))
    return int((adjusted < _LEVEL).sum())


def top_markers(counts: sp.csr_matrix, types: list[np.ndarray]) -> list[set[int]]:
    """Return the genes that best distinguish each type from other cells, by area under the curve.

    The 50 best, or a tenth of the genes if there are few.
    """
    n_cells, n_genes = counts.shape
    sums = np.empty((len(types), n_genes))
    for genes, values in log_normalised(counts):
        ranks = stats.rankdata(values, axis=0)
        sums[:, genes] = [ranks[rows].sum(axis=0) for rows in types]
    sizes = np.array([rows.sum() for rows in types])[:, None]
    area = (sums - sizes * (sizes + 1) / 2) / (sizes * (n_cells - sizes))
    n_markers = min(_MOST_MARKERS, max(1, n_genes // 10))
    best = np.argsort(-area, axis=1, kind="stable")[:, :n_markers]
    return [set(genes.tolist()) for genes in best]


def _shared(some: list[set[int]], others: list[set[int]]) -> np.ndarray:
    """Return the share of the markers of each type that are also in the other list."""
    return np.array([len(a & b) / len(a) for a, b in zip(some, others, strict=True)])


def _marker_rows(
    first: list[set[int]],
    first_after: list[set[int]],
    before: list[set[int]],
    after: list[set[int]],
) -> list[tuple[str, float, float, float]]:
    chance = float(_shared(first, before).mean())
    shared = float(_shared(first_after, after).mean())
    return [
        ("share of marker genes kept", 1.0, float(_shared(before, after).mean()), 1.0),
        ("share of marker genes that both halves have", chance, shared, chance),
    ]
