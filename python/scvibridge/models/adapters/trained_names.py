"""The names of genes, regions and proteins in the order that a model was trained with.

scvi-tools matches genes by position. If a model is loaded with data whose genes are in another
order, or gets such data by ``model.adata = ...``, it replaces the names in the model's registry by
those of these data; the former names stay in the registries that the present one was derived from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_NAMES = "column_names"
_STATE = "state_registry"


def with_trained_names(model: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Return registered fields whose columns are named in the order of the training.

    Parameters
    ----------
    model
        The model.
    fields
        The field registries of its data, by name; not changed.
    """
    trained = _first_fields(model)
    return {name: _renamed(field, trained.get(name, {})) for name, field in fields.items()}


def _renamed(field: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    state = field.get(_STATE) or {}
    present, former = state.get(_NAMES), (trained.get(_STATE) or {}).get(_NAMES)
    if present is None or former is None or not _is_moved(present, former):
        return dict(field)
    return {**field, _STATE: {**state, _NAMES: former}}


def _is_moved(present: Any, former: Any) -> bool:
    """Return whether a name is at another position than before.

    Names that are only replaced by others are new names of the same genes, at the same positions.
    """
    names, before = (np.asarray(some).astype(str) for some in (present, former))
    if np.array_equal(names, before) or not (index := pd.Index(names)).is_unique:
        return False
    positions = index.get_indexer(pd.Index(before))
    return bool(((positions >= 0) & (positions != np.arange(len(positions)))).any())


def _first_fields(model: Any) -> Mapping[str, Any]:
    """Return the field registries of the data that the model was first set up with."""
    fields: Mapping[str, Any] = {}
    for registry in _registries(model):
        fields = registry.get("field_registries") or fields
    return fields


def _registries(model: Any) -> Iterator[Mapping[str, Any]]:
    """Return the registry of the model's data, and those that it was derived from, in turn."""
    managers = getattr(type(model), "_per_instance_manager_store", {}).get(model.id, {})
    manager, seen = getattr(model, "adata_manager", None), set[int]()
    while manager is not None and id(manager) not in seen:
        seen.add(id(manager))
        yield manager.registry
        source = getattr(manager, "_source_registry", None)
        if source is None:
            return
        yield source
        manager = managers.get(source.get("_scvi_uuid"))
