"""Estimate the batch effects of groups of cells, and choose the group of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction import batch_effects, matching, residual_effects, shrinkage
from scvibridge.correction.sample_factors import group_samples, keys_of_reference
from scvibridge.expression import results
from scvibridge.models.held_out import described as held_out_cells
from scvibridge.models.held_out import held_out_rows

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.sample_factors import SampleGroups
    from scvibridge.io.plan import Arrays, Remember
    from scvibridge.models.adapters import Latent
    from scvibridge.models.detection import Detection
    from scvibridge.models.encoder import Encoder


def prepare_groups(encoder: Encoder, rows: np.ndarray, remember: Remember, name: str) -> Latent:
    """Encode some cells, or reuse their latents from an interrupted run."""

    def compute() -> Arrays:
        encoder.prepare(rows)
        return encoder.known()

    encoder.restore(remember(name, compute))
    return encoder.prepare(rows)


def estimate_groups(
    request: Request,
    reference: Reference,
    encoder: Encoder,
    detection: Detection | None,
    remember: Remember,
    shrinkage_asked: str | float | np.ndarray,
) -> batch_effects.GroupEffects:
    """Estimate the batch effects of groups of cells from the reference cells."""
    assert detection is not None  # noqa: S101 - quantile without counts was refused
    data, batch = reference.data, reference.data.covariates.batch
    low = request.left_alone(detection.low())
    labels = reference.labels if request.settings.effect == "label" else None
    grouping = batch_effects.group_cells(batch, labels, reference.condition)
    # The cells of a single target have no effect to estimate.
    others = request.target.changes(batch)
    chosen = batch_effects.choose_cells(grouping, data.names, np.flatnonzero(others))
    # Also needed if the effects are already known, because blocks reuse these latents.
    latent = _reference_latent(encoder, chosen, remember, data is request.data)

    held_out = np.empty(0, dtype=np.int64)
    is_auto = isinstance(shrinkage_asked, str)
    if is_auto:
        held_out = held_out_rows(request.adapter, data)
        held_out = batch_effects.choose_cells(grouping, data.names, held_out)
        prepare_groups(encoder, held_out, remember, "held_out_latents")
    samples = None
    if request.residual_plan is not None:
        samples = group_samples(keys_of_reference(reference), data.names)
        if request.adapter.zero_inflated:
            prepare_groups(encoder, samples.chosen, remember, "residual_latents")

    def compute() -> Arrays:
        groups = batch_effects.estimate_groups(
            request.adapter,
            grouping,
            chosen,
            latent.location,
            data.covariates.take(chosen),
            low,
            request.running.batch_size,
            request.running.progress,
        )
        if not np.all(shrinkage_asked == 0):
            groups = shrinkage.shrink(
                groups,
                encoder,
                grouping,
                held_out,
                None if is_auto else np.asarray(shrinkage_asked, dtype=float),
                request.running.batch_size,
                request.running.progress,
            )
        if samples is not None:
            groups = _with_residuals(request, encoder, groups, samples, low)
        return groups.arrays()

    groups = batch_effects.GroupEffects.of_arrays(remember("groups", compute))
    request.shrunk = _describe_shrinkage(request, groups, len(held_out), shrinkage_asked)
    _describe_residuals(request, groups)
    return groups


def _with_residuals(
    request: Request,
    encoder: Encoder,
    groups: batch_effects.GroupEffects,
    samples: SampleGroups,
    low: np.ndarray,
) -> batch_effects.GroupEffects:
    """Add the effects that the decoder misses, estimated from the samples."""
    assert request.residual_plan is not None  # noqa: S101 - checked by the caller
    labels = samples.keys[1] if request.settings.effect == "label" else None
    rows, _ = groups.rows(samples.keys[0], labels)
    sums = residual_effects.sum_samples(
        encoder, samples, groups, rows, request.running.batch_size, request.running.progress
    )
    return residual_effects.add_residuals(groups, request.residual_plan, sums, low)


def _describe_residuals(request: Request, groups: batch_effects.GroupEffects) -> None:
    """Record the size of the effects that the decoder misses."""
    if groups.residual_sd is None:
        return
    levels = ("batch", "label") if request.settings.effect == "label" else ("batch",)
    found = zip(levels, groups.residual_sd.tolist(), strict=False)
    sds = {f"residual_sd_{level}": sd for level, sd in found}
    request.residual_found = {**request.residual_found, **sds}


def _describe_shrinkage(
    request: Request,
    groups: batch_effects.GroupEffects,
    n_cells: int,
    asked: str | float | np.ndarray,
) -> dict[str, Any]:
    """Describe the shrinkage of the effects for the provenance."""
    described: dict[str, Any] = {"shrinkage": asked}
    if isinstance(asked, str):
        assert groups.kappa is not None  # noqa: S101 - estimated
        described["shrinkage_from"] = held_out_cells(request.adapter, n_cells)
        levels = ("batch", "label") if request.settings.effect == "label" else ("batch",)
        for level, kappa in zip(levels, groups.kappa, strict=False):
            described[f"shrinkage_{level}"] = float(kappa)
        assert groups.kept is not None  # noqa: S101 - likewise
        described["shrinkage_kept"] = float(groups.kept)
        if groups.kept < batch_effects.HARDLY_KEPT:
            request.note(
                f"hardly any batch effect is removed: after shrinkage, {groups.kept:.0%} of the "
                "decoder's effects remain. The batches hardly differ, or the model has learned too "
                "little (train it for longer)"
            )
    return described


def _reference_latent(
    encoder: Encoder, chosen: np.ndarray, remember: Remember, same: bool
) -> Latent:
    known = encoder.known()
    if known and len(known["rows"]) == encoder.data.n_cells:
        return encoder.prepare(known["rows"]).take(chosen)
    return prepare_groups(encoder, chosen, remember, "latents" if same else "reference_latents")


def assign_groups(
    request: Request, reference: Reference, groups: batch_effects.GroupEffects
) -> tuple[np.ndarray, dict[str, Any]]:
    """Choose the group of each cell, and record it in ``obs``."""
    batch = request.batch
    labels = None
    if request.settings.effect == "label":
        labels = matching.codes_of_cells(request, "labels_key", reference.label_names)
    else:
        request.note("effect='global': batch effects that differ between cell types remain")
    rows, fallback = groups.rows(batch, labels)
    shown = None if labels is None else np.where(fallback, -1, labels)
    # Nothing is removed from the cells of a single target batch.
    fallback &= request.target.changes(batch)
    names = results.group_names(request.adapter, batch, shown, reference.label_names)
    return rows, {"effect_group": names, "effect_fallback": fallback}
