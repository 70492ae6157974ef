"""What all blocks of corrected counts rest on: depth, detections and group effects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge import effects, matching, results, samples, shrinkage, target_support
from scvibridge.decoding import Encoder
from scvibridge.depth import HIGH_DEPTH_RATIO, LOW_DEPTH_RATIO, DepthModel, estimate_depth
from scvibridge.held_out import described as held_out_cells
from scvibridge.held_out import held_out_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.models import Latent
    from scvibridge.neighbours import TargetNeighbours
    from scvibridge.request import Reference, Request
    from scvibridge.sources import CellData

    Arrays = dict[str, np.ndarray]
    Remember = Callable[[str, Callable[[], Arrays]], Arrays]

# A deep cell here and there is brought down by any common depth: a warning beyond this share.
_MOST_LOW = 0.05


@dataclass(frozen=True)
class Estimates:
    """What all blocks rest on.

    Attributes
    ----------
    encoder
        Reads and encodes the cells asked for.
    depth
        Depth ratio of each of them, shape ``(n,)``.
    detection
        In how many cells of each batch the genes were seen, or None without counts.
    groups
        Effects of the groups, None where each cell has its own.
    group_rows
        Row of the effects that each cell uses, shape ``(n,)``, or None.
    flags
        Columns for ``obs``.
    factors, factor_rows
        Factors on the means of samples, and the row of them that each cell uses; or None.
    neighbours
        The cells that the others are compared with to see whether the target supports them, or
        None.
    """

    encoder: Encoder
    depth: np.ndarray
    detection: effects.Detection | None
    groups: effects.GroupEffects | None
    group_rows: np.ndarray | None
    flags: dict[str, Any]
    neighbours: TargetNeighbours | None = None
    factors: samples.SampleFactors | None = None
    factor_rows: np.ndarray | None = None


@dataclass(frozen=True)
class Encoders:
    """Read and encode the cells asked for, and those to estimate from; one where they agree."""

    own: Encoder
    reference: Encoder

    @staticmethod
    def of(request: Request, reference: Reference) -> Encoders:
        """Build the encoders of a request."""
        own = _encoder(request, request.data)
        same = reference.data is request.data
        return Encoders(own, own if same else _encoder(request, reference.data))


def estimate(
    request: Request,
    reference: Reference,
    remember: Remember,
    encoders: Encoders | None = None,
) -> Estimates:
    """Estimate effects and depth, and choose the cells that others are compared with.

    `remember` keeps what rests on the decoder's arithmetic, so that a run that goes on elsewhere
    uses the very same numbers.
    """
    encoders = encoders or Encoders.of(request, reference)
    encoder, reference_encoder = encoders.own, encoders.reference
    neighbours = None
    if target_support.is_scored(request, reference):
        neighbours = _fit_neighbours(request, reference, reference_encoder, remember)
    detection = _detect(request, reference)
    depth_model = _estimate_depth(request, reference, reference_encoder, remember)
    request.notes.extend(depth_model.notes)
    library = _depth_library(request, encoder, request.rows, remember)
    depth = depth_model.ratio(library, request.data.covariates.batch[request.rows])
    _warn_of_depth(request, depth)
    groups, group_rows = None, None
    flags: dict[str, Any] = {}
    if request.method == "quantile" and request.effect != "cell":
        groups = _estimate_groups(request, reference, reference_encoder, detection, remember)
        group_rows, flags = _assign_groups(request, reference, groups)
    factors = factor_rows = None
    if request.method == "quantile" and reference.samples is not None:
        factors = _compare_samples(request, reference, reference_encoder, remember)
        factor_rows = factors.rows(samples.keys_of_cells(request, reference))
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
    """Estimate the effects of the genes that were added to a model.

    Parameters
    ----------
    request, reference
        Those of the added genes.
    own
        The estimates of the model's genes, which determine depth and the shrinkage of effects;
        groups of cells are the same.
    encoders, remember
        As in :func:`estimate`.
    """

    def remember_added(name: str, compute: Callable[[], Arrays]) -> Arrays:
        return remember(f"added_{name}", compute)

    detection = _detect(request, reference)
    groups = factors = None
    if own.groups is not None:
        request.shrinkage = 0.0 if own.groups.kappa is None else own.groups.kappa
        groups = _estimate_groups(request, reference, encoders.reference, detection, remember_added)
    if own.factors is not None:
        factors = _compare_samples(request, reference, encoders.reference, remember_added)
    return replace(
        own,
        encoder=encoders.own,
        detection=detection,
        groups=groups,
        factors=factors,
        flags={},
        neighbours=own.neighbours if request.unsupported == "mask" else None,
    )


def _compare_samples(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> samples.SampleFactors:
    """Estimate the factors of the samples, from the cells to estimate from."""
    data = reference.data
    groups = samples.group_samples(samples.keys_of_reference(reference), data.names)
    _prepare(encoder, groups.chosen, remember, "sample_latents")

    def compute() -> Arrays:
        return samples.estimate_samples(
            request.adapter, encoder, groups, request.batch_size, request.progress
        ).arrays()

    return samples.SampleFactors(**remember("samples", compute))


def _fit_neighbours(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> TargetNeighbours:
    def encode(rows: np.ndarray) -> Latent:
        return _prepare(encoder, rows, remember, "support_latents")

    return target_support.fit_neighbours(reference.data, request.targets, request.adapter, encode)


def drop_unsupported(request: Request, reference: Reference, encoders: Encoders) -> None:
    """Leave the cells that the target does not support out of the request."""
    neighbours = target_support.fit_neighbours(
        reference.data, request.targets, request.adapter, encoders.reference.prepare
    )
    target_support.drop_unsupported(request, reference, neighbours, encoders.own)


def _encoder(request: Request, data: CellData) -> Encoder:
    return Encoder(request.adapter, data, request.batch_size, request.progress)


def _prepare(encoder: Encoder, rows: np.ndarray, remember: Remember, name: str) -> Latent:
    """Encode some cells, or take up their latents from an earlier run."""

    def compute() -> Arrays:
        encoder.prepare(rows)
        return encoder.known()

    encoder.restore(remember(name, compute))
    return encoder.prepare(rows)


def _estimate_depth(
    request: Request, reference: Reference, encoder: Encoder, remember: Remember
) -> DepthModel:
    data = reference.data
    library = np.ones(data.n_cells)
    if request.library_size in ("median", "scaled"):
        library = _depth_library(request, encoder, np.arange(data.n_cells), remember)
    return estimate_depth(
        request.library_size,
        library,
        data.covariates.batch,
        request.targets,
        reference.labels,
        request.adapter.batches,
    )


def _depth_library(
    request: Request, encoder: Encoder, rows: np.ndarray, remember: Remember
) -> np.ndarray:
    """Library that depth is counted from: the latent one, else the observed total."""
    data = encoder.data
    if request.library_size in ("observed", "latent"):
        return np.ones(len(rows))  # each cell keeps its own
    if data.depth_totals is not None and request.library_size != "scaled":
        return data.depth_totals[rows]
    latent = request.adapter.uses_latent_library
    if data.counts is not None and not latent:
        return data.totals()[rows]
    name = "latents" if data is request.data else "reference_latents"
    everything = np.arange(data.n_cells)
    library = np.exp(_prepare(encoder, everything, remember, name).log_library)[rows]
    return library if data.counts is None else np.where(data.totals()[rows] > 0, library, 0.0)


def _warn_of_depth(request: Request, depth: np.ndarray) -> None:
    counted = ~empty_cells(request)
    advice = ""
    if request.sample_key is not None and request.library_size != "observed":
        advice = (
            ". With sample_key, library_size='observed' leaves each cell its own depth and keeps "
            "more power of tests between samples"
        )
    high = int(((depth > HIGH_DEPTH_RATIO) & counted).sum())
    if high:
        request.note(
            f"{high} of {len(depth)} cells are given more than {HIGH_DEPTH_RATIO:g} times "
            f"their own depth: such counts are partly invented{advice}",
            warn=True,
        )
    low = int(((depth < LOW_DEPTH_RATIO) & counted).sum())
    if low:
        request.note(
            f"{low} of {len(depth)} cells are given less than {LOW_DEPTH_RATIO:g} times their own "
            f"depth: most of their counts are thrown away, and power with them{advice}",
            warn=low > _MOST_LOW * len(depth),
        )


def empty_cells(request: Request) -> np.ndarray:
    """Return which of the requested cells have no counts, shape ``(n,)``."""
    if request.data.counts is None:
        return np.zeros(len(request.rows), dtype=bool)
    return request.data.totals()[request.rows] == 0


def _detect(request: Request, reference: Reference) -> effects.Detection | None:
    if reference.data.counts is None:
        return None
    return effects.Detection(reference.data.summary.detected, request.targets)


def _estimate_groups(
    request: Request,
    reference: Reference,
    encoder: Encoder,
    detection: effects.Detection | None,
    remember: Remember,
) -> effects.GroupEffects:
    assert detection is not None  # noqa: S101 - quantile without counts is refused before
    data, batch = reference.data, reference.data.covariates.batch
    labels = reference.labels if request.effect == "label" else None
    grouping = effects.group_cells(batch, labels, reference.condition)
    # Cells of a single target have no effect that could be estimated.
    others = batch != request.targets[0] if len(request.targets) == 1 else batch >= 0
    chosen = effects.choose_cells(grouping, data.names, np.flatnonzero(others))
    # Also where the effects are known already: blocks take up these very latents.
    latent = _reference_latent(encoder, chosen, remember, data is request.data)

    held_out = np.empty(0, dtype=np.int64)
    is_auto = isinstance(request.shrinkage, str)
    if is_auto:
        held_out = held_out_rows(request.adapter, data)
        held_out = effects.choose_cells(grouping, data.names, held_out)
        _prepare(encoder, held_out, remember, "held_out_latents")

    def compute() -> Arrays:
        groups = effects.estimate_groups(
            request.adapter,
            grouping,
            chosen,
            latent.location,
            data.covariates.take(chosen),
            request.targets,
            detection.low(),
            request.batch_size,
            request.progress,
        )
        if np.all(request.shrinkage == 0):
            return groups.arrays()
        shrunk = shrinkage.shrink(
            groups,
            encoder,
            grouping,
            request.targets,
            held_out,
            None if is_auto else np.asarray(request.shrinkage, dtype=float),
            request.batch_size,
            request.progress,
        )
        return shrunk.arrays()

    groups = effects.GroupEffects.of_arrays(remember("groups", compute))
    request.shrunk = _describe_shrinkage(request, groups, len(held_out))
    return groups


def _describe_shrinkage(
    request: Request, groups: effects.GroupEffects, n_cells: int
) -> dict[str, Any]:
    """Say for the provenance how far the effects were believed."""
    described: dict[str, Any] = {"shrinkage": request.shrinkage}
    if isinstance(request.shrinkage, str):
        assert groups.kappa is not None  # noqa: S101 - estimated
        described["shrinkage_from"] = held_out_cells(request.adapter, n_cells)
        levels = ("batch", "label") if request.effect == "label" else ("batch",)
        for level, kappa in zip(levels, groups.kappa, strict=False):
            described[f"shrinkage_{level}"] = float(kappa)
        assert groups.kept is not None  # noqa: S101 - likewise
        described["shrinkage_kept"] = float(groups.kept)
        if groups.kept < effects.HARDLY_KEPT:
            request.note(
                f"hardly any batch effect is removed: {groups.kept:.0%} of what the decoder says "
                "is left after shrinkage. The batches hardly differ, or the model has learnt too "
                "little (train it longer)"
            )
    return described


def _reference_latent(
    encoder: Encoder, chosen: np.ndarray, remember: Remember, same: bool
) -> Latent:
    known = encoder.known()
    if known and len(known["rows"]) == encoder.data.n_cells:
        return encoder.prepare(known["rows"]).take(chosen)
    return _prepare(encoder, chosen, remember, "latents" if same else "reference_latents")


def _assign_groups(
    request: Request, reference: Reference, groups: effects.GroupEffects
) -> tuple[np.ndarray, dict[str, Any]]:
    """Choose the group of each cell, and record it in ``obs``."""
    batch = request.data.covariates.batch[request.rows]
    labels = None
    if request.effect == "label":
        labels = matching.codes_of_cells(request, "labels_key", reference.label_names)
    else:
        request.note("effect='global': batch effects that differ between cell types stay")
    rows, fallback = groups.rows(batch, labels)
    shown = None if labels is None else np.where(fallback, -1, labels)
    # Nothing is removed from the cells of a single target.
    fallback &= matching.changed_cells(request)
    names = results.group_names(request.adapter, batch, shown, reference.label_names)
    return rows, {"effect_group": names, "effect_fallback": fallback}
