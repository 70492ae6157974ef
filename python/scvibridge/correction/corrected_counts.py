"""Compute batch-corrected counts: integers, as if every cell came from the target batch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from scvibridge._utils import arguments
from scvibridge._utils.arguments import check_types
from scvibridge._utils.digests import digest, digest_of_names
from scvibridge.correction.correctable import count_corrected
from scvibridge.correction.count_blocks import Correction, fields_of
from scvibridge.correction.estimates import Encoders, estimate, supported_rows
from scvibridge.correction.extended_model import Added, part_request, with_added
from scvibridge.correction.findings import NOTHING
from scvibridge.correction.provenance import Findings, describe
from scvibridge.correction.records import CheckResults
from scvibridge.correction.reference import check_confounding, choose_reference
from scvibridge.correction.request import check_reference, check_request
from scvibridge.correction.residual_checks import plan_residuals
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.correction.support.scores import is_scored
from scvibridge.expression import results
from scvibridge.expression.fingerprint import fingerprint
from scvibridge.expression.records import Running, values_of
from scvibridge.io.backed import closing_inputs
from scvibridge.io.dask_workers import check_client, pool_of
from scvibridge.io.jobs import cut_result, run
from scvibridge.io.plan import Plan
from scvibridge.models.adapters import adapter_for
from scvibridge.models.held_out import held_out_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    import numpy as np
    from anndata import AnnData

    from scvibridge.correction.records import Reference, Request
    from scvibridge.io.plan import Job, Remember


def corrected_counts(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    transform_batch: Any = None,
    transform_covariates: Any = None,
    method: str = "quantile",
    effect: str | None = None,
    labels_key: str | None = None,
    condition_key: str | None = None,
    sample_key: str | None = None,
    allow_confounded: bool = False,
    library_size: float | str | None = None,
    zero_inflation: bool = True,
    normalized: bool = False,
    unsupported: str = "keep",
    dispersion: Any = None,
    shrinkage: float | str | None = None,
    residual: str = "never",
    estimate_on: Any = None,
    genes_kept: Any = None,
    gene_list: Sequence[str] | None = None,
    indices: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    client: Any = None,
    progress: bool = True,
) -> AnnData:
    """Compute batch-corrected counts: integers, as if every cell came from the target batch.

    Both methods evaluate the quantile function of the target's likelihood at a number u between 0
    and 1. With ``method="quantile"`` u is the randomised probability integral transform of the
    observed count under the cell's batch, so that the cell's data are preserved; with
    ``method="sample"`` u is a new random number, and the counts are a simulation of the cell by the
    model.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class, e.g. from :func:`scvibridge.load`.
    adata
        Cells to correct: an AnnData or a path (h5ad, zarr), a list of paths (such as one for each
        sample), or a MuData or its path (h5mu) if the model was set up with one. The model's own
        data if None. Genes are aligned by name.
    transform_batch
        The target batch, or several, whose parameters are averaged. Required if the model has more
        than one batch, unless other covariates are changed.
    transform_covariates
        Values to set other covariates of the model to, by name, e.g. ``{"donor": "D1"}``: alone
        (the cells then keep their batch) or with the batch. Parameters are averaged over several
        values. Continuous covariates need ``effect="cell"`` or ``method="sample"``.
    method
        ``"quantile"`` or ``"sample"``.
    effect
        Batch effect that ``"quantile"`` removes: ``"label"`` (one for each label and batch; the
        default with `labels_key`), ``"global"`` (one for each batch; the default without),
        ``"local"`` (one for each batch that varies over the latent space) or ``"cell"`` (each
        cell's own, which leaks the condition of interest).
    labels_key
        Column of ``obs`` with cell types. They must not encode the condition of interest.
    condition_key
        Column of ``obs`` with the condition of interest: designs in which it is confounded with the
        batch are refused, and the conditions are weighted equally in each effect.
    sample_key
        Column of ``obs`` with the replicate (donor, sample): ``"quantile"`` then preserves how the
        counts of each sample and label differ from the model's means. Pass it if you compare
        samples later.
    allow_confounded
        Continue, with a warning, if the condition is confounded with the batch.
    library_size
        Depth of the counts: a number (up to 2**31 - 1); ``"observed"`` or ``"latent"`` (both keep
        the cell's depth); ``"median"`` (the target's median for all cells; default of
        ``"sample"``); ``"scaled"`` (one factor for each batch; default of ``"quantile"``).
    zero_inflation
        Whether samples from a ZINB model include the zero inflation (``"sample"`` only;
        ``"quantile"`` always includes it on both sides).
    normalized
        Whether to add ``layers["normalized"]``, the normalized expression at the target batch
        and a depth of 1e4 (dense, float32).
    unsupported
        What to do with cells that the target batch does not support because it has hardly any
        similar cells: ``"keep"`` (flag them in ``obs``, and warn if there are many), ``"mask"``
        (leave their rows of ``X`` empty) or ``"drop"`` (leave them out). See
        :func:`scvibridge.batch_support`.
    dispersion
        Inverse dispersions theta to use instead of the model's, on both sides of the mapping: the
        result of :func:`scvibridge.calibration`, a Series by gene, or a DataFrame of genes by
        batches. Genes added to the model keep their dispersions if a table does not name them.
    shrinkage
        Number of counts at which an effect is shrunk by half: batch effects are shrunk towards
        zero, and label and local effects towards their batch's effect, the more strongly the fewer
        counts a gene has. ``"auto"`` (the default of the effects ``"label"``, ``"global"`` and
        ``"local"``) estimates it from the cells held out of training; 0 uses the decoder's effects
        unchanged.
    residual
        When to remove batch effects that the decoder misses, estimated from the samples of
        `sample_key` (effects ``"label"``, ``"global"`` and ``"local"``). ``"never"`` uses only the
        decoder's effects. ``"auto"`` estimates them if the conditions of `condition_key` are
        balanced over batches and samples, and if both a batch and the target have at least two
        samples. ``"always"`` ignores the balance, and raises an error if there are too few samples.
    estimate_on
        Cells that batch effects and depth are estimated on, such as controls or a pool that every
        batch has; the effects are then removed from all cells. Values of columns of ``obs``, e.g.
        ``{"condition": "ctrl"}`` (several values as a list, several columns: cells that agree
        with all of them), names of cells, or a boolean Series indexed by them; all cells if None.
        The confounding check looks at these cells alone. Not for the effect ``"cell"``.
    genes_kept
        Genes whose counts are returned as observed, without any correction, such as
        sex-linked genes where the batch is a donor: names, or a boolean Series indexed by gene
        names. Only for ``"quantile"``.
    gene_list
        Genes to return: names, in this order, or a boolean Series indexed by gene names; all of the
        model's genes if None.
    indices
        Cells to return: positions, a mask, a slice or names; all if None. A Series or one-column
        DataFrame indexed by cell names is aligned by name and must include every cell; a mask
        without names is matched by position.
    seed
        Seed of the random numbers, 0 to 2**32 - 1. They are keyed by cell and gene names.
    batch_size
        Number of cells in a minibatch. Not to be confused with a batch of the data: see
        `transform_batch`.
    device
        Device to run the model on: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    out
        File to write the result to, block by block, so that memory use does not grow with the
        number of cells: ``.h5ad``, ``.zarr``, or ``.h5`` (10x HDF5: the corrected counts only).
        Data passed as a path, or stored on disk, are then also read block by block. It must not be
        a file that the model or the cells are read from.
    overwrite
        Whether to replace `out` if it exists. It is replaced once the new file is complete.
    resume
        Continue an interrupted run with the same `out` and settings from its finished blocks, which
        are kept in a folder next to the file. The result is bitwise identical to that of an
        uninterrupted run. If `out` is already the finished result for the same settings, nothing is
        computed.
    client
        A ``dask.distributed.Client`` whose workers check the counts, estimate effects, compute the
        blocks and, if `out` ends in ``.zarr``, write them (only with `out`). They must have access
        to the folder of that file, and to that of the data if those are on disk.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    anndata.AnnData
        ``X``: corrected counts (CSR, int32, cells by genes); ``layers["raw_counts"]``: the observed
        counts; ``obsm["X_scvi"]``: latent means; ``obsm["protein_normalized"]`` if the model has
        proteins; flags in ``obs`` and ``var``; ``uns["scvibridge"]``: provenance. With `out` the
        matrices stay on disk: ``.to_memory()`` loads them.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not match it, an argument is out of range, or batch
        and condition are confounded. Nothing is computed or written in that case.
    FileExistsError
        If `out` exists and `overwrite` is False, or files of an interrupted run remain and `resume`
        is False.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.
    OverflowError
        If a count exceeds 2**31 - 1.

    Notes
    -----
    With rate l_n rho(z, s) under the cell's batch, effect D and depth ratio k_n, the target's mean
    is k_n l_n rho(z, s) exp(D), renormalised over all of the model's genes.

    With labels, D = a D_batch + b (D_label - D_batch), where D_batch and D_label are means of the
    decoder's log ratio, a = P / (P + kappa), 1 / P is the sum of the reciprocals of a gene's counts
    in the batch and in the target, b is the same within the label, and kappa is the `shrinkage`.

    With the effect ``"local"``, D = a D_batch + b sum_m (w_nm - mean w_m) beta_m, where w_nm is the
    membership of cell n in landmark m of the latent space, and beta is fitted to the decoder's log
    ratios within batches and conditions.

    With `residual`, r (1 - se / sqrt(tau^2 + se^2)) is added to D, where r is the batch coefficient
    of ``~ batch + condition`` for the samples' log means after correction by D, se is its moderated
    standard error, and tau is the standard deviation of such coefficients beyond their errors.

    With `sample_key`, the means in the cell's batch and in the target are multiplied by (O + 2) /
    (E + 2), where O and E are the observed and the expected counts of the gene in the cell's batch,
    label, condition and sample.

    Results do not depend on minibatches, order, subsets or threads, except that at most one entry
    in 1e5 may differ by 1 because of the order of floating-point operations.

    Examples
    --------
    >>> counts = scvibridge.corrected_counts(
    ...     model, transform_batch="V3", labels_key="cell_type"
    ... )  # doctest: +SKIP
    """
    check_types(corrected_counts, locals())
    check_client(client, out)
    adapter = adapter_for(model)
    settings = CorrectionSettings.of(
        method=method,
        effect=effect,
        labels_key=labels_key,
        condition_key=condition_key,
        sample_key=sample_key,
        library_size=library_size,
        zero_inflation=zero_inflation,
        normalized=normalized,
        unsupported=unsupported,
        shrinkage=shrinkage,
        residual=residual,
        seed=seed,
    )
    with pool_of(client) as pool, closing_inputs():
        request = check_request(
            adapter,
            settings,
            Running.of(adapter, batch_size, device, progress, pool),
            adata=adata,
            transform_batch=transform_batch,
            transform_covariates=transform_covariates,
            dispersion=dispersion,
            estimate_on=estimate_on,
            genes_kept=genes_kept,
            gene_list=gene_list,
            indices=indices,
            out=out,
            overwrite=overwrite,
            resume=resume,
        )
        reference = choose_reference(request)
        checked = check(request, reference, allow_confounded)
        return compute(request, reference, checked)


def check(request: Request, reference: Reference, allow_confounded: bool) -> CheckResults:
    """Check the design before any work, and decide which effects are estimated."""
    corrected = check_reference(request, reference)
    confounding, design = check_confounding(request, reference, allow_confounded)
    plan, residual = plan_residuals(request, reference, confounding)
    return CheckResults(confounding, design, corrected, plan, residual)


def compute(request: Request, reference: Reference, checked: CheckResults | None = None) -> AnnData:
    """Estimate effects and depth, and map the counts block by block."""
    checked = checked or CheckResults()
    part, added = part_request(request, reference)
    scored = is_scored(part.request, part.reference.everyone)
    encoders = Encoders.of(part.request, part.reference)
    running, output = request.running, request.output
    kept = request.genes_kept
    genes_kept = None if kept is None else list(request.adapter.genes[kept])
    with request.adapter.on_device(running.device):
        dropped = NOTHING
        if scored and request.settings.unsupported == "drop":
            rows, dropped = supported_rows(part.request, part.reference, encoders)
            request, part = replace(request, rows=rows), part.of_rows(rows)
            dropped += count_corrected(part.request, part.reference)
            added = None if added is None else added.of_rows(rows)

        def prepare(remember: Remember) -> Job:
            plan = checked.residual_plan
            estimates = estimate(part.request, part.reference, remember, encoders, plan)
            findings = Findings(checked, dropped, estimates.found)
            described = partial(
                describe, part.request, part.reference, findings, genes_kept=genes_kept
            )
            correction = Correction(part.request, part.reference, estimates, described)
            if added is None:
                return correction
            further = Added(added, estimates, encoders, plan)
            return with_added(request, correction, further, remember)

        return run(
            _plan(request, reference, scored),
            prepare,
            output.path,
            pool=running.pool,
            resume=output.resume,
            overwrite=output.overwrite,
            progress=running.progress,
            description="Computing counts",
        )


def _plan(request: Request, reference: Reference, scored: bool) -> Plan:
    n_cells, running = len(request.rows), request.running
    cut = cut_result(n_cells, len(request.adapter.own.genes), running.batch_size, running.device)
    fields = fields_of(request, scored)
    if request.output.path is None:
        return Plan(n_cells, cut, fields, {})
    made = results.digest_of_tables(request.adapter, request.data, request.rows, request.genes)
    return Plan(n_cells, cut, fields, _fingerprint(request, reference), made)


def _fingerprint(request: Request, reference: Reference) -> dict[str, Any]:
    """Return what identifies a run: settings by name, and digests of the data they refer to."""
    adapter, dispersion = request.adapter, request.dispersion
    everyone = reference.everyone
    settings = {
        **values_of(request.settings),
        "batch_size": request.running.batch_size,
        "targets": adapter.target.codes,
        "transformed": adapter.target.asked,
        "rows": request.rows,
        "genes": request.genes,
        "held_out": held_out_rows(adapter, everyone.data),
        "estimate_on": None if reference.chosen is None else reference.chosen.rows,
        "genes_kept": request.genes_kept,
        "extension": adapter.extension_digest,
        "columns": {
            name: _digests_of_column(request, request.settings.column(name), *codes)
            for name, codes in everyone.columns().items()
        },
    }
    for name, given in (("theta", dispersion.own), ("added", dispersion.added)):
        settings[name] = None if given is None else given.table
    data = [request.data] if everyone.data is request.data else [request.data, everyone.data]
    return fingerprint(adapter, settings, *data)


def _digests_of_column(
    request: Request,
    key: str | None,
    codes: np.ndarray | None,
    names: list[Any],
) -> dict[str, str]:
    """Return digests of the groups of cells, in the reference and in the cells to correct."""
    if key is None or codes is None:
        return {}
    digests = {"reference": f"{digest(codes)} {digest_of_names(names)}"}
    if key in request.data.adata.obs:
        given, given_names = arguments.column_codes(request.data.adata, key, key)
        digests["data"] = f"{digest(given)} {digest_of_names(given_names)}"
    return digests
