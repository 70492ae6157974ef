"""Findings about the design: batches, conditions, replicates, and what was corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction.batch_effects import HARDLY_KEPT
from scvibridge.correction.confounding import (
    ONE_CONDITION,
    PARTLY_CHECKED,
    UNBALANCED,
)
from scvibridge.correction.findings import UNCHECKED
from scvibridge.correction.replicates import ADVICE
from scvibridge.diagnostics.report.blocks import (
    CAUTION,
    GOOD,
    PLAIN,
    STOP,
    Text,
    figure,
    listed,
    plain,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.diagnostics.report.reading import Result


def of_correction(result: Result, *, unchanged: bool) -> Iterator[Text]:
    """Report that no batch effect was removed from any cell or from some batches."""
    made = result.provenance
    if unchanged:
        yield Text(
            "The counts are identical to the raw counts: nothing was corrected. Do not pass them "
            "on as corrected counts.",
            STOP,
        )
    elif made.get("corrected_cells") == 0:
        rest = "only the depth was changed"
        if not result.kept.all():
            rest = "the cells of other batches have no support, and their rows are empty"
        yield Text(f"No batch effect was removed from any cell; {rest}.", STOP)
    if lacks_target(result) and not unchanged:
        yield Text(
            f"The result has no cells of the target {listed(result.targets)}, so the remaining "
            "batch effect cannot be assessed. Use a result that includes the target's cells.",
            CAUTION,
        )
    uncorrected = [str(name) for name in np.atleast_1d(made.get("uncorrected_batches", []))]
    if uncorrected:
        yield Text(
            f"The batch effect of {listed(uncorrected)} was not removed: none of its genes is "
            "detected in enough cells of both the batch and the target.",
            STOP,
        )
    partly = [str(name) for name in np.atleast_1d(made.get("partly_corrected_batches", []))]
    if partly:
        yield Text(
            f"Much of the batch effect of {listed(partly)} remains: it was not removed from genes "
            "that are detected in too few cells.",
            CAUTION,
        )
    if float(made.get("shrinkage_kept", 1.0)) < HARDLY_KEPT:
        yield Text(
            "Hardly any batch effect was removed: held-out cells confirm almost none of the "
            "decoder's effects. The batches hardly differ, or the model has learned too little.",
            CAUTION,
        )
    lacking = [str(name) for name in np.atleast_1d(made.get("labels_missing_from_target", []))]
    if lacking:
        yield Text(
            f"The target has no cells of {listed(lacking)}: the batch effect on these types is "
            "unknown, and they used the average effect of their batch. Do not compare them with "
            "other types.",
            CAUTION,
        )


def lacks_target(result: Result) -> bool:
    """Whether no cell of the result comes from a target batch."""
    return not set(result.targets) & set(result.batch.names)


def of_replicates(result: Result) -> Iterator[Text]:
    """Report that the batch seems to be the replicate."""
    replicate = result.provenance.get("batch_is_replicate")
    if replicate is not None:
        yield Text(f"{_sentence(replicate)}: {ADVICE}.", CAUTION)


def _sentence(text: Any) -> str:
    shown = plain(str(text), 200)
    return shown[:1].upper() + shown[1:]


def of_confounding(result: Result) -> Text:
    """Report whether batch and condition can be separated, and what follows."""
    status = result.confounding
    if len(result.batch.names) < 2 and not lacks_target(result):
        alone = _of_one_batch(result)
        if alone is not None:
            return alone
    if status == "balanced" and not has_conditions(result):
        return Text("There is a single condition, so it cannot be confounded with the batch.")
    if status == "balanced":
        return Text("Batch and condition can be separated: the design is balanced.", GOOD)
    if status == ONE_CONDITION:
        return Text(
            "The batch effect was estimated on cells of one condition (estimate_on=), so no effect "
            "of another condition was mistaken for a batch effect.",
            GOOD,
        )
    if status.startswith("confounded"):
        return Text(
            f"Batch and condition are {status}: they cannot be separated, and correcting the batch "
            "also removes the condition. Compare conditions only on the raw counts, with the "
            "replicate in the design.",
            STOP,
        )
    return Text(_in_doubt(result, status), CAUTION)


def _of_one_batch(result: Result) -> Text | None:
    """Report on a result with a single batch; None if its cells may have been corrected.

    Its cells keep their batch if it is the only target, unless other covariates were changed.
    """
    made = result.provenance
    if len(result.targets) < 2 and "transform_covariates" not in made:
        return Text("There is a single batch: only the depth could be corrected.", PLAIN)
    if len(np.atleast_1d(made.get("batches", []))) < 2:
        return Text("Only covariates other than the batch were changed: batches keep their effect.")
    return None


def _in_doubt(result: Result, status: str) -> str:
    """Explain why conditions must be compared with care."""
    if status.startswith(PARTLY_CHECKED):
        return (
            "Batch and condition can be separated in the cells whose condition is known; for many "
            "cells, or for whole batches, it is missing. See the notes."
        )
    if status.startswith("partly"):
        return (
            "Batch and condition are partly confounded: comparisons of conditions depend on only "
            "some of the batches or types. See the notes."
        )
    if status.startswith(UNBALANCED):
        return _unbalanced(result)
    if status.startswith(f"{UNCHECKED}: "):
        return f"Confounding was not checked: {plain(status.partition(': ')[2], 200)}."
    return (
        "Confounding was not checked, because condition_key was not passed. If your batch is the "
        "replicate (a donor or sample), correction removes the condition and the variance between "
        "replicates; use raw counts in that case."
    )


def _unbalanced(result: Result) -> str:
    """Describe the imbalance of conditions across batches, and what to do."""
    v = result.provenance.get("confounding_cramers_v")
    size = "" if v is None else f" (Cramér's V {figure(float(v))}; 0: balanced, 1: confounded)"
    text = (
        f"Conditions are unbalanced across batches{size}: the remaining batch effect looks like "
        "an effect of the condition. Tests of the condition need the batch in the design."
    )
    if result.provenance.get("labels_key") is None:
        text += " Without labels, more of it remains: do not test the condition without the batch."
    return text


def has_conditions(result: Result) -> bool:
    """Return whether there is more than one condition, or none was passed."""
    return result.condition is None or len(result.condition.names) > 1
