"""Encoding alone: the latent means of cells, without the decoding of any gene."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge import handover, inputs, results
from scvibridge.arguments import check_types
from scvibridge.decoding import Encoder
from scvibridge.devices import resolve_device
from scvibridge.models import ExtendedAdapter, adapter_for
from scvibridge.sources import columns_of

if TYPE_CHECKING:
    from scvibridge.models import Adapter
    from scvibridge.sources import CellData


def latent(
    model: Any,
    adata: Any = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> handover.Parts:
    """Encode cells, and decode none of their genes; counts that lie on disk are read in blocks.

    Parameters
    ----------
    model, adata, batch_size, device, progress
        As in :func:`scvibridge.normalized_expression`.

    Returns
    -------
    dict of ``cells`` (names), ``latent`` (their latent means, cells by dimensions, as results have
    them in ``obsm["X_scvi"]``) and ``provenance``.

    Raises
    ------
    ValueError
        As for :func:`scvibridge.normalized_expression`.
    """
    check_types(latent, locals())
    adapter = adapter_for(model)
    inputs.check_batch_size(batch_size, adapter.batches)
    resolve_device(device)
    opened = inputs.resolve_adata(adapter, adata, stream=True)
    with tempfile.TemporaryDirectory() as folder, adapter.on_device(device):
        data = inputs.align(adapter, opened, Path(folder) / "counts.h5ad", progress)
        encoded = Encoder(adapter.own, _own_part(adapter, data), batch_size, progress).prepare(
            np.arange(data.n_cells)
        )
        means = adapter.own.transform_latent(encoded.location).astype(np.float32)
    return {
        "cells": list(map(str, data.names)),
        "latent": {"columns": None, "values": np.asfortranarray(means, dtype=np.float64)},
        "provenance": handover.nested(results.provenance(adapter, "latent", {})),
    }


def _own_part(adapter: Adapter, data: CellData) -> CellData:
    """Return the counts of the genes that cells are encoded from."""
    if not isinstance(adapter, ExtendedAdapter):
        return data
    return replace(data, counts=columns_of(data.require_counts(), 0, adapter.n_own))
