"""Training an SCVI of one's own data, ready for all that the package does with models."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge import inputs
from scvibridge.files import check_tables, replacing
from scvibridge.forked import check_fork
from scvibridge.interrupts import staying_interrupts
from scvibridge.kernels.philox import check_seed
from scvibridge.models import COUNT_LIKELIHOODS
from scvibridge.on_disk import RowReader, as_data_frame, open_anndata
from scvibridge.progress import counting
from scvibridge.sources import canonical_counts
from scvibridge.torch_threads import one_thread
from scvibridge.training import minibatch, own_random_numbers, placed, quiet
from scvibridge.training_cells import keep_names
from scvibridge.variable_genes import variable_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def train_scvi(
    adata: AnnData | str | PathLike[str],
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
    """Train an SCVI on raw counts.

    Parameters
    ----------
    adata
        Data with raw counts, cells x genes: an AnnData, which is not changed, or a path (h5ad,
        zarr). Counts are read into memory.
    batch_key
        Column of ``obs`` with the batches.
    labels_key
        Column of ``obs`` with cell types, which are registered with the model. They are no part of
        an SCVI.
    categorical_covariate_keys, continuous_covariate_keys
        Columns of ``obs`` with further covariates.
    layer
        Layer with the raw counts, ``X`` if None.
    n_top_genes
        How many variable genes to take (all where there are not more), the names of genes, or None
        for all.
    n_latent, n_layers, gene_likelihood
        Settings of :class:`scvi.model.SCVI`; the likelihood is ``"nb"``, ``"zinb"`` or
        ``"poisson"``.
    max_epochs
        Most epochs; scvi-tools' own choice for the number of cells if None.
    n_epochs_kl_warmup
        Epochs over which the prior of the latent variables gets its weight; a quarter of
        `max_epochs`, at most 400, if None.
    early_stopping
        Whether to stop once the ELBO of the held-out cells has not become better for 45 epochs.
    seed
        Seed of weights, split and minibatches, 0 to 2**32 - 1. One seed gives one model on one
        machine; the random numbers of the caller go on as if nothing had been trained.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    save
        Folder to save the model to, with its data: :func:`scvibridge.load` needs nothing else. It
        is written under a temporary name and renamed.
    overwrite
        Whether a folder of that name may be replaced.
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
        If `adata` is neither an AnnData nor a path.
    ValueError
        If columns do not exist, have missing values or hold no numbers where numbers are needed,
        the data hold no counts, names are duplicated, genes are unknown, or an argument is out of
        its range.
    FileExistsError, FileNotFoundError
        If the folder exists and `overwrite` is False, or the one around it does not.

    Warns
    -----
    UserWarning
        If cells without counts of the chosen genes are left out of the training.

    Notes
    -----
    Variable genes are those of scanpy's ``highly_variable_genes(flavor="seurat_v3")``, by batch.
    scvi-tools' own warm-up takes 400 epochs however many there are: in a shorter training the prior
    never gets its weight, and the latent space keeps more of the batch. (10x chemistries, 100
    epochs: 1.7 times as many neighbours of the own batch as there should be; 1.3 with a warm-up of
    20.)

    Examples
    --------
    >>> model = scvibridge.train_scvi(adata, batch_key="batch")  # doctest: +SKIP
    """
    _check_settings(gene_likelihood, n_latent, n_layers, max_epochs, n_epochs_kl_warmup)
    check_fork()
    seed, where = int(check_seed(seed)), placed(device)
    folder = None if save is None else _check_folder(save, overwrite)
    keys: dict[str, Any] = {
        "batch_key": batch_key,
        "labels_key": labels_key,
        "categorical_covariate_keys": _keys(categorical_covariate_keys, "categorical"),
        "continuous_covariate_keys": _keys(continuous_covariate_keys, "continuous"),
    }
    cells = _chosen(_opened(adata), keys, layer, n_top_genes)
    if folder is not None:
        check_tables(cells)
    architecture = {"n_latent": n_latent, "n_layers": n_layers, "gene_likelihood": gene_likelihood}
    total = _n_epochs(cells, max_epochs)
    warmup = max(1, min(400, total // 4)) if n_epochs_kl_warmup is None else n_epochs_kl_warmup
    how = {
        "early_stopping": bool(early_stopping),
        "plan_kwargs": {"n_epochs_kl_warmup": int(warmup)},
        **where,
    }
    with quiet(), own_random_numbers(seed), staying_interrupts(), one_thread():
        model = _trained(cells, keys, architecture, total, progress, how)
    keep_names(model)
    if folder is not None:
        with replacing(folder) as temporary, quiet():
            model.save(str(temporary), save_anndata=True)
    return model


def _trained(
    cells: AnnData,
    keys: dict[str, Any],
    architecture: dict[str, Any],
    total: int,
    progress: bool,
    how: dict[str, Any],
) -> Any:
    import scvi  # takes seconds

    scvi.model.SCVI.setup_anndata(cells, **keys)
    model = scvi.model.SCVI(cells, **architecture)
    with counting(total, "Training", "epochs", progress) as update:
        model.train(
            max_epochs=total,
            batch_size=minibatch(cells.n_obs),
            # Without it the history would have no loss of the held-out cells.
            check_val_every_n_epoch=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_epoch_counter(update)],
            **how,
        )
    return model


def _n_epochs(cells: AnnData, max_epochs: int | None) -> int:
    from scvi.model._utils import get_max_epochs_heuristic

    return get_max_epochs_heuristic(cells.n_obs) if max_epochs is None else int(max_epochs)


def _epoch_counter(update: Callable[[int], object]) -> Any:
    from lightning.pytorch.callbacks import Callback

    class EpochCounter(Callback):
        def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
            update(trainer.current_epoch + 1)

    return EpochCounter()


# -- checks ------------------------------------------------------------------------------------


def _check_settings(
    gene_likelihood: Any, n_latent: Any, n_layers: Any, max_epochs: Any, n_epochs_kl_warmup: Any
) -> None:
    inputs.check_choice(gene_likelihood, COUNT_LIKELIHOODS, "gene_likelihood")
    numbers = {"n_latent": n_latent, "n_layers": n_layers}
    optional = {"max_epochs": max_epochs, "n_epochs_kl_warmup": n_epochs_kl_warmup}
    numbers |= {name: value for name, value in optional.items() if value is not None}
    for name, value in numbers.items():
        if not inputs.is_whole(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_folder(save: str | PathLike[str], overwrite: bool) -> Path:
    folder = Path(save).expanduser()
    if folder.is_file():
        raise FileExistsError(f"save: {folder} is a file, expected the name of a folder")
    if folder.exists() and not overwrite:
        raise FileExistsError(f"save: {folder} exists: choose another name, or set overwrite=True")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"save: the folder {folder.parent} does not exist; create it first")
    return folder


def _keys(keys: Any, kind: str) -> list[str] | None:
    if isinstance(keys, str):
        raise TypeError(
            f"{kind}_covariate_keys must be a list of columns, got the single name {keys!r}"
        )
    return list(keys) if keys is not None and len(keys) else None


def _opened(adata: Any) -> AnnData:
    if isinstance(adata, str | PathLike):
        return open_anndata(adata)
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData or a path, got {type(adata).__name__}")
    return adata


def _categories(data: AnnData, key: str, argument: str) -> pd.Categorical:
    codes, names = inputs.column_codes(data, key, argument)
    n_missing = int((codes < 0).sum())
    if n_missing:
        raise ValueError(
            f"obs[{key!r}] is missing for {n_missing} of {len(codes)} cells: fill it in, or leave "
            "these cells out"
        )
    return pd.Categorical.from_codes(codes, names)


def _numbers(obs: pd.DataFrame, key: str) -> np.ndarray:
    if key not in obs:
        raise ValueError(
            f"continuous_covariate_keys: {key!r} is not a column of obs"
            f"{inputs.suggest(key, map(str, obs.columns))}"
        )
    values = pd.to_numeric(obs[key], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    n_bad = int((~np.isfinite(values)).sum())
    if n_bad or isinstance(obs[key].dtype, pd.CategoricalDtype):
        raise ValueError(
            f"continuous_covariate_keys: obs[{key!r}] must hold finite numbers, and does not for "
            f"{n_bad or len(values)} of {len(values)} cells"
        )
    return values


def _covariates(data: AnnData, keys: dict[str, Any]) -> dict[str, Any]:
    """The columns that the model is set up with, checked."""
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
    """The cells with counts by the chosen genes, in an AnnData of its own."""
    inputs.check_unique(data.obs_names, "cell", "adata.obs_names_make_unique()")
    inputs.check_unique(data.var_names, "gene", "adata.var_names_make_unique()")
    covariates = _covariates(data, keys)
    obs = as_data_frame(data.obs).assign(**covariates)
    counts = _counts(data, layer)
    batches = None if keys["batch_key"] is None else obs[keys["batch_key"]]
    genes = _gene_positions(counts, data.var_names, n_top_genes, batches)
    counts = counts[:, genes]
    full = np.asarray(counts.sum(axis=1)).ravel() > 0
    if not full.all():
        warnings.warn(
            f"{int((~full).sum())} of {len(full)} cells have no counts of the {len(genes)} genes "
            "and are left out of the training",
            UserWarning,
            stacklevel=3,
        )
    cells = AnnData(
        counts[full].astype(np.float32),
        obs=obs.loc[full].copy(),
        var=as_data_frame(data.var).iloc[genes].copy(),
        obsm={key: values[full] for key, values in data.obsm.items()},
    )
    for key, values in covariates.items():
        if isinstance(values, pd.Categorical):
            cells.obs[key] = cells.obs[key].cat.remove_unused_categories()
    return cells


def _counts(data: AnnData, layer: str | None) -> sp.csr_matrix:
    if layer is not None and layer not in data.layers:
        raise ValueError(
            f"the data have no layer {layer!r}{inputs.suggest(layer, map(str, data.layers))}"
        )
    matrix = data.X if layer is None else data.layers[layer]
    if matrix is None:
        raise ValueError("the data hold no counts: adata.X is None")
    if not (isinstance(matrix, np.ndarray) or sp.issparse(matrix)):
        on_disk = hasattr(matrix, "to_memory")
        matrix = matrix.to_memory() if on_disk else RowReader(matrix).read(slice(0, data.n_obs))
    inputs.check_counts(matrix, data, layer)
    return canonical_counts(matrix, None)


def _gene_positions(
    counts: sp.csr_matrix,
    genes: pd.Index,
    n_top_genes: int | Sequence[str] | None,
    batches: pd.Series | None,
) -> np.ndarray:
    if n_top_genes is None:
        return np.arange(len(genes))
    if isinstance(n_top_genes, int | np.integer) and not isinstance(n_top_genes, bool):
        if n_top_genes < 1:
            raise ValueError(f"n_top_genes must be at least 1, got {n_top_genes!r}")
        return variable_genes(counts, int(n_top_genes), batches)
    if isinstance(n_top_genes, str | bool | float):
        raise TypeError(
            f"n_top_genes must be a whole number, a list of genes or None, got {n_top_genes!r}"
        )
    found = inputs.resolve_genes(n_top_genes, pd.Index(genes.astype(str)), "the data lack")
    assert found is not None  # noqa: S101 - there is a list
    return found
