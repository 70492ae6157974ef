"""A MuData as a single AnnData: its RNA and the other inputs that a model needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils import user_warnings
from scvibridge._utils.arguments import check_unique
from scvibridge._utils.sparse_structure import check_structure
from scvibridge.io.raw_counts import as_raw_data, fault_of, matrix_of

if TYPE_CHECKING:
    from scvibridge.models.adapters.registry import Registry


# Where that AnnData holds the counts of other modalities.
PROTEINS, REGIONS = "_scvibridge_proteins", "_scvibridge_regions"

# The field that scvi-tools registers them as, and their location.
_BESIDE = {"proteins": ("proteins", PROTEINS), "regions": ("atac", REGIONS)}

# Where scvi-tools keeps the number of a registration, in ``uns``.
_REGISTRATION = "_scvi_manager_uuid"

_FIELDS = ("batch", "labels", "size_factor", "extra_categorical_covs", "extra_continuous_covs")


def is_mudata(data: Any) -> bool:
    """Return whether `data` is a MuData; False if mudata was never imported."""
    module = sys.modules.get("mudata")
    return module is not None and isinstance(data, module.MuData)


def one_table(data: Any, registry: Registry) -> AnnData:
    """Build an AnnData of the RNA of a MuData, with the columns that the model was set up with.

    Raises
    ------
    TypeError
        If the model was not set up with a MuData.
    ValueError
        If a modality that it was set up with is missing, or lacks some of the cells.
    """
    if not registry.is_mudata:
        raise TypeError(
            "the model was set up with an AnnData, but adata is a MuData: pass its RNA, e.g. "
            "mdata['rna']"
        )
    place = registry.place("X")
    layer = place["attr_key"] if place["attr_name"] == "layers" else None
    rna = as_raw_data(_modality(data, place.get("mod_key")), layer)
    obs = _obs(data, rna, registry)
    table = AnnData(_matrix(rna, registry, "X"), obs=obs, var=rna.var.copy())
    for field, key in _BESIDE.values():
        if field in registry.fields:
            table.obsm[key] = _aligned(data, registry, field)
    _keep_registered(table, data, registry)
    return table


def _modality(data: Any, name: str | None) -> Any:
    if name is None or name not in data.mod:
        raise ValueError(
            f"the MuData lacks the modality {name!r} that the model was set up with; it has "
            f"{', '.join(map(repr, data.mod))}"
        )
    modality = data.mod[name]
    if not modality.obs_names.equals(data.obs_names):
        raise ValueError(
            f"the modality {name!r} lacks some cells of the MuData, or has them in another order: "
            "scvi-tools requires all cells in each modality, empty where nothing was measured"
        )
    return modality


def _matrix(modality: Any, registry: Registry, field: str) -> Any:
    place = registry.place(field)
    layer = place["attr_key"] if place["attr_name"] == "layers" else None
    try:
        return matrix_of(modality, layer)
    except ValueError as error:
        raise ValueError(f"the modality {place.get('mod_key')!r}: {error}") from error


def _aligned(data: Any, registry: Registry, field: str) -> Any:
    """Return the counts of another modality, with its features in the model's order."""
    name = registry.place(field).get("mod_key")
    modality = _modality(data, name)
    matrix = _matrix(modality, registry, field)
    names = registry.state(field).get("column_names")
    if names is not None:
        wanted = pd.Index(np.asarray(names).astype(str))
        positions = pd.Index(modality.var_names.astype(str)).get_indexer(wanted)
        if (positions < 0).any():
            missing = ", ".join(map(repr, wanted[positions < 0][:5]))
            raise ValueError(
                f"the modality {name!r} of the MuData lacks {(positions < 0).sum()} of the model's "
                f"variables: {missing}. Add their counts"
            )
        check_structure(matrix, f"the counts of {field}")
        matrix = matrix[:, positions]
    check_structure(matrix, f"the counts of {field}")
    return sp.csr_matrix(matrix)


def _obs(data: Any, rna: Any, registry: Registry) -> pd.DataFrame:
    """Return columns of the MuData, of its RNA, and registered ones from where they are registered.

    Of the same name, that of the MuData comes first, as for scvi-tools.
    """
    obs = rna.obs.copy()
    for key in data.obs.columns:
        if not str(key).startswith("_"):
            obs[key] = data.obs[key]
    for field in _FIELDS:
        registered = _table_of(data, registry, field)
        for key in _keys(registry, field):
            if key in registered.obs:
                obs[key] = registered.obs[key].to_numpy()
    return obs


def _table_of(data: Any, registry: Registry, field: str) -> Any:
    """Return the modality that a field is registered in, or the MuData itself."""
    name = registry.place(field).get("mod_key")
    return data if name is None else data.mod[name]


def _keep_registered(table: AnnData, data: Any, registry: Registry) -> None:
    """Copy what scvi-tools registered, so that values that were changed since are noticed."""
    if _REGISTRATION not in data.uns:
        return
    table.uns[_REGISTRATION] = data.uns[_REGISTRATION]
    for field in _FIELDS:
        source, key = _table_of(data, registry, field), registry.place(field).get("attr_key")
        if key in source.obs:
            table.obs[key] = source.obs[key].to_numpy()
        elif key in source.obsm:
            table.obsm[key] = source.obsm[key]


def _keys(registry: Registry, field: str) -> list[str]:
    if field == "extra_categorical_covs":
        return list(registry.categorical)
    if field == "extra_continuous_covs":
        return registry.continuous
    if field == "size_factor":
        return registry.size_factors
    original = registry.state(field).get("original_key")
    return [str(original)] if original is not None else []


@dataclass(frozen=True)
class Beside:
    """Input that a model encodes in addition to the counts of its genes.

    Attributes
    ----------
    what
        ``"proteins"`` or ``"regions"``.
    key
        Key in ``obsm``; None if they are further variables of the counts.
    names
        Names of the features, in the model's order.
    """

    what: str
    key: str | None
    names: tuple[str, ...]


def beside(what: str, registry: Registry) -> Beside:
    """Describe the proteins or regions that a model reads from a separate table."""
    field, key = _BESIDE[what]
    names = registry.state(field).get("column_names")
    place = key if registry.is_mudata else registry.attribute(field)
    return Beside(what, place, () if names is None else tuple(map(str, names)))


def tables_beside(registry: Registry) -> list[Beside]:
    """Describe the named proteins that a model reads from ``obsm``, from its registry alone."""
    places = {what: registry.place(field) for what, (field, _) in _BESIDE.items()}
    in_obsm = [what for what, place in places.items() if place.get("attr_name") == "obsm"]
    return [found for what in in_obsm if (found := beside(what, registry)).names]


def protein_counts(adata: AnnData, registry: Registry) -> np.ndarray:
    """Return the counts of the model's proteins, in its order if they are named, ``(n_cells, n)``.

    Raises
    ------
    ValueError
        If the data lack all or some of them.
    """
    told = beside("proteins", registry)
    key, names = told.key, list(told.names)
    if key not in adata.obsm:
        raise ValueError(
            f"the model also encodes proteins, and the data lack obsm[{key!r}]: add their counts"
            if not registry.is_mudata
            else "the model also encodes proteins: pass a MuData with both modalities"
        )
    values = adata.obsm[key]
    check_structure(values, f"obsm[{key!r}]")
    values = _by_name(values, str(key), adata, registry, names)
    values = values.toarray() if sp.issparse(values) else np.asarray(values)
    if values.shape[1] != len(names):
        raise ValueError(
            f"obsm[{key!r}] has {values.shape[1]} proteins, but the model has {len(names)}: pass "
            "the same ones in the same order, or a DataFrame with their names"
        )
    check_beside(values, f"obsm[{key!r}]")
    return values.astype(np.float32)


def _by_name(values: Any, key: str, adata: AnnData, registry: Registry, names: list[str]) -> Any:
    """Return the columns in the model's order, if the table itself or ``uns`` names them.

    If the model was set up with names in ``uns``, these also name the columns of a table.

    Raises
    ------
    ValueError
        If proteins are missing, or the table and ``uns`` name them in different orders.
    """
    place = registry.setup.get("protein_names_uns_key")
    in_uns = None if place is None or place not in adata.uns else adata.uns[place]
    own = None
    if isinstance(values, pd.DataFrame):
        if in_uns is None or set(names) <= set(values.columns.astype(str)):
            own = _positions(values.columns, names, f"obsm[{key!r}]")
        values = values.to_numpy()
    if in_uns is None:
        return values if own is None else values[:, own]
    if len(in_uns) != values.shape[1]:
        raise ValueError(
            f"uns[{place!r}] has {len(in_uns)} names, but there are counts of {values.shape[1]} "
            "proteins"
        )
    found = _positions(in_uns, names, f"uns[{place!r}]")
    if own is not None and not np.array_equal(own, found):
        raise ValueError(
            f"uns[{place!r}] and the columns of obsm[{key!r}] name the proteins in different "
            "orders: correct the one that is wrong, or remove it"
        )
    return values[:, found]


def _positions(given: Any, names: list[str], where: str) -> np.ndarray:
    """Return the positions of the model's proteins among given names."""
    known = pd.Index(np.asarray(given).astype(str))
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} of the model's proteins, e.g. {missing[0]!r}: add them "
            "and their counts"
        )
    check_unique(known, f"{where}: protein", "rename or remove the others")
    return np.asarray(known.get_indexer(pd.Index(names)))


def check_beside(values: np.ndarray, place: str) -> None:
    """Check the counts of proteins or regions.

    Raises
    ------
    ValueError
        If there are negative, missing or infinite values, with which no cell can be encoded.

    Warns
    -----
    UserWarning
        If they are not whole numbers: scvi-tools trains on such values too.
    """
    fault = fault_of(values)
    if fault is None:
        return
    kind = values.dtype.kind
    if kind not in "if" or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{place} must hold raw counts, but holds {fault}")
    user_warnings.warn(
        f"{place} holds {fault}, but the model encodes raw counts: ignore this if it was trained "
        "on such values"
    )
