"""Compute the count likelihood of a block of cells under the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.correction.own_parameters import block_parameters

if TYPE_CHECKING:
    import torch

    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Cells


@dataclass(frozen=True)
class TargetTheta:
    """Inverse dispersions that are parameters of the model, for the source and the target.

    The rows of ``source`` are those that :meth:`Adapter.theta_rows` returns; ``target`` is indexed
    by the same rows. Both are None for Poisson and if each cell has its own dispersions.
    """

    source: np.ndarray | None
    target: np.ndarray | None


def target_theta(adapter: Adapter, low_detection: np.ndarray | None) -> TargetTheta:
    """Return the inverse dispersions of source and target.

    They differ between source and target only if the model's dispersions vary by batch. The
    reciprocals are averaged over several targets. Genes hardly detected in a batch keep its value.
    """
    source, targets = adapter.theta(), adapter.target.codes
    if source is None or adapter.theta_by != "gene-batch":
        return TargetTheta(source, source)
    mixed = source[targets[0]]
    if len(targets) > 1:
        mixed = 1.0 / np.mean(1.0 / source[targets], axis=0)
    target = np.broadcast_to(mixed, source.shape)
    if low_detection is not None:
        target = np.where(low_detection, source, target)
    return TargetTheta(source, np.ascontiguousarray(target))


def renormalised(
    target: BlockParameters, before: np.ndarray, after: np.ndarray, depth: np.ndarray
) -> BlockParameters:
    """Scale the means of a target to k_n times their sum under the observed batch.

    The depth of a cell then depends only on its depth ratio.

    Parameters
    ----------
    target
        Parameters under the target, over all genes.
    before, after
        Sums of the frequencies under the observed batch and under the target, shape ``(n,)``.
    depth
        Depth ratio k of each cell, shape ``(n,)``.
    """
    ratio = np.divide(before, after, out=np.ones_like(after), where=after > 0)
    return replace(target, factor=target.factor * (depth * ratio))


def sampled_parameters(
    adapter: Adapter,
    cells: Cells,
    z: np.ndarray,
    log_library: np.ndarray,
    depth: np.ndarray,
    theta: np.ndarray | None,
    zero_inflation: bool,
) -> BlockParameters:
    """Return parameters of a posterior predictive draw at latent `z`, under the target batches.

    If the adapter has no target, the observed batches are used.

    With a size factor, frequencies do not add up to one and still have to be renormalised.
    """
    decoded = adapter.decode_target(z, cells.covariates)
    library = cells.without_empty(np.exp(log_library))
    if not zero_inflation:
        decoded = replace(decoded, zi_logits=None)
    return block_parameters(adapter, cells, decoded, theta, library * depth)


def own_rate(adapter: Adapter, cells: Cells, z: np.ndarray) -> torch.Tensor:
    """Return frequencies under the observed batch at latent `z`."""
    return adapter.decode(z, cells.covariates, None).rate()
