"""Results as AnnData, with where they came from."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

import scvibridge
from scvibridge.files import PROVENANCE_KEY, storable, write_h5ad

if TYPE_CHECKING:
    from pathlib import Path

    import scipy.sparse as sp

    from scvibridge.decoding import Cells
    from scvibridge.inputs import CellData
    from scvibridge.models import SCVIAdapter

LATENT_KEY = "X_scvi"
RAW_LAYER = "raw_counts"


def assemble(
    adapter: SCVIAdapter,
    data: CellData,
    rows: np.ndarray,
    genes: np.ndarray | None,
    cells: Cells,
    matrix: np.ndarray | sp.csr_matrix,
) -> AnnData:
    """Put a matrix of cells by genes into an AnnData, with all that is known of both.

    The cells' own counts go along as ``layers["raw_counts"]`` where the data hold them, the
    latent means as ``obsm["X_scvi"]``.
    """
    positions = np.arange(len(adapter.genes)) if genes is None else genes
    obs = data.adata.obs.iloc[rows].copy()
    obs = obs.drop(columns=[c for c in obs.columns if str(c).startswith("_scvi_")])
    var = data.adata.var.loc[adapter.genes[positions]].copy()
    result = AnnData(X=matrix, obs=obs, var=var)
    result.obsm[LATENT_KEY] = np.asarray(latent_means(adapter, cells), dtype=np.float32)
    if cells.counts is not None:
        raw = cells.counts if genes is None else cells.counts[:, genes]
        raw = raw.astype(np.int32)
        raw.eliminate_zeros()
        raw.sort_indices()
        result.layers[RAW_LAYER] = raw
    return result


def latent_means(adapter: SCVIAdapter, cells: Cells) -> np.ndarray:
    """Posterior means as scvi-tools gives them, shape ``(n_cells, n_latent)``."""
    return adapter.transform_latent(cells.latent.location)


def add_flags(result: AnnData, flags: dict[str, Any]) -> None:
    """Add scvibridge's own columns to ``obs``."""
    for name, values in flags.items():
        result.obs[f"scvibridge_{name}"] = values


def add_detection(
    result: AnnData, detection: np.ndarray, low: np.ndarray, genes: np.ndarray | None
) -> None:
    """Flag the genes whose batch effect was left alone in some batch.

    ``var["scvibridge_low_detection"]`` is the flag, ``varm["scvibridge_detection"]`` tells in how
    many cells of each batch the gene was seen (genes by batches, in the order of the provenance's
    ``batches``).
    """
    columns = slice(None) if genes is None else genes
    result.var["scvibridge_low_detection"] = np.asarray(low.any(axis=0))[columns]
    result.varm["scvibridge_detection"] = detection.T[columns]


def provenance(adapter: SCVIAdapter, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Where a result came from: versions, model, and the settings with which it was made."""
    described: dict[str, Any] = storable(
        {
            "kind": kind,
            "scvibridge_version": scvibridge.__version__,
            "scvi_tools_version": importlib.metadata.version("scvi-tools"),
            "model_class": adapter.class_name,
            "gene_likelihood": adapter.gene_likelihood,
            "dispersion": adapter.dispersion,
            "batch_key": adapter.batch_key,
            "batches": [str(batch) for batch in adapter.batches],
            **settings,
        }
    )
    return described


def finish(result: AnnData, described: dict[str, Any], out: Path | None) -> AnnData:
    """Attach the provenance, and write the result where a file was asked for."""
    result.uns[PROVENANCE_KEY] = described
    if out is not None:
        write_h5ad(result, out)
    return result


def batch_names(adapter: SCVIAdapter, codes: list[int] | None) -> list[str] | None:
    """Names of batches by their codes."""
    return None if codes is None else [str(adapter.batches[code]) for code in codes]


def group_names(
    adapter: SCVIAdapter, batch: np.ndarray, labels: np.ndarray | None, label_names: list[Any]
) -> pd.Categorical:
    """Name, for each cell, the group whose batch effect was used, e.g. ``"V2 / B cells"``.

    `labels` holds -1 where the effect of the whole batch was used.
    """
    label = np.full(len(batch), -1) if labels is None else labels
    keys, codes = np.unique(np.stack([batch, label]), axis=1, return_inverse=True)
    names = np.array(
        [
            f"{adapter.batches[b]} / {label_names[c]}" if c >= 0 else f"{adapter.batches[b]}"
            for b, c in keys.T
        ]
    )
    return pd.Categorical(names[codes.ravel()], categories=list(names))
