"""Real cells for the experiments: loading, genes, random halves, and counts by each method."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scipy.sparse as sp

from benchmarks.validity.methods import METHODS, SLOW_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from benchmarks.validity.methods import Case

KANG = "kang_ifnb_pbmc_4k"
CHEMISTRIES = "pbmc_10x_v2_v3_vdj"
_log = logging.getLogger(__name__)


def load(data: Path, name: str) -> ad.AnnData:
    """Read the counts of a data set, X in CSR and float32."""
    cells = ad.read_h5ad(data / f"{name}.h5ad")
    cells.X = sp.csr_matrix(cells.X, dtype=np.float32)
    return cells


def most_expressed(cells: ad.AnnData, n_genes: int) -> ad.AnnData:
    """Keep the genes with most counts, in their order: a choice independent of batch and type."""
    totals = np.asarray(cells.X.sum(axis=0)).ravel()
    chosen = np.sort(np.argsort(-totals, kind="stable")[:n_genes])
    return cells[:, chosen].copy()


def most_variable(cells: ad.AnnData, n_genes: int, batch_key: str) -> ad.AnnData:
    """Keep the genes that vary most within batches, by scanpy's default method."""
    import scanpy as sc

    normalised = cells.copy()
    sc.pp.normalize_total(normalised)
    sc.pp.log1p(normalised)
    sc.pp.highly_variable_genes(normalised, n_top_genes=n_genes, batch_key=batch_key)
    return cells[:, normalised.var["highly_variable"].to_numpy()].copy()


def random_half(rng: np.random.Generator, strata: pd.DataFrame) -> np.ndarray:
    """Choose half of the cells at random, half of each stratum (within one cell).

    Parameters
    ----------
    strata
        One row per cell; cells with equal rows are one stratum.

    Returns
    -------
    Boolean array of shape ``(n_cells,)``.
    """
    chosen = np.zeros(len(strata), dtype=bool)
    groups = strata.groupby(list(strata.columns), observed=True).indices
    for _, rows in sorted(groups.items()):
        # In a stratum of odd size, the half of the remaining cell is random.
        size = (len(rows) + rng.integers(2)) // 2
        chosen[rng.choice(rows, size=size, replace=False)] = True
    return chosen


def counts_by_method(
    case: Case, methods: Sequence[str] | None = None, *, slow: bool = False
) -> Iterator[tuple[str, sp.csr_matrix]]:
    """Yield the counts of each method in turn.

    Parameters
    ----------
    methods
        Names; all by default, slow ones only if `slow`. Names that are not methods on cells are
        skipped, as are other packages that are not installed, which the log reports.
    """
    known = {**METHODS, **SLOW_METHODS}
    if methods is None:
        methods = [*METHODS, *(SLOW_METHODS if slow else ())]
    for name in methods:
        if name not in known:
            continue
        try:
            counts = known[name](case)
        except ModuleNotFoundError as error:
            _log.warning("%s is left out: %s", name, error)
            continue
        yield name, sp.csr_matrix(counts)
