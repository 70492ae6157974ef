"""Data that scvi-tools has reduced to latent posteriors, without counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.models.adapters.arrays import Latent

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scvibridge.models.adapters.registry import Registry

# scvi-tools' name for such data, and where it is recorded.
_WITHOUT_COUNTS = "latent_posterior_parameters"

_MINIFIED_KEY = "_scvi_adata_minify_type"


def is_minified(data: Any) -> bool:
    """Return whether data were reduced to latents, without counts."""
    return getattr(data, "uns", {}).get(_MINIFIED_KEY) == _WITHOUT_COUNTS


def minified_latent(
    model: Any,
    registry: Registry,
    log_size_factor: Callable[[AnnData], np.ndarray | None],
    rows: np.ndarray,
) -> Latent:
    """Read the latent posterior of some cells from a model's minified data.

    Parameters
    ----------
    log_size_factor
        Returns the log of the size factors of all cells; if None, the log of the totals recorded in
        the data is used.
    rows
        Positions of the cells.
    """
    location, variance = (
        np.asarray(model.adata.obsm[_key_of(name, model, registry)])[rows]
        for name in ("latent_qzm", "latent_qzv")
    )
    total, factor = minified_totals(model, registry, rows), log_size_factor(model.adata)
    with np.errstate(divide="ignore"):
        log_library = np.log(total) if factor is None else factor[rows]
    return Latent(location, np.sqrt(variance), log_library)


def minified_totals(model: Any, registry: Registry, rows: np.ndarray) -> np.ndarray:
    """Read the observed totals of some cells from a model's minified data, shape ``(n,)``."""
    totals = model.adata.obs[_key_of("observed_lib_size", model, registry)]
    return np.asarray(totals, dtype=float)[rows]


def _key_of(field: str, model: Any, registry: Registry) -> str:
    if field in registry.fields:
        return registry.attribute(field)
    # TOTALVI does not register them when it is loaded.
    return str(getattr(model, f"_{field.upper()}_KEY"))
