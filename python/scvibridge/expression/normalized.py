"""Compute expression matrices: conditional means under the observed or another batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import selections
from scvibridge._utils.arguments import check_types
from scvibridge.expression import results
from scvibridge.expression.extended_model import Both, Columns
from scvibridge.expression.fingerprint import fingerprint
from scvibridge.expression.means import (
    DEFAULT_DEPTH,
    Decoding,
    DepthSource,
    Means,
    MeanSettings,
    depth_ratio,
    depth_source,
)
from scvibridge.expression.records import Output, Running, values_of
from scvibridge.expression.targets import resolve
from scvibridge.io.backed import closing_inputs
from scvibridge.io.jobs import cut_result, run
from scvibridge.io.plan import Field, Plan
from scvibridge.io.storage import check_tables
from scvibridge.models import alignment
from scvibridge.models.adapters import adapter_for
from scvibridge.models.added_genes import AddedEncoder, check_fitted, part_data
from scvibridge.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.io.plan import Job
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


EXPRESSION_ENDINGS = (".h5ad", ".zarr")


def normalized_expression(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
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
    """Compute normalized expression L rho(z, s'): means at one depth, optionally for another batch.

    These are smooth means, meant for plots and rankings. They are not counts: do not pass them to
    tools that model counts.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class, e.g. from :func:`scvibridge.load`.
    adata
        Cells to decode: an AnnData or a path (h5ad, zarr), a list of paths (such as one for each
        sample), or a MuData or its path (h5mu) if the model was set up with one. The model's own
        data if None.
    transform_batch
        Batch to decode as, or several, over which the frequencies are averaged. Each cell's own
        batch if None.
    transform_covariates
        Values to set other covariates of the model to, by name, e.g.
        ``{"donor": "D1", "percent_mito": 0.05}``. Frequencies are averaged over several values.
    library_size
        Depth L: a number; ``"latent"`` (the model's own library); ``"observed"`` (the cell's
        total); ``"median"`` (the median total of the target, or of all cells if there is no
        target); ``"scaled"`` (the cell's total times one factor for each batch; needs
        `transform_batch`).
    n_samples
        Number of samples of z from its posterior to average over; the posterior mean of z if None.
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
    adapter = adapter_for(model)
    running = Running.of(adapter, batch_size, device, progress)
    target = resolve(adapter, transform_batch, transform_covariates, required=False)
    settings = MeanSettings.of(library_size, n_samples, seed, zero_inflation)
    if settings.library_size.is_by_batch and not target.codes:
        raise ValueError("library_size='scaled' compares batches and requires transform_batch")
    decoding = Decoding(settings, selections.resolve_genes(gene_list, adapter.genes), running)
    output = Output.of(adapter, adata, EXPRESSION_ENDINGS, out, overwrite, resume)
    adapter = adapter.with_target(target)
    return _expression(adapter, "normalized_expression", adata, indices, decoding, output)


def denoised_expression(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
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
    """Compute denoised expression l_n rho(z, s): the mean of each cell's counts in its batch.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class, e.g. from :func:`scvibridge.load`.
    adata
        Cells to decode: an AnnData or a path (h5ad, zarr), a list of paths (such as one for each
        sample), or a MuData or its path (h5mu) if the model was set up with one. The model's own
        data if None.
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
    adapter = adapter_for(model)
    running = Running.of(adapter, batch_size, device, progress)
    settings = MeanSettings.of(library_size, n_samples, seed, zero_inflation)
    if settings.library_size.is_by_batch:
        raise ValueError("library_size='scaled' compares batches and requires transform_batch")
    decoding = Decoding(settings, selections.resolve_genes(gene_list, adapter.genes), running)
    output = Output.of(adapter, adata, EXPRESSION_ENDINGS, out, overwrite, resume)
    return _expression(adapter, "denoised_expression", adata, indices, decoding, output)


def _expression(
    adapter: Adapter, kind: str, adata: Any, indices: Any, decoding: Decoding, output: Output
) -> AnnData:
    """Compute the means of the requested cells for the adapter's target."""
    with closing_inputs():
        return _computed(adapter, kind, adata, indices, decoding, output)


def _computed(
    adapter: Adapter, kind: str, adata: Any, indices: Any, decoding: Decoding, output: Output
) -> AnnData:
    running, depth, out = decoding.running, decoding.depth, output.path
    table = alignment.resolve_adata(adapter, adata, stream=out is not None)
    if out is not None:
        check_tables(table, out.suffix.lower())
    rows = selections.resolve_indices(indices, table)
    data = alignment.align(adapter, table, out, running.progress)
    if data.counts is None and depth.needs_counts:
        raise ValueError(
            f"library_size={depth.asked!r} needs counts, but the model's data were minified to "
            "latent variables: pass adata=, a number, or 'latent'"
        )
    check_fitted(adapter, data, rows, decoding.genes)
    with adapter.on_device(running.device):
        source = depth_source(adapter, data, decoding.depth)
        job = _job(adapter, data, rows, decoding, kind, source)
        return run(
            _plan(adapter, data, rows, decoding, kind, out, source),
            lambda _: job,
            out,
            resume=output.resume,
            overwrite=output.overwrite,
            progress=running.progress,
            description="Decoding expression",
        )


def _job(
    adapter: Adapter,
    data: CellData,
    rows: np.ndarray,
    decoding: Decoding,
    kind: str,
    source: DepthSource,
) -> Job:
    """Return the job that computes the matrix; for an extended model, added genes separately."""
    genes = adapter.added
    if genes is None:
        return Means(adapter, data, rows, decoding, kind, source)
    columns = Columns.of(adapter, decoding.genes)
    parts = part_data(adapter, data)
    references = parts if source.data is data else part_data(adapter, source.data)
    sources = [replace(source, data=reference) for reference in references]
    asked = replace(decoding, genes=columns.own)
    own = Means(adapter.own, parts[0], rows, asked, kind, sources[0])
    asked = replace(decoding, genes=columns.added)
    depth = None
    if decoding.depth.is_by_batch:
        ratio, _ = depth_ratio(adapter.own, parts[0], references[0], rows, decoding.depth)
        depth = parts[1].totals()[rows] * ratio
    running = decoding.running
    encoder = Encoder(adapter.own, parts[0], running.batch_size, running.progress)
    encoder = AddedEncoder(genes.adapter, parts[1], encoder)
    added = Means(genes.adapter, parts[1], rows, asked, kind, sources[1], encoder, depth)
    return Both(genes, columns, own, added)


def _plan(
    adapter: Adapter,
    data: CellData,
    rows: np.ndarray,
    decoding: Decoding,
    kind: str,
    out: Path | None,
    source: DepthSource,
) -> Plan:
    """Return the plan of the result, with what it depends on."""
    n_genes = len(adapter.genes) if decoding.genes is None else len(decoding.genes)
    fields = [Field("X", False, np.dtype(np.float32), n_genes)]
    fields += results.common_fields(adapter, data, n_genes)
    running = decoding.running
    cut = cut_result(len(rows), len(adapter.own.genes), running.batch_size, running.device)
    settings = {
        **values_of(decoding.settings),
        "batch_size": running.batch_size,
        "kind": kind,
        "rows": rows,
        "genes": decoding.genes,
        "targets": adapter.target.codes,
        "transformed": adapter.target.asked,
        "strata": adapter.describe_strata(),
        "extension": adapter.extension_digest,
    }
    if out is None:
        return Plan(len(rows), cut, tuple(fields), {})
    read = [data] if source.data is data else [data, source.data]
    identity = fingerprint(adapter, settings, *read)
    made = results.digest_of_tables(adapter, data, rows, decoding.genes)
    return Plan(len(rows), cut, tuple(fields), identity, made)
