"""Describe files, models and results for R, before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.spelling import spelled
from scvibridge.io.backed import closing_inputs, open_input
from scvibridge.io.h5ad import read_mudata
from scvibridge.io.unchanged import check_unchanged
from scvibridge.r import columns, to_r
from scvibridge.r.exchange import Held
from scvibridge.r.process import IsolatedModel

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.models.adapters import Adapter


def describe_file(path: str) -> dict[str, Any]:
    """Return what R needs to leave the matrices of a file on disk.

    Returns
    -------
    dict of ``frame`` (:func:`scvibridge.r.to_r.frame`) and ``assays``, a list of the ``name`` of
    each in R and its ``layer`` in the file ("" for X).
    """
    with closing_inputs():
        adata = open_input(path)
        layers = to_r.assay_layers(adata)
        check_unchanged(adata)
        return {
            "frame": to_r.frame(adata),
            "assays": [{"name": name, "layer": layer or ""} for name, layer in layers.items()],
        }


def count_cells(model: Any, adata: AnnData | str | None) -> int:
    """Count the cells of an AnnData, of a file (its matrices are not read) or of the model."""
    with closing_inputs():
        if isinstance(model, IsolatedModel):
            return _count_isolated(model, adata)
        from scvibridge.models.adapters import adapter_for

        if isinstance(adata, list):
            return _count_in(adata)
        data = _open(adapter_for(model), adata)
        return 0 if data is None else int(data.n_obs)


def _count_isolated(model: IsolatedModel, adata: AnnData | str | None) -> int:
    if adata is None:
        return int(model.summary["n_cells"])
    if isinstance(adata, list):
        return _count_in(adata)
    if isinstance(adata, str) and adata.endswith(".h5mu"):
        return int(read_mudata(adata).n_obs)
    return int((open_input(adata) if isinstance(adata, str) else adata).n_obs)


def _count_in(files: list[str]) -> int:
    """Count the cells of several files, which are open one at a time."""
    n_cells = 0
    for file in files:
        with closing_inputs():
            n_cells += int(open_input(file).n_obs)
    return n_cells


def _open(adapter: Adapter, adata: Any) -> AnnData | None:
    """Open a file with its matrices on disk; return the model's data if no data are passed."""
    if adata is None:
        return adapter.adata
    from scvibridge.models import alignment

    return alignment.resolve_adata(adapter, adata, stream=True)


def describe_model(model: Any) -> dict[str, Any]:
    """Return a description of a model: class, likelihood, batches, sizes, variables and layer."""
    if isinstance(model, IsolatedModel):
        return model.summary
    from scvibridge.models.adapters import adapter_for
    from scvibridge.models.trained_on import origin_of_training

    adapter = adapter_for(model)
    data: AnnData | None = adapter.adata
    return {
        "model_class": adapter.class_name,
        "gene_likelihood": adapter.gene_likelihood,
        "dispersion": adapter.dispersion,
        "batch_key": adapter.batch_key,
        "batches": spelled(adapter.batches),
        "n_genes": len(adapter.genes),
        "n_added": len(adapter.genes) - len(adapter.own.genes),
        "genes": list(map(str, adapter.genes)),
        "modalities": [
            {"what": part.what, "key": part.key, "names": list(part.names)}
            for part in adapter.own.beside()
        ],
        "layer": adapter.layer,
        "counts_from": origin_of_training(adapter),
        "n_cells": 0 if data is None else int(data.n_obs),
        "training": describe_training(model),
    }


def describe_training(model: Any) -> dict[str, Any] | None:
    """Return the number of epochs and the last losses of a model with a history, else None."""
    history = getattr(model, "history", None)
    if not history:
        return None
    # The training loss has two names, depending on the version of scvi-tools.
    names = ("train_loss", "train_loss_epoch", "validation_loss")
    losses = {name: np.ravel(history[name]).astype(float) for name in names if name in history}
    training = losses.get("train_loss_epoch", losses.get("train_loss", np.empty(0)))
    held_out = losses.get("validation_loss", np.empty(0))
    return {
        "n_epochs": max(len(training), len(held_out)),
        "training_loss": float(training[-1]) if len(training) else None,
        "validation_loss": float(held_out[-1]) if len(held_out) else None,
    }


def parts_of(found: object) -> dict[str, Any]:
    """Return the attributes of a result, its summary, and the result itself, to be passed back."""
    fields = {name: _parts(value) for name, value in vars(found).items()}
    return {"python": Held(found), "summary": str(found), "fields": fields}


def _parts(value: Any) -> dict[str, Any]:
    """Return a table with its row names, unless its index only numbers the rows."""
    # Compared by name: its module imports torch.
    if type(value).__name__ == "Calibration":
        return {"kind": "calibration", "value": parts_of(value)}
    if isinstance(value, pd.Series):
        value = value.to_frame()
    if not isinstance(value, pd.DataFrame):
        return {"kind": "other", "value": columns.nested(value)}
    counted = isinstance(value.index, pd.RangeIndex)
    return {
        "kind": "table",
        "columns": columns.table_columns(value),
        "n_rows": len(value),
        "rows": [] if counted else spelled(value.index),
    }


def parts_of_table(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table, its ``attrs``, and the table itself, to be passed back."""
    settings = dict(table.attrs)
    by_label = pd.DataFrame(settings.pop("by_label", []))
    return {
        "python": Held(table),
        "table": _parts(table),
        "by_label": _parts(by_label),
        "settings": columns.nested(settings),
    }


def describe_quality(model: Any) -> dict[str, Any]:
    """Return the quality table of an extended model."""
    if isinstance(model, IsolatedModel) and model.quality is not None:
        return model.quality
    return parts_of_table(model.quality)
