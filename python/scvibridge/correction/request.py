"""A request for corrected counts: what was asked for, checked before any work starts."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments, selections
from scvibridge._utils.arguments import LARGEST_WHOLE
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.reserved_columns import check_keys
from scvibridge.correction import batch_effects, correctable, matching, sample_factors
from scvibridge.correction.given_dispersion import check_dispersion
from scvibridge.correction.records import Reference, Request
from scvibridge.correction.residual_checks import check_residual
from scvibridge.expression.targets import provenance, resolve
from scvibridge.io import outputs
from scvibridge.io.opened_files import check_not_source
from scvibridge.io.storage import check_tables
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.models import alignment

if TYPE_CHECKING:
    from scvibridge.correction.given_dispersion import GivenThetas
    from scvibridge.models.adapters import Adapter


METHODS = ("quantile", "sample")

COUNT_ENDINGS = (".h5ad", ".zarr", ".h5")


def check_request(
    adapter: Adapter,
    *,
    adata: Any,
    transform_batch: Any,
    gene_list: Any,
    indices: Any,
    out: Any,
    **given: Any,
) -> Request:
    """Check all that can be checked before any work."""
    alignment.check_likelihood(adapter)
    arguments.check_batch_size(given["batch_size"], adapter.batches)
    keys = ("labels_key", "condition_key", "sample_key")
    check_keys({"batch_key": adapter.batch_key, **{name: given.get(name) for name in keys}})
    changed = given.pop("transform_covariates", None)
    targets = resolve(adapter, transform_batch, changed, required=True)
    given["method"] = arguments.check_choice(given["method"], METHODS, "method")
    given["effect"] = resolve_effect(given["method"], given["effect"], given["labels_key"])
    _check_continuous(adapter, given["effect"])
    given["shrinkage"] = check_shrinkage(given.pop("shrinkage", None), given)
    given["residual"] = check_residual(given.pop("residual", None), given)
    if given["library_size"] is None:
        given["library_size"] = "scaled" if given["method"] == "quantile" else "median"
    given["library_size"] = arguments.check_library_size(given["library_size"])
    given["seed"] = int(check_seed(given["seed"]))
    arguments.check_choice(given.setdefault("unsupported", "keep"), UNSUPPORTED, "unsupported")
    resolve_device(given["device"])
    thetas = check_dispersion(given.pop("dispersion", None), adapter)
    given["dispersion"], given["added_dispersion"] = thetas.own, thetas.added
    _use(adapter, thetas)
    genes = selections.resolve_genes(gene_list, adapter.genes)
    resume, overwrite = given.setdefault("resume", False), given.get("overwrite", False)
    check_not_source(None if out is None else Path(out), adapter, adata)
    path = outputs.check_out(out, resume, COUNT_ENDINGS, overwrite=overwrite)
    is_10x = path is not None and path.suffix.lower() == ".h5"
    if is_10x and given["normalized"]:
        raise ValueError(
            "normalized=True: a 10x .h5 file holds the counts alone; write .h5ad or .zarr"
        )
    given_data = alignment.resolve_adata(adapter, adata, stream=path is not None)
    if path is not None:
        check_tables(given_data, path.suffix.lower())
    rows = selections.resolve_indices(indices, given_data)
    data = alignment.align(adapter, given_data, path, given["progress"])
    if given["method"] == "quantile" and data.counts is None:
        raise ValueError(
            "method='quantile' maps the cells' own counts, and the model's data were minified to "
            "latents: pass adata= with counts, or use method='sample'"
        )
    assert targets is not None  # noqa: S101 - required above
    given["transformed"] = provenance(transform_batch, changed)
    return Request(adapter, data, rows, genes, targets, out=path, **given)


def _use(adapter: Adapter, thetas: GivenThetas) -> None:
    """Set the given inverse dispersions in a model."""
    if thetas.own is not None and thetas.own.table is not None:
        adapter.use_theta(thetas.own.table)
    if thetas.added is not None:
        assert adapter.added is not None  # noqa: S101 - of its genes
        assert thetas.added.table is not None  # noqa: S101 - else there are none
        adapter.added.use_theta(thetas.added.table)


def _check_continuous(adapter: Adapter, effect: str | None) -> None:
    """Refuse the mean effect of a group where the effect differs from cell to cell.

    Raises
    ------
    ValueError
        If a continuous covariate is set, and `effect` is that of groups.
    """
    if adapter.moves_all and effect in ("label", "global"):
        raise ValueError(
            "a continuous covariate, and so its effect, differs from cell to cell, which the mean "
            f"of a group cannot follow: effect={effect!r} takes categorical covariates alone; "
            "effect='cell' or method='sample' take both"
        )


def resolve_effect(method: str, effect: str | None, labels_key: str | None) -> str | None:
    """Choose the batch effect that is removed; None for samples.

    Raises
    ------
    ValueError
        If there is no such effect, it needs labels, or it is asked of samples.
    """
    if effect is not None:
        arguments.check_choice(effect, batch_effects.EFFECTS, "effect")
    if method == "sample":
        if effect is not None:
            raise ValueError(
                "effect belongs to method='quantile'; a sample takes the cell's own likeness"
            )
        return None
    if effect == "label" and labels_key is None:
        raise ValueError("effect='label' needs labels_key=, the column of obs with cell types")
    return effect or ("label" if labels_key is not None else "global")


def check_shrinkage(shrinkage: Any, given: dict[str, Any]) -> str | float:
    """Check the shrinkage of the effects; 0 if there are no group effects.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a number of counts, or there is nothing to shrink.
    """
    applies = given["effect"] in ("label", "global")
    if shrinkage is None:
        return batch_effects.AUTO if applies else 0.0
    if not applies and shrinkage != 0:
        raise ValueError(
            "shrinkage belongs to method='quantile' with effect='label' or 'global': a cell's own "
            "effect is taken as it is"
        )
    if isinstance(shrinkage, str):
        return arguments.check_choice(shrinkage, (batch_effects.AUTO,), "shrinkage")
    number = isinstance(shrinkage, Real) and not isinstance(shrinkage, bool | np.bool_)
    if not number or not 0 <= shrinkage <= LARGEST_WHOLE:
        raise ValueError(
            f"shrinkage must be 'auto' or a number of counts, 0 or more, got {shrinkage!r}"
        )
    return float(shrinkage)


def check_reference(request: Request, reference: Reference) -> None:
    """Check that there is something to correct, and something to estimate it from.

    Raises
    ------
    ValueError
        If nothing could be corrected, or labels or samples would be of no use.
    """
    correctable.check_batches(request)
    correctable.check_correctable(request, reference)
    matching.check_groups(request, reference)
    if request.method == "quantile":
        sample_factors.check_samples(request, reference)


UNSUPPORTED = ("keep", "mask", "drop")
