"""Choose the cells that batch effects and depth are estimated from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scvibridge._utils import arguments, user_warnings, wording
from scvibridge.correction import (
    batch_effects,
    confounding,
    estimation_cells,
    matching,
    replicates,
)
from scvibridge.correction.findings import NOTHING, UNCHECKED, Found, noted
from scvibridge.correction.records import Reference, Request
from scvibridge.models import alignment

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter


# -- reference cells -----------------------------------------------------------------------------


def choose_reference(request: Request) -> Reference:
    """Choose the model's own data if they have counts and the columns, or else the given data.

    Of these, use only the cells to estimate on.
    """
    adapter, own = request.adapter, request.adapter.adata
    data = alignment.reference_data(adapter, request.data)
    # E.g. those of a reference if the model is a query.
    lacking = alignment.lacking_batches(request.data, data)
    found = NOTHING
    if lacking:
        found += noted(
            "effects are estimated from the data passed, because the model's data have no cells of "
            f"{wording.list_names(adapter.batches[code] for code in lacking)}"
        )
        data = request.data
    keys = request.settings.columns()
    needed = [key for key in keys.values() if key]
    if isinstance(request.estimate_on, Mapping):
        needed += request.estimate_on
    missing = [key for key in needed if key not in data.adata.obs]
    if missing and data is not request.data:
        found += noted(
            "effects are estimated from the data passed, because the model's data have no column "
            f"{missing[0]!r}"
        )
        data = request.data
    if (
        request.settings.labels_key in (adapter.batch_key, request.settings.condition_key)
        and request.settings.labels_key
    ):
        raise ValueError(
            f"labels_key={request.settings.labels_key!r} is the batch or the condition: pass the "
            "column with cell types"
        )
    labels, label_names = matching.codes_of(request, data, "labels_key")
    condition, condition_names = matching.codes_of(request, data, "condition_key")
    replicate, replicate_names = matching.codes_of(request, data, "sample_key")
    for name in request.settings.columns_of_cells:
        if keys[name] is not None:
            arguments.column_codes(request.data.adata, str(keys[name]), name)
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
    found += matching.check_columns(request, reference)
    return estimation_cells.restrict(request, replace(reference, found=found))


def examine_design(adapter: Adapter, reference: Reference) -> confounding.Confounding:
    """Examine how batch and condition of the reference cells are confounded."""
    return confounding.check_confounding(
        reference.data.covariates.batch,
        reference.codes("condition_key"),
        reference.labels,
        _names(adapter, reference),
        batch_effects.MIN_GROUP_CELLS,
    )


def _names(adapter: Adapter, reference: Reference) -> dict[str, list[Any]]:
    return {
        "batch": list(adapter.batches),
        "condition": reference.condition_names,
        "label": reference.label_names,
    }


def check_confounding(
    request: Request, reference: Reference, allow_confounded: bool
) -> tuple[str, Found]:
    """Raise an error, warn or add a note if the condition is confounded with the batch.

    Returns
    -------
    status : str
        A short description for the provenance.
    found : Found
        Further values, and notes.
    """
    if len(request.adapter.batches) < 2:
        return UNCHECKED, NOTHING
    replicate = replicates.describe(request, reference.everyone)
    design = NOTHING if replicate is None else Found(values={"batch_is_replicate": replicate})
    if reference.condition is None:
        user_warnings.warn(confounding.not_checked(replicate))
        return UNCHECKED, design
    found = examine_design(request.adapter, reference)
    if reference.chosen is not None:
        everyone = reference.everyone
        found = confounding.among(
            found,
            str(reference.chosen),
            reference.condition,
            (everyone.data.covariates.batch, everyone.codes("condition_key")),
            _names(request.adapter, reference),
        )
    status = confounding.report(found, allow_confounded)
    design += Found((*found.refusals, *found.warnings, *found.notes), found.figures())
    if replicate is not None:
        design += noted(f"{replicate}: {replicates.ADVICE}", warn=True)
    few = replicates.few_samples(request, reference.everyone)
    if few is not None:
        design += noted(few, warn=True)
    return status, design
