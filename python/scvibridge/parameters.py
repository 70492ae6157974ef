"""Parameters of the count likelihood of a block of cells, under their own batch and the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.decoding import Cells, decode_target, to_numpy
from scvibridge.effects import GroupEffects, Shift, cell_shift
from scvibridge.likelihood import CountParameters

if TYPE_CHECKING:
    from scvibridge.models import Decoded, SCVIAdapter


@dataclass(frozen=True)
class TargetTheta:
    """Inverse dispersions held as parameters: of the source, and of the target by source batch.

    ``source`` has the rows that :meth:`SCVIAdapter.theta_rows` points to; ``target`` is given by
    the same rows. Both are None for Poisson and where each cell has its own.
    """

    source: np.ndarray | None
    target: np.ndarray | None


def target_theta(
    adapter: SCVIAdapter, targets: list[int], low_detection: np.ndarray | None
) -> TargetTheta:
    """Inverse dispersions of source and target.

    Dispersions differ between source and target for ``"gene-batch"`` alone. Of several targets
    the reciprocals are averaged; genes hardly seen in a batch keep the batch's own.
    """
    source = adapter.theta()
    if source is None or adapter.dispersion != "gene-batch":
        return TargetTheta(source, source)
    mixed = 1.0 / np.mean(1.0 / source[targets], axis=0)
    target = np.broadcast_to(mixed, source.shape)
    if low_detection is not None:
        target = np.where(low_detection, source, target)
    return TargetTheta(source, np.ascontiguousarray(target))


def source_parameters(
    adapter: SCVIAdapter, cells: Cells, own: Decoded, theta: np.ndarray | None
) -> CountParameters:
    """Parameters under the cells' own batch: mean l_n rho(z, s), theta_s and pi_s."""
    mean = cells.library()[:, None] * np.exp(to_numpy(own.log_scale))
    if cells.counts is not None:
        mean[cells.counts.getnnz(axis=1) == 0] = 0.0  # a cell without counts stays empty
    table, rows = _dispersion(adapter, cells, own, theta)
    zi_logits = None if own.zi_logits is None else to_numpy(own.zi_logits)
    return CountParameters(mean, table, rows, zi_logits)


def _dispersion(
    adapter: SCVIAdapter, cells: Cells, decoded: Decoded, theta: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    if decoded.log_theta is not None and adapter.gene_likelihood != "poisson":
        return np.exp(to_numpy(decoded.log_theta)), np.arange(cells.n_cells)
    return theta, adapter.theta_rows(cells.covariates)


def shift_of_block(
    adapter: SCVIAdapter,
    cells: Cells,
    own: Decoded,
    targets: list[int],
    groups: GroupEffects | None,
    group_rows: np.ndarray | None,
    low_detection: np.ndarray,
) -> Shift:
    """Shift of each cell of a block, from its group or, without groups, from the cell itself."""
    if groups is not None and group_rows is not None:
        return groups.shift.take(group_rows)
    target = decode_target(adapter, cells.latent.location, cells.covariates, targets)
    return cell_shift(own, target, cells.covariates.batch, targets, low_detection)


def shifted_parameters(
    source: CountParameters, shift: Shift, depth: np.ndarray, theta: np.ndarray | None
) -> CountParameters:
    """Parameters under the target: mean k_n l_n rho(z, s) exp(D), renormalised.

    The sum over all of the model's genes is k_n times what it was under the own batch, so that
    the depth ratio alone decides how deep a cell becomes.

    Parameters
    ----------
    source
        Parameters under the own batch, over all genes.
    shift
        Shift of each cell.
    depth
        Depth ratio k of each cell, shape ``(n_cells,)``.
    theta
        Table of target dispersions, with the rows of the source's.
    """
    mean = source.mean * np.exp(shift.log_ratio)
    mean *= renormalisation(source.mean, mean, depth)[:, None]
    table = theta
    if shift.log_theta is not None and source.theta is not None:
        table = source.theta * np.exp(shift.log_theta)
    zi_logits = source.zi_logits
    if zi_logits is not None and shift.zi_logits is not None:
        zi_logits = zi_logits + shift.zi_logits
    return CountParameters(mean, table, source.theta_row, zi_logits)


def renormalisation(before: np.ndarray, after: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Factor that brings the sums of `after` to `depth` times those of `before`, per cell."""
    total = after.sum(axis=1)
    ratio = np.divide(before.sum(axis=1), total, out=np.ones_like(total), where=total > 0)
    return np.asarray(depth * ratio)


def sampled_parameters(
    adapter: SCVIAdapter,
    cells: Cells,
    z: np.ndarray,
    log_library: np.ndarray,
    targets: list[int],
    depth: np.ndarray,
    theta: np.ndarray | None,
    zero_inflation: bool,
) -> CountParameters:
    """Parameters of a posterior predictive draw under the target batches at latent `z`."""
    decoded = decode_target(adapter, z, cells.covariates, targets)
    library = np.exp(log_library)
    if cells.counts is not None:
        library = np.where(cells.counts.getnnz(axis=1) == 0, 0.0, library)
    mean = library[:, None] * np.exp(to_numpy(decoded.log_scale))
    if adapter.uses_size_factor:
        # A softplus scale does not sum to one: keep the depth of the own batch.
        own = library[:, None] * np.exp(
            to_numpy(adapter.decode(z, cells.covariates, None).log_scale)
        )
        depth = renormalisation(own, mean, depth)
    mean *= depth[:, None]
    table, rows = _dispersion(adapter, cells, decoded, theta)
    logits = decoded.zi_logits if zero_inflation else None
    return CountParameters(mean, table, rows, None if logits is None else to_numpy(logits))


def select_genes(parameters: CountParameters, genes: np.ndarray | None) -> CountParameters:
    """Parameters of some of the genes, in the order asked for."""
    if genes is None:
        return parameters

    def columns(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.ascontiguousarray(values[:, genes])

    return CountParameters(
        np.ascontiguousarray(parameters.mean[:, genes]),
        columns(parameters.theta),
        parameters.theta_row,
        columns(parameters.zi_logits),
    )
