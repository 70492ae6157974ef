"""Estimate what all blocks of corrected counts share: depth, detection and group effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.correction import sample_factors
from scvibridge.correction.basis import Basis
from scvibridge.correction.changes import SampleChange
from scvibridge.correction.effects import estimate_effect
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.correction.group_estimates import prepare_groups
from scvibridge.correction.support import scores
from scvibridge.expression.depth import (
    HIGH_DEPTH_RATIO,
    LOW_DEPTH_RATIO,
    Depth,
)
from scvibridge.models.detection import Detection
from scvibridge.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.correction.effects import Effect
    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.residual_plan import ResidualPlan
    from scvibridge.correction.support.neighbours import TargetNeighbours
    from scvibridge.io.plan import Arrays, Remember
    from scvibridge.models.adapters import Latent
    from scvibridge.models.cell_data import CellData


# Any common depth reduces a few deep cells; warn only if the share of such cells is larger.
_MOST_LOW = 0.05


@dataclass(frozen=True)
class Mapped:
    """What quantile counts are mapped by.

    Attributes
    ----------
    effect
        The batch effect to remove.
    samples
        The changes that keep the differences between samples; empty without samples.
    untouched
        Genes without a batch effect in each batch, shape ``(n_batches, n_genes)``.
    """

    effect: Effect
    samples: tuple[SampleChange, ...]
    untouched: np.ndarray


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
    mapped
        What counts are mapped by; None if they are sampled.
    neighbours
        Reference cells from which the target's support for a cell is judged, or None.
    found
        What the provenance says of depth and effect.
    """

    encoder: Encoder
    depth: np.ndarray
    detection: Detection | None
    mapped: Mapped | None
    neighbours: TargetNeighbours | None
    found: Found

    @property
    def flags(self) -> dict[str, Any]:
        """Columns for ``obs``."""
        return {} if self.mapped is None else self.mapped.effect.flags


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
    residual_plan: ResidualPlan | None = None,
) -> Estimates:
    """Estimate effects and depth, and choose the reference cells for support.

    Parameters
    ----------
    request, reference
        The request, and the cells to estimate from.
    remember
        Stores what depends on the decoder's floating-point arithmetic, so that a run that is
        resumed on another machine uses the same numbers.
    encoders
        Encoders of the cells; built if None.
    residual_plan
        Effects missed by the decoder that can be estimated from the samples; None for none.
    """
    encoders = encoders or Encoders.of(request, reference)
    neighbours = None
    if scores.is_scored(request, reference.everyone):
        neighbours = _fit_neighbours(request, reference.everyone, encoders.everyone, remember)
    learnt = _learn_depth(request, reference, encoders.reference, remember)
    library = _depth_library(request, encoders.own, request.rows, remember)
    depth = learnt.ratio(library, request.batch)
    found = Found(learnt.notes) + _warn_of_depth(request, depth)
    mapped = None
    if request.settings.is_quantile:
        basis = _basis(request, reference, encoders.reference, residual_plan, remember)
        effect = estimate_effect(basis)
        samples = _compare_samples(request, reference.everyone, encoders.everyone, remember)
        mapped = Mapped(effect, samples, basis.untouched)
        found += effect.found
    detection = _detect(request, reference)
    return Estimates(encoders.own, depth, detection, mapped, neighbours, found)


def estimate_added(
    request: Request,
    reference: Reference,
    own: Estimates,
    encoders: Encoders,
    remember: Remember,
    residual_plan: ResidualPlan | None,
) -> Estimates:
    """Estimate the effects of the genes added to a model.

    Parameters
    ----------
    request, reference
        The request and reference of the added genes.
    own
        The estimates of the model's genes, which determine depth and shrinkage. The groups of
        cells are the same.
    encoders, remember, residual_plan
        As in :func:`estimate`.
    """

    def remember_added(name: str, compute: Callable[[], Arrays]) -> Arrays:
        return remember(f"added_{name}", compute)

    mapped = None
    if own.mapped is not None:
        basis = _basis(request, reference, encoders.reference, residual_plan, remember_added)
        mapped = Mapped(
            own.mapped.effect.of_added(basis),
            _compare_samples(request, reference.everyone, encoders.everyone, remember_added),
            basis.untouched,
        )
    neighbours = own.neighbours if request.settings.unsupported == "mask" else None
    detection = _detect(request, reference)
    return Estimates(encoders.own, own.depth, detection, mapped, neighbours, NOTHING)


def _basis(
    request: Request,
    reference: Reference,
    encoder: Encoder,
    residual_plan: ResidualPlan | None,
    remember: Remember,
) -> Basis:
    """Return what the batch effect is estimated from."""
    low = Detection(reference.data.summary.detected, request.target).low()
    untouched = request.left_alone(low)
    return Basis(request, reference, encoder, untouched, residual_plan, remember)


def _compare_samples(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> tuple[SampleChange, ...]:
    """Estimate the factors of the samples from the reference cells, if there are samples."""
    if reference.samples is None:
        return ()
    data = reference.data
    groups = sample_factors.group_samples(sample_factors.keys_of_reference(reference), data.names)
    prepare_groups(encoder, groups.chosen, remember, "sample_latents")

    def compute() -> Arrays:
        return sample_factors.estimate_samples(
            request.adapter, encoder, groups, request.running.batch_size, request.running.progress
        ).arrays()

    factors = sample_factors.SampleFactors(**remember("samples", compute))
    rows = factors.rows(sample_factors.keys_of_cells(request, reference))
    return (SampleChange(factors, rows),)


def _fit_neighbours(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> TargetNeighbours:
    def encode(rows: np.ndarray) -> Latent:
        return prepare_groups(encoder, rows, remember, "support_latents")

    return scores.fit_neighbours(reference.data, request.adapter, encode)


def supported_rows(
    request: Request, reference: Reference, encoders: Encoders
) -> tuple[np.ndarray, Found]:
    """Return the positions of the requested cells that the target supports, and the outcome."""
    everyone, encoder = reference.everyone, encoders.everyone
    neighbours = scores.fit_neighbours(everyone.data, request.adapter, encoder.prepare)
    return scores.supported_rows(request, everyone, neighbours, encoders.own)


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
    if data.counts is None and request.adapter.uses_size_factor:
        return request.adapter.minified_totals(rows)
    name = "latents" if data is request.data else "reference_latents"
    everything = np.arange(data.n_cells)
    library = np.exp(prepare_groups(encoder, everything, remember, name).log_library)[rows]
    return library if data.counts is None else np.where(data.totals()[rows] > 0, library, 0.0)


def _warn_of_depth(request: Request, depth: np.ndarray) -> Found:
    counted = ~empty_cells(request)
    found = NOTHING
    advice = ""
    if request.settings.sample_key is not None and not request.settings.library_size.keeps_own:
        advice = (
            ". With sample_key, library_size='observed' keeps each cell's own depth and preserves "
            "more power of tests between samples"
        )
    high = int(((depth > HIGH_DEPTH_RATIO) & counted).sum())
    if high:
        found += noted(
            f"{high} of {len(depth)} cells are scaled to more than {HIGH_DEPTH_RATIO:g} times "
            f"their own depth; such counts are partly invented{advice}",
            warn=True,
        )
    low = int(((depth < LOW_DEPTH_RATIO) & counted).sum())
    if low:
        found += noted(
            f"{low} of {len(depth)} cells are scaled to less than {LOW_DEPTH_RATIO:g} times their "
            f"own depth, which discards most of their counts and reduces power{advice}",
            warn=low > _MOST_LOW * len(depth),
        )
    return found


def empty_cells(request: Request) -> np.ndarray:
    """Return which of the requested cells have no counts, shape ``(n,)``."""
    data = request.data
    if data.counts is None:
        return np.zeros(len(request.rows), dtype=bool)
    # Of an extended model, a cell may only have counts of the added genes.
    totals = data.totals() if data.depth_totals is None else data.depth_totals
    return np.asarray(totals[request.rows] == 0)


def _detect(request: Request, reference: Reference) -> Detection | None:
    if reference.data.counts is None:
        return None
    return Detection(reference.data.summary.detected, request.target)
