"""Compute the latent means of cells, without decoding any gene."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments
from scvibridge._utils.arguments import check_types
from scvibridge._utils.devices import resolve_device
from scvibridge.expression import results
from scvibridge.io.backed import closing_inputs
from scvibridge.models import alignment
from scvibridge.models.adapters import adapter_for
from scvibridge.models.cell_data import columns_of
from scvibridge.models.encoder import Encoder
from scvibridge.r import columns

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


def latent(
    model: Any,
    adata: Any = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> columns.Parts:
    """Encode cells without decoding genes; counts on disk are read in blocks.

    Parameters
    ----------
    model, adata, batch_size, device, progress
        As in :func:`scvibridge.normalized_expression`.

    Returns
    -------
    dict of ``cells`` (names), ``latent`` (their latent means, cells by dimensions, as in
    ``obsm["X_scvi"]`` of results) and ``provenance``.

    Raises
    ------
    ValueError
        As for :func:`scvibridge.normalized_expression`.
    """
    check_types(latent, locals())
    adapter = adapter_for(model)
    arguments.check_batch_size(batch_size, adapter.batches)
    resolve_device(device)
    with (
        tempfile.TemporaryDirectory() as folder,
        closing_inputs(),
        adapter.on_device(device),
    ):
        opened = alignment.resolve_adata(adapter, adata, stream=True)
        data = alignment.align(adapter, opened, Path(folder) / "counts.h5ad", progress)
        encoded = Encoder(adapter.own, _own_part(adapter, data), batch_size, progress).prepare(
            np.arange(data.n_cells)
        )
        means = adapter.own.transform_latent(encoded.location).astype(np.float32)
    return {
        "cells": list(map(str, data.names)),
        "latent": {"columns": None, "values": np.asfortranarray(means, dtype=np.float64)},
        "provenance": columns.nested(results.provenance(adapter, "latent", {})),
    }


def _own_part(adapter: Adapter, data: CellData) -> CellData:
    """Return the counts of the genes that cells are encoded from."""
    if adapter.added is None:
        return data
    return replace(data, counts=columns_of(data.require_counts(), 0, adapter.n_own))
