"""Compute the count likelihood of a block of cells, under the observed batch and the target."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.correction.own_parameters import block_parameters
from scvibridge.likelihood.parameters import BlockParameters, GroupShift

if TYPE_CHECKING:
    from scvibridge.correction.batch_effects import GroupEffects
    from scvibridge.correction.estimates import Estimates
    from scvibridge.correction.sample_factors import SampleFactors
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Cells


# Largest table of shifts, groups by genes, that is computed once for all cells: 128 MB.
MOST_ENTRIES = 16_000_000


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


@dataclass(frozen=True)
class Shifts:
    """Change of rates and logits of groups of cells, on both sides of a mapping, or None."""

    source: GroupShift | None
    target: GroupShift | None


@dataclass(frozen=True)
class GroupShifts:
    """Shifts of cells: effects of their groups, and factors of their samples.

    The tables are computed once for all groups if they are small, otherwise for the groups of the
    requested cells.

    Attributes
    ----------
    groups, group_rows
        Effects of the groups, and the row that each cell uses; or None.
    factors, factor_rows
        Factors of the samples, and the row that each cell uses; or None.
    """

    groups: GroupEffects | None
    group_rows: np.ndarray | None
    factors: SampleFactors | None
    factor_rows: np.ndarray | None

    @staticmethod
    def of(estimates: Estimates) -> GroupShifts:
        """Return the shifts of some estimates."""
        return GroupShifts(
            estimates.groups, estimates.group_rows, estimates.factors, estimates.factor_rows
        )

    def take(self, positions: np.ndarray) -> Shifts:
        """Return the shifts of some cells."""
        whole = self._whole
        if whole is None:
            return self._made(positions)

        def taken(shift: GroupShift | None) -> GroupShift | None:
            return None if shift is None else replace(shift, row=shift.row[positions])

        return Shifts(taken(whole.source), taken(whole.target))

    @cached_property
    def _whole(self) -> Shifts | None:
        """Shifts of all cells; None if the tables would be large."""
        pairs, _ = self._pairs(slice(None))
        if pairs.shape[1] * self._n_genes > MOST_ENTRIES:
            return None
        return self._made(slice(None))

    @property
    def _n_genes(self) -> int:
        if self.groups is not None:
            return int(self.groups.shift.log_ratio.shape[1])
        return 0 if self.factors is None else int(self.factors.ratio.shape[1])

    def _pairs(self, positions: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs of rows (effects, factors), ``(2, n_pairs)``, and each cell's pair."""
        given = [rows for rows in (self.group_rows, self.factor_rows) if rows is not None]
        if not given:
            return np.zeros((2, 0), dtype=np.intp), np.zeros(0, dtype=np.intp)
        rows = np.stack([given[0][positions], given[-1][positions]])
        pairs, place = np.unique(rows, axis=1, return_inverse=True)
        return pairs, place.ravel()

    def _made(self, positions: np.ndarray | slice) -> Shifts:
        (of_group, of_factor), place = self._pairs(positions)
        source = ratio = logits = None
        if self.groups is not None:
            ratio = np.exp(self.groups.shift.log_ratio[of_group])
            if self.groups.shift.zi_logits is not None:
                logits = self.groups.shift.zi_logits[of_group]
        if self.factors is not None:
            factor = self.factors.ratio[of_factor]
            source = GroupShift(factor, None, place)
            ratio = factor if ratio is None else ratio * factor
        return Shifts(source, None if ratio is None else GroupShift(ratio, logits, place))


def group_parameters(
    adapter: Adapter,
    cells: Cells,
    theta: TargetTheta,
    groups: GroupEffects,
    group_rows: np.ndarray,
    shifts: Shifts,
) -> tuple[BlockParameters, BlockParameters]:
    """Return parameters under the observed batch, and shifted by the effects of the cells' groups.

    Those of the target still have to be renormalised, see :func:`renormalised`.
    """
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    source = block_parameters(adapter, cells, own, theta.source, cells.library())
    table: np.ndarray | torch.Tensor | None = theta.target
    if isinstance(source.theta, torch.Tensor):
        assert groups.shift.log_theta is not None  # noqa: S101 - each cell has its own
        change = np.exp(groups.shift.log_theta)[group_rows]
        table = source.theta * torch.as_tensor(change, device=source.theta.device)
    shifted = replace(source, shift=shifts.source)
    return shifted, replace(source, theta=table, shift=shifts.target)


def cell_parameters(
    adapter: Adapter,
    cells: Cells,
    theta: TargetTheta,
    low_detection: np.ndarray,
    shifts: Shifts,
) -> tuple[BlockParameters, BlockParameters]:
    """Return parameters under the observed batch, and under the target (``effect="cell"``)."""
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    target = adapter.decode_target(cells.latent.location, cells.covariates)
    library = cells.library()
    source = block_parameters(adapter, cells, own, theta.source, library)
    changed = block_parameters(adapter, cells, target, theta.target, library)
    batch = cells.covariates.batch
    untouched = low_detection[batch] | ~adapter.target.changes(batch)[:, None]
    if untouched.any():
        mask = torch.as_tensor(untouched, device=source.rate.device)
        changed = _keep(source, changed, mask)
    return replace(source, shift=shifts.source), replace(changed, shift=shifts.target)


def _keep(
    source: BlockParameters, target: BlockParameters, untouched: torch.Tensor
) -> BlockParameters:
    """Use the parameters of the observed batch for entries that are not changed."""
    logits, theta = target.zi_logits, target.theta
    if logits is not None and source.zi_logits is not None:
        logits = torch.where(untouched, source.zi_logits, logits)
    if isinstance(theta, torch.Tensor) and isinstance(source.theta, torch.Tensor):
        theta = torch.where(untouched, source.theta, theta)
    rate = torch.where(untouched, source.rate, target.rate)
    return replace(target, rate=rate, zi_logits=logits, theta=theta)


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
