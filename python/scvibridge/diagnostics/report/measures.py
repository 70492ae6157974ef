"""Measures of the batch effect that the report and the demo share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

# With fewer counts on either side of a comparison, a gene's fold is mostly due to chance.
MIN_GENE_TOTAL = 30

# Types with fewer cells are left out when the mixing of batches is measured.
MIN_TYPE_CELLS = 20


# ---- genes -----------------------------------------------------------------------------------


def gene_totals(counts: sp.spmatrix) -> np.ndarray:
    """Return the sum of each gene over all cells, shape ``(n_genes,)``."""
    return np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()


def log_fold_within_types(
    sums: tuple[np.ndarray, np.ndarray], sizes: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Compute the log fold of each gene's rate between two sets of cells, within types.

    Rates are shares of the totals, with half a count added to each gene. Each type is weighted by
    the smaller of its two groups of cells. Only genes with `MIN_GENE_TOTAL` counts on both sides,
    in the types used, have a value.

    Parameters
    ----------
    sums
        Sums of counts on either side, shape ``(n_types, n_genes)`` each.
    sizes
        Numbers of cells on either side, shape ``(n_types,)`` each.

    Returns
    -------
    Natural log of the first over the second, shape ``(n_genes,)``; NaN for genes with too few
    counts.
    """
    weights = np.minimum(*sizes)
    used = weights > 0
    first, second = (np.asarray(side, dtype=np.float64)[used] for side in sums)
    rates = [(side + 0.5) / (side + 0.5).sum(axis=1, keepdims=True) for side in (first, second)]
    few = (first.sum(axis=0) < MIN_GENE_TOTAL) | (second.sum(axis=0) < MIN_GENE_TOTAL)
    if not used.any():
        return np.full(first.shape[1], np.nan)
    log_fold = np.average(np.log(rates[0] / rates[1]), axis=0, weights=weights[used])
    return np.where(few, np.nan, log_fold)


def batch_difference(
    counts: sp.spmatrix, batch: pd.Series, label: pd.Series, target: str
) -> np.ndarray:
    """Compute the log fold of each gene's rate, other batches over the target, within cell types.

    Returns
    -------
    Array of shape ``(n_genes,)``, as from `log_fold_within_types`.
    """
    counts = sp.csr_matrix(counts)
    in_target = (batch == target).to_numpy()
    sides = ([], [])  # type: tuple[list[np.ndarray], list[np.ndarray]]
    sizes = ([], [])  # type: tuple[list[int], list[int]]
    for kind in label.unique():
        of_kind = (label == kind).to_numpy()
        for number, rows in enumerate((of_kind & ~in_target, of_kind & in_target)):
            sides[number].append(gene_totals(counts[rows]))
            sizes[number].append(int(rows.sum()))
    return log_fold_within_types(
        (np.array(sides[0]), np.array(sides[1])), (np.array(sizes[0]), np.array(sizes[1]))
    )


def typical_batch_fold(differences: np.ndarray) -> float:
    """Return the median over genes of the factor between batches; 1 if they do not differ."""
    known = differences[~np.isnan(differences)]
    return float(np.exp(np.median(np.abs(known)))) if len(known) else float("nan")


# ---- cells in few dimensions -----------------------------------------------------------------


def log_normalised(counts: sp.spmatrix) -> sp.csr_matrix:
    """Return log(1 + x * median / total): logs of counts at the median depth, in the same shape."""
    counts = sp.csr_matrix(counts, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    filled = totals[totals > 0]
    scale = (np.median(filled) if len(filled) else 1.0) / np.maximum(totals, 1)
    return sp.csr_matrix(sp.diags(scale) @ counts).log1p()


def principal_components(counts: sp.spmatrix, n_components: int = 20, seed: int = 0) -> np.ndarray:
    """Return principal components of log-normalised counts, shape ``(n_cells, n_components)``.

    They are zero if all cells are the same, such as without any counts.
    """
    from sklearn.decomposition import PCA

    logged = log_normalised(counts)
    n_components = min(n_components, *(size - 1 for size in logged.shape))
    if (logged.max(axis=0) != logged.min(axis=0)).nnz == 0:
        return np.zeros((logged.shape[0], n_components))  # ARPACK raises an error
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(logged)


def same_batch_neighbours(
    coordinates: np.ndarray, batch: pd.Series, label: pd.Series, n_neighbours: int = 15
) -> float:
    """Count same-batch neighbours within types, relative to those expected for mixed batches.

    Parameters
    ----------
    coordinates
        Cells in a space of few dimensions, shape ``(n_cells, n_dimensions)``.

    Returns
    -------
    1 if batches are mixed, more if they are separate. Types with fewer than `MIN_TYPE_CELLS` cells
    or a single batch are left out.
    """
    from sklearn.neighbors import NearestNeighbors

    observed = expected = 0.0
    for kind in label.unique():
        rows = np.flatnonzero((label == kind).to_numpy())
        codes = pd.factorize(batch.iloc[rows])[0]
        if len(rows) < MIN_TYPE_CELLS or len(np.unique(codes)) < 2:
            continue
        k = min(n_neighbours, len(rows) // 4)
        index = NearestNeighbors(n_neighbors=k).fit(coordinates[rows])
        neighbours = index.kneighbors(return_distance=False)  # excludes the cell itself
        observed += (codes[neighbours] == codes[:, None]).sum()
        expected += k * ((np.bincount(codes)[codes] - 1) / (len(rows) - 1)).sum()
    return observed / expected if expected else float("nan")


def silhouette_of_types(coordinates: np.ndarray, label: pd.Series) -> float:
    """Return the mean silhouette by type: 1 if types are separate, 0 if they are not; or NaN."""
    from sklearn.metrics import silhouette_score

    n_types = label.nunique()
    if not 2 <= n_types < len(label):
        return float("nan")
    return float(silhouette_score(coordinates, label.to_numpy()))
