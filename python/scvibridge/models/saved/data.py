"""The data that a model is loaded with: from a file or in memory, in the model's variable order.

scvi-tools uses variables in the order of the data and at most warns. Here they are aligned by name,
within each modality of a MuData.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import mudata
import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge.io.backed import (
    closing_inputs,
    names_in_mudata,
    open_input,
    with_tables_in_memory,
)
from scvibridge.io.h5ad import columns_in_modalities, read_anndata, read_mudata
from scvibridge.io.joined_files import is_several, join_files
from scvibridge.io.raw_counts import as_raw_data, matrix_of
from scvibridge.io.row_reader import RowReader, is_dask
from scvibridge.io.sparse_files import check_matrices
from scvibridge.models import alignment
from scvibridge.models.adapters import is_minified
from scvibridge.models.adapters.registry import Registry
from scvibridge.models.saved.model_folder import ANNDATA_FILE, MUDATA_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scvibridge.models.saved.model_folder import ModelFolder


def is_multimodal(registry: Mapping[str, Any]) -> bool:
    """Return whether a model was set up by ``setup_mudata``, according to its registry."""
    return registry.get("setup_method_name") == "setup_mudata"


def saved_data(folder: ModelFolder, registry: Mapping[str, Any]) -> AnnData | mudata.MuData:
    """Read the data that were saved with a model.

    Raises
    ------
    FileNotFoundError
        If no data were saved.
    ValueError
        If they cannot be read.
    """
    path = folder.file(MUDATA_FILE if is_multimodal(registry) else ANNDATA_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"no data were saved with the model in {path.parent} ({path.name}): pass adata=, the "
            "data it was trained on, or adata=False to pass the data to each function"
        )
    return read_data(path, registry)


def saved_names(folder: ModelFolder, registry: Mapping[str, Any]) -> pd.Index | None:
    """Return the names of the cells in the data saved with a model; None without data."""
    multimodal = is_multimodal(registry)
    path = folder.file(MUDATA_FILE if multimodal else ANNDATA_FILE)
    if not path.is_file():
        return None
    try:
        with closing_inputs():
            return names_in_mudata(path) if multimodal else open_input(path).obs_names
    except (KeyError, OSError, TypeError, ValueError):
        return None


def read_data(path: str | PathLike[str], registry: Mapping[str, Any]) -> AnnData | mudata.MuData:
    """Read a file of the type that a model was set up with: AnnData or MuData.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        If it is not a path, the file does not exist, or it contains something else.
    """
    if not is_multimodal(registry):
        return read_anndata(path)
    return read_mudata(path)


def is_files(adata: Any) -> bool:
    """Whether data were given as a path, or as a list of paths."""
    return isinstance(adata, str | PathLike) or is_several(adata)


def read_files(adata: Any, var_names: Any, registry: Mapping[str, Any]) -> AnnData | mudata.MuData:
    """Read the data of a model from a path, or from one file for each sample.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        As for `read_data` and `join_files`.
    """
    if not is_several(adata):
        return read_data(adata, registry)
    if is_multimodal(registry):
        raise TypeError(
            "the model was set up by setup_mudata(): its data cannot be joined from several "
            "files. Pass a MuData or the path of an h5mu file"
        )
    setup = dict(registry.get("setup_args") or {})
    names = Registry(setup, {}, is_mudata=False).names_beside
    return join_files(adata, setup.get("layer"), var_names, names=names)


def aligned(
    adata: AnnData | mudata.MuData | str | PathLike[str] | Sequence[str | PathLike[str]],
    var_names: Any,
    registry: Mapping[str, Any],
) -> AnnData | mudata.MuData:
    """Align data to the variables of a model by name; variables unknown to it are left out.

    Parameters
    ----------
    adata
        The data, a path, or a list of paths.
    var_names
        Names of the model's variables; for a MuData a dict of the names of each modality, or in the
        older file format the names of all modalities concatenated.
    registry
        The model's registry.

    Raises
    ------
    TypeError
        If the data are an AnnData and the model needs a MuData, or vice versa.
    ValueError
        If a variable or a modality is missing.
    """
    data = read_files(adata, var_names, registry) if is_files(adata) else adata
    _check_kind(data, registry)
    if isinstance(data, AnnData):
        data = with_tables_in_memory(data)
    for part in data.mod.values() if isinstance(data, mudata.MuData) else [data]:
        check_matrices(part)
    if isinstance(data, mudata.MuData):
        if isinstance(var_names, dict):
            return _aligned_modalities(data, var_names, _modalities(registry))
        _check_order(data, var_names)
        return data
    return _aligned_anndata(_with_counts(data, registry), var_names)


def _with_counts(data: AnnData, registry: Mapping[str, Any]) -> AnnData:
    """Put the counts where the model reads them, or raise an error if they are missing."""
    layer = (registry.get("setup_args") or {}).get("layer")
    if is_minified(data):
        return data
    found = as_raw_data(data, layer)
    matrix = matrix_of(found, layer)
    return _computed(found, layer, matrix) if is_dask(matrix) else found


def _computed(data: AnnData, layer: str | None, matrix: Any) -> AnnData:
    """Data with the counts of a dask array in memory, which scvi-tools needs."""
    counts = RowReader(matrix).read(slice(0, data.n_obs))
    placed = {"X": counts} if layer is None else {"layers": {layer: counts}}
    return AnnData(**placed, obs=data.obs, var=data.var, obsm=dict(data.obsm), uns=dict(data.uns))


def _check_kind(data: object, registry: Mapping[str, Any]) -> None:
    if is_multimodal(registry):
        if not isinstance(data, mudata.MuData):
            raise TypeError(
                "the model was set up by setup_mudata(): adata must be a MuData or the path of an "
                f"h5mu file, got {type(data).__name__}"
            )
    elif isinstance(data, mudata.MuData):
        raise TypeError(
            "the model was set up by setup_anndata(): adata must be an AnnData, not a MuData. "
            f"Pass the modality it was trained on, one of {', '.join(data.mod)}"
        )
    elif not isinstance(data, AnnData):
        raise TypeError(
            f"adata must be an AnnData, a path, a list of paths or False, got {type(data).__name__}"
        )


def _aligned_anndata(data: AnnData, names: Any) -> AnnData:
    positions = alignment.gene_positions(pd.Index(names).astype(str), data.var_names)
    if data.is_view and data.isbacked:  # of which anndata makes no view
        data = data.to_memory()
    if positions is None and not data.is_view:
        return data
    some = data if positions is None else data[:, positions]
    return some.to_memory() if some.isbacked else some.copy()


def _modalities(registry: Mapping[str, Any]) -> list[str]:
    """Return the modalities that the model reads, in its order; the data may contain others.

    MULTIVI cannot reorder the modalities of a MuData, although it tries to.
    """
    named = (registry.get("setup_args") or {}).get("modalities") or {}
    first = [named.get(f"{kind}_layer") for kind in ("rna", "atac", "protein")]
    return [name for name in dict.fromkeys([*first, *named.values()]) if name is not None]


def _aligned_modalities(
    data: mudata.MuData, var_names: dict[str, Any], used: list[str]
) -> mudata.MuData:
    lacking = sorted(name for name in used if name in var_names and name not in data.mod)
    if lacking:
        raise ValueError(
            f"the data lack the modality {', '.join(lacking)}, which the model was trained on; "
            f"they have {', '.join(data.mod)}"
        )
    known = [name for name in used if name in var_names]
    known += [name for name in data.mod if name in var_names and name not in used]
    parts = {name: _aligned_modality(data.mod[name], name, var_names[name]) for name in known}
    if known == list(data.mod) and all(parts[name] is data.mod[name] for name in known):
        return data
    with columns_in_modalities():
        made = mudata.MuData(parts)
    made.obs = data.obs.loc[made.obs_names]
    for key, value in data.obsm.items():
        # MuData records the cells of each modality there.
        if key not in data.mod:
            made.obsm[key] = value
    made.uns = data.uns
    return made


def _aligned_modality(data: AnnData, name: str, names: Any) -> AnnData:
    try:
        return _aligned_anndata(data, names)
    except ValueError as error:
        raise ValueError(f"modality {name}: {error}") from error


def _check_order(data: mudata.MuData, names: Any) -> None:
    if not np.array_equal(np.asarray(data.var_names).astype(str), np.asarray(names).astype(str)):
        raise ValueError(
            "the variables of the data differ from the model's, or are in another order. The "
            "model was saved in a format that does not record the modality of each variable, so "
            "they cannot be aligned by name: pass the MuData that it was trained on"
        )
