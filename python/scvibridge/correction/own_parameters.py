"""Likelihood parameters of cells in their observed batch, and the counts expected by the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge.likelihood.parameters import CountParameters

if TYPE_CHECKING:
    from scvibridge.likelihood.parameters import BlockParameters
    from scvibridge.models.adapters import Adapter, Decoded
    from scvibridge.models.encoder import Cells


def block_parameters(
    adapter: Adapter,
    cells: Cells,
    decoded: Decoded,
    theta: np.ndarray | None,
    factor: np.ndarray,
) -> BlockParameters:
    """Return the parameters as decoded."""
    rows = adapter.theta_rows(cells.covariates)
    table: np.ndarray | torch.Tensor | None = theta
    if decoded.log_theta is not None and adapter.gene_likelihood != "poisson":
        table, rows = decoded.log_theta.double().exp(), np.arange(cells.n_cells)
    return CountParameters(decoded.rate(), factor, table, rows, decoded.zi_logits)


def own_parameters(adapter: Adapter, cells: Cells) -> BlockParameters:
    """Return the parameters of the cells' counts in the observed batch, at the posterior means."""
    own = adapter.decode(cells.latent.location, cells.covariates, None)
    return block_parameters(adapter, cells, own, adapter.theta(), cells.library())


def expected_counts(parameters: BlockParameters) -> np.ndarray:
    """Return the means of the counts including dropout, ``(n, n_genes)``, without group shifts."""
    mean = parameters.rate
    if parameters.zi_logits is not None:
        mean = mean.double() * torch.sigmoid(-parameters.zi_logits.double())
    # Converted while it is multiplied, without a copy in double precision.
    expected: np.ndarray = np.multiply(
        mean.cpu().numpy(), parameters.factor[:, None], dtype=np.float64
    )
    return expected
