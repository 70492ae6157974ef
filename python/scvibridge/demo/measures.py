"""How much of a batch effect is there, before and after the correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp

MIN_GENE_TOTAL = 30


@dataclass(frozen=True)
class GeneEffects:
    """The batch effect of each gene before and after the correction, and how to show it.

    Attributes
    ----------
    x
        What the effect is shown against, shape ``(n_genes,)``, with `x_label`; its log2 itself
        where it is known (`x_is_the_truth`).
    before, after
        Natural log of the effect in the raw and in the corrected counts, with `y_label` (which
        speaks of log2, as it is shown).
    weights
        Counts of each gene.
    left_alone
        Genes that were not corrected in some batch.
    figures
        Names and values (before, after) of what is told about it.
    remark
        What to add to them.
    """

    x: np.ndarray
    before: np.ndarray
    after: np.ndarray
    weights: np.ndarray
    left_alone: np.ndarray
    x_label: str
    y_label: str
    x_is_the_truth: bool
    figures: dict[str, tuple[float, float]]
    remark: str = ""


def gene_log_ratio(counts: sp.spmatrix, reference: sp.spmatrix) -> np.ndarray:
    """Log of the ratio of a gene's totals in two matrices, shape ``(n_genes,)``.

    Half a count is added to both, so that a gene without counts stays finite.
    """
    return np.log(gene_totals(counts) + 0.5) - np.log(gene_totals(reference) + 0.5)


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Slope of the weighted least-squares line of y on x.

    A slope of 1 of the observed on the known effect: all of it is there; 0: none of it.
    """
    weights = weights / weights.sum()
    x_centred = x - weights @ x
    return float(weights @ (x_centred * y) / (weights @ x_centred**2))


def typical_fold_error(log_ratio: np.ndarray, weights: np.ndarray) -> float:
    """Weighted median over genes of the factor by which totals are off, 1 where none is."""
    order = np.argsort(np.abs(log_ratio))
    reached = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(np.exp(np.abs(log_ratio)[order][min(reached, len(order) - 1)]))


def cell_correlation(counts: sp.spmatrix, truth: sp.spmatrix) -> float:
    """Mean over cells of the correlation over genes of log(1 + count) with the truth."""
    a, b = np.log1p(_dense(counts)), np.log1p(_dense(truth))
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    usable = norms > 0
    return float(((a * b).sum(axis=1)[usable] / norms[usable]).mean())


def batch_difference(
    counts: sp.spmatrix, batch: pd.Series, label: pd.Series, target: str
) -> np.ndarray:
    """Log fold of each gene's rate, other batches over the target, within cell types.

    Rates are shares of the totals. Each type counts by the smaller of its two groups of cells;
    only genes with `MIN_GENE_TOTAL` counts on both sides, in the types used, have a value.

    Returns
    -------
    Array of shape ``(n_genes,)``, NaN where a gene has too few counts.
    """
    counts = sp.csr_matrix(counts)
    in_target = (batch == target).to_numpy()
    log_fold = np.zeros(counts.shape[1])
    totals = np.zeros((2, counts.shape[1]))
    weight = 0.0
    for kind in label.unique():
        of_kind = (label == kind).to_numpy()
        groups = [counts[of_kind & ~in_target], counts[of_kind & in_target]]
        size = min(group.shape[0] for group in groups)
        if size == 0:
            continue
        sums = np.array([gene_totals(group) for group in groups])
        rates = (sums + 0.5) / (sums + 0.5).sum(axis=1, keepdims=True)
        log_fold += size * np.log(rates[0] / rates[1])
        totals += sums
        weight += size
    log_fold[(totals < MIN_GENE_TOTAL).any(axis=0)] = np.nan
    return log_fold / weight if weight else np.full_like(log_fold, np.nan)


def typical_batch_fold(differences: np.ndarray) -> float:
    """Median over genes of the factor between batches, 1 where there is none."""
    return float(np.exp(np.nanmedian(np.abs(differences))))


def same_batch_neighbours(
    coordinates: np.ndarray, batch: pd.Series, label: pd.Series, n_neighbours: int = 15
) -> float:
    """Neighbours of the same batch, within cell types, over what mixed batches would give.

    Parameters
    ----------
    coordinates
        Cells in a space of few dimensions, shape ``(n_cells, n_dimensions)``.

    Returns
    -------
    1 where batches are mixed, more where they lie apart; types with fewer than 20 cells or one
    batch do not count.
    """
    from sklearn.neighbors import NearestNeighbors

    observed = expected = 0.0
    for kind in label.unique():
        rows = np.flatnonzero((label == kind).to_numpy())
        codes = pd.factorize(batch.iloc[rows])[0]
        if len(rows) < 20 or len(np.unique(codes)) < 2:
            continue
        k = min(n_neighbours, len(rows) // 4)
        index = NearestNeighbors(n_neighbors=k).fit(coordinates[rows])
        neighbours = index.kneighbors(return_distance=False)  # the cell itself excluded
        observed += (codes[neighbours] == codes[:, None]).sum()
        expected += k * ((np.bincount(codes)[codes] - 1) / (len(rows) - 1)).sum()
    return observed / expected if expected else float("nan")


def gene_totals(counts: sp.spmatrix) -> np.ndarray:
    """Sum of each gene over all cells, shape ``(n_genes,)``."""
    return np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()


def _dense(counts: sp.spmatrix) -> np.ndarray:
    return counts.toarray().astype(np.float64)
