"""Build results as AnnData, with their provenance."""

from __future__ import annotations

import importlib.metadata
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge import _version
from scvibridge._utils import r_classes
from scvibridge._utils.digests import digest_of_table, digest_of_text, digest_of_weights
from scvibridge._utils.reserved_columns import STRATUM, without_reserved
from scvibridge._utils.spelling import join, spelled
from scvibridge.io.h5ad import storable
from scvibridge.io.plan import Field
from scvibridge.io.raw_counts import RAW_LAYER
from scvibridge.models.trained_on import place_of_counts

if TYPE_CHECKING:
    from scvibridge.io.plan import Block
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.encoder import Cells


LATENT_KEY = "X_scvi"

PROTEIN_KEY = "protein_normalized"

# Column of obs that replaces the batch if other covariates were changed.
STRATUM_COLUMN = STRATUM


def tables(adapter: Adapter, data: CellData, rows: np.ndarray, genes: np.ndarray | None) -> AnnData:
    """Build an AnnData for some cells and genes, with their tables but without matrices."""
    positions = np.arange(len(adapter.genes)) if genes is None else genes
    obs = without_reserved(data.adata.obs.iloc[rows])
    var = without_reserved(data.adata.var.loc[adapter.genes[positions]])
    return AnnData(obs=obs, var=var, uns=r_classes.kept(data.adata.uns))


def digest_of_tables(
    adapter: Adapter, data: CellData, rows: np.ndarray, genes: np.ndarray | None
) -> str:
    """Compute a digest of the tables that a result copies from its data."""
    made = tables(adapter, data, rows, genes)
    return digest_of_text(f"{digest_of_table(made.obs)} {digest_of_table(made.var)}")


def common_fields(adapter: Adapter, data: CellData, n_genes: int) -> list[Field]:
    """Return the fields of every result: observed counts, latent means, protein values."""
    single = np.dtype(np.float32)
    fields = [Field(f"obsm/{LATENT_KEY}", False, single, adapter.n_latent)]
    if adapter.proteins:
        fields.append(Field(f"obsm/{PROTEIN_KEY}", False, single, len(adapter.proteins)))
    if data.counts is not None:
        fields.append(Field(f"layers/{RAW_LAYER}", True, np.dtype(np.int32), n_genes))
    return fields


def common_matrices(adapter: Adapter, cells: Cells, genes: np.ndarray | None) -> Block:
    """Compute a block of those fields; protein values are averaged over the targets."""
    latent = latent_means(adapter, cells).astype(np.float32, copy=False)
    block: Block = {f"obsm/{LATENT_KEY}": latent}
    if adapter.proteins:
        codes: list[int] | list[None] = adapter.target.codes or [None]
        values = [
            adapter.protein_values(cells.latent.location, cells.covariates, code) for code in codes
        ]
        block[f"obsm/{PROTEIN_KEY}"] = np.mean(values, axis=0, dtype=np.float32)
    counts = cells.selected_counts(genes)
    if counts is not None:
        block[f"layers/{RAW_LAYER}"] = counts
    return block


def latent_means(adapter: Adapter, cells: Cells) -> np.ndarray:
    """Return the posterior means as in scvi-tools, shape ``(n_cells, n_latent)``."""
    return adapter.transform_latent(cells.latent.location)


def add_flags(result: AnnData, flags: dict[str, Any]) -> None:
    """Add scvibridge's own columns to ``obs``."""
    for name, values in flags.items():
        result.obs[f"scvibridge_{name}"] = values


def add_detection(
    result: AnnData, detection: np.ndarray, low: np.ndarray, genes: np.ndarray | None
) -> None:
    """Flag the genes whose batch effect was not removed from some batch.

    ``var["scvibridge_low_detection"]`` is the flag, ``varm["scvibridge_detection"]`` the number of
    cells of each batch in which the gene was detected (genes by batches, in the order of the
    provenance's ``batches``).
    """
    columns = slice(None) if genes is None else genes
    result.var["scvibridge_low_detection"] = np.asarray(low.any(axis=0))[columns]
    result.varm["scvibridge_detection"] = detection.T[columns]


def provenance(adapter: Adapter, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a result: versions, model, and settings."""
    described: dict[str, Any] = storable(
        {
            "kind": kind,
            "scvibridge_version": _version.__version__,
            "scvi_tools_version": _version_of_scvi_tools(),
            "model_class": adapter.class_name,
            "model_digest": digest_of_weights(adapter.own.module),
            "gene_likelihood": adapter.gene_likelihood,
            "dispersion": adapter.dispersion,
            "counts_from": place_of_counts(adapter),
            "batch_key": adapter.batch_key,
            "batches": spelled(adapter.batches),
            **({"proteins": list(adapter.proteins)} if adapter.proteins else {}),
            **settings,
        }
    )
    return described


@cache
def _version_of_scvi_tools() -> str:
    return importlib.metadata.version("scvi-tools")


def group_names(
    adapter: Adapter, batch: np.ndarray, labels: np.ndarray | None, label_names: list[Any]
) -> pd.Categorical:
    """Name the group whose batch effect each cell used, e.g. ``"V2 / B cells"``.

    `labels` is -1 for cells that used the effect of their batch.
    """
    label = np.full(len(batch), -1) if labels is None else labels
    keys, codes = np.unique(np.stack([batch, label]), axis=1, return_inverse=True)
    batches, names = spelled(adapter.batches), spelled(label_names)
    groups = [join([batches[b], *([names[c]] if c >= 0 else [])], " / ") for b, c in keys.T]
    return pd.Categorical.from_codes(codes.ravel(), categories=groups)
