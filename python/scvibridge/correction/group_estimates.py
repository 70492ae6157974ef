"""Estimate the batch effects of groups of cells, and choose the group of each cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge.correction import batch_effects, matching, residual_effects, shrinkage
from scvibridge.correction.changes import GroupChange
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.correction.sample_factors import group_samples, keys_of_reference
from scvibridge.expression import results
from scvibridge.models.held_out import described as held_out_cells
from scvibridge.models.held_out import held_out_rows

if TYPE_CHECKING:
    from scvibridge.correction.basis import Basis
    from scvibridge.correction.parameters import TargetTheta
    from scvibridge.correction.sample_factors import SampleGroups
    from scvibridge.correction.settings import CorrectionSettings
    from scvibridge.io.plan import Arrays, Remember
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter, Latent
    from scvibridge.models.encoder import Cells, Encoder


@dataclass(frozen=True)
class GroupedEffect:
    """Mean effects of groups of cells: labels in batches, or batches.

    Attributes
    ----------
    change
        The effects of the groups, and the row that each requested cell uses.
    flags
        Columns for ``obs``: the group of each cell, and whether it fell back on its batch.
    found
        What the provenance says of the effects.
    """

    change: GroupChange
    flags: dict[str, Any]
    found: Found

    @staticmethod
    def estimate(basis: Basis) -> GroupedEffect:
        """Estimate the effects from the reference cells."""
        effects, found = _estimate(basis, basis.request.settings.shrinkage)
        rows, flags, noted_of_cells = _assign(basis, effects)
        return GroupedEffect(GroupChange(effects, rows), flags, found + noted_of_cells)

    @property
    def changes(self) -> tuple[GroupChange, ...]:
        """Changes of the means of the target."""
        return (self.change,)

    def target(
        self,
        adapter: Adapter,  # noqa: ARG002 - other effects need it
        cells: Cells,  # noqa: ARG002
        theta: TargetTheta,
        source: BlockParameters,
        positions: np.ndarray,
    ) -> BlockParameters:
        """Return the parameters of the source with the target's dispersions.

        See :class:`effects.Effect`.
        """
        log_ratio = self.change.effects.shift.log_theta_ratio
        if log_ratio is None or not isinstance(source.theta, torch.Tensor):
            return replace(source, theta=theta.target)
        change = np.exp(log_ratio)[self.change.rows[positions]]
        changed = source.theta * torch.as_tensor(change, device=source.theta.device)
        return replace(source, theta=changed)

    def of_added(self, basis: Basis) -> GroupedEffect:
        """Estimate the effects of added genes: the groups and the shrinkage are the same."""
        effects, _ = _estimate(basis, self.change.effects.kappa)
        return GroupedEffect(GroupChange(effects, self.change.rows), {}, NOTHING)


def prepare_groups(encoder: Encoder, rows: np.ndarray, remember: Remember, name: str) -> Latent:
    """Encode some cells, or reuse their latents from an interrupted run."""

    def compute() -> Arrays:
        encoder.prepare(rows)
        return encoder.known()

    encoder.restore(remember(name, compute))
    return encoder.prepare(rows)


def cells_to_estimate_on(basis: Basis) -> tuple[batch_effects.Grouping, np.ndarray, Latent]:
    """Group the reference cells, and encode those that effects are averaged over.

    Returns
    -------
    The groups of all reference cells, the positions of the chosen ones, and their latents.
    """
    request, reference = basis.request, basis.reference
    data, batch = reference.data, reference.data.covariates.batch
    labels = reference.labels if request.settings.effect == "label" else None
    grouping = batch_effects.group_cells(batch, labels, reference.condition)
    # The cells of a single target have no effect to estimate.
    others = request.target.changes(batch)
    chosen = batch_effects.choose_cells(grouping, data.names, np.flatnonzero(others))
    # Also needed if the effects are already known, because blocks reuse these latents.
    return grouping, chosen, _reference_latent(basis, chosen)


def held_out_to_judge(basis: Basis, grouping: batch_effects.Grouping) -> np.ndarray:
    """Choose held-out cells that effects are judged by, and encode them; return their positions."""
    data = basis.reference.data
    held_out = held_out_rows(basis.request.adapter, data)
    held_out = batch_effects.choose_cells(grouping, data.names, held_out)
    prepare_groups(basis.encoder, held_out, basis.remember, "held_out_latents")
    return held_out


def _estimate(
    basis: Basis, shrinkage_asked: str | float | np.ndarray
) -> tuple[batch_effects.GroupEffects, Found]:
    """Estimate the batch effects of groups of cells from the reference cells."""
    request, encoder, remember = basis.request, basis.encoder, basis.remember
    data, untouched = basis.reference.data, basis.untouched
    grouping, chosen, latent = cells_to_estimate_on(basis)
    held_out = np.empty(0, dtype=np.int64)
    is_auto = isinstance(shrinkage_asked, str)
    if is_auto:
        held_out = held_out_to_judge(basis, grouping)
    samples = _group_samples(basis)

    def compute() -> Arrays:
        groups = batch_effects.estimate_groups(
            request.adapter,
            grouping,
            chosen,
            latent.location,
            data.covariates.take(chosen),
            untouched,
            request.running,
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
        return _with_residuals(basis, groups, samples).arrays()

    groups = batch_effects.GroupEffects.of_arrays(remember("groups", compute))
    found = Found(values={"shrinkage": shrinkage_asked})
    if is_auto:
        found += _describe_shrinkage(request.adapter, request.settings, groups, len(held_out))
    return groups, found + Found(
        values=_by_level("residual_sd", request.settings, groups.residual_sd)
    )


def _group_samples(basis: Basis) -> SampleGroups | None:
    """Group the cells of samples, and encode them if needed; None without residual effects."""
    if basis.residual_plan is None:
        return None
    samples = group_samples(keys_of_reference(basis.reference), basis.reference.data.names)
    if basis.request.adapter.zero_inflated:
        prepare_groups(basis.encoder, samples.chosen, basis.remember, "residual_latents")
    return samples


def _with_residuals(
    basis: Basis, groups: batch_effects.GroupEffects, samples: SampleGroups | None
) -> batch_effects.GroupEffects:
    """Add the effects that the decoder misses, estimated from the samples."""
    if samples is None or basis.residual_plan is None:
        return groups
    running = basis.request.running
    labels = samples.keys[1] if basis.request.settings.effect == "label" else None
    rows, _ = groups.rows(samples.keys[0], labels)
    sums = residual_effects.sum_samples(
        basis.encoder, samples, groups, rows, running.batch_size, running.progress
    )
    return residual_effects.add_residuals(groups, basis.residual_plan, sums, basis.untouched)


def _by_level(name: str, settings: CorrectionSettings, values: np.ndarray) -> dict[str, float]:
    """Return values of batches and, for effects of labels, of labels, by name."""
    levels = ("batch", "label") if settings.effect == "label" else ("batch",)
    return {f"{name}_{level}": v for level, v in zip(levels, values.tolist(), strict=False)}


def _describe_shrinkage(
    adapter: Adapter,
    settings: CorrectionSettings,
    groups: batch_effects.GroupEffects,
    n_cells: int,
) -> Found:
    """Describe the estimated shrinkage of the effects."""
    kept = float(groups.kept)
    found = Found(
        values={
            "shrinkage_from": held_out_cells(adapter, n_cells),
            **_by_level("shrinkage", settings, groups.kappa),
            "shrinkage_kept": kept,
        }
    )
    if kept >= batch_effects.HARDLY_KEPT:
        return found
    return found + noted(
        f"hardly any batch effect is removed: after shrinkage, {kept:.0%} of the decoder's effects "
        "remain. The batches hardly differ, or the model has learned too little (train it for "
        "longer)"
    )


def _reference_latent(basis: Basis, chosen: np.ndarray) -> Latent:
    encoder, same = basis.encoder, basis.reference.data is basis.request.data
    known = encoder.known()
    if len(known["rows"]) == encoder.data.n_cells:
        return encoder.prepare(known["rows"]).take(chosen)
    name = "latents" if same else "reference_latents"
    return prepare_groups(encoder, chosen, basis.remember, name)


def _assign(
    basis: Basis, groups: batch_effects.GroupEffects
) -> tuple[np.ndarray, dict[str, Any], Found]:
    """Choose the group of each requested cell; return it also as columns for ``obs``."""
    request, reference = basis.request, basis.reference
    batch = request.batch
    labels, found = None, NOTHING
    if request.settings.effect == "label":
        labels = matching.codes_of_cells(request, "labels_key", reference.label_names)
    elif request.settings.effect == "global":
        found = noted(
            "effect='global': batch effects that differ between cell types remain; labels_key= or "
            "effect='local' removes them"
        )
    rows, fallback = groups.rows(batch, labels)
    shown = None if labels is None else np.where(fallback, -1, labels)
    # Nothing is removed from the cells of a single target batch.
    fallback &= request.target.changes(batch)
    names = results.group_names(request.adapter, batch, shown, reference.label_names)
    return rows, {"effect_group": names, "effect_fallback": fallback}, found
