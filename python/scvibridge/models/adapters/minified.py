"""Data that scvi-tools has reduced to latent posteriors, without counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.models.adapters.arrays import Latent

if TYPE_CHECKING:
    from scvibridge.models.adapters.registry import Registry

# scvi-tools' name for such data, and where it is recorded.
_WITHOUT_COUNTS = "latent_posterior_parameters"

_MINIFIED_KEY = "_scvi_adata_minify_type"


def is_minified(data: Any) -> bool:
    """Return whether data were reduced to latents, without counts."""
    return getattr(data, "uns", {}).get(_MINIFIED_KEY) == _WITHOUT_COUNTS


def minified_latent(
    model: Any, registry: Registry, log_size_factor: np.ndarray | None, rows: np.ndarray
) -> Latent:
    """Read the latent posterior of some cells from a model's minified data.

    Parameters
    ----------
    log_size_factor
        Log of the size factors of all cells; if None, the log of the totals recorded in the data.
    rows
        Positions of the cells.
    """

    def key_of(field: str) -> str:
        if field in registry.fields:
            return registry.attribute(field)
        # TOTALVI does not register them when it is loaded.
        return str(getattr(model, f"_{field.upper()}_KEY"))

    adata = model.adata
    location, variance = (
        np.asarray(adata.obsm[key_of(name)])[rows] for name in ("latent_qzm", "latent_qzv")
    )
    total = np.asarray(adata.obs[key_of("observed_lib_size")], dtype=float)[rows]
    with np.errstate(divide="ignore"):
        log_library = np.log(total) if log_size_factor is None else log_size_factor[rows]
    return Latent(location, np.sqrt(variance), log_library)
