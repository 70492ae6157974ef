"""Check the user's data before any work starts."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils.arguments import check_unique
from scvibridge._utils.pools import HERE
from scvibridge._utils.wording import list_names, shorten
from scvibridge.io.backed import open_input, with_tables_in_memory
from scvibridge.io.h5ad import read_anndata, read_mudata
from scvibridge.io.joined_files import is_several, join_files
from scvibridge.io.raw_counts import as_raw_data, fault_of, hint_of_counts, matrix_of, name_of_place
from scvibridge.io.row_reader import RowReader, with_rows
from scvibridge.io.sparse_files import check_given
from scvibridge.models import same_cells, trained_on
from scvibridge.models.adapters import COUNT_LIKELIHOODS, is_minified
from scvibridge.models.adapters.multimodal import is_mudata
from scvibridge.models.cell_data import CellData, CountsInMemory, CountsOnDisk, canonical_counts

if TYPE_CHECKING:
    from scvibridge._utils.pools import Pool
    from scvibridge.models.adapters import Adapter


# -- data --------------------------------------------------------------------------------------


def resolve_adata(adapter: Adapter, adata: Any, stream: bool = False) -> AnnData:
    """Return the AnnData to work on: the model's, `adata` itself, or the one read from a path.

    `adata` may also be a list of paths, which are joined. The counts are where the model reads them
    (:func:`scvibridge.io.raw_counts.as_raw_data`). With `stream` the matrices of a file stay on
    disk.
    """
    if adata is None:
        if adapter.adata is None:
            raise ValueError("the model was loaded without data: pass adata=")
        return adapter.adata
    if is_several(adata) or isinstance(adata, str | PathLike):
        return _read(adapter, adata, stream)
    if is_mudata(adata):
        return adapter.as_anndata(adata)
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData or a path, got {type(adata).__name__}")
    check_given(adata)
    if adapter.adata is not None and adapter.is_own(adata):
        return adapter.adata
    return as_raw_data(with_tables_in_memory(adata), adapter.layer)


def _read(adapter: Adapter, adata: Any, stream: bool) -> AnnData:
    """Read or open the file at a path, or join those of a list."""
    if is_several(adata):
        names = adapter.registry.names_beside
        return join_files(adata, adapter.layer, adapter.genes, on_disk=stream, names=names)
    if Path(adata).suffix.lower() == ".h5mu":
        return adapter.as_anndata(read_mudata(adata))
    opened = open_input(adata) if stream else read_anndata(adata)
    return as_raw_data(opened, adapter.layer)


def align(
    adapter: Adapter,
    adata: AnnData,
    out: Path | None = None,
    progress: bool = False,
    pool: Pool = HERE,
) -> CellData:
    """Align data to the model's genes by name, and check counts, names and covariates.

    Parameters
    ----------
    adapter, adata
        The model and the data.
    out
        Output file, if any. With an output file, counts on disk stay there and are read once, to
        check them (if they are stored by gene, from a copy by cell in the folder of the output
        file); otherwise they are loaded.
    progress
        Whether to show progress when counts are read from disk.
    pool
        Where counts on disk are checked, and where tasks on the cells are computed.

    Raises
    ------
    ValueError
        If genes of the model are missing, names are duplicated, or the values are not counts.
    ValueError
        If the layer or a column that the model was set up with is missing.
    """
    check_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    genes = gene_positions(adapter.genes, adata.var_names, adata.raw)
    covariates = adapter.covariates(_with_columns(adapter, adata))
    n_batches = len(adapter.batches)
    if adapter.minified and adata is adapter.adata:
        return CellData(adata, None, covariates, n_batches, pool=pool)
    if is_minified(adata):
        raise ValueError(
            "adata was minified to latent variables and has no counts: pass data with counts"
        )
    trained_on.check(adapter, adata)
    matrix = matrix_of(adata, adapter.layer)
    in_memory = isinstance(matrix, np.ndarray) or sp.issparse(matrix)
    if out is None or in_memory:
        if not in_memory:
            matrix = RowReader(with_rows(matrix)).read(slice(0, adata.n_obs))
        check_counts(matrix, adata, adapter.layer)
        counts = CountsInMemory(canonical_counts(matrix, genes))
        data = CellData(adata, counts, covariates, n_batches, pool=pool)
        same_cells.check(adapter, data)
        return data
    on_disk = CountsOnDisk(
        matrix, genes, lambda fault: _not_counts(fault, adata, adapter.layer), out
    )
    data = CellData(adata, on_disk, covariates, n_batches, progress, pool=pool)
    data.summary  # noqa: B018 - reads, and so checks, all counts
    same_cells.check(adapter, data)
    return data


def _with_columns(adapter: Adapter, adata: AnnData) -> AnnData:
    """Add columns missing from counts passed with minified data, from those data, by cell name."""
    own = adapter.adata
    if not adapter.minified or own is None or adata is own:
        return adata
    missing = [key for key in adapter.registry.columns if key in own.obs and key not in adata.obs]
    if not missing:
        return adata
    unknown = adata.obs_names[~adata.obs_names.isin(own.obs_names)]
    if len(unknown):
        raise ValueError(
            f"the data lack obs[{missing[0]!r}], which could be taken from the model's data, but "
            f"{len(unknown)} cells are not among the model's: {shorten(unknown)}"
        )
    obs = adata.obs.copy()
    for key in missing:
        obs[key] = own.obs.loc[adata.obs_names, key].to_numpy()
    return AnnData(obs=obs, obsm=dict(adata.obsm), uns=dict(adata.uns))


def reference_data(adapter: Adapter, data: CellData) -> CellData:
    """Return the model's data if they have counts, else `data`."""
    own = adapter.adata
    if own is None or own is data.adata or adapter.minified:
        return data
    return align(adapter, own, pool=data.pool)


def lacking_batches(data: CellData, reference: CellData) -> list[int]:
    """Return the batches of which `data` have cells and `reference` has none, sorted.

    All cells of `data` count, not only the requested ones: the result of some cells must not differ
    from that of all.
    """
    if reference is data:
        return []
    return sorted({*data.covariates.batch.tolist()} - {*reference.covariates.batch.tolist()})


def gene_positions(genes: pd.Index, var_names: pd.Index, raw: Any = None) -> np.ndarray | None:
    """Return the position of each model gene among `var_names`; None if they are identical.

    `raw` is the data's ``adata.raw``, which the error mentions if it has all of the genes.
    """
    names = pd.Index(var_names.astype(str))
    check_unique(names, "gene", "adata.var_names_make_unique()")
    if names.equals(genes):
        return None
    positions = names.get_indexer(genes)
    missing = genes[positions < 0]
    if len(missing):
        named_otherwise = len(missing) == len(genes) and len(names) > 0
        in_raw = raw is not None and genes.isin(raw.var_names.astype(str)).all()
        raise ValueError(
            f"the data lack {len(missing)} of the model's {len(genes)} genes: "
            f"{shorten(missing)}. Counts are decoded over all of them"
            + (f"; the data have names such as {shorten(names)}" if named_otherwise else "")
            + ("; adata.raw has all of them: pass adata.raw.to_adata()" if in_raw else "")
        )
    return np.asarray(positions)


def check_counts(
    matrix: Any, adata: AnnData, layer: str | None, *, layer_argument: bool = False
) -> None:
    """Raise an error for values that are not counts: negative, missing, infinite or not whole.

    With `layer_argument` the message mentions the caller's argument `layer`.
    """
    fault = fault_of(matrix.data if sp.issparse(matrix) else np.asarray(matrix))
    if isinstance(matrix, np.ma.MaskedArray) and np.ma.getmaskarray(matrix).any():
        fault = "masked (missing) values"
    if fault is not None:
        raise ValueError(_not_counts(fault, adata, layer, layer_argument))


def _not_counts(fault: str, adata: AnnData, layer: str | None, layer_argument: bool = False) -> str:
    """Return the message for values that are not counts, given what they are."""
    return (
        f"{name_of_place(adata, layer)} must hold raw counts, but holds {fault}"
        f"{hint_of_counts(adata, layer, layer_argument=layer_argument)}"
    )


def check_likelihood(adapter: Adapter) -> None:
    """Raise an error for a model whose likelihood is not one of counts.

    Raises
    ------
    ValueError
        If the likelihood is not one of counts.
    """
    if adapter.gene_likelihood not in COUNT_LIKELIHOODS:
        raise ValueError(
            f"the model has gene_likelihood={adapter.gene_likelihood!r}, which is not a "
            f"likelihood of counts; supported: {list_names(COUNT_LIKELIHOODS)}"
        )
