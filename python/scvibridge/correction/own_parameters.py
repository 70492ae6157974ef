"""Likelihood parameters of cells in their own batch, and the counts that the model expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.likelihood.parameters import BlockParameters

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter, Decoded
    from scvibridge.models.encoder import Cells


def block_parameters(
    adapter: Adapter,
    cells: Cells,
    decoded: Decoded,
    theta: np.ndarray | None,
    factor: np.ndarray,
) -> BlockParameters:
    """Parameters as decoded."""
    rows = adapter.theta_rows(cells.covariates)
    table: np.ndarray | torch.Tensor | None = theta
    if decoded.log_theta is not None and adapter.gene_likelihood != "poisson":
        table, rows = decoded.log_theta.double().exp(), np.arange(cells.n_cells)
    return BlockParameters(decoded.rate(), decoded.zi_logits, table, rows, factor)


def own_parameters(adapter: Adapter, cells: Cells) -> BlockParameters:
    """Return parameters of the cells' counts under the observed batch, at their posterior means."""
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    return block_parameters(adapter, cells, own, adapter.theta(), cells.library())


def expected_counts(parameters: BlockParameters) -> np.ndarray:
    """Means of the counts, dropout and all, shape ``(n, n_genes)``; groups' shifts are left out."""
    mean = parameters.rate.double()
    if parameters.zi_logits is not None:
        mean = mean * torch.sigmoid(-parameters.zi_logits.double())
    return np.asarray(mean.cpu().numpy() * parameters.factor[:, None])
