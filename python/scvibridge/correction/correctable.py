"""Check before any work that there is a batch effect to estimate.

A batch effect is estimated for the genes that are detected in both source and target. If the target
has no cells, or too few, no gene has an effect, and the counts would be returned unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import arguments, wording
from scvibridge._utils.spelling import spelled
from scvibridge.correction.chosen_cells import ARGUMENT
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.models import detection

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter, Target
    from scvibridge.models.cell_data import CellData


# Warn if genes without an effect hold more than this share of a batch's nonzero counts.
MOST_LEFT_ALONE = 0.2


def check_batches(request: Request) -> Found:
    """Refuse a model with a single batch, unless the depth is changed.

    Raises
    ------
    ValueError
        If the counts would be returned unchanged.
    """
    adapter = request.adapter
    if len(adapter.batches) > 1 or adapter.target.moves_all:
        return NOTHING
    reason = arguments.WITHOUT_BATCH
    if request.target.asked:
        reason = (
            "the covariates have a single combination of values, "
            f"{wording.list_names(adapter.batches)}, so there is nothing to change"
        )
    elif adapter.batch_key is not None:
        reason = (
            f"the model has a single batch, {wording.list_names(adapter.batches)}, so there is no "
            "batch effect to remove. Train it on all batches that you want to compare"
        )
    found = NOTHING
    if request.settings.is_quantile:
        if not request.settings.library_size.is_common:
            raise ValueError(f"nothing can be corrected: {reason}")
        found = Found(values={"corrected_cells": 0})
    return found + noted(f"no batch effect was removed: {reason}", warn=True)


def check_correctable(request: Request, reference: Reference) -> Found:
    """Check that the reference has the cells and counts that batch effects are estimated from.

    Raises
    ------
    ValueError
        If it has no cells of the target, or no batch effect can be estimated.
    """
    if not request.settings.is_quantile or len(request.adapter.batches) < 2:
        return NOTHING
    found = _check_target(request, reference.data)
    adapter = request.adapter
    batch = request.batch
    asked = request.target.changes(batch)
    present = np.unique(batch[asked])
    if not len(present):
        return (
            Found(values={"corrected_cells": 0})
            + found
            + noted(
                f"there was nothing to correct: all requested cells are in the target "
                f"({_names(adapter, request.target.codes)})",
                warn=True,
            )
        )
    n_own = len(adapter.own.genes)
    detected = reference.data.summary.detected
    left = left_alone(detected[:, :n_own], request.target)
    alone = [int(code) for code in present if left[code] == 1]
    if len(alone) == len(present):
        raise ValueError(_nothing(request, reference))
    found += count_corrected(request, reference)
    found += _note_left_alone(adapter, left, present, alone)
    return found + _check_genes(request, detected, n_own, present)


def count_corrected(
    request: Request, reference: Reference, among: np.ndarray | None = None
) -> Found:
    """Count the requested cells whose batch effect is removed, for the provenance.

    `among` marks those that count, shape ``(n,)``, such as cells that are supported; None for all.
    """
    adapter, batch = request.adapter, request.batch
    if not request.settings.is_quantile or len(adapter.batches) < 2:
        return NOTHING
    detected = reference.data.summary.detected[:, : len(adapter.own.genes)]
    left = left_alone(detected, request.target)
    corrected = request.target.changes(batch) & (left[batch] < 1)
    if among is not None:
        corrected &= among
    return Found(values={"corrected_cells": int(corrected.sum())})


def left_alone(detected: np.ndarray, target: Target) -> np.ndarray:
    """Compute the share of each batch's nonzero counts in genes without a batch effect.

    Parameters
    ----------
    detected
        Number of cells of each batch in which each gene was detected, ``(n_batches, n_genes)``.
    target
        The target batches.

    Returns
    -------
    Array of shape ``(n_batches,)``; 1 for a batch without counts.
    """
    low = detection.Detection(detected, target).low()
    total = detected.sum(axis=1)
    alone = np.where(low, detected, 0).sum(axis=1)
    return np.divide(alone, total, out=np.ones(len(total)), where=total > 0)


def _check_target(request: Request, data: CellData) -> Found:
    """Refuse a target without cells; warn if some of several target batches have none."""
    present = set(np.unique(data.covariates.batch).tolist())
    codes = request.target.codes
    lacking = [code for code in codes if code not in present]
    if not lacking:
        return NOTHING
    names, held = _names(request.adapter, lacking), _names(request.adapter, sorted(present))
    if len(lacking) < len(codes):
        return noted(
            f"the data from which effects are estimated have no cells of {names}. The target's "
            "detected genes and depth are those of the other target batches",
            warn=True,
        )
    if request.target.asked:
        raise ValueError(
            f"the data have no cells with {names}, so the detection of genes and the depth of the "
            "target cannot be estimated. Choose values that occur together, or use "
            "method='sample'"
        )
    raise ValueError(
        "nothing can be corrected: the data from which effects are estimated have no cells of "
        f"the target {names}, only of {held}. Pass adata= with cells of the target as well and "
        "select the cells to correct with indices=, or load the model with its training data"
    )


def _nothing(request: Request, reference: Reference) -> str:
    """Explain why no gene has a batch effect."""
    data = reference.data
    among, remedy = "", "Choose a target with more cells, or pass adata= with more cells of both"
    if reference.chosen is not None:
        among, remedy = f"among {reference.chosen}, ", f"Choose more cells with {ARGUMENT}= of both"
    sizes = np.bincount(data.covariates.batch, minlength=len(request.adapter.batches))
    batch = request.batch
    codes = request.target.codes
    sources = sorted(set(batch.tolist()) - set(codes))
    target = int(sizes[codes].sum())
    return (
        f"nothing can be corrected: {among}no gene is detected in at least "
        f"{detection.MIN_DETECTED_CELLS} cells of both the target "
        f"{_names(request.adapter, codes)} ({target} cells) and the batch to correct "
        f"{_names(request.adapter, sources)} ({int(sizes[sources].sum())} cells). {remedy} batches"
    )


def _note_left_alone(
    adapter: Adapter, left: np.ndarray, present: np.ndarray, alone: list[int]
) -> Found:
    """Warn about batches that are not corrected, or only partly."""
    found, texts = NOTHING, spelled(adapter.batches)
    if alone:
        names = [texts[code] for code in alone]
        found += Found(values={"uncorrected_batches": names})
        found += noted(
            f"the batch effect of {_names(adapter, alone)} was not removed: no gene is detected in "
            f"at least {detection.MIN_DETECTED_CELLS} cells of both this batch and the target",
            warn=True,
        )
    partly = [int(c) for c in present if MOST_LEFT_ALONE < left[c] < 1]
    if partly:
        shares = ", ".join(f"{_names(adapter, [code])} {left[code]:.0%}" for code in partly)
        names = [texts[code] for code in partly]
        found += Found(values={"partly_corrected_batches": names})
        found += noted(
            "much of the batch effect remains: it is not removed from genes detected in fewer than "
            f"{detection.MIN_DETECTED_CELLS} cells of the batch or the target, and these genes "
            f"hold a large share of the nonzero counts ({shares})",
            warn=True,
        )
    return found


def _check_genes(request: Request, detected: np.ndarray, n_own: int, present: np.ndarray) -> Found:
    """Warn if none of the requested genes, or none of the added genes, is corrected."""
    asked = np.arange(detected.shape[1]) if request.genes is None else request.genes
    parts = {"the requested genes": asked, "the genes added to the model": asked[asked >= n_own]}
    if request.genes is None:
        parts.pop("the requested genes")
    found = NOTHING
    for what, columns in parts.items():
        if len(columns) and (left_alone(detected[:, columns], request.target)[present] == 1).all():
            found += noted(
                f"the batch effect of {what} was not removed: none is detected in at least "
                f"{detection.MIN_DETECTED_CELLS} cells of both a batch and the target",
                warn=True,
            )
    return found


def _names(adapter: Adapter, codes: Any) -> str:
    return wording.list_names((adapter.batches[code] for code in codes), 6)
