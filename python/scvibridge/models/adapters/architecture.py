"""The architecture of a trained model, for training another one like it."""

from __future__ import annotations

from typing import Any

import numpy as np

_ARCHITECTURE = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "dropout_rate",
    "dispersion",
    "gene_likelihood",
    "use_observed_lib_size",
    "latent_distribution",
)


def architecture_of(model: Any) -> dict[str, Any]:
    """Return the arguments that build an untrained model of the same architecture.

    Dispersion by label becomes dispersion by gene: other data have no labels.
    """
    given = {**model.init_params_["non_kwargs"]}
    for further in model.init_params_["kwargs"].values():
        given |= further
    # Some classes choose sizes by the number of genes, or have a fixed likelihood.
    given.setdefault("gene_likelihood", None)
    found = {name: given[name] for name in _ARCHITECTURE if name in given}
    for name in [name for name, value in found.items() if value is None]:
        actual = getattr(model.module, name)
        found[name] = actual.item() if isinstance(actual, np.generic) else actual
    if found.get("dispersion") == "gene-label":
        found["dispersion"] = "gene"
    return found
