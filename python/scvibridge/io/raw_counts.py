"""Locate the raw counts of an AnnData: ``X``, a layer, ``adata.raw``, or a layer of a result.

All data for a model pass through :func:`as_raw_data`, so that a layer, ``raw`` and a result of
scvibridge mean the same everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils import user_warnings
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.row_reader import RowReader

# The layer name that means ``adata.raw``, unless there is a layer with this name.
RAW = "raw"

# Layer of a result with the cells' raw counts.
RAW_LAYER = "raw_counts"

# Columns of ``obs`` in results.
FLAG_PREFIX = "scvibridge_"

# In ``uns``: the matrix of an R object, or of an AnnData, that the counts came from.
ORIGIN_KEY = "scvibridge_counts"

# Attribute of a model set by `scvibridge.models.trained_on`; scvi-tools saves it because of its
# underscore.
TRAINING = "scvibridge_training_"

# Content of ``X`` by kind of result.
CONTENT_OF_KIND = {
    "corrected_counts": "corrected counts",
    "normalized_expression": "normalized expression",
    "denoised_expression": "denoised expression",
}

_EXPERIMENTS = ("SingleCellExperiment", "SummarizedExperiment")

# Number of rows of a matrix on disk used to check whether it contains counts.
_ROWS_LOOKED_AT = 200

# Number of values that are rounded at a time: temporary arrays stay in a core's cache.
_VALUES_AT_A_TIME = 2**18


def as_raw_data(adata: AnnData, layer: str | None) -> AnnData:
    """Return data whose `layer` (``X`` if None) holds their raw counts.

    Parameters
    ----------
    adata
        The user's data; not changed.
    layer
        Where to look for the counts.

    Returns
    -------
    AnnData
        `adata` itself if nothing has to be done. For ``layer="raw"`` and data without such a
        layer, the genes and counts of ``adata.raw``. For a result of scvibridge, the counts of its
        ``layers["raw_counts"]``, regardless of `layer`. Matrices are shared, not copied.

    Raises
    ------
    ValueError
        If `adata` is a result without raw counts.

    Warns
    -----
    UserWarning
        If `adata` is a result, because its other matrices are no input for a model; or if it has
        the columns of a result but not its raw counts.
    """
    _refuse_result_of_r(adata, layer)
    if is_result(adata):
        # Regardless of other layers and raw: `layers["counts"] = X` and `raw = adata` are set
        # before X is normalised, and in a result they hold corrected counts.
        has_layer = layer == RAW_LAYER and layer in adata.layers
        return adata if has_layer else _of_result(adata, layer)
    if layer == RAW and layer not in adata.layers and adata.raw is not None:
        return _of_raw(adata)
    is_known = bool((origin_of(adata, layer) or {}).get("raw"))
    if layer is None and _is_flagged(adata) and not is_known:
        user_warnings.warn(
            f"the cells have columns of a result of scvibridge ({FLAG_PREFIX}...), but its record "
            "and the raw counts are missing. If the counts passed are corrected ones, pass the raw "
            "ones; if they are raw, remove these columns"
        )
    return adata


def _refuse_result_of_r(adata: AnnData, layer: str | None) -> None:
    origin = origin_of(adata, layer)
    if origin is not None and origin.get("result"):
        has_assays = "assay" in origin
        remedy = "name the assay" if has_assays else "pass the matrix"
        raise ValueError(
            f"the counts passed are those of {describe_origin(origin)}, which is a result of "
            f"scvibridge: {remedy} with the raw counts"
        )


def is_result(adata: AnnData) -> bool:
    """Return whether an AnnData is a result of scvibridge, even without its provenance."""
    provenance = adata.uns.get(PROVENANCE_KEY)
    if isinstance(provenance, Mapping) and provenance.get("kind") in CONTENT_OF_KIND:
        return True
    return lost_provenance(adata)


def lost_provenance(adata: AnnData) -> bool:
    """Return whether an AnnData has the layer and flags of a result, but not its provenance."""
    return PROVENANCE_KEY not in adata.uns and _is_flagged(adata) and RAW_LAYER in adata.layers


def _is_flagged(adata: AnnData) -> bool:
    return any(str(column).startswith(FLAG_PREFIX) for column in adata.obs.columns)


def _of_raw(adata: AnnData) -> AnnData:
    raw = adata.raw
    return AnnData(
        layers={RAW: raw.X},
        obs=adata.obs,
        var=raw.var,
        obsm=dict(adata.obsm),
        uns={**adata.uns, ORIGIN_KEY: {"object": "AnnData", "layer": RAW, "slot": RAW}},
    )


def _of_result(adata: AnnData, layer: str | None) -> AnnData:
    provenance = adata.uns.get(PROVENANCE_KEY, {})
    kind = provenance.get("kind", "corrected_counts")
    if RAW_LAYER not in adata.layers:
        raise ValueError(
            f"adata is a result of {kind}: its X holds {CONTENT_OF_KIND[kind]}, and it has no "
            f"layers[{RAW_LAYER!r}] with raw counts. Pass the data with the raw counts"
        )
    place = "X" if layer is None else f"layers[{layer!r}]" if layer in adata.layers else "raw"
    content = f", which holds {CONTENT_OF_KIND[kind]}" if layer is None else ""
    user_warnings.warn(
        f"adata is a result of {kind}: the raw counts are read from its layers[{RAW_LAYER!r}], "
        f"not from {place}{content}"
    )
    counts = adata.layers[RAW_LAYER]
    tables = {"obs": adata.obs, "var": adata.var, "obsm": dict(adata.obsm)}
    if layer is None:
        return AnnData(counts, **tables)
    return AnnData(layers={layer: counts}, **tables)


# -- reading and naming --------------------------------------------------------------------------


def matrix_of(adata: AnnData, layer: str | None, *, layer_argument: bool = False) -> Any:
    """Return the matrix of `layer` (``X`` if None), in memory or on disk.

    Parameters
    ----------
    adata, layer
        The result of :func:`as_raw_data`, and the same layer.
    layer_argument
        Whether the caller has an argument `layer`, which the messages then mention.

    Raises
    ------
    ValueError
        If there is no such matrix; the message says where whole numbers are.
    """
    if layer is not None and layer not in adata.layers:
        hint = hint_of_counts(adata, layer, layer_argument=layer_argument)
        missing = (
            f"the data have no layer {layer!r}"
            if layer_argument
            else f"the model was set up with layers[{layer!r}], which is missing from the data"
        )
        if layer == RAW:
            missing += ", and adata.raw is None"
        near = difflib.get_close_matches(layer, [str(name) for name in adata.layers], n=1)
        raise ValueError(missing + (f": did you mean {near[0]!r}?" if near else hint))
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        hint = hint_of_counts(adata, layer, layer_argument=layer_argument)
        raise ValueError(f"the data have no counts: adata.X is None{hint}")
    return matrix


def name_of_place(adata: AnnData, layer: str | None) -> str:
    """Return the user's name of the matrix of `layer`: that of the R object that it came from."""
    origin = origin_of(adata, layer)
    if origin is not None and not _matrices(adata, layer):
        return describe_origin(origin)
    return "adata.X" if layer is None else f"layers[{layer!r}]"


def hint_of_counts(adata: AnnData, layer: str | None, *, layer_argument: bool = False) -> str:
    """Say where there are whole numbers, if not in `layer`, and how to use them; else "".

    Parameters
    ----------
    adata, layer
        The data, and the layer without counts.
    layer_argument
        Whether the caller has an argument `layer`.
    """
    for name, matrix in _matrices(adata, layer):
        if not looks_like_counts(matrix):
            continue
        if name == RAW and matrix is not adata.layers.get(RAW):
            return f". adata.raw holds whole numbers: {_use_of_raw(layer, layer_argument)}"
        place = "adata.X" if name is None else f"adata.layers[{name!r}]"
        found = place.removeprefix("adata.") if name is not None else place
        if layer_argument:
            use = "leave layer out" if name is None else f"layer={name!r}"
        else:
            target = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
            use = f"if those are the raw counts, put them there, {target} = {place}"
        return f". {found} holds whole numbers: {use}"
    origin = origin_of(adata, layer)
    return "" if origin is None else _hint_in_r(origin)


def _use_of_raw(layer: str | None, layer_argument: bool) -> str:
    if layer_argument:
        return f"layer={RAW!r}"
    if layer is None:
        return "pass adata.raw.to_adata()"
    return f"new = adata.raw.to_adata(); new.layers[{layer!r}] = new.X; pass new"


def _hint_in_r(origin: Mapping[str, Any]) -> str:
    others = [str(name) for name in np.atleast_1d(origin.get("others", []))]
    if not others:
        return ""
    what = "layer" if origin["object"] == "Seurat" and origin.get("layer") else "assay"
    listed = ", ".join(others[:10])
    return f". The object also has {listed}: name the {what} with the raw counts, {what} = ..."


def _matrices(adata: AnnData, layer: str | None) -> list[tuple[str | None, Any]]:
    """Other matrices that may hold the counts, the likeliest first."""
    found: list[tuple[str | None, Any]] = [
        (str(name), adata.layers[name]) for name in adata.layers if name not in (None, layer)
    ]
    found.sort(key=lambda item: "count" not in str(item[0]).lower())
    if adata.raw is not None and layer != RAW:
        found.append((RAW, adata.raw.X))
    if layer is not None and adata.X is not None:
        found.append((None, adata.X))
    return found


def looks_like_counts(matrix: Any) -> bool:
    """Return whether values are non-negative whole numbers, based on some rows if on disk."""
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):
        if len(getattr(matrix, "shape", ())) != 2:
            return False
        try:
            matrix = RowReader(matrix).read(slice(0, min(matrix.shape[0], _ROWS_LOOKED_AT)))
        except TypeError:  # stored by column, so single rows cannot be read
            return False
    values = matrix.data if sp.issparse(matrix) else np.asarray(matrix)
    return fault_of(values) is None


def fault_of(values: np.ndarray) -> str | None:
    """Describe why values are not counts; None if they are."""
    if values.dtype.kind in "ub" or values.size == 0:
        return None
    if values.dtype.kind not in "if":
        return f"values of type {values.dtype}"
    lowest, highest = values.min(), values.max()  # NaN if there is one
    if not np.isfinite(lowest) or not np.isfinite(highest):
        return "NaN or infinite values"
    if lowest < 0:
        return "negative values (scaled data?)"
    if values.dtype.kind == "f" and not _are_whole(values):
        return "values that are not whole numbers (normalised or log-transformed data?)"
    return None


def _are_whole(values: np.ndarray) -> bool:
    step = max(1, _VALUES_AT_A_TIME * len(values) // values.size)
    parts = (values[start : start + step] for start in range(0, len(values), step))
    return all((part == np.floor(part)).all() for part in parts)


# -- origin ----------------------------------------------------------------------------------------


def origin_of(adata: AnnData, layer: str | None) -> dict[str, Any] | None:
    """Return the recorded matrix and object that the counts in `layer` came from, if any.

    The record describes one matrix of the AnnData, its ``slot`` (``X`` by default).
    """
    origin = adata.uns.get(ORIGIN_KEY)
    if not isinstance(origin, Mapping) or "object" not in origin:
        return None
    return dict(origin) if (origin.get("slot") or None) == layer else None


def describe_origin(origin: Mapping[str, Any]) -> str:
    """Name that matrix, as in ``the assay UMI (layer counts) of the Seurat object``."""
    kind, assay, layer = (str(origin.get(name) or "") for name in ("object", "assay", "layer"))
    if kind == "AnnData":
        return f"adata.{layer}"
    if not assay:
        return f"a {kind}"
    within = f" (layer {layer})" if layer else ""
    owner = "Seurat object" if kind == "Seurat" else kind
    return f"the assay {assay}{within} of the {owner}"


def is_same_origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two matrices have the same place, or belong to incomparable objects."""
    kinds = [str(origin["object"]) for origin in (one, other)]
    families = ["experiment" if kind in _EXPERIMENTS else kind for kind in kinds]
    if families[0] != families[1]:
        return True
    names = ("assay", "layer")
    return all(str(one.get(name) or "") == str(other.get(name) or "") for name in names)
