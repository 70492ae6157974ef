"""Digest everything that a run depends on, so that only an identical run is resumed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge import _version
from scvibridge._utils.digests import digest, digest_of_names, digest_of_weights

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


# -- what two runs must have in common --------------------------------------------------------


def fingerprint(adapter: Adapter, settings: dict[str, Any], *data: CellData) -> dict[str, Any]:
    """Return what blocks depend on, so that blocks of other runs are not reused by mistake.

    Parameters
    ----------
    adapter
        The model.
    settings
        Settings by name. Arrays are digested.
    data
        The cells that counts and estimates are computed from.
    """
    plain = {
        name: digest(value) if isinstance(value, np.ndarray) else value
        for name, value in settings.items()
    }
    described = {
        f"data_{number}": _identity_of_data(adapter, some) for number, some in enumerate(data)
    }
    version = {"version": _version.__version__}
    return {**plain, **version, "model": _identity_of_model(adapter), **described}


def _identity_of_model(adapter: Adapter) -> dict[str, Any]:
    """Return what identifies a model: weights, likelihood, names of genes and batches."""
    return {
        "weights": digest_of_weights(adapter.module),
        "class": adapter.class_name,
        "likelihood": [adapter.gene_likelihood, adapter.dispersion],
        "genes": digest_of_names(adapter.genes),
        "batches": digest_of_names(adapter.batches),
    }


def _identity_of_data(adapter: Adapter, data: CellData) -> dict[str, str]:
    """Return digests of the cells' names, covariates, and counts, or latents without counts."""
    covariates: list[np.ndarray] = []
    for values in vars(data.covariates).values():
        if sp.issparse(values):
            covariates += [values.data, values.indices, values.indptr]
        elif values is not None:
            covariates.append(values)
    identity = {"cells": digest_of_names(data.names), "covariates": digest(*covariates)}
    if data.counts is not None:
        identity["counts"] = data.counts_digest
    else:
        latent = adapter.minified_latent(np.arange(len(data.names)))
        identity["latent"] = digest(latent.location, latent.scale, latent.log_library)
    return identity
