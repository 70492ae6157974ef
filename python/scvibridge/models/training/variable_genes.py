"""Select the genes that a model is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge._utils import user_warnings
from scvibridge._utils.process_state import warnings_ignored

if TYPE_CHECKING:
    import scipy.sparse as sp


# Fractions of the genes used for the local fit of the curve of variances over means; the first is
# scanpy's default. If a batch has few cells, many genes have the same mean, and the curve cannot
# be fitted with a small fraction.
_SPANS = (0.3, 1.0)

# With fewer, fitting the curve fails; with none in its span it aborts the process (scikit-misc
# 0.5.3).
_FEWEST_GENES = 20


def variable_genes(
    counts: sp.csr_matrix, n_top_genes: int, batches: pd.Series | None
) -> np.ndarray:
    """Return positions of the most variable genes, in the order of the genes.

    Parameters
    ----------
    counts
        Raw counts, cells x genes.
    n_top_genes
        Number of genes; all if there are no more.
    batches
        Batch of each cell, within which genes are ranked.

    Warns
    -----
    UserWarning
        If genes are ranked over all cells because a batch has too few.

    Raises
    ------
    ValueError
        If the genes cannot be ranked.

    Notes
    -----
    ``flavor="seurat_v3"`` of scanpy: variance of the counts standardised by a curve of variances
    over means, ranked within each batch (Stuart et al., 2019).
    """
    n_genes = counts.shape[1]
    if n_top_genes >= n_genes:
        return np.arange(n_genes)
    cells = AnnData(counts.astype(np.float32))
    if batches is not None:
        cells.obs["batch"] = pd.Categorical(np.asarray(batches))
    for key in ("batch", None) if batches is not None else (None,):
        if key is None and batches is not None:
            user_warnings.warn(
                "variable genes are ranked over all cells, because a batch has too few cells to "
                "rank them within it"
            )
        for span in _SPANS:
            chosen = _ranked(cells, n_top_genes, key, span)
            if chosen is not None:
                return np.flatnonzero(chosen)
    raise ValueError(
        f"the {n_genes} genes cannot be ranked by variance over {counts.shape[0]} cells: pass "
        "gene names, or use all genes with n_top_genes=None"
    )


def _ranked(cells: AnnData, n_top_genes: int, key: str | None, span: float) -> np.ndarray | None:
    """Return which genes are selected; None if the curve cannot be fitted."""
    if _fewest_varying(cells, key) < _FEWEST_GENES:
        return None
    import scanpy as sc  # takes seconds

    with warnings_ignored():
        try:
            table = sc.pp.highly_variable_genes(
                cells,
                n_top_genes=n_top_genes,
                flavor="seurat_v3",
                batch_key=key,
                span=span,
                inplace=False,
            )
        except ValueError:
            return None
    return table["highly_variable"].to_numpy()


def _fewest_varying(cells: AnnData, key: str | None) -> int:
    """Return the smallest number of genes that vary within a batch, over all batches."""
    groups = [cells.X] if key is None else [cells.X[rows] for rows in _rows(cells.obs[key])]
    return min(
        int((x.max(axis=0).toarray() != x.min(axis=0).toarray()).sum()) if x.shape[0] else 0
        for x in groups
    )


def _rows(batches: pd.Series) -> list[np.ndarray]:
    return [np.flatnonzero(batches == name) for name in batches.cat.categories]
