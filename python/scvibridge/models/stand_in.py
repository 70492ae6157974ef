"""Models without data, for versions of scvi-tools that load none (before 1.3.1).

They build a model from its registry and its data. Of the data, they use the names of the genes and
the columns: one cell is enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge.models.adapters import find_class
from scvibridge.models.adapters.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_needed(name: str) -> bool:
    """Return whether this version of scvi-tools loads no model of a class without data.

    Parameters
    ----------
    name
        The class. Only SCVI is loaded with a stand-in, because later versions, which can do without
        data, load only SCVI so.
    """
    # The first versions that load a model without data have the property `registry`.
    return name == "SCVI" and not hasattr(find_class("SCVI"), "registry")


def one_cell(var_names: Any, registry: Mapping[str, Any]) -> AnnData:
    """Return one cell with the genes and the columns that a model was set up with.

    Parameters
    ----------
    var_names
        The names of the genes, as saved with the model.
    registry
        The model's registry.
    """
    setup, fields = registry.get("setup_args") or {}, registry.get("field_registries") or {}
    found = Registry(dict(setup), dict(fields), is_mudata=False)
    columns: dict[str | None, list[Any]] = {
        **{found.key(name): found.categories(name) for name in ("batch", "labels")},
        **dict(found.categorical.items()),
        **{key: [1.0] for key in (setup.get("size_factor_key"), *found.continuous)},
    }
    columns.pop(None, None)
    obs = pd.DataFrame({key: values[:1] for key, values in columns.items()}, index=["cell"])
    counts = np.ones((1, len(var_names)), dtype=np.float32)
    cell = AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(var_names)))
    if found.layer is not None:
        cell.layers[found.layer] = counts
    return cell


def with_data(model: Any) -> Any:
    """Give a copy of a model, which is to be saved, the stand-in that it was loaded with."""
    if model.adata is None and is_needed(type(model).__name__):
        model._adata = model.adata_manager.adata  # noqa: SLF001 - names of the genes are saved
    return model


def take_away(model: Any, registry: dict[str, Any]) -> None:
    """Take its stand-in from a model, which then is as one that was loaded without data."""
    model.registry_ = registry
    model._adata = None  # noqa: SLF001 - scvi-tools refuses to set `adata` to None
