"""Find genes that distinguish cell types, and their expression by type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.diagnostics.report.measures import log_normalised

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sp

FEWEST_CELLS = 10

# Number of genes with the highest t-statistics, from which those that differ most are chosen.
_SUREST = 20


@dataclass(frozen=True)
class Markers:
    """Marker genes, and the types for which they are shown.

    Attributes
    ----------
    types
        Names of types, the largest first.
    genes
        Positions of genes, in the order of the types that they mark.
    """

    types: list[str]
    genes: np.ndarray


def top_markers(
    counts: sp.spmatrix,
    label: pd.Series,
    most_types: int = 12,
    per_type: int = 2,
    without: str | None = None,
) -> Markers:
    """Return the genes that best distinguish each of the larger types from the others.

    These are, among the twenty genes with the highest t-statistics (Welch's, of log-normalised
    counts, one type against all others), those with the largest difference of means.

    Parameters
    ----------
    counts, label
        Counts of cells, and the type of each.
    most_types, per_type
        Maximum number of types (of at least `FEWEST_CELLS` cells), and of genes for each.
    without
        A name that is not a cell type.
    """
    logged = log_normalised(counts)
    sizes = label.value_counts()
    large = [str(name) for name in sizes[sizes >= FEWEST_CELLS].index if name != without]
    types = large[:most_types]
    if len(sizes) < 2:
        return Markers(types, np.empty(0, dtype=np.int64))
    squares = logged.multiply(logged).tocsr()
    genes: list[int] = []
    for name in types:
        genes.extend(_best(logged, squares, (label == name).to_numpy(), per_type))
    return Markers(types, np.array(list(dict.fromkeys(genes)), dtype=np.int64))


def _best(
    logged: sp.csr_matrix, squares: sp.csr_matrix, members: np.ndarray, n_best: int
) -> list[int]:
    (mean, error), (other_mean, other_error) = (
        _mean_and_error(logged[rows], squares[rows]) for rows in (members, ~members)
    )
    difference = mean - other_mean
    statistic = difference / np.sqrt(np.maximum(error + other_error, 1e-12))
    surest = np.argsort(-statistic, kind="stable")[:_SUREST]
    surest = surest[difference[surest] > 0]
    return [int(g) for g in surest[np.argsort(-difference[surest], kind="stable")][:n_best]]


def _mean_and_error(logged: sp.csr_matrix, squares: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each gene and its squared standard error."""
    n = logged.shape[0]
    mean = np.asarray(logged.mean(axis=0)).ravel()
    variance = np.asarray(squares.mean(axis=0)).ravel() - mean**2
    return mean, np.maximum(variance, 0) / max(n - 1, 1)


def means_by_type(values: np.ndarray, label: pd.Series, types: list[str]) -> np.ndarray:
    """Return the mean over the cells of each type, shape ``(n_types, n_columns)``."""
    return np.array([values[(label == name).to_numpy()].mean(axis=0) for name in types])
