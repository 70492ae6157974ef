"""Check whether batch and condition of interest are confounded, and how unbalanced they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from scvibridge._utils import user_warnings
from scvibridge._utils.values_as_text import as_text, quoted
from scvibridge._utils.wording import list_names, printable
from scvibridge.correction import replicates
from scvibridge.correction.findings import UNCHECKED

# Warn about a label if a larger share of its cells has one condition while the whole is mixed.
ONE_SIDED_SHARE = 0.9

# A batch separates conditions only if it has at least this many cells of a condition, or, if the
# batch is small, this share of its cells.
MIN_CELLS, MIN_SHARE = 20, 0.05

# Warn if Cramér's V of batch and condition exceeds this. At .33 (donors 4:2 and 2:4), 6 % of the
# discoveries by label are false under ``~ condition``; at .67 (5:1 and 1:5), up to 11 %.
MOST_ASSOCIATED = 0.3

# Warn if a larger share of the cells has no condition.
MOST_MISSING = 0.05

BALANCED = "balanced"
PARTLY_CHECKED = "partly checked"

UNBALANCED = "unbalanced"

# Status if the cells on which effects are estimated (`estimate_on`) have one condition.
ONE_CONDITION = "estimated on one condition"


def not_checked(replicate: str | None = None) -> str:
    """Return the warning for calls without conditions; `replicate` is from :mod:`replicates`."""
    known = (
        "If your batch is the replicate (a donor or sample), correction removes the condition and "
        "the variance between replicates; use raw counts"
    )
    if replicate is not None:
        known = f"{replicate[0].upper()}{replicate[1:]}: {replicates.ADVICE}"
    return (
        "confounding was not checked: without condition_key= it is unknown whether correcting the "
        f"batch also removes the condition of interest. {known}"
    )


@dataclass(frozen=True)
class Confounding:
    """Result of the check.

    Attributes
    ----------
    status
        A short description for the provenance.
    refusals, warnings, notes
        Reasons to raise an error, messages to warn with, and messages only for the provenance.
    cramers_v
        Association of batch and condition over all cells: 0 if all batches have the same shares of
        the conditions, 1 if the batch determines the condition; None if not checked.
    inflation
        Factor by which the variance of an estimated condition effect grows if the batch is in the
        design (the largest over conditions); None if not checked.
    """

    status: str
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cramers_v: float | None = None
    inflation: float | None = None
    notes: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Return the figures for the provenance."""
        if self.cramers_v is None or self.inflation is None:
            return {}
        return {
            "confounding_cramers_v": self.cramers_v,
            "confounding_variance_inflation": self.inflation,
        }


def check_confounding(
    batch: np.ndarray,
    condition: np.ndarray,
    labels: np.ndarray | None,
    names: dict[str, list[Any]],
    min_group: int,
) -> Confounding:
    """Check that ``~ batch + condition`` can be estimated, overall and within labels.

    The design has full rank if and only if the graph that connects each batch to the conditions of
    its cells is connected: only then can every contrast of conditions be estimated within batches.
    A batch is not connected to a condition of which it has very few cells.

    Parameters
    ----------
    batch, condition
        Codes, shape ``(n_cells,)``. Cells with a missing condition (-1) are left out.
    labels
        Codes of labels or None.
    names
        Names of the codes: ``"batch"``, ``"condition"`` and, with labels, ``"label"``.
    min_group
        A batch with fewer cells of a label is left out of the check within that label, because
        these cells use the effect of their batch.
    """
    known = condition >= 0
    unknown = _without_condition(batch, known, names)
    reason = _not_checkable(batch[known], condition[known], names)
    if reason is not None:
        message = f"confounding was not checked: {reason}"
        return Confounding(f"{UNCHECKED}: {reason}", warnings=[message, *unknown])
    batch, condition = batch[known], condition[known]
    labels = None if labels is None else labels[known]
    refusals: list[str] = []
    if not _connected(batch, condition):
        refusals.append(f"overall: {_describe(batch, condition, names)}")
    one_sided: list[str] = []
    uneven: dict[str, float] = {}
    for label in [] if labels is None else np.unique(labels[labels >= 0]):
        rows = labels == label
        name = names["label"][label]
        if not refusals and not _connected_within(batch[rows], condition[rows], min_group):
            where = _describe(batch[rows], condition[rows], names)
            refusals.append(f"within label {quoted(name)}: {where}")
        if _one_sided(condition[rows], condition):
            one_sided.append(as_text(name))
        large = rows & (np.bincount(batch[rows], minlength=batch.max() + 1)[batch] >= min_group)
        uneven[as_text(name)] = cramers_v(batch[large], condition[large])
    messages = _warnings(batch, condition, names, one_sided, rests_on_some=not refusals)
    status = "confounded" if refusals else "partly confounded" if messages else BALANCED
    v, inflation = cramers_v(batch, condition), variance_inflation(batch, condition)
    imbalance = [] if refusals else _imbalance(v, inflation, uneven, labels is not None)
    if status == BALANCED:
        status = UNBALANCED if imbalance else PARTLY_CHECKED if unknown else status
    return Confounding(status, refusals, [*messages, *imbalance, *unknown], v, inflation)


def among(
    found: Confounding,
    cells: str,
    condition: np.ndarray,
    everyone: tuple[np.ndarray, np.ndarray],
    names: dict[str, list[Any]],
) -> Confounding:
    """Adapt the messages to a check of only some cells, on which effects are estimated.

    Parameters
    ----------
    found
        Result of the check of these cells.
    cells
        Their description, such as ``"the 400 cells of estimate_on (pool: A)"``.
    condition
        Codes of their conditions, shape ``(n_chosen,)``.
    everyone
        Codes of batch and condition of all cells.
    names
        As in :func:`check_confounding`.
    """
    present = np.unique(condition[condition >= 0])
    if len(present) == 1 and found.status.startswith(UNCHECKED):
        name = quoted(names["condition"][present[0]])
        note = (
            f"confounding: {cells}, on which effects are estimated, all have the condition "
            f"{name}, so an effect of the condition cannot be mistaken for a batch effect"
        )
        found = Confounding(ONE_CONDITION, warnings=found.warnings[1:], notes=[note])
    where = f"among {cells}, on which effects are estimated: "
    named = replace(
        found,
        refusals=[f"{where}{message}" for message in found.refusals],
        warnings=[f"{where}{message}" for message in found.warnings],
    )
    batch, of_all = everyone
    known = of_all >= 0
    v = cramers_v(batch[known], of_all[known])
    if v <= MOST_ASSOCIATED or named.refusals:
        return named
    text = (
        f"over all cells, conditions are unbalanced across batches (Cramér's V {v:.2f}), so the "
        "remaining batch effect looks like an effect of the condition. Test the condition on the "
        "raw counts of all cells, with the batch in the design (~ batch + condition)"
    )
    return replace(named, warnings=[*named.warnings, text])


def report(result: Confounding, allow_confounded: bool) -> str:
    """Raise an error or warn, and return the status for the provenance.

    Raises
    ------
    ValueError
        If the design is confounded and `allow_confounded` is False.
    """
    if result.refusals and not allow_confounded:
        raise ValueError(
            "batch and condition are confounded (~ batch + condition is rank deficient, or "
            "depends on a few cells), "
            + "; ".join(result.refusals)
            + ". Correcting the batch would remove the condition itself. Use the raw counts with "
            "the replicate in the design, pass cells that all batches share (controls, a pool) as "
            "estimate_on=, or pass allow_confounded=True to correct anyway"
        )
    for message in [*result.refusals, *result.warnings]:
        prefix = "" if message.startswith("confounding") else "confounding: "
        user_warnings.warn(f"{prefix}{message}")
    return f"{result.status}, allowed by the user" if result.refusals else result.status


# -- figures -------------------------------------------------------------------------------------


def cramers_v(batch: np.ndarray, condition: np.ndarray) -> float:
    """Compute the bias-corrected Cramér's V of two columns of codes (Bergsma, 2013).

    It is 0 if either column has a single value.
    """
    table = _table(batch, condition)
    n, (rows, columns) = table.sum(), table.shape
    if min(rows, columns) < 2 or n < 2:
        return 0.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / n
    squared = ((table - expected) ** 2 / expected).sum() / n
    unbiased = max(0.0, squared - (rows - 1) * (columns - 1) / (n - 1))
    dimensions = (size - (size - 1) ** 2 / (n - 1) for size in (rows, columns))
    least = min(dimensions) - 1
    return float(min(1.0, np.sqrt(unbiased / least))) if least > 0 else 0.0


def variance_inflation(batch: np.ndarray, condition: np.ndarray) -> float:
    """Compute the largest variance inflation of a condition's indicator, given the batch.

    1 / (1 - R^2), with R^2 from the regression of the indicator on the batch; infinite if the
    batch determines the indicator.
    """
    table = _table(batch, condition)
    n = table.sum()
    if min(table.shape) < 2:
        return 1.0
    share = table.sum(axis=0) / n
    between = (table**2 / table.sum(axis=1, keepdims=True)).sum(axis=0) / n - share**2
    explained = float((between / (share * (1 - share))).max())
    return float("inf") if explained > 1 - 1e-12 else 1 / (1 - explained)


def _table(batch: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Count cells by batch and condition, without batches and conditions that have no cells."""
    if not len(batch):
        return np.zeros((0, 0))
    _, b = np.unique(batch, return_inverse=True)
    _, c = np.unique(condition, return_inverse=True)
    table = np.zeros((b.max() + 1, c.max() + 1))
    np.add.at(table, (b.ravel(), c.ravel()), 1)
    return table


# -- the graph -----------------------------------------------------------------------------------


def _connected(batch: np.ndarray, condition: np.ndarray) -> bool:
    """Return whether the graph of batches and conditions is connected."""
    table = _table(batch, condition)
    if table.shape[1] < 2:
        return True
    n_batches, n = len(table), sum(table.shape)
    b, c = np.nonzero(_joined(table))
    graph = sp.coo_matrix((np.ones(len(b)), (b, n_batches + c)), shape=(n, n))
    return int(connected_components(graph, directed=False, return_labels=False)) == 1


def _joined(table: np.ndarray) -> np.ndarray:
    """Return which batches have enough cells of which conditions."""
    least = np.minimum(MIN_CELLS, np.ceil(MIN_SHARE * table.sum(axis=1, keepdims=True)))
    return np.asarray(table >= np.maximum(least, 1))


def _connected_within(batch: np.ndarray, condition: np.ndarray, min_group: int) -> bool:
    sizes = np.bincount(batch)
    large = sizes[batch] >= min_group
    return len(np.unique(batch[large])) < 2 or _connected(batch[large], condition[large])


def _one_sided(within: np.ndarray, overall: np.ndarray) -> bool:
    def largest_share(codes: np.ndarray) -> float:
        return float(np.bincount(codes).max() / len(codes))

    return largest_share(within) > ONE_SIDED_SHARE >= largest_share(overall)


# -- wording -------------------------------------------------------------------------------------


def _not_checkable(
    batch: np.ndarray, condition: np.ndarray, names: dict[str, list[Any]]
) -> str | None:
    """Return why conditions and batches cannot be compared; None if they can."""
    conditions = np.unique(condition)
    if not len(conditions):
        return "no cell has a condition"
    if len(conditions) == 1:
        return f"all cells have one condition, {quoted(names['condition'][conditions[0]])}"
    batches = np.unique(batch)
    if len(batches) == 1:
        return f"the condition is known only in batch {quoted(names['batch'][batches[0]])}"
    return None


def _without_condition(
    batch: np.ndarray, known: np.ndarray, names: dict[str, list[Any]]
) -> list[str]:
    """Return a warning about batches without conditions, or about many cells without one."""
    missing = int((~known).sum())
    whole = sorted(set(batch.tolist()) - set(batch[known].tolist()))
    if not whole and missing <= MOST_MISSING * len(known):
        return []
    text = f"{missing} of {len(known)} cells have no condition and were left out of the check"
    if whole:
        text += (
            f", including all cells of {list_names((names['batch'][code] for code in whole), 6)}"
        )
    return [text]


def _warnings(
    batch: np.ndarray,
    condition: np.ndarray,
    names: dict[str, list[Any]],
    one_sided: list[str],
    *,
    rests_on_some: bool,
) -> list[str]:
    messages = []
    if rests_on_some and len(np.unique(condition)) > 1:
        single = [
            names["batch"][b] for b in np.unique(batch) if len(np.unique(condition[batch == b])) < 2
        ]
        if single:
            messages.append(
                f"batches {list_names(single)} have a single condition; the contrast is estimated "
                "from the other batches"
            )
    if one_sided:
        messages.append(
            f"more than {ONE_SIDED_SHARE:.0%} of the cells of labels {list_names(one_sided)} have "
            "one condition. If labels encode the condition, its effect is removed as a batch effect"
        )
    return messages


def _imbalance(
    v: float, inflation: float, uneven: dict[str, float], with_labels: bool
) -> list[str]:
    """Describe an imbalance of batch and condition and its consequences; empty if within bounds."""
    within = {name: some for name, some in uneven.items() if some > MOST_ASSOCIATED}
    if v > MOST_ASSOCIATED:
        text = (
            f"conditions are unbalanced across batches (Cramér's V {v:.2f}, above "
            f"{MOST_ASSOCIATED:g}; variance inflation of the condition {inflation:.1f})"
        )
    elif within:
        largest = sorted(within, key=lambda name: -within[name])
        shown = ", ".join(f"{name!r} {within[name]:.2f}" for name in largest[:6])
        text = (
            "conditions are unbalanced across batches within labels (Cramér's V above "
            f"{MOST_ASSOCIATED:g}: {shown})"
        )
    else:
        return []
    text += (
        ", so the remaining batch effect looks like an effect of the condition. Tests of the "
        "condition need the batch in the design (~ batch + condition)"
    )
    if not with_labels:
        text += (
            ". Without labels_key the batch effect is averaged over cell types, and more of it "
            "remains: do not test the condition without the batch, and pass labels_key="
        )
    return [text]


def _describe(batch: np.ndarray, condition: np.ndarray, names: dict[str, list[Any]]) -> str:
    """List the batches of each condition; batches with very few of its cells are only counted."""
    table = _table(batch, condition)
    enough = _joined(table)
    batches = np.unique(batch)
    parts = []
    for column, c in enumerate(np.unique(condition)):
        joined = enough[:, column]
        few = int(table[~joined, column].sum())
        of_condition = [names["batch"][b] for b in batches[joined]]
        where = list_names(of_condition, 6) if of_condition else "no batch"
        besides = f" (and {few} cells in other batches)" if few else ""
        condition_name = printable(as_text(names["condition"][c]))
        parts.append(f"{condition_name} in {where}{besides}")
    return "; ".join(parts)
