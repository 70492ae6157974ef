"""Extend a model to genes it was not trained on: an output head on its frozen decoder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scvibridge._utils import arguments, selections, user_warnings
from scvibridge._utils.arguments import check_types, is_number, is_whole
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.torch_threads import side_by_side
from scvibridge._utils.wording import list_names
from scvibridge.io.backed import closing_inputs
from scvibridge.io.joined_files import is_several
from scvibridge.likelihood.cpu.philox import check_seed, hash_names
from scvibridge.models import alignment, cell_sampling
from scvibridge.models.adapters import Extended, Head, adapter_for
from scvibridge.models.cell_data import columns_of
from scvibridge.models.detection import MIN_DETECTED_CELLS
from scvibridge.models.extension.extended_model import ExtendedModel
from scvibridge.models.extension.gene_blocks import gene_blocks, read_columns
from scvibridge.models.extension.head_cells import Parted, part_cells
from scvibridge.models.extension.head_fit import Fitted, fit_head, quality_of
from scvibridge.models.extension.head_parameters import joined
from scvibridge.models.obs_columns import codes_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from threading import Event

    import scipy.sparse as sp
    from anndata import AnnData

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData, Counts


# Ridge values to try, and the number of genes, cells and epochs used to compare them.
RIDGES = (0.01, 0.1, 1.0, 10.0)

# Larger penalties overflow in single precision.
_LARGEST_RIDGE = 1e10

_MOST_GENES_TRIED, _MOST_CELLS_TRIED, _MOST_EPOCHS_TRIED = 200, 20_000, 10


def extend_genes(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]],
    gene_list: Sequence[str] | None = None,
    labels_key: str | None = None,
    max_epochs: int = 20,
    ridge: float | str = "auto",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> ExtendedModel:
    """Extend a trained model to genes that it was not trained on.

    Encoder and decoder, and with them the latent space, stay unchanged; an output head for the
    further genes is fitted on the decoder's last hidden layer.

    Parameters
    ----------
    model
        A trained scvi-tools model of counts.
    adata
        Cells by all genes, including the model's: an AnnData, or a path (h5ad, zarr) or a list of
        paths, whose matrices stay on disk. Preferably the training cells, in their original order.
    gene_list
        Genes to add: names, or a boolean Series indexed by gene names; all that are not in the
        model if None.
    labels_key
        Column of ``obs`` with cell types. If the model held out no cells, cells for validation are
        drawn from each type.
    max_epochs
        Maximum number of passes through the cells.
    ridge
        Weight of the penalty on the head's weights; ``"auto"`` selects it using held-out cells.
    seed
        Seed for the order of the cells, 0 to 2**32 - 1.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    ExtendedModel
        Can be used in place of the model in :func:`corrected_counts`,
        :func:`normalized_expression`, :func:`denoised_expression`, :func:`batch_support`,
        :func:`choose_batch`, :func:`calibration`, :func:`damage` and :func:`report`.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not match it, there are no genes to add, or an
        argument is out of range.
    TypeError
        If the model's class is not supported, or it has already been extended.

    Notes
    -----
    With h the hidden layer, standardised on the cells used for fitting, the counts of an added gene
    are negative binomial (Poisson if the model's are) with mean T exp(h W + b + c_s). T is the
    cell's total over the model's and the added genes, W and b are the gene's weights and intercept,
    and c_s is an unpenalised batch intercept. The result does not depend on the order of the cells
    except through the order of floating-point operations, and the random number states of torch and
    numpy are unaffected.

    Examples
    --------
    >>> extended = scvibridge.extend_genes(model, "all_genes.h5ad")  # doctest: +SKIP
    >>> counts = scvibridge.corrected_counts(extended, transform_batch="V3")  # doctest: +SKIP
    """
    check_types(extend_genes, locals())
    if isinstance(model, Extended):
        raise TypeError(
            "the model has already been extended: pass its .model and data with all genes"
        )
    adapter = adapter_for(model)
    alignment.check_likelihood(adapter)
    checked = check_settings(max_epochs, ridge, seed)
    resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="scvibridge-") as folder, closing_inputs():
        table = alignment.resolve_adata(adapter, adata, stream=True)
        genes = _added_genes(adapter, table, gene_list)
        labels = (
            None if labels_key is None else arguments.column_codes(table, labels_key, "labels_key")
        )
        whole = _aligned(model, table, genes, Path(folder) / "counts.h5ad", progress)
        with adapter.on_device(device), torch.inference_mode():
            head, quality, settings = _fit(
                adapter, whole, genes, None if labels is None else labels[0], checked, progress
            )
    kept = None if isinstance(adata, str | PathLike) or is_several(adata) else adata
    return ExtendedModel(model, head, kept, quality, settings)


@dataclass(frozen=True)
class Settings:
    """How a head is fitted: maximum epochs, ridge (None: selected), seed."""

    max_epochs: int
    ridge: float | None
    seed: int


def check_settings(max_epochs: Any, ridge: Any, seed: Any) -> Settings:
    """Check the settings for fitting a head.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """
    if not is_whole(max_epochs) or max_epochs < 1:
        raise ValueError(f"max_epochs must be a whole number, 1 or more, got {max_epochs!r}")
    if isinstance(ridge, str):
        arguments.check_choice(ridge, ("auto",), "ridge")
        return Settings(int(max_epochs), None, int(check_seed(seed)))
    if not is_number(ridge) or not 0 <= ridge <= _LARGEST_RIDGE:
        raise ValueError(
            f"ridge must be 'auto' or a number from 0 to {_LARGEST_RIDGE:g}, got {ridge!r}"
        )
    return Settings(int(max_epochs), float(ridge), int(check_seed(seed)))


def _added_genes(adapter: Adapter, table: AnnData, gene_list: Any) -> pd.Index:
    """Return the genes to add, in the order of the data or as requested.

    Raises
    ------
    ValueError
        If there are no genes to add, or one is missing from the data.
    """
    names = pd.Index(table.var_names.astype(str))
    arguments.check_unique(names, "gene", "adata.var_names_make_unique()")
    # Regions cannot be added as genes either.
    known = adapter.registry.state("X").get("column_names")
    known = adapter.genes if known is None else adapter.genes.union(np.asarray(known).astype(str))
    if gene_list is not None:
        names = names[selections.positions_of_genes(gene_list, names, "the data lack")]
    added = names[~names.isin(known)]
    if len(added) == 0:
        raise ValueError(
            f"there are no genes to add: the model has all {len(names)} genes. Pass the data with "
            "all genes, before selecting variable ones"
        )
    return added


def _aligned(
    model: Any, table: AnnData, genes: pd.Index, scratch: Path, progress: bool
) -> CellData:
    """Align data to the model's genes and the genes to add, and check them."""
    wide = adapter_for(model)
    wide.genes, wide.minified = wide.genes.append(genes), False
    return alignment.align(wide, table, scratch, progress)


# -- the fit -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Results for a block of genes."""

    found: Fitted
    quality: pd.DataFrame


@dataclass(frozen=True)
class _Problem:
    """Cells, the counts of the added genes in all cells of the data, and their distribution.

    ``nonzeros`` is the number of cells in which each gene is detected, ``(n_genes,)``; ``law`` is
    the likelihood and the dispersion.
    """

    cells: Parted
    counts: Counts
    nonzeros: np.ndarray
    law: tuple[str, str]
    device: torch.device


def _fit(
    adapter: Adapter,
    whole: CellData,
    genes: pd.Index,
    labels: np.ndarray | None,
    asked: Settings,
    progress: bool,
) -> tuple[Head, pd.DataFrame, dict[str, Any]]:
    n_own, n_all = len(adapter.genes), whole.require_counts().shape[1]
    cells = part_cells(adapter, whole, labels, progress)
    _warn_of_batches(adapter, cells.fitted.batch)
    problem = _Problem(
        cells,
        columns_of(whole.require_counts(), n_own, n_all),
        whole.summary.detected[:, n_own:].sum(axis=0),
        _law(adapter),
        adapter.device,
    )
    ridge, tried = asked.ridge, dict[str, float]()
    if ridge is None:
        ridge, tried = _choose_ridge(problem, whole.names, genes, asked)
    fits = _fit_blocks(problem, ridge, asked, progress)
    law = problem.law
    settings = {
        "likelihood": law[0],
        "dispersion": law[1],
        "features": "last hidden layer" if adapter.has_trunk else "latent variables",
        "ridge": ridge,
        "ridge_losses": tried,
        "epochs": max(len(block.found.losses) for block in fits),
        "max_epochs": asked.max_epochs,
        "seed": asked.seed,
        "n_cells": len(cells.fitted.rows),
        "n_held_out": len(cells.held_out.rows),
        "loss": sum(min(block.found.losses) for block in fits),
    }
    weights, intercept, batch, *theta = joined([block.found.parameters for block in fits])
    head = Head(
        np.asarray(genes, dtype=object),
        weights,
        intercept,
        batch,
        cells.location,
        cells.scale,
        theta[0] if theta else None,
        adapter.has_trunk,
    )
    quality = pd.concat([block.quality for block in fits]).set_axis(genes)
    return head, _with_flags(quality, problem.nonzeros, whole.n_cells), settings


def _warn_of_batches(adapter: Adapter, fitted: torch.Tensor) -> None:
    """Warn of batches of the model's data of which there are no cells to fit."""
    if adapter.batch_key is None:
        return
    known = np.arange(len(adapter.model_batches))
    if adapter.adata is not None:
        known = np.unique(codes_of(adapter.adata.obs, adapter.batch_key, adapter.model_batches))
    lacking = np.setdiff1d(known, fitted.cpu().numpy())
    if len(lacking):
        names = list_names((adapter.model_batches[code] for code in lacking), 6)
        user_warnings.warn(
            f"the data have no cells of {names} to fit: the batch effect of the added genes is "
            "unknown there, so that their counts and means in these batches will be refused"
        )


def _fit_blocks(problem: _Problem, ridge: float, asked: Settings, progress: bool) -> list[_Block]:
    """Fit the genes block by block; blocks share only the epoch at which the fit ends."""

    def fit(counts: sp.csr_matrix, stop: Event) -> _Block:
        data, judges = problem.cells.fitted.of(counts), problem.cells.held_out.of(counts)
        found = fit_head(data, judges, *problem.law, ridge, asked.max_epochs, asked.seed, stop)
        return _Block(found, quality_of(found.parameters, data, judges))

    fits: list[_Block] = []
    for blocks in gene_blocks(problem.counts, problem.nonzeros, progress):
        fits += side_by_side(fit, blocks, problem.device, "Fitting added genes", progress)
    return fits


def _law(adapter: Adapter) -> tuple[str, str]:
    """Return likelihood and dispersion of the head, following the model's."""
    likelihood = "poisson" if adapter.gene_likelihood == "poisson" else "nb"
    return likelihood, "gene-batch" if adapter.dispersion == "gene-batch" else "gene"


def _choose_ridge(
    problem: _Problem, names: np.ndarray, genes: pd.Index, asked: Settings
) -> tuple[float, dict[str, float]]:
    """Select the ridge that maximises the likelihood of held-out cells, on some cells and genes."""
    some = np.argsort(hash_names(np.asarray(genes, dtype=object)), kind="stable")
    some = np.sort(some[:_MOST_GENES_TRIED])
    (counts,) = read_columns(problem.counts, [some], problem.nonzeros, False)
    fitted, held_out = problem.cells.fitted, problem.cells.held_out
    rows = cell_sampling.choose_cells(names, np.sort(fitted.rows), _MOST_CELLS_TRIED)
    data, judges = fitted.among(rows).of(counts), held_out.of(counts)
    epochs = min(asked.max_epochs, _MOST_EPOCHS_TRIED)

    def loss(ridge: float, stop: Event) -> float:
        return min(fit_head(data, judges, *problem.law, ridge, epochs, asked.seed, stop).losses)

    losses = side_by_side(loss, RIDGES, problem.device, "Selecting the ridge", False)
    best = RIDGES[int(np.argmin(losses))]
    return best, {f"{ridge:g}": loss for ridge, loss in zip(RIDGES, losses, strict=True)}


def _with_flags(quality: pd.DataFrame, nonzeros: np.ndarray, n_cells: int) -> pd.DataFrame:
    """Add the number of cells in which each gene is detected, and its flag."""
    few = nonzeros < MIN_DETECTED_CELLS
    flag = np.where(few, "few cells", np.where(quality["explained"] > 0, "", "no gain"))
    return quality.assign(detection_rate=nonzeros / n_cells, flag=flag)
