"""Genes that a model never saw: an output head for them on its frozen decoder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from scvibridge import inputs, subsets
from scvibridge.decoding import Encoder, blocks
from scvibridge.devices import resolve_device
from scvibridge.effects import MIN_DETECTED_CELLS
from scvibridge.extension_file import EXTENSION_FILE, write_extension
from scvibridge.head_fit import (
    Fitted,
    HeadData,
    deviances,
    fit_head,
)
from scvibridge.held_out import held_out_rows
from scvibridge.kernels.philox import check_seed, hash_names
from scvibridge.models import Extended, Head, adapter_for
from scvibridge.models.arrays import Latent
from scvibridge.models.extended import standardised
from scvibridge.sources import CellData, columns_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scvibridge.models import Adapter

# Ridges that are tried, and how many genes and cells they are tried on.
RIDGES = (0.01, 0.1, 1.0, 10.0)
_MOST_GENES_TRIED, _MOST_CELLS_TRIED = 300, 20_000
# Cells that the fit is judged by: so many at most, and so great a share where the model held out
# fewer than can tell anything.
_MOST_HELD_OUT, _LEAST_HELD_OUT, _SHARE_HELD_OUT = 2000, 20, 0.1


@dataclass(frozen=True, repr=False)
class ExtendedModel(Extended):
    """A trained model that knows further genes; the result of :func:`extend_genes`.

    Attributes
    ----------
    model
        The trained scvi-tools model, which is left as it was.
    quality
        One row for each added gene: ``explained`` (held-out deviance explained beyond its share of
        each batch), ``theta`` (inverse dispersion; the mean over batches where they differ),
        ``detection_rate`` (share of cells that show it) and ``flag`` (empty, ``"few cells"`` or
        ``"no gain"``: cells tell nothing of it beyond its batch).
    """

    @property
    def genes(self) -> pd.Index:
        """All genes: the model's own, then those added."""
        return adapter_for(self.model).genes.append(pd.Index(self.head.genes.astype(str)))

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write the model and its extension to a folder, which :func:`scvibridge.load` reads.

        Parameters
        ----------
        path
            The folder.
        overwrite
            Whether it may exist.

        Raises
        ------
        FileExistsError
            If the folder exists, and `overwrite` is False.
        """
        folder = Path(fspath(path)).expanduser()
        if folder.exists() and not overwrite:
            raise FileExistsError(f"{folder} exists: choose another, or pass overwrite=True")
        # An older extension must not stand beside another model, should this be interrupted.
        (folder / EXTENSION_FILE).unlink(missing_ok=True)
        self.model.save(str(folder), overwrite=overwrite, save_anndata=False)
        write_extension(self, folder / EXTENSION_FILE)

    def __repr__(self) -> str:
        flags = self.quality["flag"].value_counts()
        flagged = "".join(f", {n} of them with {name}" for name, n in flags.items() if name)
        where = "its last hidden layer" if self.head.on_trunk else "its latent variables"
        return (
            f"{type(self.model).__name__} extended by {len(self.head.genes)} genes{flagged}; "
            f"fitted on {where}, ridge {self.settings['ridge']:g}, median held-out deviance "
            f"explained {self.quality['explained'].median():.3f}"
        )


def extend_genes(
    model: Any,
    adata: AnnData | str | PathLike[str],
    gene_list: Sequence[str] | None = None,
    labels_key: str | None = None,
    max_epochs: int = 20,
    ridge: float | str = "auto",
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> ExtendedModel:
    """Extend a trained model to genes that it never saw.

    Encoder and decoder stay as they are, and with them the latent space; what is fitted is an
    output head for the further genes on the decoder's last hidden layer.

    Parameters
    ----------
    model
        A trained scvi-tools model of counts.
    adata
        Cells by all genes, the model's own among them: an AnnData, or a path (h5ad, zarr), whose
        matrix stays on disk. Best the cells of the training, in their order.
    gene_list
        Genes to add; all that the model does not know if None.
    labels_key
        Column of ``obs`` with cell types. Where the model held out no cells, those to judge by are
        drawn from each type.
    max_epochs
        Most passes through the cells.
    ridge
        Weight of the penalty on the head's weights; ``"auto"`` chooses by held-out cells.
    seed
        Seed of the order of the cells, 0 to 2**32 - 1.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    ExtendedModel
        Takes the model's place in :func:`corrected_counts`, :func:`normalized_expression`,
        :func:`denoised_expression` and :func:`batch_support`.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not fit it, there is nothing to add, or an
        argument is out of its range.
    TypeError
        If the model is of a class that is not supported, or has been extended already.

    Notes
    -----
    With h the hidden layer, standardised on the cells of the fit, the counts of an added gene are
    negative binomial (Poisson, where the model's are) with mean T exp(h W + b + c_s), T the cell's
    total over the model's and the added genes, c_s a batch intercept that is not penalised. The
    result does not depend on the order of the cells but for the order of floating-point
    operations, and leaves the random numbers of torch and numpy alone.

    Examples
    --------
    >>> extended = scvibridge.extend_genes(model, "all_genes.h5ad")  # doctest: +SKIP
    >>> counts = scvibridge.corrected_counts(extended, transform_batch="V3")  # doctest: +SKIP
    """
    if isinstance(model, Extended):
        raise TypeError("the model has been extended already: extend its .model by all genes")
    adapter = adapter_for(model)
    checked = _check(adapter, max_epochs, ridge, seed)
    resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="scvibridge-") as folder:
        table = inputs.resolve_adata(adapter, adata, stream=True)
        genes = _added_genes(adapter, table, gene_list)
        whole = _aligned(model, table, genes, Path(folder) / "counts.h5ad", progress)
        labels = (
            None if labels_key is None else inputs.column_codes(table, labels_key, "labels_key")
        )
        # Encoding draws from the posterior, though no draw is used.
        with adapter.on_device(device), torch.inference_mode(), torch.random.fork_rng():
            head, quality, settings = _fit(
                adapter, whole, genes, None if labels is None else labels[0], checked, progress
            )
    kept = None if isinstance(adata, str | PathLike) else adata
    return ExtendedModel(model, head, kept, quality, settings)


@dataclass(frozen=True)
class _Settings:
    max_epochs: int
    ridge: float | None
    seed: int


def _check(adapter: Adapter, max_epochs: Any, ridge: Any, seed: Any) -> _Settings:
    inputs.check_likelihood(adapter)
    whole = isinstance(max_epochs, int | np.integer) and not isinstance(max_epochs, bool)
    if not whole or max_epochs < 1:
        raise ValueError(f"max_epochs must be a whole number, 1 or more, got {max_epochs!r}")
    if isinstance(ridge, str):
        inputs.check_choice(ridge, ("auto",), "ridge")
        return _Settings(int(max_epochs), None, int(check_seed(seed)))
    number = isinstance(ridge, float | int | np.number) and not isinstance(ridge, bool)
    if not number or not 0 <= ridge < np.inf:
        raise ValueError(f"ridge must be 'auto' or a number, 0 or more, got {ridge!r}")
    return _Settings(int(max_epochs), float(ridge), int(check_seed(seed)))


def _added_genes(adapter: Adapter, table: AnnData, gene_list: Any) -> pd.Index:
    """Genes to add, in the order of the data or as they were asked for.

    Raises
    ------
    ValueError
        If there are none, or the data lack one.
    """
    names = pd.Index(table.var_names.astype(str))
    inputs.check_unique(names, "gene", "adata.var_names_make_unique()")
    # Regions, too, are no genes to add.
    known = adapter.registry.state("X").get("column_names")
    known = adapter.genes if known is None else adapter.genes.union(np.asarray(known).astype(str))
    if gene_list is not None:
        positions = inputs.resolve_genes(gene_list, names, "the data lack")
        assert positions is not None  # noqa: S101 - a list was given
        names = names[positions]
    added = names[~names.isin(known)]
    if len(added) == 0:
        raise ValueError(
            f"there is nothing to add: the model knows all {len(names)} genes. Pass the data with "
            "all genes, before variable ones were chosen"
        )
    return added


def _aligned(
    model: Any, table: AnnData, genes: pd.Index, scratch: Path, progress: bool
) -> CellData:
    """Bring data to the model's genes and those to add, and check them."""
    wide = adapter_for(model)
    wide.genes, wide.minified = wide.genes.append(genes), False
    return inputs.align(wide, table, scratch, progress)


# -- the cells of the fit --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """Cells to fit to, and cells to judge by: sorted positions."""

    fitted: np.ndarray
    held_out: np.ndarray


def _part_cells(adapter: Adapter, whole: CellData, labels: np.ndarray | None) -> _Cells:
    """Judge by cells that the model held out; else by some of each batch and label.

    Cells without counts are left out of both.
    """
    counted = whole.totals() > 0
    held_out = held_out_rows(adapter, whole)
    held_out = held_out[counted[held_out]]
    if len(held_out) < _LEAST_HELD_OUT or len(held_out) > counted.sum() / 2:
        held_out = _some_of_each(whole, labels, counted)
    is_held_out = np.isin(np.arange(whole.n_cells), held_out)
    judges = subsets.choose_cells(whole.names, held_out, _MOST_HELD_OUT)
    return _Cells(np.flatnonzero(counted & ~is_held_out), judges)


def _some_of_each(whole: CellData, labels: np.ndarray | None, counted: np.ndarray) -> np.ndarray:
    """Choose a share of the cells of each batch and label, by the hashes of their names."""
    group = np.zeros(whole.n_cells, dtype=np.int64) if labels is None else labels
    keys = np.stack([whole.covariates.own().batch, group])
    _, place = np.unique(keys, axis=1, return_inverse=True)
    chosen = []
    for index in range(place.max() + 1):
        members = np.flatnonzero((place.ravel() == index) & counted)
        most = int(_SHARE_HELD_OUT * len(members))
        chosen.append(subsets.choose_cells(whole.names, members, most))
    return np.sort(np.concatenate(chosen))


class _Source:
    """Reads what a head is fitted to, in an order of the cells that their names decide."""

    def __init__(self, adapter: Adapter, whole: CellData, n_genes: int, progress: bool) -> None:
        n_own = len(adapter.genes)
        self._adapter, self._whole = adapter, whole
        counts = whole.require_counts()
        own = columns_of(counts, 0, n_own)
        self._added = columns_of(counts, n_own, n_own + n_genes)
        data = CellData(whole.adata, own, whole.covariates, whole.n_batches)
        self._encoder = Encoder(adapter, data, None, progress)
        self._scaling: tuple[torch.Tensor, torch.Tensor] | None = None

    def data(self, rows: np.ndarray, genes: np.ndarray | None = None) -> HeadData:
        """Give the data of cells, of some of the genes; the first ones asked for set the scale."""
        rows = rows[np.argsort(hash_names(self._whole.names[rows]), kind="stable")]
        features = self._features(rows)
        if self._scaling is None:
            spread = features.std(dim=0)
            self._scaling = features.mean(dim=0), torch.where(spread > 1e-6, spread, 1.0)
        location, scale = self._scaling
        device, own = features.device, self._whole.covariates.own()

        def read(some: np.ndarray) -> Any:
            counts = self._added.rows(rows[some])
            return counts if genes is None else counts[:, genes]

        return HeadData(
            standardised(features, location, scale),
            torch.as_tensor(own.batch[rows], device=device),
            len(self._adapter.model_batches),
            torch.as_tensor(np.log(self._whole.totals()[rows]), device=device).float(),
            read,
            self._added.shape[1] if genes is None else len(genes),
        )

    def _features(self, rows: np.ndarray) -> torch.Tensor:
        order = np.argsort(rows)
        latent: Latent = self._encoder.prepare(rows[order]).take(np.argsort(order))
        parts = []
        for block in blocks(len(rows), len(self._adapter.genes), None):
            covariates = self._whole.covariates.take(rows[block])
            parts.append(self._adapter.features(latent.location[block], covariates).float())
        return torch.cat(parts)

    def scaling(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the features."""
        assert self._scaling is not None  # noqa: S101 - data were asked for
        location, scale = (values.cpu().numpy() for values in self._scaling)
        return location, scale


# -- the fit -------------------------------------------------------------------------------------


def _fit(
    adapter: Adapter,
    whole: CellData,
    genes: pd.Index,
    labels: np.ndarray | None,
    asked: _Settings,
    progress: bool,
) -> tuple[Head, pd.DataFrame, dict[str, Any]]:
    cells = _part_cells(adapter, whole, labels)
    source = _Source(adapter, whole, len(genes), progress)
    fitted, held_out = source.data(cells.fitted), source.data(cells.held_out)
    law = _law(adapter)
    ridge = asked.ridge
    tried: dict[str, float] = {}
    if ridge is None:
        ridge, tried = _choose_ridge(source, whole, cells, genes, law, asked)
    found = fit_head(fitted, held_out, *law, ridge, asked.max_epochs, asked.seed, progress)
    settings = {
        "likelihood": law[0],
        "dispersion": law[1],
        "features": "last hidden layer" if adapter.has_trunk else "latent variables",
        "ridge": ridge,
        "ridge_losses": tried,
        "epochs": len(found.losses),
        "max_epochs": asked.max_epochs,
        "seed": asked.seed,
        "n_cells": len(cells.fitted),
        "n_held_out": len(cells.held_out),
        "loss": min(found.losses),
    }
    head = _head(found, genes, source.scaling(), adapter.has_trunk)
    return head, _quality(found, fitted, held_out, whole, genes), settings


def _law(adapter: Adapter) -> tuple[str, str]:
    """Likelihood and dispersion of the head, after the model's."""
    likelihood = "poisson" if adapter.gene_likelihood == "poisson" else "nb"
    return likelihood, "gene-batch" if adapter.dispersion == "gene-batch" else "gene"


def _choose_ridge(
    source: _Source,
    whole: CellData,
    cells: _Cells,
    genes: pd.Index,
    law: tuple[str, str],
    asked: _Settings,
) -> tuple[float, dict[str, float]]:
    """Choose the ridge under which held-out cells are likeliest, on some cells and genes."""
    some = np.argsort(hash_names(np.asarray(genes, dtype=object)), kind="stable")
    some = np.sort(some[:_MOST_GENES_TRIED])
    rows = subsets.choose_cells(whole.names, cells.fitted, _MOST_CELLS_TRIED)
    fitted, held_out = source.data(rows, some), source.data(cells.held_out, some)
    losses = {
        ridge: min(
            fit_head(fitted, held_out, *law, ridge, asked.max_epochs, asked.seed, False).losses
        )
        for ridge in RIDGES
    }
    best = min(losses, key=lambda ridge: losses[ridge])
    return best, {f"{ridge:g}": loss for ridge, loss in losses.items()}


def _head(
    found: Fitted, genes: pd.Index, scaling: tuple[np.ndarray, np.ndarray], on_trunk: bool
) -> Head:
    parameters = found.parameters
    theta = parameters.log_theta
    return Head(
        np.asarray(genes, dtype=object),
        parameters.weights.cpu().numpy(),
        parameters.intercept.cpu().numpy(),
        parameters.batch.cpu().numpy(),
        *scaling,
        None if theta is None else theta.cpu().numpy(),
        on_trunk,
    )


def _quality(
    found: Fitted, fitted: HeadData, held_out: HeadData, whole: CellData, genes: pd.Index
) -> pd.DataFrame:
    """Tell what held-out cells say of each gene."""
    codes = fitted.batch.cpu().numpy()
    totals = np.bincount(codes, fitted.log_total.exp().cpu().numpy(), fitted.n_batches)
    sums = fitted.sums()
    # A hundredth of a count, spread as the gene is over all cells, for batches without any.
    share = np.maximum(sums.sum(axis=0), 0.5) / totals.sum()
    shares = (sums + 0.01) / (totals[:, None] + 0.01 / share)
    ours, by_batch = deviances(found.parameters, held_out, shares)
    detected = whole.summary.detected[:, -len(genes) :].sum(axis=0)
    explained = 1.0 - np.divide(ours, by_batch, out=np.ones(len(genes)), where=by_batch > 0)
    few = detected < MIN_DETECTED_CELLS
    flag = np.where(few, "few cells", np.where(explained > 0, "", "no gain"))
    theta = found.parameters.log_theta
    table = {
        "explained": explained,
        "detection_rate": detected / whole.n_cells,
        "flag": flag,
    }
    if theta is not None:
        table["theta"] = theta.exp().mean(dim=0).cpu().numpy().astype(float)
    return pd.DataFrame(table, index=genes)
