"""The batch effects that quantile counts remove: one strategy for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from scvibridge.correction.findings import NOTHING
from scvibridge.correction.group_estimates import GroupedEffect
from scvibridge.correction.local_effect import LocalEffect
from scvibridge.correction.own_parameters import block_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from scvibridge.correction.basis import Basis
    from scvibridge.correction.changes import Change
    from scvibridge.correction.findings import Found
    from scvibridge.correction.parameters import TargetTheta
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Cells


class Effect(Protocol):
    """The batch effect of the requested cells, and how it is removed.

    An effect is estimated once, and applied to each block of cells; it is pickled for workers.
    """

    @property
    def changes(self) -> tuple[Change, ...]:
        """Changes of the means of the target, in addition to what `target` returns."""
        ...

    @property
    def flags(self) -> dict[str, Any]:
        """Columns for ``obs``, by name without prefix."""
        ...

    @property
    def found(self) -> Found:
        """What the provenance says of the effect."""
        ...

    def target(
        self,
        adapter: Adapter,
        cells: Cells,
        theta: TargetTheta,
        source: BlockParameters,
        positions: np.ndarray,
    ) -> BlockParameters:
        """Return parameters under the target, which still have to be changed and renormalised.

        Parameters
        ----------
        adapter, cells
            The model, and a block of cells.
        theta
            Inverse dispersions of source and target.
        source
            Parameters of the cells under the observed batch.
        positions
            Positions of the cells among the requested ones.
        """
        ...

    def of_added(self, basis: Basis) -> Effect:
        """Return the same effect for genes that were added to the model."""
        ...


@dataclass(frozen=True)
class CellEffect:
    """Each cell's own effect: the cell is decoded in its batch and in the target.

    Attributes
    ----------
    untouched
        Genes without a batch effect in each batch, shape ``(n_batches, n_genes)``.
    """

    untouched: np.ndarray

    changes = ()
    found = NOTHING

    @staticmethod
    def estimate(basis: Basis) -> CellEffect:
        """Return the effect; nothing has to be estimated."""
        return CellEffect(basis.untouched)

    @property
    def flags(self) -> dict[str, Any]:
        """Return no columns."""
        return {}

    def target(
        self,
        adapter: Adapter,
        cells: Cells,
        theta: TargetTheta,
        source: BlockParameters,
        positions: np.ndarray,  # noqa: ARG002 - other effects need it
    ) -> BlockParameters:
        """Decode the cells in the target; see :class:`Effect`."""
        decoded = adapter.decode_target(cells.latent.location, cells.covariates)
        changed = block_parameters(adapter, cells, decoded, theta.target, source.factor)
        batch = cells.covariates.batch
        untouched = self.untouched[batch] | ~adapter.target.changes(batch)[:, None]
        if not untouched.any():
            return changed
        return _keep(source, changed, torch.as_tensor(untouched, device=source.rate.device))

    def of_added(self, basis: Basis) -> CellEffect:
        """Return the effect of added genes."""
        return CellEffect.estimate(basis)


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


# By the argument `effect`.
STRATEGIES: dict[str | None, Callable[[Basis], Effect]] = {
    "label": GroupedEffect.estimate,
    "global": GroupedEffect.estimate,
    "local": LocalEffect.estimate,
    "cell": CellEffect.estimate,
}


def estimate_effect(basis: Basis) -> Effect:
    """Estimate the batch effect that a request removes."""
    return STRATEGIES[basis.request.settings.effect](basis)
