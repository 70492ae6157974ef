"""Genes that differ between groups of cells, as in single-cell analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from benchmarks.validity.pseudobulk import adjust

if TYPE_CHECKING:
    import pandas as pd

MIN_CELLS, ALPHA = 10, 0.05


def rank_sum_z(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Compute Wilcoxon's rank-sum statistic of each group against all other cells, as a z score.

    With tie correction, without continuity correction.

    Parameters
    ----------
    values
        Shape ``(n_cells, n_genes)``.
    groups
        Codes 0, 1, ..., one per cell.

    Returns
    -------
    Array of shape ``(n_groups, n_genes)``, positive if the group has higher values; 0 for a gene
    that is the same in all cells.
    """
    ranks = stats.rankdata(values, axis=0)
    n = len(groups)
    sizes = np.bincount(groups)[:, None]
    sums = np.stack([ranks[groups == g].sum(axis=0) for g in range(len(sizes))])
    # The variance of the ranks is (n^2 - 1) / 12, reduced by ties.
    variance = sizes * (n - sizes) / (n - 1) * ranks.var(axis=0)
    z = (sums - sizes * (n + 1) / 2) / np.sqrt(np.where(variance > 0, variance, np.inf))
    return np.asarray(z)


def differential(values: np.ndarray, half: np.ndarray, test: str) -> int:
    """Count the genes that differ between two halves (Benjamini-Hochberg, 5 %).

    Parameters
    ----------
    values
        Log-normalised counts, ``(n_cells, n_genes)``.
    half
        Boolean, one per cell.
    test
        "Wilcoxon", or "t" for Welch's.
    """
    if test == "Wilcoxon":
        p = 2 * stats.norm.sf(np.abs(rank_sum_z(values, half.astype(int))[0]))
    else:
        # A gene without variance has no t statistic, which scipy warns about.
        with np.errstate(all="ignore"):
            p = stats.ttest_ind(values[half], values[~half], equal_var=False).pvalue
    expressed = np.ptp(values, axis=0) > 0
    return int((adjust(p[expressed]) < ALPHA).sum())


def differential_by_label(values: np.ndarray, half: np.ndarray, label: pd.Series, test: str) -> int:
    """Sum over labels of :func:`differential`; a label needs `MIN_CELLS` in each half."""
    found = 0
    for kind in label.unique():
        rows = np.flatnonzero((label == kind).to_numpy())
        if min(half[rows].sum(), (~half[rows]).sum()) >= MIN_CELLS:
            found += differential(values[rows], half[rows], test)
    return found


def top_markers(values: np.ndarray, label: pd.Series, n_top: int) -> dict[str, set[int]]:
    """Return genes with the highest rank-sum scores of each label against all other cells.

    Labels with fewer than twice `MIN_CELLS` cells have none.
    """
    codes = label.astype("category").cat.remove_unused_categories()
    z = rank_sum_z(values, codes.cat.codes.to_numpy())
    sizes = codes.value_counts()
    return {
        str(kind): set(np.argsort(-z[i], kind="stable")[:n_top].tolist())
        for i, kind in enumerate(codes.cat.categories)
        if sizes[kind] >= 2 * MIN_CELLS
    }


def markers_kept(before: dict[str, set[int]], after: dict[str, set[int]]) -> float:
    """Return the mean over labels of the share of previous markers that are still markers."""
    return float(np.mean([len(before[k] & after[k]) / len(before[k]) for k in before]))
