"""Measure the batch effect before and after the correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.report.measures import gene_totals

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["GeneEffects", "cell_correlation", "gene_log_ratio", "slope", "typical_fold_error"]


@dataclass(frozen=True)
class GeneEffects:
    """The batch effect of each gene before and after the correction, and how to show it.

    Attributes
    ----------
    x
        What the effect is plotted against, shape ``(n_genes,)``, with `x_label`; log2 of the effect
        itself if it is known (`x_is_the_truth`).
    before, after
        Natural log of the effect in the raw and in the corrected counts, with `y_label` (in log2,
        as plotted).
    weights
        Counts of each gene.
    left_alone
        Genes that were not corrected in some batch.
    figures
        Names and values (before, after) of the reported figures.
    remark
        A remark on them.
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
    """Compute the log of the ratio of a gene's totals in two matrices, shape ``(n_genes,)``.

    Half a count is added to both, so that the ratio is finite for a gene without counts.
    """
    return np.log(gene_totals(counts) + 0.5) - np.log(gene_totals(reference) + 0.5)


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Compute the slope of the weighted least-squares line of y on x.

    For the observed against the known effect: 1 if all of it is present, 0 if none.
    """
    weights = weights / weights.sum()
    x_centred = x - weights @ x
    return float(weights @ (x_centred * y) / (weights @ x_centred**2))


def typical_fold_error(log_ratio: np.ndarray, weights: np.ndarray) -> float:
    """Compute the weighted median over genes of the factor by which totals are off (1 if none)."""
    order = np.argsort(np.abs(log_ratio))
    reached = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(np.exp(np.abs(log_ratio)[order][min(reached, len(order) - 1)]))


def cell_correlation(counts: sp.spmatrix, truth: sp.spmatrix) -> float:
    """Compute the mean over cells of the correlation of log(1 + count) with the truth."""
    a, b = np.log1p(_dense(counts)), np.log1p(_dense(truth))
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    usable = norms > 0
    return float(((a * b).sum(axis=1)[usable] / norms[usable]).mean())


def _dense(counts: sp.spmatrix) -> np.ndarray:
    return counts.toarray().astype(np.float64)
