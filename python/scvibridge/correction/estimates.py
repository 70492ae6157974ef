"""Estimate what all blocks of corrected counts share: depth, detection and group effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction import batch_effects, sample_factors
from scvibridge.correction.group_estimates import assign_groups, estimate_groups, prepare_groups
from scvibridge.correction.support import scores
from scvibridge.expression.depth import (
    HIGH_DEPTH_RATIO,
    LOW_DEPTH_RATIO,
    Depth,
)
from scvibridge.models import detection
from scvibridge.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.support.neighbours import TargetNeighbours
    from scvibridge.io.plan import Arrays, Remember
    from scvibridge.models.adapters import Latent
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.detection import Detection


# Any common depth reduces a few deep cells; warn only if the share of such cells is larger.
_MOST_LOW = 0.05


@dataclass(frozen=True)
class Estimates:
    """Estimates that all blocks share.

    Attributes
    ----------
    encoder
        Reads and encodes the requested cells.
    depth
        Depth ratio of each requested cell, shape ``(n,)``.
    detection
        Number of cells of each batch in which each gene was detected; None without counts.
    groups
        Effects of the groups; None if each cell has its own effect.
    group_rows
        Row of the effects that each cell uses, shape ``(n,)``, or None.
    flags
        Columns for ``obs``.
    factors, factor_rows
        Factors on the means of samples, and the row that each cell uses; or None.
    neighbours
        Reference cells from which the target's support for a cell is judged, or None.
    """

    encoder: Encoder
    depth: np.ndarray
    detection: Detection | None
    groups: batch_effects.GroupEffects | None
    group_rows: np.ndarray | None
    flags: dict[str, Any]
    neighbours: TargetNeighbours | None = None
    factors: sample_factors.SampleFactors | None = None
    factor_rows: np.ndarray | None = None


@dataclass(frozen=True)
class Encoders:
    """Encoders of cells; the same object for the same cells.

    Attributes
    ----------
    own
        Encoder of the requested cells.
    reference
        Encoder of the cells from which effects and depth are estimated.
    everyone
        Encoder of all reference cells.
    """

    own: Encoder
    reference: Encoder
    everyone: Encoder

    @staticmethod
    def of(request: Request, reference: Reference) -> Encoders:
        """Build the encoders of a request."""
        own = _encoder(request, request.data)
        data = reference.everyone.data
        everyone = own if data is request.data else _encoder(request, data)
        chosen = everyone if reference.whole is None else _encoder(request, reference.data)
        return Encoders(own, chosen, everyone)


def estimate(
    request: Request,
    reference: Reference,
    remember: Remember,
    encoders: Encoders | None = None,
) -> Estimates:
    """Estimate effects and depth, and choose the reference cells for support.

    `remember` stores what depends on the decoder's floating-point arithmetic, so that a run that is
    resumed on another machine uses the same numbers.
    """
    encoders = encoders or Encoders.of(request, reference)
    encoder, reference_encoder = encoders.own, encoders.reference
    neighbours = None
    if scores.is_scored(request, reference.everyone):
        neighbours = _fit_neighbours(request, reference.everyone, encoders.everyone, remember)
    detection = _detect(request, reference)
    learnt = _learn_depth(request, reference, reference_encoder, remember)
    request.notes.extend(learnt.notes)
    library = _depth_library(request, encoder, request.rows, remember)
    depth = learnt.ratio(library, request.batch)
    _warn_of_depth(request, depth)
    groups, group_rows = None, None
    flags: dict[str, Any] = {}
    if request.settings.has_groups:
        shrinkage = request.settings.shrinkage
        groups = estimate_groups(
            request, reference, reference_encoder, detection, remember, shrinkage
        )
        group_rows, flags = assign_groups(request, reference, groups)
    factors = factor_rows = None
    if request.settings.is_quantile and reference.samples is not None:
        factors = _compare_samples(request, reference.everyone, encoders.everyone, remember)
        factor_rows = factors.rows(sample_factors.keys_of_cells(request, reference.everyone))
    return Estimates(
        encoder, depth, detection, groups, group_rows, flags, neighbours, factors, factor_rows
    )


def estimate_added(
    request: Request,
    reference: Reference,
    own: Estimates,
    encoders: Encoders,
    remember: Remember,
) -> Estimates:
    """Estimate the effects of the genes added to a model.

    Parameters
    ----------
    request, reference
        The request and reference of the added genes.
    own
        The estimates of the model's genes, which determine depth and shrinkage. The groups of
        cells are the same.
    encoders, remember
        As in :func:`estimate`.
    """

    def remember_added(name: str, compute: Callable[[], Arrays]) -> Arrays:
        return remember(f"added_{name}", compute)

    detection = _detect(request, reference)
    groups = factors = None
    if own.groups is not None:
        kappa = 0.0 if own.groups.kappa is None else own.groups.kappa
        groups = estimate_groups(
            request, reference, encoders.reference, detection, remember_added, kappa
        )
    if own.factors is not None:
        factors = _compare_samples(request, reference.everyone, encoders.everyone, remember_added)
    return replace(
        own,
        encoder=encoders.own,
        detection=detection,
        groups=groups,
        factors=factors,
        flags={},
        neighbours=own.neighbours if request.settings.unsupported == "mask" else None,
    )


def _compare_samples(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> sample_factors.SampleFactors:
    """Estimate the factors of the samples from the reference cells."""
    data = reference.data
    groups = sample_factors.group_samples(sample_factors.keys_of_reference(reference), data.names)
    prepare_groups(encoder, groups.chosen, remember, "sample_latents")

    def compute() -> Arrays:
        return sample_factors.estimate_samples(
            request.adapter, encoder, groups, request.running.batch_size, request.running.progress
        ).arrays()

    return sample_factors.SampleFactors(**remember("samples", compute))


def _fit_neighbours(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> TargetNeighbours:
    def encode(rows: np.ndarray) -> Latent:
        return prepare_groups(encoder, rows, remember, "support_latents")

    return scores.fit_neighbours(reference.data, request.adapter, encode)


def drop_unsupported(request: Request, reference: Reference, encoders: Encoders) -> None:
    """Remove the cells that the target does not support from the request."""
    everyone, encoder = reference.everyone, encoders.everyone
    neighbours = scores.fit_neighbours(everyone.data, request.adapter, encoder.prepare)
    scores.drop_unsupported(request, everyone, neighbours, encoders.own)


def _encoder(request: Request, data: CellData) -> Encoder:
    return Encoder(request.adapter, data, request.running.batch_size, request.running.progress)


def _learn_depth(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> Depth:
    depth, data = request.settings.library_size, reference.data
    if not depth.is_learnt:
        return depth
    library = _depth_library(request, encoder, np.arange(data.n_cells), remember)
    batch = data.covariates.batch
    in_target = request.target.holds(batch)
    return depth.learn(library, batch, in_target, reference.labels, request.adapter.batches)


def _depth_library(
    request: Request, encoder: Encoder, rows: np.ndarray, remember: Remember
) -> np.ndarray:
    """Return the library that depth refers to: the latent one, or else the observed total."""
    data, depth = encoder.data, request.settings.library_size
    if depth.keeps_own:
        return np.ones(len(rows))  # each cell keeps its own depth
    if data.depth_totals is not None and not depth.is_by_batch:
        return data.depth_totals[rows]
    latent = request.adapter.uses_latent_library
    if data.counts is not None and not latent:
        return data.totals()[rows]
    name = "latents" if data is request.data else "reference_latents"
    everything = np.arange(data.n_cells)
    library = np.exp(prepare_groups(encoder, everything, remember, name).log_library)[rows]
    return library if data.counts is None else np.where(data.totals()[rows] > 0, library, 0.0)


def _warn_of_depth(request: Request, depth: np.ndarray) -> None:
    counted = ~empty_cells(request)
    advice = ""
    if request.settings.sample_key is not None and not request.settings.library_size.keeps_own:
        advice = (
            ". With sample_key, library_size='observed' keeps each cell's own depth and preserves "
            "more power of tests between samples"
        )
    high = int(((depth > HIGH_DEPTH_RATIO) & counted).sum())
    if high:
        request.note(
            f"{high} of {len(depth)} cells are scaled to more than {HIGH_DEPTH_RATIO:g} times "
            f"their own depth; such counts are partly invented{advice}",
            warn=True,
        )
    low = int(((depth < LOW_DEPTH_RATIO) & counted).sum())
    if low:
        request.note(
            f"{low} of {len(depth)} cells are scaled to less than {LOW_DEPTH_RATIO:g} times their "
            f"own depth, which discards most of their counts and reduces power{advice}",
            warn=low > _MOST_LOW * len(depth),
        )


def empty_cells(request: Request) -> np.ndarray:
    """Return which of the requested cells have no counts, shape ``(n,)``."""
    if request.data.counts is None:
        return np.zeros(len(request.rows), dtype=bool)
    return request.data.totals()[request.rows] == 0


def _detect(request: Request, reference: Reference) -> detection.Detection | None:
    if reference.data.counts is None:
        return None
    return detection.Detection(reference.data.summary.detected, request.target)
