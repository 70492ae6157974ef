"""What the verdict says of the design: batches, conditions, replicates, and what was corrected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction.batch_effects import HARDLY_KEPT
from scvibridge.correction.confounding import (
    ONE_CONDITION,
    PARTLY_CHECKED,
    UNBALANCED,
    UNCHECKED,
)
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
    """Say where no batch effect was removed: of all cells, or of some batches."""
    made = result.provenance
    if unchanged:
        yield Text(
            "No count differs from the raw ones: nothing was corrected. Do not hand these on as "
            "corrected counts.",
            STOP,
        )
    elif made.get("corrected_cells") == 0:
        yield Text("No batch effect was removed from any cell: only the depth was changed.", STOP)
    if lacks_target(result) and not unchanged:
        yield Text(
            f"The result has no cell of the target {listed(result.targets)}: how much of the batch "
            "effect is left cannot be judged. Report on a result with the target's cells too.",
            CAUTION,
        )
    uncorrected = [str(name) for name in np.atleast_1d(made.get("uncorrected_batches", []))]
    if uncorrected:
        yield Text(
            f"The batch effect of {listed(uncorrected)} was not removed: too few cells of it or of "
            "the target show its genes.",
            STOP,
        )
    partly = [str(name) for name in np.atleast_1d(made.get("partly_corrected_batches", []))]
    if partly:
        yield Text(
            f"Much of the batch effect of {listed(partly)} stays: genes that too few cells show "
            "keep it.",
            CAUTION,
        )
    if float(made.get("shrinkage_kept", 1.0)) < HARDLY_KEPT:
        yield Text(
            "Hardly any batch effect was removed: held-out cells bear out next to nothing of what "
            "the decoder says. The batches hardly differ, or the model has learnt too little.",
            CAUTION,
        )
    lacking = [str(name) for name in np.atleast_1d(made.get("labels_missing_from_target", []))]
    if lacking:
        yield Text(
            f"The target has no cell of {listed(lacking)}: how the batch affects these types is "
            "not known, and they took the average effect of their batch. Do not compare them with "
            "other types.",
            CAUTION,
        )


def lacks_target(result: Result) -> bool:
    """Whether no cell of the result comes from a target batch."""
    return not set(result.targets) & set(result.batch.names)


def of_replicates(result: Result) -> Iterator[Text]:
    """Say that the batch is the replicate, where it looks so."""
    replicate = result.provenance.get("batch_is_replicate")
    if replicate is not None:
        yield Text(f"{_sentence(replicate)}: {ADVICE}.", CAUTION)


def _sentence(text: Any) -> str:
    shown = plain(str(text), 200)
    return shown[:1].upper() + shown[1:]


def of_confounding(result: Result) -> Text:
    """Return whether batch and condition can be separated, and what follows."""
    status = result.confounding
    if len(result.batch.names) < 2 and not lacks_target(result):
        return Text("There is one batch only: nothing was there to be corrected but depth.", PLAIN)
    if status == "balanced" and not has_conditions(result):
        return Text("There is one condition only: no other to be confounded with the batch.")
    if status == "balanced":
        return Text("Batch and condition can be told apart: the design is balanced.", GOOD)
    if status == ONE_CONDITION:
        return Text(
            "The batch effect was estimated on cells of one condition (estimate_on=): no effect of "
            "another condition was taken for one of the batch.",
            GOOD,
        )
    if status.startswith("confounded"):
        return Text(
            f"Batch and condition are {status}: they cannot be told apart, and correcting the "
            "batch removes the condition too. Compare conditions on the raw counts only, with the "
            "replicate in the design.",
            STOP,
        )
    return Text(_in_doubt(result, status), CAUTION)


def _in_doubt(result: Result, status: str) -> str:
    """Say why conditions must be compared with care."""
    if status.startswith(PARTLY_CHECKED):
        return (
            "Batch and condition can be told apart where the condition is known; many cells, or "
            "all of some batches, have none. See the notes."
        )
    if status.startswith("partly"):
        return (
            "Batch and condition are partly confounded: what these counts say about the condition "
            "rests on some of the batches or types. See the notes."
        )
    if status.startswith(UNBALANCED):
        return _unbalanced(result)
    if status.startswith(f"{UNCHECKED}: "):
        return f"Confounding was not checked: {plain(status.partition(': ')[2], 200)}."
    return (
        "Confounding was not checked, since no condition_key was given. If your batch is the "
        "replicate (a donor or sample), correction removes the condition and the variance between "
        "replicates; use raw counts then."
    )


def _unbalanced(result: Result) -> str:
    """Say how unbalanced the conditions are over the batches, and what to do."""
    v = result.provenance.get("confounding_cramers_v")
    size = "" if v is None else f" (Cramér's V {figure(float(v))}; 0: balanced, 1: confounded)"
    text = (
        f"Conditions are unbalanced over batches{size}: what is left of the batch effect looks "
        "like an effect of the condition. Tests of the condition need the batch in the design."
    )
    if result.provenance.get("labels_key") is None:
        text += " Without labels more of it is left: do not test the condition without the batch."
    return text


def has_conditions(result: Result) -> bool:
    """Whether there is more than one condition, or none was named."""
    return result.condition is None or len(result.condition.names) > 1
