"""Sample counts from the posterior predictive distribution under the target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.correction.parameters import (
    own_rate,
    renormalised,
    sampled_parameters,
    target_theta,
)
from scvibridge.models.encoder import draw_latent

if TYPE_CHECKING:
    from scvibridge.correction.records import Request
    from scvibridge.likelihood.backends import Collect, Drawing
    from scvibridge.models.encoder import Cells


class Sampling:
    """Sample counts of blocks of cells.

    Parameters
    ----------
    request
        The request.
    depth
        Depth ratio of each requested cell, shape ``(n,)``.
    drawing
        Samples the counts from parameters.
    gene_hashes
        Hashes of the names of the requested genes.
    """

    def __init__(
        self, request: Request, depth: np.ndarray, drawing: Drawing, gene_hashes: np.ndarray
    ) -> None:
        self._request, self._depth = request, depth
        self._drawing, self._gene_hashes = drawing, gene_hashes
        self._theta = target_theta(request.adapter, None)

    def counts(self, cells: Cells, selection: slice) -> Collect:
        """Sample the counts of cells, given also by their positions among the requested ones."""
        adapter, settings = self._request.adapter, self._request.settings
        z, log_library = draw_latent(cells, settings.seed)
        drawn = sampled_parameters(
            adapter,
            cells,
            z,
            log_library,
            self._depth[selection],
            self._theta.target,
            settings.zero_inflation,
        )
        if adapter.uses_size_factor:
            # A softplus scale does not add up to one, so keep the depth of the observed batch.
            after = self._drawing.sums(drawn)
            own = replace(drawn, rate=own_rate(adapter, cells, z))
            before = self._drawing.sums(own)
            drawn = renormalised(drawn, before, after, np.ones(cells.n_cells))
        return self._drawing.sample(
            drawn.of_genes(self._request.genes),
            cells.hashes,
            self._gene_hashes,
            settings.seed,
        )
