"""Expression matrices: conditional means under the observed or another batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge import covariates, inputs, results, selections
from scvibridge.arguments import check_types
from scvibridge.decoding import (
    Cells,
    Encoder,
    blocks,
    decode_target,
    draw_latent,
    minibatch_entries,
)
from scvibridge.depth import estimate_depth
from scvibridge.devices import resolve_device
from scvibridge.execution import cut_result, fingerprint, run
from scvibridge.extended_parts import AddedEncoder, Both, Columns, part_data
from scvibridge.files import PROVENANCE_KEY
from scvibridge.kernels.philox import check_seed
from scvibridge.models import ExtendedAdapter, adapter_for
from scvibridge.opened_files import check_not_source
from scvibridge.plan import Field, Plan
from scvibridge.storage import check_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from anndata import AnnData

    from scvibridge.execution import Job
    from scvibridge.models import Adapter, Covariates
    from scvibridge.plan import Block
    from scvibridge.sources import CellData

DEFAULT_DEPTH = 1e4
EXPRESSION_ENDINGS = (".h5ad", ".zarr")


def normalized_expression(
    model: Any,
    adata: AnnData | str | PathLike[str] | None = None,
    transform_batch: Any = None,
    transform_covariates: Any = None,
    library_size: float | str = DEFAULT_DEPTH,
    n_samples: int | None = None,
    zero_inflation: bool = False,
    gene_list: Sequence[str] | None = None,
    indices: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> AnnData:
    """Return normalized expression L rho(z, s'): means at one depth, optionally for another batch.

    These are smooth means, meant for plots and rankings. They are not counts: do not pass them to
    tools that model counts.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class, e.g. from :func:`scvibridge.load`.
    adata
        Cells to decode: an AnnData or a path (h5ad, zarr), or a MuData or its path (h5mu) where
        the model was set up with one. The model's own data if None.
    transform_batch
        Batch to decode as, or several, over which the frequencies are averaged. The batch of each
        cell if None.
    transform_covariates
        Values to set other covariates of the model to, by name, e.g.
        ``{"donor": "D1", "percent_mito": 0.05}``; frequencies are averaged over several values.
    library_size
        Depth L: a number; ``"latent"`` (the model's own library); ``"observed"`` (the cell's
        total); ``"median"`` (the median total of the target, or of all cells if there is no
        target); ``"scaled"`` (the cell's total times one factor for each batch; needs
        `transform_batch`).
    n_samples
        Number of draws from the posterior of z to average; the posterior mean of z if None.
    zero_inflation
        Whether the mean of a ZINB model includes the zero inflation. scvi-tools excludes it.
    gene_list, indices, seed, batch_size, device, out, overwrite, resume, progress
        As in :func:`scvibridge.corrected_counts`.

    Returns
    -------
    anndata.AnnData
        ``X``: expression (float32, dense, cells by genes); ``layers["raw_counts"]`` if the data
        contain counts; ``obsm["X_scvi"]``; ``uns["scvibridge"]``: provenance. With `out` (an
        ``.h5ad`` or ``.zarr`` file) the matrices stay on disk.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not match it, or an argument is out of range.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.

    Notes
    -----
    Equal to scvi-tools' ``get_normalized_expression`` at the posterior mean of z.

    Examples
    --------
    >>> expression = scvibridge.normalized_expression(
    ...     model, transform_batch="V3"
    ... )  # doctest: +SKIP
    """
    check_types(normalized_expression, locals())
    given = {
        "adata": adata,
        "transform_batch": transform_batch,
        "transform_covariates": transform_covariates,
        "library_size": library_size,
        "n_samples": n_samples,
        "zero_inflation": zero_inflation,
        "gene_list": gene_list,
        "indices": indices,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "out": out,
        "overwrite": overwrite,
        "resume": resume,
        "progress": progress,
    }
    return _expression(model, "normalized_expression", given)


def denoised_expression(
    model: Any,
    adata: AnnData | str | PathLike[str] | None = None,
    library_size: float | str = "latent",
    n_samples: int | None = None,
    zero_inflation: bool = False,
    gene_list: Sequence[str] | None = None,
    indices: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> AnnData:
    """Return denoised expression l_n rho(z, s): the mean of each cell's counts under its batch.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class, e.g. from :func:`scvibridge.load`.
    adata
        Cells to decode: an AnnData or a path (h5ad, zarr), or a MuData or its path (h5mu) where
        the model was set up with one. The model's own data if None.
    library_size
        Depth: ``"latent"`` (the model's own library), ``"observed"``, ``"median"`` (of all
        cells) or a number.
    n_samples, zero_inflation, gene_list, indices, seed, batch_size, device
        As in :func:`scvibridge.normalized_expression`.
    out, overwrite, resume, progress
        As in :func:`scvibridge.normalized_expression`.

    Returns
    -------
    anndata.AnnData
        Same layout as from :func:`scvibridge.normalized_expression`.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not match it, or an argument is out of range.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.

    Examples
    --------
    >>> denoised = scvibridge.denoised_expression(model)  # doctest: +SKIP
    """
    check_types(denoised_expression, locals())
    given = {
        "adata": adata,
        "transform_batch": None,
        "library_size": library_size,
        "n_samples": n_samples,
        "zero_inflation": zero_inflation,
        "gene_list": gene_list,
        "indices": indices,
        "seed": seed,
        "batch_size": batch_size,
        "device": device,
        "out": out,
        "overwrite": overwrite,
        "resume": resume,
        "progress": progress,
    }
    return _expression(model, "denoised_expression", given)


@dataclass(frozen=True)
class Decoding:
    """How a matrix of means is decoded: targets (None: the observed batch), depth and draws."""

    targets: list[int] | None
    library_size: str | float
    n_samples: int | None
    zero_inflation: bool
    seed: int
    genes: np.ndarray | None
    batch_size: int | None
    device: str
    progress: bool
    # What was requested if covariates other than the batch are changed.
    transformed: dict[str, Any] = field(default_factory=dict)


def _expression(model: Any, kind: str, given: dict[str, Any]) -> AnnData:
    adapter = adapter_for(model)
    decoding = _check_decoding(adapter, given)
    resolve_device(given["device"])
    resume, overwrite = bool(given["resume"]), bool(given["overwrite"])
    check_not_source(None if given["out"] is None else Path(given["out"]), adapter, given["adata"])
    out = inputs.check_out(given["out"], resume, EXPRESSION_ENDINGS, overwrite=overwrite)
    adata = inputs.resolve_adata(adapter, given["adata"], stream=out is not None)
    if out is not None:
        check_tables(adata, out.suffix.lower())
    rows = selections.resolve_indices(given["indices"], adata)
    data = inputs.align(adapter, adata, out, decoding.progress)
    if data.counts is None and decoding.library_size in ("observed", "median", "scaled"):
        raise ValueError(
            f"library_size={decoding.library_size!r} needs counts, and the model's data were "
            "minified to latents: pass adata=, a number, or 'latent'"
        )
    with adapter.on_device(given["device"]):
        job = _job(adapter, data, rows, decoding, kind)
        return run(
            _plan(adapter, data, rows, decoding, kind, out),
            lambda _: job,
            out,
            resume=resume,
            overwrite=overwrite,
            progress=decoding.progress,
            description="Decoding expression",
        )


def _check_decoding(adapter: Adapter, given: dict[str, Any]) -> Decoding:
    inputs.check_batch_size(given["batch_size"], adapter.batches)
    changed = given.get("transform_covariates")
    targets = covariates.resolve(adapter, given["transform_batch"], changed, required=False)
    library_size = inputs.check_library_size(given["library_size"])
    if library_size == "scaled" and targets is None:
        raise ValueError("library_size='scaled' compares batches: it needs transform_batch")
    return Decoding(
        targets,
        library_size,
        inputs.check_n_samples(given["n_samples"]),
        bool(given["zero_inflation"]),
        int(check_seed(given["seed"])),
        selections.resolve_genes(given["gene_list"], adapter.genes),
        given["batch_size"],
        given["device"],
        bool(given["progress"]),
        covariates.provenance(given["transform_batch"], changed),
    )


def _fixed_depth(
    adapter: Adapter,
    data: CellData,
    reference: CellData | None,
    rows: np.ndarray,
    decoding: Decoding,
) -> np.ndarray | None:
    """Return the depth of each cell, shape ``(n_cells,)``; None for the model's own library."""
    if decoding.library_size == "latent":
        return None
    if not isinstance(decoding.library_size, str):
        return np.full(len(rows), decoding.library_size)
    totals = _totals(data, decoding)[rows]
    if decoding.library_size == "observed":
        return totals
    return totals * _depth_ratio(adapter, data, reference, rows, decoding)


def _depth_ratio(
    adapter: Adapter,
    data: CellData,
    reference: CellData | None,
    rows: np.ndarray,
    decoding: Decoding,
) -> np.ndarray:
    """Return the ratio of the named depth to each cell's total, shape ``(n_cells,)``."""
    totals = _totals(data, decoding)[rows]
    reference = inputs.reference_data(adapter, data) if reference is None else reference
    batch = reference.covariates.batch
    targets = list(range(len(adapter.batches))) if decoding.targets is None else decoding.targets
    depth = estimate_depth(
        decoding.library_size, _totals(reference, decoding), batch, targets, None, adapter.batches
    )
    return depth.ratio(totals, data.covariates.batch[rows])


def _totals(data: CellData, decoding: Decoding) -> np.ndarray:
    """Return the totals that depths are computed from: over all genes, if the model is extended."""
    if data.depth_totals is not None and _is_given(decoding.library_size):
        return data.depth_totals
    return data.totals()


def _is_given(library_size: str | float) -> bool:
    """Return whether all cells are scaled to the same depth."""
    return library_size == "median" or not isinstance(library_size, str)


def _job(adapter: Adapter, data: CellData, rows: np.ndarray, decoding: Decoding, kind: str) -> Job:
    """Return the job that computes the matrix; in an extended model, added genes apart."""
    if not isinstance(adapter, ExtendedAdapter):
        return Means(adapter, data, rows, decoding, kind)
    columns = Columns.of(adapter, decoding.genes)
    reference = inputs.reference_data(adapter, data)
    parts = part_data(adapter, data)
    references = parts if reference is data else part_data(adapter, reference)
    asked = replace(decoding, genes=columns.own)
    own = Means(adapter.own, parts[0], rows, asked, kind, references[0])
    asked = replace(decoding, genes=columns.added)
    depth = None
    if decoding.library_size == "scaled":
        ratio = _depth_ratio(adapter.own, parts[0], references[0], rows, decoding)
        depth = parts[1].totals()[rows] * ratio
    encoder = Encoder(adapter.own, parts[0], decoding.batch_size, decoding.progress)
    encoder = AddedEncoder(adapter.added, parts[1], encoder)
    added = Means(adapter.added, parts[1], rows, asked, kind, references[1], encoder, depth)
    return Both(adapter, columns, own, added)


def _plan(
    adapter: Adapter,
    data: CellData,
    rows: np.ndarray,
    decoding: Decoding,
    kind: str,
    out: Path | None,
) -> Plan:
    """Return what the result is computed from."""
    n_genes = len(adapter.genes) if decoding.genes is None else len(decoding.genes)
    fields = [Field("X", False, np.dtype(np.float32), n_genes)]
    fields += results.common_fields(adapter, data, n_genes)
    cut = cut_result(len(rows), adapter.own, decoding.batch_size, decoding.device)
    settings = {**vars(decoding), "kind": kind, "rows": rows}
    settings["strata"] = adapter.describe_strata()
    settings["extension"] = adapter.extension_digest
    del settings["progress"], settings["device"]
    if out is None:
        return Plan(len(rows), cut, tuple(fields), {})
    identity = fingerprint(adapter, settings, *_read(adapter, data, decoding))
    made = results.digest_of_tables(adapter, data, rows, decoding.genes)
    return Plan(len(rows), cut, tuple(fields), identity, made)


def _read(adapter: Adapter, data: CellData, decoding: Decoding) -> list[CellData]:
    """Return the cells that the result depends on: requested ones, and those for the depth."""
    if decoding.library_size not in ("median", "scaled"):
        return [data]
    reference = inputs.reference_data(adapter, data)
    return [data] if reference is data else [data, reference]


class Means:
    """Compute a matrix of means, block by block.

    Parameters
    ----------
    adapter, data
        The model and the cells.
    rows
        Positions of the requested cells.
    decoding
        How the means are decoded.
    kind
        Name of the function that was called.
    reference
        The cells that a depth is learnt from; the model's data if None.
    encoder, depth
        The encoder of the cells, and their depths, if known.
    """

    def __init__(
        self,
        adapter: Adapter,
        data: CellData,
        rows: np.ndarray,
        decoding: Decoding,
        kind: str,
        reference: CellData | None = None,
        encoder: Encoder | None = None,
        depth: np.ndarray | None = None,
    ) -> None:
        self._adapter, self._data, self._rows = adapter, data, rows
        self._decoding, self._kind = decoding, kind
        self._encoder = encoder or Encoder(adapter, data, decoding.batch_size, decoding.progress)
        self.depth = depth
        if depth is None:
            self.depth = _fixed_depth(adapter, data, reference, rows, decoding)

    def pieces(self, selection: slice) -> Iterator[Block]:
        """Compute a block of the requested cells in minibatches: the matrices of each by field."""
        decoding, n_genes = self._decoding, len(self._adapter.genes)
        n_cells = selection.stop - selection.start
        entries = minibatch_entries(resolve_device(decoding.device))
        for piece in blocks(n_cells, n_genes, decoding.batch_size, entries):
            yield self._piece(slice(selection.start + piece.start, selection.start + piece.stop))

    def _piece(self, selection: slice) -> Block:
        adapter, decoding = self._adapter, self._decoding
        with adapter.on_device(decoding.device), torch.inference_mode():
            cells = self._encoder.cells(self._rows[selection])
            fixed = None if self.depth is None else self.depth[selection]
            if fixed is not None and _is_given(decoding.library_size):
                fixed = cells.factor_at(fixed)
            mean = block_mean(adapter, cells, decoding, fixed)
            common = results.common_matrices(adapter, cells, decoding.genes, decoding.targets)
            return {"X": mean, **common}

    def tables(self, _: dict[str, np.ndarray]) -> AnnData:
        """Return all of the result except its matrices."""
        adapter, decoding = self._adapter, self._decoding
        result = results.tables(adapter, self._data, self._rows, decoding.genes)
        settings = {
            "transform_batch": results.batch_names(adapter, decoding.targets),
            **decoding.transformed,
            "library_size": decoding.library_size,
            "n_samples": decoding.n_samples,
            "seed": decoding.seed,
            "zero_inflation": decoding.zero_inflation,
            "notes": [],
        }
        result.uns[PROVENANCE_KEY] = results.provenance(adapter, self._kind, settings)
        return result


def block_mean(
    adapter: Adapter, cells: Cells, decoding: Decoding, depth: np.ndarray | None
) -> np.ndarray:
    """Return the means of a block, shape ``(n_cells, n_genes)``, float32.

    Draws are averaged as they are computed, so that memory use does not grow with their number.
    """
    latent, covariates = cells.latent, cells.covariates
    if decoding.n_samples is None:
        mean = _means_at(adapter, covariates, latent.location, latent.log_library, decoding, depth)
        return mean.cpu().numpy()
    total: torch.Tensor | None = None
    for sample in range(decoding.n_samples):
        z, log_library = draw_latent(cells, decoding.seed, sample)
        mean = _means_at(adapter, covariates, z, log_library, decoding, depth)
        total = mean if total is None else total.add_(mean)
    assert total is not None  # noqa: S101 - at least one sample
    return total.div_(decoding.n_samples).cpu().numpy()


def _means_at(
    adapter: Adapter,
    covariates: Covariates,
    z: np.ndarray,
    log_library: np.ndarray,
    decoding: Decoding,
    depth: np.ndarray | None,
) -> torch.Tensor:
    """Return the means of a block at given latent variables."""
    decoded = decode_target(adapter, z, covariates, decoding.targets)
    mean = decoded.rate().float()
    if decoding.zero_inflation and decoded.zi_logits is not None:
        mean *= torch.sigmoid(-decoded.zi_logits)
    if decoding.genes is not None:
        mean = mean[:, torch.as_tensor(decoding.genes, device=mean.device)]
    factor = np.exp(log_library) if depth is None else depth
    mean *= torch.as_tensor(factor.astype(np.float32), device=mean.device)[:, None]
    return mean
