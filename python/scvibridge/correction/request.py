"""Check a request for corrected counts before any work starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import selections
from scvibridge._utils.reserved_columns import check_keys
from scvibridge.correction import correctable, estimation_cells, matching, sample_factors
from scvibridge.correction.given_dispersion import check_dispersion
from scvibridge.correction.records import Reference, Request
from scvibridge.expression.records import Output
from scvibridge.expression.targets import resolve
from scvibridge.io.storage import check_tables
from scvibridge.models import added_genes, alignment

if TYPE_CHECKING:
    from pathlib import Path

    from scvibridge.correction.findings import Found
    from scvibridge.correction.given_dispersion import GivenThetas
    from scvibridge.correction.settings import CorrectionSettings
    from scvibridge.expression.records import Running
    from scvibridge.models.adapters import Adapter, Target
    from scvibridge.models.cell_data import CellData


COUNT_ENDINGS = (".h5ad", ".zarr", ".h5")


def check_request(
    adapter: Adapter,
    settings: CorrectionSettings,
    running: Running,
    *,
    adata: Any = None,
    transform_batch: Any = None,
    transform_covariates: Any = None,
    dispersion: Any = None,
    estimate_on: Any = None,
    genes_kept: Any = None,
    gene_list: Any = None,
    indices: Any = None,
    out: Any = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Request:
    """Check all arguments that can be checked before any work."""
    alignment.check_likelihood(adapter)
    check_keys({"batch_key": adapter.batch_key, **settings.columns()})
    target = resolve(adapter, transform_batch, transform_covariates, required=True)
    _check_continuous(target, settings)
    estimation_cells.check_applies(estimate_on, settings)
    thetas = check_dispersion(dispersion, adapter)
    adapter = _with_theta(adapter, thetas).with_target(target)
    genes = selections.resolve_genes(gene_list, adapter.genes)
    kept = _genes_kept(genes_kept, adapter, genes, settings)
    output = Output.of(adapter, adata, COUNT_ENDINGS, out, overwrite, resume)
    data, rows = _cells(adapter, adata, indices, settings, running, output.path)
    return Request(adapter, data, rows, genes, settings, running, output, thetas, estimate_on, kept)


def _genes_kept(
    genes_kept: Any, adapter: Adapter, genes: np.ndarray | None, settings: CorrectionSettings
) -> np.ndarray | None:
    """Return the sorted positions of the genes whose counts stay unchanged.

    Raises
    ------
    ValueError
        If counts are samples, a gene is unknown, or no other gene is returned.
    """
    if genes_kept is None:
        return None
    if not settings.is_quantile:
        raise ValueError(
            "genes_kept belongs to method='quantile': the counts of a sample are all simulated"
        )
    kept = selections.positions_of_genes(genes_kept, adapter.genes, argument="genes_kept")
    returned = np.arange(len(adapter.genes)) if genes is None else genes
    if np.isin(returned, kept).all():
        raise ValueError("genes_kept names all genes that are returned: none would be corrected")
    return np.sort(kept)


def _cells(
    adapter: Adapter,
    adata: Any,
    indices: Any,
    settings: CorrectionSettings,
    running: Running,
    path: Path | None,
) -> tuple[CellData, np.ndarray]:
    """Return the data aligned to the model, and the positions of the requested cells."""
    is_10x = path is not None and path.suffix.lower() == ".h5"
    if is_10x and settings.normalized:
        raise ValueError(
            "normalized=True: a 10x .h5 file can only hold the counts; write .h5ad or .zarr"
        )
    given = alignment.resolve_adata(adapter, adata, stream=path is not None)
    if path is not None:
        check_tables(given, path.suffix.lower())
    rows = selections.resolve_indices(indices, given)
    data = alignment.align(adapter, given, path, running.progress, running.pool)
    if settings.is_quantile and data.counts is None:
        raise ValueError(
            "method='quantile' maps observed counts, but the model's data were minified to latent "
            "variables: pass adata= with counts, or use method='sample'"
        )
    return data, rows


def _with_theta(adapter: Adapter, thetas: GivenThetas) -> Adapter:
    """Return the model with the given inverse dispersions."""
    own, added = (None if given is None else given.table for given in (thetas.own, thetas.added))
    return adapter.with_theta(own, added)


def _check_continuous(target: Target, settings: CorrectionSettings) -> None:
    """Refuse group effects for continuous covariates, whose effect varies between cells.

    Raises
    ------
    ValueError
        If a continuous covariate is changed and `effect` is averaged over groups.
    """
    if target.moves_all and settings.has_groups:
        raise ValueError(
            "the effect of a continuous covariate differs between cells, so it cannot be averaged "
            f"over groups: effect={settings.effect!r} only supports categorical covariates; use "
            "effect='cell' or method='sample'"
        )


def check_reference(request: Request, reference: Reference) -> Found:
    """Check that there is something to correct, and that its effects can be estimated.

    Returns
    -------
    What can be corrected, for the provenance.

    Raises
    ------
    ValueError
        If nothing could be corrected, or labels or samples would have no use.
    """
    added_genes.check_fitted(request.adapter, request.data, request.rows, request.genes)
    found = correctable.check_batches(request)
    found += correctable.check_correctable(request, reference)
    found += matching.check_groups(request, reference)
    if request.settings.is_quantile:
        found += sample_factors.check_samples(request, reference.everyone)
    return found
