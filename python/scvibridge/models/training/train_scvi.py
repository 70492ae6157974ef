"""Train an SCVI model on raw counts, ready for use with all functions of the package."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge._utils import arguments, r_classes, selections, user_warnings, wording
from scvibridge._utils.arguments import check_types, column_names, is_whole
from scvibridge._utils.forked import adapt_to_fork
from scvibridge._utils.reserved_columns import check_keys
from scvibridge._utils.sparse_structure import check_structure
from scvibridge.io.backed import (
    as_data_frame,
    closing_inputs,
    open_input,
    with_tables_in_memory,
)
from scvibridge.io.joined_files import is_several, join_files
from scvibridge.io.opened_files import remember_sources
from scvibridge.io.raw_counts import as_raw_data, matrix_of
from scvibridge.io.row_reader import RowReader
from scvibridge.io.sparse_files import check_given
from scvibridge.io.storage import check_content
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.models import alignment
from scvibridge.models.adapters import COUNT_LIKELIHOODS
from scvibridge.models.adapters.registered_columns import check_registrable, is_plain_number
from scvibridge.models.cell_data import canonical_counts
from scvibridge.models.trained_on import remember
from scvibridge.models.training.saving import check_saving, save_trained
from scvibridge.models.training.trainer import (
    check_enough_cells,
    default_warmup,
    fit_scvi,
    n_epochs,
    placed,
    training_session,
)
from scvibridge.models.training.variable_genes import variable_genes
from scvibridge.models.training_cells import keep_names

if TYPE_CHECKING:
    from collections.abc import Sequence


# Larger values are mistakes, such as a number of genes or epochs passed as another argument.
_MOST = {"n_latent": 10_000, "n_layers": 100}


def train_scvi(
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]],
    batch_key: str | None = None,
    labels_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    layer: str | None = None,
    n_top_genes: int | Sequence[str] | None = 2000,
    n_latent: int = 10,
    n_layers: int = 1,
    gene_likelihood: str = "nb",
    max_epochs: int | None = None,
    n_epochs_kl_warmup: int | None = None,
    early_stopping: bool = True,
    seed: int = 0,
    device: str = "auto",
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Any:
    """Train an SCVI model on raw counts.

    Parameters
    ----------
    adata
        Data with raw counts, cells x genes: an AnnData, which is not changed, a path (h5ad,
        zarr), or a list of paths (such as one for each sample). Counts are read into memory.
    batch_key
        Column of ``obs`` with the batches.
    labels_key
        Column of ``obs`` with cell types, which are registered with the model. SCVI itself does not
        use them.
    categorical_covariate_keys, continuous_covariate_keys
        Columns of ``obs`` with further covariates.
    layer
        Layer with the raw counts, ``X`` if None. ``"raw"`` means ``adata.raw``, with its genes, if
        no layer has that name. The model is set up with this layer: data passed to it later are
        also read from there.
    n_top_genes
        Number of variable genes to select (all genes if there are no more), gene names, a boolean
        Series indexed by gene names, or None for all genes.
    n_latent, n_layers, gene_likelihood
        Settings of :class:`scvi.model.SCVI`; the likelihood is ``"nb"``, ``"zinb"`` or
        ``"poisson"``.
    max_epochs
        Maximum number of epochs; scvi-tools' default for the number of cells if None.
    n_epochs_kl_warmup
        Number of epochs over which the prior of the latent variables reaches its full weight; a
        quarter of `max_epochs`, at most 400, if None.
    early_stopping
        Whether to stop once the ELBO of the held-out cells has not improved for 45 epochs.
    seed
        Seed of weights, split and minibatches, 0 to 2**32 - 1. The same seed gives the same model
        on the same machine; the caller's random number state is unaffected.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    save
        Folder to save the model to, with its data, so that :func:`scvibridge.load` needs nothing
        else. It is written under a temporary name, then renamed.
    overwrite
        Whether to replace an existing folder of that name, if it contains only a model.
    progress
        Whether to show progress.

    Returns
    -------
    scvi.model.SCVI
        The trained model. Its ``adata`` has the cells with counts, the chosen genes, and the
        ``obs``, ``var`` and ``obsm`` of the data.

    Raises
    ------
    TypeError
        If `adata` is neither an AnnData nor a path, or an argument has the wrong type.
    ValueError
        If columns do not exist, have missing values or are not numeric where numbers are needed,
        the data contain no counts, names are duplicated, genes are unknown, an argument is out of
        range, or part of the data cannot be saved.
    FileExistsError, FileNotFoundError
        If the folder exists and `overwrite` is False, or it contains more than a model; or its
        parent does not exist.

    Warns
    -----
    UserWarning
        If cells without counts of the selected genes are left out of training; or if the trained
        model, which is returned anyway, could not be saved.

    Notes
    -----
    Variable genes are those of scanpy's ``highly_variable_genes(flavor="seurat_v3")``, by batch.
    scvi-tools' default warm-up takes 400 epochs regardless of `max_epochs`: in a shorter training
    the prior never reaches its full weight, and the latent space retains more of the batch. (10x
    chemistries, 100 epochs: 1.7 times as many neighbours from the same batch as expected; 1.3 with
    a warm-up of 20.)

    Examples
    --------
    >>> model = scvibridge.train_scvi(adata, batch_key="batch")  # doctest: +SKIP
    """
    check_types(train_scvi, locals())
    _check_settings(gene_likelihood, n_latent, n_layers, max_epochs, n_epochs_kl_warmup)
    adapt_to_fork()
    seed, where = int(check_seed(seed)), placed(device)
    folder = None if save is None else check_saving(save, adata, overwrite=bool(overwrite))
    keys: dict[str, Any] = {
        "batch_key": batch_key,
        "labels_key": labels_key,
        "categorical_covariate_keys": column_names(
            categorical_covariate_keys, "categorical_covariate_keys"
        ),
        "continuous_covariate_keys": column_names(
            continuous_covariate_keys, "continuous_covariate_keys"
        ),
    }
    check_keys(keys, registers=True)
    _check_distinct(keys)
    with closing_inputs():
        data = as_raw_data(_opened(adata, layer), layer)
        cells = _chosen(data, keys, layer, n_top_genes)
    if folder is not None:
        check_content(cells)
    architecture = {"n_latent": n_latent, "n_layers": n_layers, "gene_likelihood": gene_likelihood}
    total = n_epochs(cells.n_obs, max_epochs)
    warmup = default_warmup(total) if n_epochs_kl_warmup is None else n_epochs_kl_warmup
    how = {
        "early_stopping": bool(early_stopping),
        "plan_kwargs": {"n_epochs_kl_warmup": int(warmup)},
        **where,
    }
    with training_session(seed):
        setup = {**keys, "layer": layer}
        model = fit_scvi(cells, setup, architecture, total, progress, how)
    remember(model, data, layer, cells, keys["continuous_covariate_keys"] or ())
    remember_sources(model, adata)
    keep_names(model)
    if folder is not None:
        save_trained(model, folder, overwrite=bool(overwrite))
    return model


# -- checks ------------------------------------------------------------------------------------


def _check_settings(
    gene_likelihood: Any, n_latent: Any, n_layers: Any, max_epochs: Any, n_epochs_kl_warmup: Any
) -> None:
    arguments.check_choice(gene_likelihood, COUNT_LIKELIHOODS, "gene_likelihood")
    numbers = {"n_latent": n_latent, "n_layers": n_layers}
    optional = {"max_epochs": max_epochs, "n_epochs_kl_warmup": n_epochs_kl_warmup}
    numbers |= {name: value for name, value in optional.items() if value is not None}
    for name, value in numbers.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if value > _MOST.get(name, value):
            raise ValueError(f"{name} must be at most {_MOST[name]:,}, got {value!r}")


def _check_distinct(keys: dict[str, Any]) -> None:
    """Check that no covariate is the batch itself or is named twice."""
    several = ("categorical_covariate_keys", "continuous_covariate_keys")
    for name in several:
        if keys["batch_key"] in (keys[name] or ()):
            raise ValueError(
                f"{name} includes {keys['batch_key']!r}, which is already the batch: as a "
                "covariate it would keep the batch effect, regardless of the target batch"
            )
    both = [key for key in keys[several[0]] or () if key in (keys[several[1]] or ())]
    if both:
        raise ValueError(
            f"{both[0]!r} is both a categorical and a continuous covariate: pass it as one of them"
        )


def _opened(adata: Any, layer: str | None) -> AnnData:
    if is_several(adata):
        return join_files(adata, layer)
    if isinstance(adata, str | PathLike):
        return open_input(adata)
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData or a path, got {type(adata).__name__}")
    check_given(adata)
    return with_tables_in_memory(adata)


def _categories(data: AnnData, key: str, argument: str) -> pd.Categorical:
    codes, names = arguments.column_codes(data, key, argument)
    n_missing = int((codes < 0).sum())
    if n_missing:
        raise ValueError(
            f"obs[{key!r}] is missing for {n_missing} of {len(codes)} cells: fill in the values, "
            "or leave out these cells"
        )
    column = pd.Categorical.from_codes(codes, names)
    check_registrable(column, key)
    return column


def _numbers(obs: pd.DataFrame, key: str) -> np.ndarray:
    if key not in obs:
        raise ValueError(
            f"continuous_covariate_keys: {key!r} is not a column of obs"
            f"{wording.suggest(key, map(str, obs.columns))}"
        )
    values = pd.to_numeric(obs[key], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad or isinstance(obs[key].dtype, pd.CategoricalDtype):
        raise ValueError(
            f"continuous_covariate_keys: obs[{key!r}] must hold finite numbers, but does not for "
            f"{n_bad or len(values)} of {len(values)} cells"
        )
    return values


def _covariates(data: AnnData, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the columns that the model is set up with, after checking them."""
    named = {key: name for name in ("batch_key", "labels_key") if (key := keys[name]) is not None}
    several = "categorical_covariate_keys"
    named |= dict.fromkeys(keys[several] or (), several)
    found: dict[str, Any] = {key: _categories(data, key, name) for key, name in named.items()}
    for key in keys["continuous_covariate_keys"] or ():
        found[key] = _numbers(as_data_frame(data.obs), key)
    return found


# -- data --------------------------------------------------------------------------------------


def _chosen(
    data: AnnData,
    keys: dict[str, Any],
    layer: str | None,
    n_top_genes: int | Sequence[str] | None,
) -> AnnData:
    """Return an AnnData of the cells with counts by the selected genes."""
    arguments.check_unique(data.obs_names, "cell", "adata.obs_names_make_unique()")
    arguments.check_unique(data.var_names, "gene", "adata.var_names_make_unique()")
    check_enough_cells(data.n_obs, "training")
    covariates = _covariates(data, keys)
    obs = as_data_frame(data.obs)
    counts = _counts(data, layer)
    batches = None if keys["batch_key"] is None else pd.Series(covariates[keys["batch_key"]])
    genes = _gene_positions(counts, data.var_names, n_top_genes, batches)
    counts = counts[:, genes]
    full = np.asarray(counts.sum(axis=1)).ravel() > 0
    check_enough_cells(int(full.sum()), "training")
    if not full.all():
        user_warnings.warn(
            f"{int((~full).sum())} of {len(full)} cells have no counts of the {len(genes)} genes "
            "and are left out of training"
        )
    for key, values in data.obsm.items():
        check_structure(values, f"obsm[{key!r}]")
    kept = counts[full].astype(np.float32)
    cells = AnnData(
        **({"X": kept} if layer is None else {"layers": {layer: kept}}),
        obs=obs.loc[full].copy(),
        var=as_data_frame(data.var).iloc[genes].copy(),
        obsm={key: values[full] for key, values in data.obsm.items()},
        uns=r_classes.kept(data.uns),
    )
    for key in keys["continuous_covariate_keys"] or ():
        if not is_plain_number(cells.obs[key]):
            cells.obs[key] = covariates[key][full]
    return cells


def _counts(data: AnnData, layer: str | None) -> sp.csr_matrix:
    matrix = matrix_of(data, layer, layer_argument=True)
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):
        on_disk = hasattr(matrix, "to_memory")
        matrix = matrix.to_memory() if on_disk else RowReader(matrix).read(slice(0, data.n_obs))
    alignment.check_counts(matrix, data, layer, layer_argument=True)
    return canonical_counts(matrix, None)


def _gene_positions(
    counts: sp.csr_matrix,
    genes: pd.Index,
    n_top_genes: int | Sequence[str] | None,
    batches: pd.Series | None,
) -> np.ndarray:
    if n_top_genes is None:
        return np.arange(len(genes))
    if is_whole(n_top_genes):
        if n_top_genes < 1:
            raise ValueError(f"n_top_genes must be at least 1, got {n_top_genes!r}")
        return variable_genes(counts, int(n_top_genes), batches)
    if isinstance(n_top_genes, str) or not isinstance(n_top_genes, Iterable):
        raise TypeError(
            f"n_top_genes must be a whole number, a list of genes or None, got {n_top_genes!r}"
        )
    return selections.positions_of_genes(
        n_top_genes, pd.Index(genes.astype(str)), "the data lack", "n_top_genes"
    )
