"""A request for corrected counts: what was asked for, checked before any work starts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge import (
    confounding,
    correctable,
    covariates,
    effects,
    inputs,
    matching,
    replicates,
    samples,
    selections,
)
from scvibridge.arguments import LARGEST_WHOLE
from scvibridge.devices import resolve_device
from scvibridge.dispersion import check_dispersion
from scvibridge.kernels.philox import check_seed
from scvibridge.opened_files import check_not_source
from scvibridge.reserved_columns import check_keys
from scvibridge.storage import check_tables
from scvibridge.target_support import UNSUPPORTED
from scvibridge.wording import printable

if TYPE_CHECKING:
    from scvibridge.dispersion import GivenTheta, GivenThetas
    from scvibridge.models import Adapter
    from scvibridge.sources import CellData

METHODS = ("quantile", "sample")
COUNT_ENDINGS = (".h5ad", ".zarr", ".h5")


@dataclass
class Request:
    """A checked request for corrected counts; see :func:`corrected_counts` for its fields."""

    adapter: Adapter
    data: CellData
    rows: np.ndarray
    genes: np.ndarray | None
    targets: list[int]
    method: str
    effect: str | None
    labels_key: str | None
    condition_key: str | None
    library_size: str | float
    zero_inflation: bool
    normalized: bool
    seed: int
    batch_size: int | None
    device: str
    out: Path | None
    resume: bool
    progress: bool
    overwrite: bool = False
    sample_key: str | None = None
    dispersion: GivenTheta | None = None
    # Of genes that were added to the model.
    added_dispersion: GivenTheta | None = None
    # What was asked for where other covariates than the batch are changed; empty where none is.
    transformed: dict[str, Any] = field(default_factory=dict)
    # Counts at which half of a batch effect is believed, or "auto".
    shrinkage: str | float | np.ndarray = effects.AUTO
    # What the provenance says of it, once the effects are estimated.
    shrunk: dict[str, Any] = field(default_factory=dict)
    unsupported: str = "keep"
    # What the provenance says of support, once the cells are scored.
    support: dict[str, Any] = field(default_factory=dict)
    confounding: str = "not checked"
    # What the provenance says of conditions and batches, once they are checked.
    design: dict[str, Any] = field(default_factory=dict)
    # What the provenance says of what could be corrected.
    corrected: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # Entries whose parameters do not change keep their count without being computed. The
    # computation gives the same; a test switches the short-cut off to prove it.
    keep_unchanged: bool = True

    def note(self, message: str, *, warn: bool = False) -> None:
        """Keep a message for the provenance, and warn where it matters."""
        message = printable(message)
        self.notes.append(message)
        if warn:
            warnings.warn(message, UserWarning, stacklevel=4)


@dataclass(frozen=True)
class Reference:
    """The cells from which effects and depth are estimated: the model's own where it has them."""

    data: CellData
    is_model_data: bool
    labels: np.ndarray | None
    label_names: list[Any]
    condition: np.ndarray | None
    condition_names: list[Any]
    samples: np.ndarray | None = None
    sample_names: list[Any] = field(default_factory=list)


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
    inputs.check_likelihood(adapter)
    inputs.check_batch_size(given["batch_size"], adapter.batches)
    keys = ("labels_key", "condition_key", "sample_key")
    check_keys({"batch_key": adapter.batch_key, **{name: given.get(name) for name in keys}})
    changed = given.pop("transform_covariates", None)
    targets = covariates.resolve(adapter, transform_batch, changed, required=True)
    given["method"] = inputs.check_choice(given["method"], METHODS, "method")
    given["effect"] = resolve_effect(given["method"], given["effect"], given["labels_key"])
    _check_continuous(adapter, given["effect"])
    given["shrinkage"] = check_shrinkage(given.pop("shrinkage", None), given)
    if given["library_size"] is None:
        given["library_size"] = "scaled" if given["method"] == "quantile" else "median"
    given["library_size"] = inputs.check_library_size(given["library_size"])
    given["seed"] = int(check_seed(given["seed"]))
    inputs.check_choice(given.setdefault("unsupported", "keep"), UNSUPPORTED, "unsupported")
    resolve_device(given["device"])
    thetas = check_dispersion(given.pop("dispersion", None), adapter)
    given["dispersion"], given["added_dispersion"] = thetas.own, thetas.added
    _use(adapter, thetas)
    genes = selections.resolve_genes(gene_list, adapter.genes)
    resume, overwrite = given.setdefault("resume", False), given.get("overwrite", False)
    check_not_source(None if out is None else Path(out), adapter, adata)
    path = inputs.check_out(out, resume, COUNT_ENDINGS, overwrite=overwrite)
    is_10x = path is not None and path.suffix.lower() == ".h5"
    if is_10x and given["normalized"]:
        raise ValueError(
            "normalized=True: a 10x .h5 file holds the counts alone; write .h5ad or .zarr"
        )
    given_data = inputs.resolve_adata(adapter, adata, stream=path is not None)
    if path is not None:
        check_tables(given_data, path.suffix.lower())
    rows = selections.resolve_indices(indices, given_data)
    data = inputs.align(adapter, given_data, path, given["progress"])
    if given["method"] == "quantile" and data.counts is None:
        raise ValueError(
            "method='quantile' maps the cells' own counts, and the model's data were minified to "
            "latents: pass adata= with counts, or use method='sample'"
        )
    assert targets is not None  # noqa: S101 - required above
    given["transformed"] = covariates.provenance(transform_batch, changed)
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
        inputs.check_choice(effect, effects.EFFECTS, "effect")
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
        return effects.AUTO if applies else 0.0
    if not applies and shrinkage != 0:
        raise ValueError(
            "shrinkage belongs to method='quantile' with effect='label' or 'global': a cell's own "
            "effect is taken as it is"
        )
    if isinstance(shrinkage, str):
        return inputs.check_choice(shrinkage, (effects.AUTO,), "shrinkage")
    number = isinstance(shrinkage, Real) and not isinstance(shrinkage, bool | np.bool_)
    if not number or not 0 <= shrinkage <= LARGEST_WHOLE:
        raise ValueError(
            f"shrinkage must be 'auto' or a number of counts, 0 or more, got {shrinkage!r}"
        )
    return float(shrinkage)


# -- the cells to estimate from ------------------------------------------------------------------


def choose_reference(request: Request) -> Reference:
    """Choose the model's own data where they hold counts and the columns, else those given."""
    adapter, own = request.adapter, request.adapter.adata
    data = inputs.reference_data(adapter, request.data)
    lacking = _missing_batches(request, data)
    if lacking:
        request.note(
            "estimated on the data given: the model's own hold no cell of "
            f"{inputs.list_names(adapter.batches[code] for code in lacking)}"
        )
        data = request.data
    keys = {
        "labels_key": request.labels_key,
        "condition_key": request.condition_key,
        "sample_key": request.sample_key,
    }
    missing = [name for name, key in keys.items() if key and key not in data.adata.obs]
    if missing and data is not request.data:
        request.note(
            f"estimated on the data given: the model's own lack the column of {missing[0]}"
        )
        data = request.data
    if request.labels_key in (adapter.batch_key, request.condition_key) and request.labels_key:
        raise ValueError(
            f"labels_key={request.labels_key!r} is the batch or the condition; cell types are asked"
        )
    labels, label_names = _codes(request, data, "labels_key")
    condition, condition_names = _codes(request, data, "condition_key")
    replicate, replicate_names = _codes(request, data, "sample_key")
    for name, key in keys.items():
        if key is not None and (name == "labels_key" or request.sample_key is not None):
            inputs.column_codes(request.data.adata, key, name)
    reference = Reference(
        data,
        data.adata is own,
        labels,
        label_names,
        condition,
        condition_names,
        replicate,
        replicate_names,
    )
    matching.check_columns(request, reference)
    return reference


def _missing_batches(request: Request, data: CellData) -> list[int]:
    """Batches that the model's own data lack, as those of a query do, and the data given hold."""
    if data is request.data:
        return []
    given = request.data.covariates.batch
    needed = {*given[request.rows].tolist(), *request.targets} & set(given.tolist())
    return sorted(needed - set(data.covariates.batch.tolist()))


def _codes(request: Request, data: CellData, name: str) -> tuple[np.ndarray | None, list[Any]]:
    key = getattr(request, name)
    return (None, []) if key is None else matching.column_of(request.adapter, data.adata, key, name)


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
        samples.check_samples(request, reference)


def check_confounding(request: Request, reference: Reference, allow_confounded: bool) -> None:
    """Refuse, warn of or note a condition that is confounded with the batch."""
    if len(request.adapter.batches) < 2:
        return
    replicate = replicates.describe(request, reference)
    if replicate is not None:
        request.design["batch_is_replicate"] = replicate
    if reference.condition is None:
        warnings.warn(confounding.not_checked(replicate), UserWarning, stacklevel=3)
        return
    names = {
        "batch": request.adapter.batches,
        "condition": reference.condition_names,
        "label": reference.label_names,
    }
    found = confounding.check_confounding(
        reference.data.covariates.batch,
        reference.condition,
        reference.labels,
        names,
        effects.MIN_GROUP_CELLS,
    )
    request.confounding = confounding.report(found, allow_confounded)
    request.design |= found.figures()
    request.notes.extend([*found.refusals, *found.warnings])
    if replicate is not None:
        request.note(f"{replicate}: {replicates.ADVICE}", warn=True)
