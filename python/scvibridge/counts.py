"""Batch-corrected counts: integers, as if every cell came from the target batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge import effects, inputs, parameters, results
from scvibridge.decoding import Cells, blocks, draw_latent, encode, is_everything
from scvibridge.depth import DepthModel, estimate_depth
from scvibridge.expression import DEFAULT_DEPTH, Decoding, add_normalized_layer
from scvibridge.kernels.philox import hash_names
from scvibridge.likelihood import quantile_counts, sample_counts
from scvibridge.models import adapter_for
from scvibridge.progress import track
from scvibridge.request import (
    Reference,
    Request,
    check_confounding,
    check_request,
    choose_reference,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from anndata import AnnData

    from scvibridge.models import SCVIAdapter

# Beyond this ratio most counts of a cell are the model's invention rather than its own data.
_HIGH_DEPTH_RATIO = 2.0


def corrected_counts(
    model: Any,
    adata: AnnData | str | PathLike[str] | None = None,
    transform_batch: Any = None,
    method: str = "quantile",
    effect: str | None = None,
    labels_key: str | None = None,
    condition_key: str | None = None,
    allow_confounded: bool = False,
    library_size: float | str | None = None,
    zero_inflation: bool = True,
    normalized: bool = False,
    gene_list: Sequence[str] | None = None,
    indices: Any = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    out: str | PathLike[str] | None = None,
    progress: bool = True,
) -> AnnData:
    """Batch-corrected counts: integers, as if every cell came from the target batch.

    Both methods evaluate the quantile function of the target's likelihood at a uniform. With
    ``method="quantile"`` the uniform is the randomised probability integral transform of the
    observed count under the cell's own batch, so that the cell keeps its own data; with
    ``method="sample"`` it is fresh, and the counts are a simulation of the cell by the model.

    Parameters
    ----------
    model
        A trained :class:`scvi.model.SCVI`, e.g. from :func:`scvibridge.load`.
    adata
        Cells to correct: an AnnData or a path (h5ad, zarr). The model's own data if None.
        Genes are aligned by name.
    transform_batch
        Batch whose likeness the counts take, or several, whose parameters are averaged.
        Required where the model has more than one batch.
    method
        ``"quantile"`` or ``"sample"``.
    effect
        Batch effect that ``"quantile"`` removes: ``"label"`` (one for each label and batch; the
        default with `labels_key`), ``"global"`` (one for each batch; the default without) or
        ``"cell"`` (each cell's own, which leaks the condition of interest).
    labels_key
        Column of ``obs`` with cell types. They must not encode the condition of interest.
    condition_key
        Column of ``obs`` with the condition of interest: refuses designs in which it cannot be
        told from the batch, and lets the conditions weigh equally in each effect.
    allow_confounded
        Go on, with a warning, where the condition cannot be told from the batch.
    library_size
        Depth of the counts: a number; ``"observed"`` or ``"latent"`` (the model's own rate);
        ``"median"`` (the target's median for all cells; default of ``"sample"``); ``"scaled"``
        (one factor for each batch; default of ``"quantile"``).
    zero_inflation
        Whether draws of a ZINB model include the zero inflation (``"sample"`` alone;
        ``"quantile"`` always takes both sides with it).
    normalized
        Whether to add ``layers["normalized"]``, the normalized expression at the target batch
        and a depth of 1e4 (dense, float32).
    gene_list
        Genes to return, in this order; all of the model's if None.
    indices
        Cells to return: positions, a mask, a slice or names; all if None.
    seed
        Seed of the random numbers, 0 to 2**32 - 1. They are keyed by the names of cell and gene.
    batch_size
        Number of cells in a minibatch. It is no batch of the data: see `transform_batch`.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``, where the model is run.
    out
        Path of an h5ad file to write the result to as well.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    anndata.AnnData
        ``X``: corrected counts (CSR, int32, cells by genes); ``layers["raw_counts"]``: the
        cells' own; ``obsm["X_scvi"]``: latent means; flags in ``obs`` and ``var``;
        ``uns["scvibridge"]``: provenance.

    Raises
    ------
    ValueError
        If the model is not trained, the data do not fit it, an argument is out of its range, or
        batch and condition are confounded. Nothing has been computed or written then.
    TypeError
        If the model is of a class that is not supported.
    OverflowError
        If a count exceeds 2**31 - 1.

    Notes
    -----
    With own rate l_n rho(z, s), group effect D and depth ratio k_n, the target's mean is
    k_n l_n rho(z, s) exp(D), renormalised over all of the model's genes. Results do not depend
    on minibatches, order, subsets or threads, except that at most one entry in 1e5 may differ,
    by 1, from the order of floating-point operations.

    Examples
    --------
    >>> counts = scvibridge.corrected_counts(
    ...     model, transform_batch="V3", labels_key="cell_type"
    ... )  # doctest: +SKIP
    """
    adapter = adapter_for(model)
    request = check_request(
        adapter,
        adata=adata,
        transform_batch=transform_batch,
        method=method,
        effect=effect,
        labels_key=labels_key,
        condition_key=condition_key,
        library_size=library_size,
        zero_inflation=bool(zero_inflation),
        normalized=bool(normalized),
        gene_list=gene_list,
        indices=indices,
        seed=seed,
        batch_size=batch_size,
        device=device,
        out=out,
        progress=bool(progress),
    )
    reference = choose_reference(request)
    check_confounding(request, reference, allow_confounded)
    return compute(request, reference)


# -- the work ------------------------------------------------------------------------------------


def compute(request: Request, reference: Reference) -> AnnData:
    """Estimate effects and depth, map the counts block by block, and assemble the result."""
    adapter = request.adapter
    with adapter.on_device(request.device):
        cells, reference_cells = _encode_all(request, reference)
        depth_model = _estimate_depth(request, reference, reference_cells)
        depth = depth_model.ratio(depth_library(adapter, cells), cells.covariates.batch)
        request.notes.extend(depth_model.notes)
        _warn_of_depth(request, depth, cells)
        detection = _detect(request, reference)
        if request.method == "quantile":
            matrix, flags = _quantile(request, reference, reference_cells, cells, depth, detection)
        else:
            matrix, flags = _sample(request, cells, depth), {}
        result = results.assemble(adapter, request.data, request.rows, request.genes, cells, matrix)
        if request.normalized:
            add_normalized_layer(result, adapter, cells, _decoding(request))
    results.add_flags(result, {"depth_ratio": depth, "empty": _empty(cells), **flags})
    if detection is not None:
        low = detection.low()[np.unique(reference.data.covariates.batch)]
        results.add_detection(result, detection.counts, low, request.genes)
    return results.finish(result, _describe(request, reference), request.out)


def _encode_all(request: Request, reference: Reference) -> tuple[Cells, Cells | None]:
    """Encode the cells asked for and, where needed, those to estimate from; none of them twice."""
    adapter, data = request.adapter, request.data
    settings = (request.batch_size, request.progress)
    if not _needs_latents(request, reference):
        return encode(adapter, data, request.rows, *settings), None
    everything = encode(adapter, reference.data, np.arange(reference.data.n_cells), *settings)
    if reference.data is not data:
        return encode(adapter, data, request.rows, *settings), everything
    if is_everything(request.rows, data.n_cells):
        return everything, everything
    return everything.take(request.rows), everything


def _needs_latents(request: Request, reference: Reference) -> bool:
    """Whether estimates rest on the latents of all cells, rather than on their counts alone."""
    if reference.data.counts is None:
        return True
    if request.method == "quantile" and request.effect != "cell":
        return True
    return request.adapter.uses_latent_library and request.library_size in ("median", "scaled")


def depth_library(adapter: SCVIAdapter, cells: Cells) -> np.ndarray:
    """Library that depth is counted from: the latent one, else the observed total."""
    totals = cells.totals()
    if totals is None:
        return cells.library()
    return np.where(totals > 0, cells.library(), 0.0) if adapter.uses_latent_library else totals


def _estimate_depth(request: Request, reference: Reference, cells: Cells | None) -> DepthModel:
    data = reference.data
    return estimate_depth(
        request.library_size,
        data.totals() if cells is None else depth_library(request.adapter, cells),
        data.covariates.batch,
        request.targets,
        reference.labels,
        request.adapter.batches,
    )


def _warn_of_depth(request: Request, depth: np.ndarray, cells: Cells) -> None:
    high = int(((depth > _HIGH_DEPTH_RATIO) & ~_empty(cells)).sum())
    if high:
        request.note(
            f"{high} of {cells.n_cells} cells are given more than {_HIGH_DEPTH_RATIO:g} times "
            "their own depth: such counts are partly invented",
            warn=True,
        )


def _empty(cells: Cells) -> np.ndarray:
    totals = cells.totals()
    return np.zeros(cells.n_cells, dtype=bool) if totals is None else totals == 0


def _detect(request: Request, reference: Reference) -> effects.Detection | None:
    if reference.data.counts is None:
        return None
    return effects.detect(reference.data, len(request.adapter.batches), request.targets)


def _quantile(
    request: Request,
    reference: Reference,
    reference_cells: Cells | None,
    cells: Cells,
    depth: np.ndarray,
    detection: effects.Detection | None,
) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Map the cells' counts from their own batch's likelihood to the target's."""
    assert detection is not None  # noqa: S101 - quantile without counts is refused before
    adapter, low = request.adapter, detection.low()
    groups = _estimate_groups(request, reference, reference_cells, low)
    group_rows, flags = _assign_groups(request, reference, cells, groups)
    theta = parameters.target_theta(adapter, request.targets, low)
    gene_hashes = _gene_hashes(request)
    parts = []
    for block in _track_blocks(request, cells):
        some = cells.take(block)
        own = adapter.decode(some.latent.location, some.covariates, None)
        source = parameters.source_parameters(adapter, some, own, theta.source)
        rows = None if group_rows is None else group_rows[block]
        shift = parameters.shift_of_block(adapter, some, own, request.targets, groups, rows, low)
        target = parameters.shifted_parameters(source, shift, depth[block], theta.target)
        parts.append(
            quantile_counts(
                some.integer_counts(request.genes),
                parameters.select_genes(source, request.genes),
                parameters.select_genes(target, request.genes),
                hash_names(some.names),
                gene_hashes,
                request.seed,
                keep_unchanged=request.keep_unchanged,
            )
        )
    return stack(parts), flags


def _estimate_groups(
    request: Request, reference: Reference, cells: Cells | None, low: np.ndarray
) -> effects.GroupEffects | None:
    if request.effect == "cell":
        return None
    assert cells is not None  # noqa: S101 - encoded, since group effects rest on latents
    absent = set(np.unique(request.data.covariates.batch[request.rows])) - set(
        np.unique(cells.covariates.batch)
    )
    if absent:
        names = inputs.list_names(request.adapter.batches[b] for b in sorted(absent))
        raise ValueError(f"the data to estimate from hold no cell of {names}")
    return effects.estimate_groups(
        request.adapter,
        cells,
        request.targets,
        low,
        reference.labels if request.effect == "label" else None,
        reference.condition,
        request.batch_size,
        request.progress,
    )


def _assign_groups(
    request: Request, reference: Reference, cells: Cells, groups: effects.GroupEffects | None
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Choose the group of each cell, and tell in ``obs`` which it is."""
    if groups is None:
        return None, {}
    batch = cells.covariates.batch
    labels = None
    if request.effect == "label":
        labels = _labels_of_cells(request, reference)
    else:
        request.note("effect='global': batch effects that differ between cell types stay")
    rows, fallback = groups.rows(batch, labels)
    shown = None if labels is None else np.where(fallback, -1, labels)
    if len(request.targets) == 1:
        fallback &= batch != request.targets[0]  # nothing is removed from the target's own cells
    if fallback.any():
        request.note(
            f"{int(fallback.sum())} cells took the effect of their whole batch: their label is "
            "missing, absent from the target, or has fewer than "
            f"{effects.MIN_GROUP_CELLS} cells in their batch"
        )
    names = results.group_names(request.adapter, batch, shown, reference.label_names)
    return rows, {"effect_group": names, "effect_fallback": fallback}


def _labels_of_cells(request: Request, reference: Reference) -> np.ndarray:
    """Codes of the cells' labels among those of the cells to estimate from, -1 where unknown."""
    if reference.data is request.data:
        assert reference.labels is not None  # noqa: S101 - effect='label' has labels
        return reference.labels[request.rows]
    assert request.labels_key is not None  # noqa: S101
    codes, names = inputs.column_codes(request.data.adata, request.labels_key, "labels_key")
    known = {name: code for code, name in enumerate(reference.label_names)}
    translated = np.array([known.get(name, -1) for name in names] + [-1])
    return translated[codes][request.rows]


def _sample(request: Request, cells: Cells, depth: np.ndarray) -> sp.csr_matrix:
    """Draw counts from the posterior predictive distribution under the target batches."""
    adapter = request.adapter
    theta = parameters.target_theta(adapter, request.targets, None)
    gene_hashes = _gene_hashes(request)
    parts = []
    for block in _track_blocks(request, cells):
        some = cells.take(block)
        z, log_library = draw_latent(some, request.seed)
        drawn = parameters.sampled_parameters(
            adapter,
            some,
            z,
            log_library,
            request.targets,
            depth[block],
            theta.target,
            request.zero_inflation,
        )
        drawn = parameters.select_genes(drawn, request.genes)
        parts.append(sample_counts(drawn, hash_names(some.names), gene_hashes, request.seed))
    return stack(parts)


def _track_blocks(request: Request, cells: Cells) -> Any:
    cut = blocks(cells.n_cells, len(request.adapter.genes), request.batch_size)
    return track(cut, "Drawing counts", request.progress)


def _gene_hashes(request: Request) -> np.ndarray:
    genes = request.adapter.genes
    return hash_names(genes if request.genes is None else genes[request.genes])


def stack(parts: list[sp.csr_matrix]) -> sp.csr_matrix:
    """Stack blocks of cells; the values stay int32."""
    return parts[0] if len(parts) == 1 else sp.vstack(parts, format="csr", dtype=np.int32)


def _decoding(request: Request) -> Decoding:
    """How the normalized layer is decoded: posterior mean of z, targets and genes as asked."""
    return Decoding(
        targets=request.targets,
        library_size=DEFAULT_DEPTH,
        n_samples=None,
        zero_inflation=False,
        seed=request.seed,
        genes=request.genes,
        batch_size=request.batch_size,
        progress=request.progress,
    )


def _describe(request: Request, reference: Reference) -> dict[str, Any]:
    return results.provenance(
        request.adapter,
        "corrected_counts",
        {
            "transform_batch": results.batch_names(request.adapter, request.targets),
            "labels_key": request.labels_key,
            "condition_key": request.condition_key,
            "method": request.method,
            "effect": request.effect,
            "library_size": request.library_size,
            "seed": request.seed,
            "zero_inflation": request.zero_inflation or request.method == "quantile",
            "confounding": request.confounding,
            "estimated_on": "the model's data" if reference.is_model_data else "the data given",
            "notes": request.notes,
        },
    )
