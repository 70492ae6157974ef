"""A batch effect that varies over the latent space: for cells without labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils.grouped import GroupSums, add_sums
from scvibridge.correction import matching
from scvibridge.correction.batch_effects import Grouping, group_cells
from scvibridge.correction.findings import Found
from scvibridge.correction.group_estimates import (
    GroupedEffect,
    cells_to_estimate_on,
    held_out_to_judge,
)
from scvibridge.correction.landmarks import Landmarks, condition_offsets
from scvibridge.correction.local_shrinkage import estimate_kappa, share_kept
from scvibridge.io.blocks import blocks, minibatch_entries

if TYPE_CHECKING:
    from scvibridge.correction.basis import Basis
    from scvibridge.correction.changes import GroupChange
    from scvibridge.correction.parameters import TargetTheta
    from scvibridge.io.plan import Arrays
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter, Covariates, Latent
    from scvibridge.models.encoder import Cells

# Added to the sums of squares, in cells: landmarks with a few cells hardly count.
RIDGE = 1.0


@dataclass(frozen=True)
class Deviations:
    """How the batch effect of a cell deviates from that of its batch.

    Attributes
    ----------
    points, variance
        The landmarks; see :class:`Landmarks`.
    offsets
        Place of each condition in the latent space relative to the mean of the conditions, shape
        ``(n_conditions + 1, n_latent)``; zero for cells without a condition, the last row.
    centres
        Mean memberships of the cells of each batch, shape ``(n_batches, n_landmarks)``.
    log_ratio
        Deviation of D by batch and landmark, shape ``(n_batches, n_landmarks, n_genes)``, float32.
    kappa
        Number of counts of a gene at which half of the deviations is kept, shape ``()``.
    """

    points: np.ndarray
    variance: np.ndarray
    offsets: np.ndarray
    centres: np.ndarray
    log_ratio: np.ndarray
    kappa: np.ndarray

    def memberships(self, location: np.ndarray, condition: np.ndarray) -> np.ndarray:
        """Return the memberships of cells whose conditions are moved to the same place."""
        landmarks = Landmarks(self.points, self.variance)
        return landmarks.memberships(location - self.offsets[condition])

    def of_cells(
        self, location: np.ndarray, batch: np.ndarray, condition: np.ndarray, device: torch.device
    ) -> torch.Tensor:
        """Return the deviations of cells, shape ``(n_cells, n_genes)``."""
        shares = self.memberships(location, condition) - self.centres[batch]
        found = torch.zeros((len(batch), self.log_ratio.shape[2]), device=device)
        for code in np.unique(batch):
            rows = torch.as_tensor(np.flatnonzero(batch == code), device=device)
            own = torch.as_tensor(shares[batch == code], dtype=torch.float32, device=device)
            found[rows] = own @ torch.as_tensor(self.log_ratio[code], device=device)
        return found


@dataclass(frozen=True)
class LocalEffect:
    """The effect of a cell's batch, and how it deviates where the cell is in the latent space.

    Attributes
    ----------
    whole
        The effects of batches.
    deviations
        The deviations from them.
    condition
        Code of the condition of each requested cell, -1 where unknown, shape ``(n,)``.
    found
        What the provenance says of the effects.
    """

    whole: GroupedEffect
    deviations: Deviations
    condition: np.ndarray
    found: Found

    @staticmethod
    def estimate(basis: Basis) -> LocalEffect:
        """Estimate the effects from the reference cells."""
        whole = GroupedEffect.estimate(basis)
        asked = basis.request.settings.shrinkage
        kappa = None if isinstance(asked, str) else float(asked)
        deviations = _remembered(basis, kappa)
        condition = _condition_of_cells(basis)
        found = Found(values={"landmarks": len(deviations.points)})
        if kappa is None:
            found += Found(values={"shrinkage_local": float(deviations.kappa)})
        return LocalEffect(whole, deviations, condition, whole.found + found)

    @property
    def changes(self) -> tuple[GroupChange, ...]:
        """Changes of the means of the target by the effects of batches."""
        return self.whole.changes

    @property
    def flags(self) -> dict[str, Any]:
        """Columns for ``obs``."""
        return self.whole.flags

    def target(
        self,
        adapter: Adapter,
        cells: Cells,
        theta: TargetTheta,
        source: BlockParameters,
        positions: np.ndarray,
    ) -> BlockParameters:
        """Return the parameters of the source, changed by the cells' deviations.

        See :class:`effects.Effect`.
        """
        changed = self.whole.target(adapter, cells, theta, source, positions)
        deviations = self.deviations.of_cells(
            cells.latent.location,
            cells.covariates.batch,
            self.condition[positions],
            changed.rate.device,
        )
        return replace(changed, rate=changed.rate * torch.exp(deviations))

    def of_added(self, basis: Basis) -> LocalEffect:
        """Estimate the effects of added genes: landmarks and shrinkage are the same."""
        whole = self.whole.of_added(basis)
        deviations = _remembered(basis, float(self.deviations.kappa))
        return LocalEffect(whole, deviations, self.condition, whole.found)


def _condition_of_cells(basis: Basis) -> np.ndarray:
    """Return the code of the condition of each requested cell, -1 where unknown."""
    reference = basis.reference
    if reference.condition is None:
        return np.full(len(basis.request.rows), -1)
    return matching.codes_of_cells(basis.request, "condition_key", reference.condition_names)


def _remembered(basis: Basis, kappa: float | None) -> Deviations:
    """Estimate the deviations, or reuse those of an interrupted run; `kappa` is None to estimate.

    Cells are the same as for the effects of batches.
    """
    grouping, chosen, latent = cells_to_estimate_on(basis)
    held_out = held_out_to_judge(basis, grouping) if kappa is None else np.empty(0, dtype=np.int64)

    def compute() -> Arrays:
        return vars(_estimate(basis, grouping, chosen, latent, held_out, kappa))

    return Deviations(**basis.remember("local", compute))


def _estimate(
    basis: Basis,
    grouping: Grouping,
    chosen: np.ndarray,
    latent: Latent,
    held_out: np.ndarray,
    kappa: float | None,
) -> Deviations:
    """Fit the decoder's log ratios by the memberships, and shrink the coefficients.

    Notes
    -----
    In each batch, D_n - mean D is fitted by sum_m (w_nm - mean w_m) beta_m with least squares and a
    ridge penalty, within conditions, which weigh equally. w_nm is the membership of cell n in
    landmark m.
    """
    request, data = basis.request, basis.reference.data
    adapter, batch = request.adapter, data.covariates.batch
    condition = basis.reference.condition
    codes = np.full(data.n_cells, -1) if condition is None else condition
    location = np.asarray(latent.location, dtype=float)
    # Only target cells may have some of the conditions.
    n_conditions = len(basis.reference.condition_names)
    offsets = condition_offsets(location, batch[chosen], codes[chosen], n_conditions)
    landmarks = Landmarks.place(location - offsets[codes[chosen]], data.names[chosen])
    shares = landmarks.memberships(location - offsets[codes[chosen]])
    n_batches, n_genes = len(adapter.batches), len(adapter.genes)
    weights, centres = _centred(shares, grouping, chosen, n_batches)
    log_ratio = np.zeros((n_batches, shares.shape[1], n_genes))
    _sum_products(basis, log_ratio, latent.location, chosen, weights)
    fixed = basis.untouched.copy()
    if adapter.target.unchanged_batch is not None:
        fixed[adapter.target.unchanged_batch] = True
    for code in range(n_batches):
        own = batch[chosen] == code
        inner = shares[own] - centres[code]
        squares = weights[own].T @ inner + RIDGE * np.eye(shares.shape[1])
        log_ratio[code] = np.linalg.solve(squares, log_ratio[code])
        log_ratio[code][:, fixed[code]] = 0.0
    found = Deviations(
        landmarks.points,
        landmarks.variance,
        offsets,
        centres,
        log_ratio,
        np.asarray(0.0 if kappa is None else kappa),
    )
    return _shrunk(basis, grouping, found, codes, held_out, kappa)


def _centred(
    shares: np.ndarray, grouping: Grouping, chosen: np.ndarray, n_batches: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centre memberships within batch and condition, and weight conditions equally.

    Cells without a condition have weight 0, unless no cell of their batch has a condition.

    Returns
    -------
    The weighted memberships of the chosen cells, ``(n_chosen, n_landmarks)``, and the mean
    memberships of each batch, ``(n_batches, n_landmarks)``.
    """
    group = grouping.group[chosen]
    weighted, centres = np.zeros_like(shares), np.zeros((n_batches, shares.shape[1]))
    batch, condition = grouping.keys[0], grouping.keys[2]
    for code in np.unique(batch[group]):
        groups = np.unique(group[batch[group] == code])
        if (condition[groups] >= 0).any():
            groups = groups[condition[groups] >= 0]
        members = [np.flatnonzero(group == index) for index in groups]
        n_cells = sum(map(len, members))
        means = [shares[rows].mean(axis=0) for rows in members]
        centres[code] = np.mean(means, axis=0)
        for rows, mean in zip(members, means, strict=True):
            weight = n_cells / (len(members) * len(rows))
            weighted[rows] = weight * (shares[rows] - mean)
    return weighted, centres


def _sum_products(
    basis: Basis,
    total: np.ndarray,
    location: np.ndarray,
    chosen: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Add the products of weights and the decoder's log ratios to the total of each batch."""
    running, adapter = basis.request.running, basis.request.adapter
    entries = minibatch_entries(adapter.device)
    add_sums(
        running.pool,
        _Products(adapter, location, basis.reference.data.covariates.take(chosen), weights),
        blocks(len(chosen), total.shape[2], running.batch_size, entries),
        adapter.device,
        (total,),
        "Estimating local effects",
        running.progress,
    )


_Weighted = tuple[np.ndarray, "Covariates", np.ndarray]

"""Latent means, covariates and weights of some cells."""


@dataclass(frozen=True)
class _Products:
    """Task: sum products of weights and the decoder's log ratios over the cells of each batch."""

    adapter: Adapter
    location: np.ndarray
    covariates: Covariates
    weights: np.ndarray

    # A few numbers for each cell.
    reads_here = True

    def without_source(self) -> _Products:
        none = slice(0, 0)
        return _Products(
            self.adapter, self.location[none], self.covariates.take(none), self.weights[none]
        )

    def read(self, block: slice, /) -> _Weighted:
        return self.location[block], self.covariates.take(block), self.weights[block]

    @torch.inference_mode()
    def compute(self, loaded: _Weighted, /) -> GroupSums:
        location, covariates, weights = loaded
        own = self.adapter.decode(location, covariates, None).log_rate
        ratio = self.adapter.decode_target(location, covariates).log_rate - own
        codes = np.unique(covariates.batch)
        products = []
        for code in codes:
            rows = np.flatnonzero(covariates.batch == code)
            place = torch.as_tensor(rows, device=ratio.device)
            left = torch.as_tensor(weights[rows].T, dtype=ratio.dtype, device=ratio.device)
            products.append((left @ ratio[place]).cpu().numpy())
        return GroupSums(codes, (np.stack(products),))


def _shrunk(
    basis: Basis,
    grouping: Grouping,
    found: Deviations,
    codes: np.ndarray,
    held_out: np.ndarray,
    kappa: float | None,
) -> Deviations:
    """Shrink the deviations of each gene by its counts in the batch and in the target."""
    log_ratio = found.log_ratio
    if kappa is None or kappa > 0:
        if kappa is None:
            kappa = _estimated_kappa(basis, grouping, found, codes, held_out)
        share = share_kept(basis.encoder, grouping, kappa, basis.request.running)
        log_ratio = log_ratio * share[:, None, :]
    return replace(found, log_ratio=log_ratio.astype(np.float32), kappa=np.asarray(kappa))


def _estimated_kappa(
    basis: Basis,
    grouping: Grouping,
    found: Deviations,
    codes: np.ndarray,
    held_out: np.ndarray,
) -> float:
    """Estimate kappa from the cells held out of the training."""
    running, batch = basis.request.running, basis.reference.data.covariates.batch
    location, condition = basis.encoder.prepare(held_out).location, codes[held_out]
    landmarks = Landmarks(found.points, found.variance)
    nearest = np.full(len(batch), -1)
    if len(held_out):
        nearest[held_out] = landmarks.nearest(location - found.offsets[condition])
    places = group_cells(batch, nearest, None)
    shares = found.memberships(location, condition) - found.centres[batch[held_out]]
    return estimate_kappa(
        basis.encoder, grouping, places, held_out, shares, found.log_ratio, running
    )
