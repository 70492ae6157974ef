"""Decide before any work whether to estimate the effects that the decoder misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge._utils import wording
from scvibridge.correction.confounding import BALANCED, PARTLY_CHECKED
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.correction.residual_plan import ResidualPlan
from scvibridge.correction.residual_statistics import MIN_SAMPLES
from scvibridge.correction.sample_factors import MIN_SAMPLE_CELLS, keys_of_reference

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request

# Largest correlation of batch and conditions among samples. At .25 (5:3 and 3:5), a share of .077
# of the discoveries under ``~ condition`` was false; for raw counts under ``~ batch + condition``
# it was .056.
MOST_CORRELATED = 0.2


def plan_residuals(
    request: Request, reference: Reference, confounding: str
) -> tuple[ResidualPlan | None, Found]:
    """Decide whether residual effects are estimated, from which samples, or why not.

    Parameters
    ----------
    request, reference
        The request, and the cells to estimate from.
    confounding
        Result of :func:`reference.check_confounding`.

    Returns
    -------
    plan : ResidualPlan or None
        The effects that can be estimated; None for none.
    found : Found
        What the provenance says of them.

    Raises
    ------
    ValueError
        If `residual` is "always" and the effects cannot be estimated.
    """
    asked = request.settings.residual
    if asked == "never":
        return None, NOTHING
    if len(request.adapter.batches) < 2:
        return None, Found(values={"residual": asked})
    is_auto = asked == "auto"
    reason = _inseparable(reference, confounding) if is_auto else None
    if reason is not None:
        return None, _not_estimated(asked, reason)
    plan = _plan(request, reference, MOST_CORRELATED if is_auto else 1.0)
    if not plan.batches:
        reason = (
            f"they need {MIN_SAMPLES} samples (sample_key={request.settings.sample_key!r}) of at "
            f"least {MIN_SAMPLE_CELLS} cells in a batch and as many in the target, and further "
            "samples for the conditions" + ", which must be balanced over the samples" * is_auto
        )
        if not is_auto:
            raise ValueError(f"residual='always': residual effects cannot be estimated: {reason}")
        return None, _not_estimated(asked, reason)
    found = Found(values={"residual": asked, "residual_from": f"{plan.n_samples} samples"})
    return plan, found + _name_missing(request, reference, plan)


def _not_estimated(asked: str, reason: str) -> Found:
    """Return what the provenance says of effects that are not estimated."""
    values = {"residual": asked, "residual_from": f"not estimated: {reason}"}
    return noted(f"residual batch effects are not estimated: {reason}") + Found(values=values)


def _inseparable(reference: Reference, confounding: str) -> str | None:
    """Explain why condition effects could be mistaken for batch effects; None if they could not."""
    if reference.condition is None:
        return "without condition_key= an effect of the condition could be mistaken for one"
    known = reference.condition[reference.condition >= 0]
    if len(np.unique(known)) < 2 or confounding == BALANCED:
        return None
    if confounding == PARTLY_CHECKED:
        return (
            "it is unknown whether batch and condition are balanced, because many cells, or all of "
            "a batch, have no condition; residual='always' estimates them anyway"
        )
    return (
        f"batch and condition are not balanced ({confounding}), so tests without the batch in the "
        "design would have too many false discoveries; residual='always' estimates them anyway"
    )


def _plan(request: Request, reference: Reference, most_correlated: float) -> ResidualPlan:
    keys, sizes = np.unique(keys_of_reference(reference), axis=1, return_counts=True)
    large = (sizes >= MIN_SAMPLE_CELLS) & (keys[3] >= 0)
    return ResidualPlan.of(
        keys[:, large],
        request.target.codes,
        has_labels=reference.labels is not None,
        by_label=request.settings.effect == "label",
        most_correlated=most_correlated,
    )


def _name_missing(request: Request, reference: Reference, plan: ResidualPlan) -> Found:
    """Return a note that lists batches without enough samples."""
    present = set(reference.data.covariates.batch.tolist())
    if len(request.target.codes) == 1:
        present -= set(request.target.codes)
    missing = sorted(present - set(plan.batches))
    if not missing:
        return NOTHING
    names = wording.list_names(request.adapter.batches[code] for code in missing)
    return noted(
        f"residual batch effects are not estimated for {names}: too few samples of at least "
        f"{MIN_SAMPLE_CELLS} cells, or conditions that are not balanced over the samples"
    )
