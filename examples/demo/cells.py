"""The cells of the demo: scanpy's with a known batch effect, or those of the user's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvibridge._utils.arguments import check_unique
from scvibridge._utils.wording import suggest
from scvibridge.diagnostics.report.markers import top_markers
from scvibridge.io.h5ad import read_anndata
from scvibridge.models.alignment import check_counts

# Maximum part of a user's file that is used, so that the demo takes only minutes.
MAX_CELLS = 4000

MAX_GENES = 2000

LOWEST_KEPT = 0.25

MARKERS = (
    "CD3D", "IL32", "IL7R", "CCR7", "CD8A", "CD8B", "NKG7", "GNLY", "GZMB", "PRF1",
    "CD79A", "CD79B", "MS4A1", "CD74", "CST3", "LYZ", "S100A8", "FCN1", "FCGR3A", "FCER1A",
)  # fmt: skip


@dataclass
class DemoCells:
    """Cells with a batch effect to be removed.

    Attributes
    ----------
    adata
        X = counts (cells x genes, CSR).
    batch_key, labels_key
        Columns of ``adata.obs``.
    target
        The target batch for all cells.
    markers
        Genes for the dot plot.
    source
        Where the cells come from, for the reader.
    true_counts
        The counts without the batch effect (cells x genes, CSR); None for a user's file.
    log_kept
        Log of the probability with which each gene's counts were kept in the other batch
        (genes,); None for a user's file.
    """

    adata: ad.AnnData
    batch_key: str
    labels_key: str
    target: str
    markers: list[str]
    source: str
    true_counts: sp.csr_matrix | None = None
    log_kept: np.ndarray | None = None

    @property
    def in_target(self) -> np.ndarray:
        """Which cells come from the target batch, shape ``(n_cells,)``."""
        return (self.adata.obs[self.batch_key] == self.target).to_numpy()


# ---- scanpy's cells, with an effect that we know ----------------------------------------------


def bundled_cells(seed: int = 0) -> DemoCells:
    """Return blood cells that come with scanpy; a random half of them loses counts.

    Each count of that half is thinned binomially, with one probability per gene between
    `LOWEST_KEPT` and 1 (uniform in the log): a batch effect whose size is known for every gene,
    with the original counts as the truth.
    """
    import scanpy

    cells = scanpy.datasets.pbmc68k_reduced()
    counts = counts_from_log(cells.raw.X, cells.obs["n_counts"].to_numpy())
    rng = np.random.default_rng(seed)
    thinned = rng.permutation(cells.n_obs) < cells.n_obs // 2
    log_kept = rng.uniform(np.log(LOWEST_KEPT), 0.0, cells.raw.n_vars)

    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.where(thinned, "thinned", "full")),
            "cell_type": cells.obs["bulk_labels"].cat.remove_unused_categories(),
        },
        index=cells.obs_names.astype(str),
    )
    var = pd.DataFrame(index=cells.raw.var_names.astype(str))
    return DemoCells(
        adata=ad.AnnData(thin(counts, thinned, np.exp(log_kept), rng), obs=obs, var=var),
        batch_key="batch",
        labels_key="cell_type",
        target="full",
        markers=[gene for gene in MARKERS if gene in var.index],
        source="pbmc68k_reduced, part of scanpy",
        true_counts=counts,
        log_kept=log_kept,
    )


def counts_from_log(log_normalised: sp.csr_matrix, totals: np.ndarray) -> sp.csr_matrix:
    """Compute counts from log(1 + 1e4 * count / total), which must be whole numbers.

    The values are stored with three decimals, so a count has a relative error of a thousandth.
    """
    values = sp.csr_matrix(log_normalised, dtype=np.float64, copy=True)
    per_entry = np.repeat(totals.astype(np.float64), np.diff(values.indptr))
    values.data = np.expm1(values.data) * per_entry / 1e4
    rounded = np.round(values.data)
    if not np.allclose(values.data, rounded, rtol=2e-3, atol=0.02) or (rounded < 1).any():
        raise ValueError("scanpy's pbmc68k_reduced does not hold the log of counts as expected")
    values.data = rounded.astype(np.float32)
    return sp.csr_matrix(values, dtype=np.float32)


def thin(
    counts: sp.csr_matrix, rows: np.ndarray, kept: np.ndarray, rng: np.random.Generator
) -> sp.csr_matrix:
    """Keep each single count of the marked rows with its gene's probability."""
    thinned = counts.copy()
    of_rows = np.repeat(rows, np.diff(counts.indptr))
    thinned.data[of_rows] = rng.binomial(
        counts.data[of_rows].astype(np.int64), kept[counts.indices[of_rows]]
    )
    thinned.eliminate_zeros()
    return thinned


# ---- the user's cells ------------------------------------------------------------------------


def cells_of_file(
    path: str | Path,
    batch_key: str,
    labels_key: str,
    transform_batch: str | None = None,
    seed: int = 0,
) -> DemoCells:
    """Read cells of an h5ad file, check them, and keep no more than the demo needs.

    Cells without a batch or a label are left out. If there are more than `MAX_CELLS` cells, a
    random choice is used; if there are more than `MAX_GENES` genes, the most variable ones.

    Raises
    ------
    ValueError
        If a column is missing, there are fewer than two batches, the requested batch does not
        exist, X contains no counts, or names occur twice.
    """
    adata = read_anndata(path)
    for key, option in ((batch_key, "--batch-key"), (labels_key, "--labels-key")):
        check_column(adata.obs, key, option)
    if adata.X is None:
        raise ValueError(f"{path} holds no counts: X is empty")
    check_counts(adata.X, adata, None)
    check_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    check_unique(adata.var_names, "gene", "adata.var_names_make_unique()")
    adata = choose_cells(adata, [batch_key, labels_key], seed)
    adata = choose_genes(adata)
    return DemoCells(
        adata=adata,
        batch_key=batch_key,
        labels_key=labels_key,
        target=target_batch(adata.obs[batch_key], transform_batch),
        markers=marker_genes(adata, labels_key),
        source=Path(path).name,
    )


def check_column(obs: pd.DataFrame, key: str, option: str) -> None:
    """Raise an error for a name that is not a column of obs."""
    if key not in obs:
        columns = ", ".join(map(repr, obs.columns))
        raise ValueError(
            f"{option} {key!r} is not a column of obs{suggest(key, list(obs.columns))}; there are "
            f"{columns or 'none'}"
        )


def choose_cells(adata: ad.AnnData, keys: list[str], seed: int) -> ad.AnnData:
    """Select cells with counts and all of the columns: all of them or a random choice."""
    counts = sp.csr_matrix(adata.X, dtype=np.float32)
    usable = adata.obs[keys].notna().all(axis=1).to_numpy() & (counts.sum(axis=1).A1 > 0)
    rows = np.flatnonzero(usable)
    if len(rows) > MAX_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_CELLS, replace=False))
    obs = adata.obs.iloc[rows][keys].astype(str).astype("category")
    if len(rows) == 0 or obs[keys[0]].nunique() < 2:
        raise ValueError(f"--batch-key {keys[0]!r} has fewer than two batches: nothing to correct")
    return ad.AnnData(counts[rows], obs=obs, var=adata.var[[]])


def choose_genes(adata: ad.AnnData) -> ad.AnnData:
    """Select genes detected in at least ten cells, or the most variable of them if many."""
    import scanpy

    seen = np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 10
    adata = adata[:, seen].copy()
    if adata.n_vars <= MAX_GENES:
        return adata
    logged = adata.copy()
    scanpy.pp.normalize_total(logged)
    scanpy.pp.log1p(logged)
    scanpy.pp.highly_variable_genes(logged, n_top_genes=MAX_GENES)
    return adata[:, logged.var["highly_variable"].to_numpy()].copy()


def target_batch(batches: pd.Series, wanted: str | None) -> str:
    """Return the requested batch, or else the one with the most cells."""
    names = list(batches.cat.categories)
    if wanted is None:
        return str(batches.value_counts().index[0])
    if wanted not in names:
        raise ValueError(
            f"batch {wanted!r} is not among {', '.join(map(repr, names))}{suggest(wanted, names)}"
        )
    return wanted


def marker_genes(adata: ad.AnnData, labels_key: str) -> list[str]:
    """Return the genes that best distinguish each of the larger types from the others."""
    found = top_markers(adata.X, adata.obs[labels_key], most_types=8)
    genes = found.genes if len(found.genes) else range(min(2, adata.n_vars))
    return [str(adata.var_names[gene]) for gene in genes]
