"""Measure whether batches mix in an embedding while cell types stay separate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge.diagnostics.report.measures import same_batch_neighbours

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

N_COMPONENTS, N_NEIGHBOURS = 20, 30
MIXING = "same-batch neighbours over expectation"
SILHOUETTE = "silhouette by type"
# Number of neighbours used by scib-metrics for LISI and kBET.
N_SCIB, N_KBET = 90, 50
# From scib-metrics: 0 (bad) to 1 (good), batches mixed or types separated.
SCIB = ("kBET", "iLISI", "cLISI", "silhouette label", "silhouette batch")


def log_normalised(counts: Any) -> np.ndarray:
    """Return log(1 + counts per 10,000), ``(n_cells, n_genes)``, float32; empty cells stay zero."""
    dense = np.asarray(counts.toarray() if sp.issparse(counts) else counts, dtype=np.float32)
    totals = dense.sum(axis=1, keepdims=True)
    return np.asarray(np.log1p(dense * (1e4 / np.maximum(totals, 1.0))))


def embedding(counts: Any) -> np.ndarray:
    """Compute principal components of log-normalised counts, ``(n_cells, N_COMPONENTS)``."""
    from sklearn.decomposition import PCA

    values = log_normalised(counts)
    return PCA(min(N_COMPONENTS, *values.shape), random_state=0).fit_transform(values)


def mixing(points: np.ndarray, batch: pd.Series, label: pd.Series) -> dict[str, float]:
    """Compute figures of an embedding: batches mixed (1) or apart (more), and types apart."""
    from sklearn.metrics import silhouette_score

    return {
        MIXING: same_batch_neighbours(points, batch, label, N_NEIGHBOURS),
        SILHOUETTE: float(silhouette_score(points, label.to_numpy())),
    }


def scib(points: np.ndarray, batch: pd.Series, label: pd.Series) -> dict[str, float]:
    """Compute figures with scib-metrics, NaN if it is not installed."""
    try:
        import scib_metrics
    except ImportError:
        return dict.fromkeys(SCIB, np.nan)
    points = np.asarray(points, dtype=np.float32)
    codes, types = (column.astype("category").cat.codes.to_numpy() for column in (batch, label))
    near = _nearest(points, min(N_SCIB, len(points) - 1))
    figures: dict[str, Callable[[], Any]] = {
        "kBET": lambda: scib_metrics.kbet_per_label(near.subset_neighbors(N_KBET), codes, types),
        "iLISI": lambda: scib_metrics.ilisi_knn(near, codes),
        "cLISI": lambda: scib_metrics.clisi_knn(near, types),
        "silhouette label": lambda: scib_metrics.silhouette_label(points, types),
        "silhouette batch": lambda: scib_metrics.silhouette_batch(points, types, codes),
    }
    return {name: float(figures[name]()) for name in SCIB}


def _nearest(points: np.ndarray, n_neighbours: int) -> Any:
    """Find nearest neighbours, the cell itself first, for scib-metrics; exact, as cells are few."""
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=n_neighbours).fit(points)
    distances, indices = fitted.kneighbors(points)
    return NeighborsResults(indices=indices, distances=distances)
