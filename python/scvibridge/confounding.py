"""Whether the batch can be told from the condition of interest."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from scvibridge.inputs import list_names
from scvibridge.values_as_text import as_text
from scvibridge.wording import printable

# A label of which more than this share has one condition, where the whole is mixed, is named.
ONE_SIDED_SHARE = 0.9

NOT_CHECKED = (
    "confounding was not checked: without condition_key= nobody can tell whether correcting the "
    "batch also removes the condition of interest. If your batch is the replicate (a donor or "
    "sample), correction removes the condition and the variance between replicates; use raw counts"
)


@dataclass(frozen=True)
class Confounding:
    """Result of the check: a word for the provenance, what is refused and what is warned of."""

    status: str
    refusals: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_confounding(
    batch: np.ndarray,
    condition: np.ndarray,
    labels: np.ndarray | None,
    names: dict[str, list[Any]],
    min_group: int,
) -> Confounding:
    """Check that ``~ batch + condition`` can be estimated, overall and within labels.

    The design has full rank exactly where the graph that joins each batch to the conditions of
    its cells is connected: only then is every contrast of conditions seen within batches.

    Parameters
    ----------
    batch, condition
        Codes, shape ``(n_cells,)``; -1 for a missing condition, which is left out.
    labels
        Codes of labels or None.
    names
        Names behind the codes: ``"batch"``, ``"condition"`` and, with labels, ``"label"``.
    min_group
        Batches with fewer cells of a label are left out of the check within that label, since
        they take the effect of their whole batch.
    """
    known = condition >= 0
    batch, condition = batch[known], condition[known]
    labels = None if labels is None else labels[known]
    refusals: list[str] = []
    if not _connected(batch, condition):
        refusals.append(f"overall: {_describe(batch, condition, names)}")
    one_sided: list[str] = []
    for label in [] if labels is None else np.unique(labels[labels >= 0]):
        rows = labels == label
        name = names["label"][label]
        if not refusals and not _connected_within(batch[rows], condition[rows], min_group):
            where = _describe(batch[rows], condition[rows], names)
            refusals.append(f"within label {name!r}: {where}")
        if _one_sided(condition[rows], condition):
            one_sided.append(as_text(name))
    messages = _warnings(batch, condition, names, one_sided, rests_on_some=not refusals)
    status = "confounded" if refusals else ("partly confounded" if messages else "balanced")
    return Confounding(status, refusals, messages)


def report(result: Confounding, allow_confounded: bool) -> str:
    """Refuse or warn, and return the word for the provenance.

    Raises
    ------
    ValueError
        If the design is confounded and `allow_confounded` is False.
    """
    if result.refusals and not allow_confounded:
        raise ValueError(
            "batch and condition cannot be told apart (~ batch + condition is rank deficient), "
            + "; ".join(result.refusals)
            + ". Correcting the batch would remove the condition itself: use the raw counts with "
            "the replicate in the design, or insist with allow_confounded=True"
        )
    for message in [*result.refusals, *result.warnings]:
        warnings.warn(f"confounding: {message}", UserWarning, stacklevel=4)
    return f"{result.status}, allowed by the user" if result.refusals else result.status


def _connected(batch: np.ndarray, condition: np.ndarray) -> bool:
    """Whether the graph of batches and conditions is connected."""
    if len(np.unique(condition)) < 2:
        return True
    _, b = np.unique(batch, return_inverse=True)
    _, c = np.unique(condition, return_inverse=True)
    n_batches, n = b.max() + 1, b.max() + 1 + c.max() + 1
    graph = sp.coo_matrix((np.ones(len(b)), (b, n_batches + c)), shape=(n, n))
    return int(connected_components(graph, directed=False, return_labels=False)) == 1


def _connected_within(batch: np.ndarray, condition: np.ndarray, min_group: int) -> bool:
    sizes = np.bincount(batch)
    large = sizes[batch] >= min_group
    return len(np.unique(batch[large])) < 2 or _connected(batch[large], condition[large])


def _one_sided(within: np.ndarray, overall: np.ndarray) -> bool:
    def largest_share(codes: np.ndarray) -> float:
        return float(np.bincount(codes).max() / len(codes))

    return largest_share(within) > ONE_SIDED_SHARE >= largest_share(overall)


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
                f"batches {list_names(single)} hold one condition only; the contrast rests on "
                "the others"
            )
    if one_sided:
        messages.append(
            f"labels {list_names(one_sided)} are more than {ONE_SIDED_SHARE:.0%} of one condition: "
            "labels that encode the condition let its effect be removed as a batch effect"
        )
    return messages


def _describe(batch: np.ndarray, condition: np.ndarray, names: dict[str, list[Any]]) -> str:
    parts = []
    for c in np.unique(condition):
        of_condition = [names["batch"][b] for b in np.unique(batch[condition == c])]
        parts.append(
            f"{printable(as_text(names['condition'][c]))} in {list_names(of_condition, 6)}"
        )
    return "; ".join(parts)
