"""Count likelihood of a block of cells, under their own batch and under the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.decoding import Cells, decode_target
from scvibridge.likelihood import GroupShift

if TYPE_CHECKING:
    from scvibridge.effects import GroupEffects
    from scvibridge.models import Decoded, SCVIAdapter

# Below this logarithm a frequency is near the end of single precision, 1e-38.
_SMALLEST_LOG_SCALE = -80.0


@dataclass(frozen=True)
class BlockParameters:
    """Parameters of the counts of a block: tensors where the model is, tables on the host.

    Attributes
    ----------
    rate
        Frequencies, shape ``(n, n_genes)``; the mean is rate * factor, shifted by the group.
    zi_logits
        Logits of the dropout probability, shape ``(n, n_genes)``, or None.
    theta
        Inverse dispersions, ``(n_rows, n_genes)``; a tensor of a row for each cell where the
        decoder gives them, None for Poisson.
    theta_row
        Row of `theta` of each cell, shape ``(n,)``.
    factor
        Library times depth, shape ``(n,)``.
    shift
        Change of rates and logits of groups of cells, or None.
    """

    rate: torch.Tensor
    zi_logits: torch.Tensor | None
    theta: np.ndarray | torch.Tensor | None
    theta_row: np.ndarray
    factor: np.ndarray
    shift: GroupShift | None = None

    def of_genes(self, genes: np.ndarray | None) -> BlockParameters:
        """Return the parameters of some genes, in the order asked for."""
        if genes is None:
            return self
        columns = torch.as_tensor(genes, device=self.rate.device)
        shift = self.shift
        if shift is not None:
            logits = None if shift.zi_logits is None else shift.zi_logits[:, genes]
            shift = GroupShift(shift.ratio[:, genes], logits, shift.row)
        if isinstance(self.theta, torch.Tensor):
            theta: np.ndarray | torch.Tensor | None = self.theta[:, columns]
        else:
            theta = None if self.theta is None else self.theta[:, genes]
        return BlockParameters(
            self.rate[:, columns],
            None if self.zi_logits is None else self.zi_logits[:, columns],
            theta,
            self.theta_row,
            self.factor,
            shift,
        )


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
    mixed = source[targets[0]]
    if len(targets) > 1:
        mixed = 1.0 / np.mean(1.0 / source[targets], axis=0)
    target = np.broadcast_to(mixed, source.shape)
    if low_detection is not None:
        target = np.where(low_detection, source, target)
    return TargetTheta(source, np.ascontiguousarray(target))


def rate_of(log_scale: torch.Tensor) -> torch.Tensor:
    """Frequencies of their logarithms, which are overwritten.

    In double precision where single would come near its smallest number.
    """
    if log_scale.numel() and float(log_scale.amin()) < _SMALLEST_LOG_SCALE:
        return log_scale.double().exp_()
    return log_scale.exp_()


def _parameters(
    adapter: SCVIAdapter,
    cells: Cells,
    decoded: Decoded,
    theta: np.ndarray | None,
    factor: np.ndarray,
) -> BlockParameters:
    """Parameters as decoded; the logarithms of the frequencies are overwritten."""
    rows = adapter.theta_rows(cells.covariates)
    table: np.ndarray | torch.Tensor | None = theta
    if decoded.log_theta is not None and adapter.gene_likelihood != "poisson":
        table, rows = decoded.log_theta.double().exp(), np.arange(cells.n_cells)
    return BlockParameters(rate_of(decoded.log_scale), decoded.zi_logits, table, rows, factor)


def group_parameters(
    adapter: SCVIAdapter,
    cells: Cells,
    theta: TargetTheta,
    groups: GroupEffects,
    group_rows: np.ndarray,
) -> tuple[BlockParameters, BlockParameters]:
    """Parameters under the own batch, and shifted by the effects of the cells' groups.

    The target's still have to be renormalised: see :func:`renormalised`.
    """
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    source = _parameters(adapter, cells, own, theta.source, cells.library())
    shift = GroupShift(groups.ratio, groups.shift.zi_logits, group_rows)
    table: np.ndarray | torch.Tensor | None = theta.target
    if isinstance(source.theta, torch.Tensor):
        assert groups.shift.log_theta is not None  # noqa: S101 - each cell has its own
        change = np.exp(groups.shift.log_theta)[group_rows]
        table = source.theta * torch.as_tensor(change, device=source.theta.device)
    return source, replace(source, theta=table, shift=shift)


def cell_parameters(
    adapter: SCVIAdapter,
    cells: Cells,
    targets: list[int],
    theta: TargetTheta,
    low_detection: np.ndarray,
) -> tuple[BlockParameters, BlockParameters]:
    """Parameters under the own batch, and as decoded under the target (``effect="cell"``)."""
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    target = decode_target(adapter, cells.latent.location, cells.covariates, targets)
    batch = cells.covariates.batch
    untouched = low_detection[batch]
    if len(targets) == 1:
        untouched = untouched | (batch == targets[0])[:, None]
    if untouched.any():
        target = _keep(own, target, torch.as_tensor(untouched, device=own.log_scale.device))
    library = cells.library()
    return (
        _parameters(adapter, cells, own, theta.source, library),
        _parameters(adapter, cells, target, theta.target, library),
    )


def _keep(own: Decoded, target: Decoded, untouched: torch.Tensor) -> Decoded:
    """Take the own parameters where the target's are not to be used."""

    def chosen(name: str) -> torch.Tensor | None:
        values = getattr(target, name)
        return None if values is None else torch.where(untouched, getattr(own, name), values)

    log_scale = chosen("log_scale")
    assert log_scale is not None  # noqa: S101 - decoders always give a scale
    return replace(
        target, log_scale=log_scale, zi_logits=chosen("zi_logits"), log_theta=chosen("log_theta")
    )


def renormalised(
    target: BlockParameters, before: np.ndarray, after: np.ndarray, depth: np.ndarray
) -> BlockParameters:
    """Bring the means of a target to k_n times the sum that they had under the own batch.

    So the depth ratio alone decides how deep a cell becomes.

    Parameters
    ----------
    target
        Parameters under the target, over all genes.
    before, after
        Sums of the frequencies under the own batch and under the target, shape ``(n,)``.
    depth
        Depth ratio k of each cell, shape ``(n,)``.
    """
    ratio = np.divide(before, after, out=np.ones_like(after), where=after > 0)
    return replace(target, factor=target.factor * (depth * ratio))


def sampled_parameters(
    adapter: SCVIAdapter,
    cells: Cells,
    z: np.ndarray,
    log_library: np.ndarray,
    targets: list[int],
    depth: np.ndarray,
    theta: np.ndarray | None,
    zero_inflation: bool,
) -> BlockParameters:
    """Parameters of a posterior predictive draw under the target batches at latent `z`.

    Where a size factor is used, the frequencies do not sum to one and still have to be
    renormalised.
    """
    decoded = decode_target(adapter, z, cells.covariates, targets)
    library = np.exp(log_library)
    if cells.counts is not None:
        library = np.where(np.diff(cells.counts.indptr) == 0, 0.0, library)
    if not zero_inflation:
        decoded = replace(decoded, zi_logits=None)
    return _parameters(adapter, cells, decoded, theta, library * depth)


def own_rate(adapter: SCVIAdapter, cells: Cells, z: np.ndarray) -> torch.Tensor:
    """Frequencies under the cells' own batch at latent `z`."""
    return rate_of(adapter.decode(z, cells.covariates, None).log_scale)
