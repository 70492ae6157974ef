"""Measure what a correction changes where nothing should change.

One real batch is split at random into two halves. They differ only by chance, so any change made
by correcting one towards the other is damage.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge._utils import arguments
from scvibridge._utils.arguments import check_types, is_whole, listed, shown
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.forked import adapt_to_fork
from scvibridge._utils.process_state import warnings_ignored
from scvibridge._utils.values_as_text import quoted
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.corrected_counts import corrected_counts
from scvibridge.correction.matching import column_of
from scvibridge.correction.settings import METHODS, resolve_effect
from scvibridge.diagnostics import damage_measures
from scvibridge.expression.depth import Depth
from scvibridge.io.backed import with_tables_in_memory
from scvibridge.io.h5ad import read_anndata
from scvibridge.io.joined_files import is_several, join_files
from scvibridge.io.raw_counts import as_raw_data, matrix_of
from scvibridge.io.row_reader import RowReader, is_dask
from scvibridge.io.sparse_files import check_matrices
from scvibridge.likelihood.cpu.philox import check_seed, hash_names
from scvibridge.models import alignment
from scvibridge.models.adapters import adapter_for
from scvibridge.models.cell_data import canonical_counts
from scvibridge.models.held_out import halves
from scvibridge.models.training.trainer import train_like

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp

    from scvibridge.models.adapters import Adapter


HALVES = ("A", "B")

REMOVED_FIGURE = "share of the decoder's batch effect that was removed"

# What the correction records of itself.
_RECORDED = (
    "method",
    "effect",
    "library_size",
    "shrinkage_from",
    "shrinkage_batch",
    "shrinkage_label",
    "shrinkage_kept",
)

_HALF, _LABEL = "scvibridge_half", "scvibridge_label"

# Fewer cells are not enough to train a useful model.
_FEWEST_CELLS = 100

_OWN_ALONE = (
    "the extended model was retrained on its own genes: its {:,} added genes are not assessed"
)


def damage(
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]],
    batch_key: str,
    labels_key: str | None = None,
    batch: Any = None,
    model: Any = None,
    layer: str | None = None,
    max_epochs: int | None = None,
    method: str = "quantile",
    effect: str | None = None,
    library_size: float | str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what a correction changes where nothing should change.

    One batch is split at random into two halves within cell types. A model is trained with the
    halves as batches, and one half is corrected towards the other.

    Parameters
    ----------
    adata
        Data with raw counts: an AnnData, a path (h5ad, zarr), or a list of paths.
    batch_key
        Column of ``obs`` with the real batches.
    labels_key
        Column of ``obs`` with cell types.
    batch
        The batch to split; the one with the most cells if None.
    model
        A trained model, whose genes, layer and architecture are used for the new model. If None,
        scvi-tools' defaults with a negative binomial likelihood and all genes are used. For an
        extended model, the model without its added genes is checked; ``attrs["note"]`` says so.
    layer
        Layer with the raw counts (``X`` if None; the layer of `model` if one is passed).
    max_epochs
        Number of training epochs; scvi-tools' default if None.
    method, effect, library_size
        The correction to check, as for :func:`scvibridge.corrected_counts`.
    seed
        Seed of the split, the training and the correction, 0 to 2**32 - 1.
    device
        Device to train and run the model on: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    pandas.DataFrame
        One row per ``figure``, with its value ``before`` and ``after`` the correction and the value
        ``expected`` of a harmless correction. ``attrs`` contains the settings, the shrinkage of the
        batch effect, and ``attrs["by_label"]`` the figures for each cell type.

    Raises
    ------
    ValueError
        If columns or the batch do not exist, the data contain no counts, the batch has fewer than
        100 cells, or an argument is out of range.

    Notes
    -----
    Differential genes: Wilcoxon rank-sum test on log-normalised counts for each cell type,
    Benjamini-Hochberg at 5 %. Markers: the genes with the highest area under the ROC curve for one
    type against all others. Halves are compared as corrected; a sampled half is compared with the
    observed counts of the other. The check follows Antonsson and Melsted (2025),
    doi:10.1101/gr.279886.124.

    Interpret the last row, the share of the batch effect that was removed, rather than the kappa
    that it is computed from (``attrs["shrinkage_batch"]``). There is hardly any effect between
    halves of a batch, so the estimates of kappa from held-out cells range over several decades.

    Examples
    --------
    >>> scvibridge.damage(adata, "batch", labels_key="cell_type")  # doctest: +SKIP
    """
    check_types(damage, locals())
    adapt_to_fork()
    given = None if model is None else adapter_for(model)
    # An extension is fitted to a fixed model, so only the model itself is retrained.
    adapter = None if given is None else given.own
    _check(adapter, method, effect, labels_key, library_size, max_epochs)
    seed = int(check_seed(seed))
    resolve_device(device)
    if is_several(adata):
        of_model = None if adapter is None else adapter.genes
        place = adapter.layer if layer is None and adapter is not None else layer
        data = join_files(adata, place, of_model)
    else:
        data = read_anndata(adata) if isinstance(adata, str | PathLike) else adata
    if not isinstance(data, AnnData):
        raise TypeError(f"adata must be an AnnData or a path, got {type(data).__name__}")
    check_matrices(data)
    data = with_tables_in_memory(data)
    cells, chosen = _cells_of(data, batch_key, labels_key, batch, adapter, layer)
    cells.obs[_HALF] = split(cells.obs_names, cells.obs[_LABEL].cat.codes, seed)
    if resolve_effect(method, effect, labels_key) == "label":
        _check_labels(cells, str(labels_key))
    architecture = {"gene_likelihood": "nb"} if adapter is None else adapter.architecture()
    trained = train_like(cells, _HALF, max_epochs, seed, device, architecture, progress)
    corrected = _corrected(
        trained,
        labels_key=None if labels_key is None else _LABEL,
        method=method,
        effect=effect,
        library_size=library_size,
        seed=seed,
        device=device,
        progress=progress,
    )
    raw = cells.X.astype(np.int32)
    table, by_label = damage_measures.tabulate(
        raw,
        corrected.X,
        (cells.obs[_HALF] == HALVES[1]).to_numpy(),
        None if labels_key is None else cells.obs[_LABEL],
        # Two halves that are sampled from one distribution would not differ, whatever it is.
        target=raw if method == "sample" else None,
    )
    made = corrected.uns["scvibridge"]
    if "shrinkage_kept" in made:
        table.loc[len(table)] = [REMOVED_FIGURE, 0.0, float(made["shrinkage_kept"]), 0.0]
    table.attrs = {
        "batch": str(chosen),
        "n_cells": cells.n_obs,
        "n_genes": cells.n_vars,
        **{name: made[name] for name in _RECORDED if name in made},
        "labels_key": labels_key,
        "max_epochs": int(trained.trainer.max_epochs),
        "architecture": architecture,
        "seed": seed,
        "by_label": by_label.to_dict("records"),
    }
    if given is not None and given.added is not None:
        table.attrs["note"] = _OWN_ALONE.format(len(given.added.adapter.genes))
    return table


def _check(
    adapter: Adapter | None,
    method: str,
    effect: str | None,
    labels_key: str | None,
    library_size: Any,
    max_epochs: Any,
) -> None:
    arguments.check_choice(method, METHODS, "method")
    resolve_effect(method, effect, labels_key)
    if library_size is not None:
        Depth.of(library_size)
    if max_epochs is not None and not (is_whole(max_epochs) and max_epochs >= 1):
        raise ValueError(f"max_epochs must be None or at least 1, got {max_epochs!r}")
    if adapter is not None:
        alignment.check_likelihood(adapter)


# -- cells -------------------------------------------------------------------------------------


def _cells_of(
    data: AnnData,
    batch_key: str,
    labels_key: str | None,
    batch: Any,
    adapter: Adapter | None,
    layer: str | None,
) -> tuple[AnnData, Any]:
    """Return the cells of one batch with their counts and labels, and the name of the batch."""
    codes, names = arguments.column_codes(data, batch_key, "batch_key")
    labels, label_names = np.zeros(data.n_obs, dtype=np.int64), ["all"]
    if labels_key is not None:
        if labels_key == batch_key:
            raise ValueError(
                f"labels_key={labels_key!r} is the batch: pass the column with cell types"
            )
        labels, label_names = (
            arguments.column_codes(data, labels_key, "labels_key")
            if adapter is None
            else column_of(adapter, data, labels_key, "labels_key")
        )
    arguments.check_unique(data.obs_names, "cell", "adata.obs_names_make_unique()")
    code = _batch_code(batch, codes, names)
    rows = np.flatnonzero(codes == code)
    counts, genes = _counts(data[rows], adapter, layer)
    # The log library size of an empty cell would be minus infinity.
    full = np.asarray(counts.sum(axis=1)).ravel() > 0
    if full.sum() < _FEWEST_CELLS:
        raise ValueError(
            f"batch {quoted(names[code])} has {int(full.sum())} cells with counts; splitting it "
            f"needs at least {_FEWEST_CELLS}"
        )
    obs = pd.DataFrame(
        {_LABEL: pd.Categorical.from_codes(labels[rows][full], label_names)},
        index=data.obs_names[rows][full].astype(str),
    )
    # The training depends on the order of the cells, but the figures must not.
    order = np.argsort(hash_names(obs.index), kind="stable")
    counts = counts[full][order].astype(np.float32)
    cells = AnnData(counts, obs=obs.iloc[order], var=pd.DataFrame(index=genes))
    return cells, names[code]


def _check_labels(cells: AnnData, labels_key: str) -> None:
    """Check that at least one label has enough cells for an effect."""
    sizes = pd.crosstab(cells.obs[_LABEL], cells.obs[_HALF])
    if sizes.empty or sizes[HALVES[1]].max() < MIN_GROUP_CELLS:
        raise ValueError(
            f"labels_key={labels_key!r}: no label has {MIN_GROUP_CELLS} cells in a half of the "
            "batch, so none would have a batch effect. Choose a larger batch or coarser labels, "
            "or use effect='global'"
        )


def _batch_code(batch: Any, codes: np.ndarray, names: list[Any]) -> int:
    if batch is None:
        return int(np.bincount(codes[codes >= 0], minlength=len(names)).argmax())
    wanted = listed(batch, "batch")
    if len(wanted) != 1:
        raise ValueError(f"batch must be a single batch, got {shown(batch)}")
    return arguments.code_of(wanted[0], names, "batch")


def _counts(
    data: AnnData, adapter: Adapter | None, layer: str | None
) -> tuple[sp.csr_matrix, pd.Index]:
    """Return the counts of cells for the model's genes, or for all genes."""
    data = data.to_memory() if data.isbacked else data
    asked = adapter is None or layer is not None
    if adapter is not None and layer is None:
        layer = adapter.layer
    data = as_raw_data(data, layer)
    matrix = matrix_of(data, layer, layer_argument=asked)
    if is_dask(matrix):
        matrix = RowReader(matrix).read(slice(0, data.n_obs))
    alignment.check_counts(matrix, data, layer, layer_argument=asked)
    genes = pd.Index(data.var_names.astype(str)) if adapter is None else adapter.genes
    return canonical_counts(matrix, alignment.gene_positions(genes, data.var_names)), genes


def split(names: pd.Index, labels: pd.Series, seed: int) -> pd.Categorical:
    """Split cells into random halves with equal numbers of each label, by names and a seed."""
    return pd.Categorical.from_codes(halves(names, seed, labels), list(HALVES))


# -- correction --------------------------------------------------------------------------------


def _corrected(model: Any, **settings: Any) -> AnnData:
    # These warnings are about other data; here the batches are halves of one batch.
    with warnings_ignored(UserWarning):
        return corrected_counts(model, transform_batch=HALVES[0], **settings)
