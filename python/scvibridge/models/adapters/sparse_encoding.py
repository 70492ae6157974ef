"""Compute the encoder's first layer from sparse counts, on the CPU.

Most counts are zero, and scvi-tools' encoder spends most of its time multiplying all of them by the
weights of the first layer and copying them beforehand. Here the product uses only the nonzero
counts; everything else is scvi-tools' own code.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils.process_state import lock
from scvibridge.likelihood.cpu.products import multiply_counts
from scvibridge.models.adapters.private_module import is_altered

if TYPE_CHECKING:
    from collections.abc import Iterator

    import scipy.sparse as sp

_replacing = lock()


class _AfterGenes(torch.nn.Linear):
    """A first layer whose product with the genes is known; it only adds the covariates."""

    def __init__(self, layer: torch.nn.Linear, n_genes: int) -> None:
        torch.nn.Module.__init__(self)
        self.weight = torch.nn.Parameter(layer.weight.detach()[:, n_genes:], requires_grad=False)
        self.bias = layer.bias
        # Several threads may run the encoder at a time.
        self.known = threading.local()

    def forward(self, covariates: torch.Tensor) -> torch.Tensor:
        return self.known.product + torch.nn.functional.linear(covariates, self.weight, self.bias)


class SparseEncoding:
    """Runs a module's inference with the first layers of its encoders on sparse counts.

    Parameters
    ----------
    module
        Private copy of an scvi-tools module, on the CPU: its first layers are replaced while it
        runs.
    encoders
        Names of its encoders.
    n_genes
        Number of genes.

    Raises
    ------
    AttributeError, TypeError
        If an encoder does not have the structure that scvi-tools builds, or has forward hooks.
    """

    def __init__(self, module: Any, encoders: tuple[str, ...], n_genes: int) -> None:
        self._logarithm = bool(module.log_variational)
        if any(is_altered(getattr(module, name)) for name in encoders):
            raise TypeError("an encoder has forward hooks, which expect the counts of all genes")
        self._places = [getattr(module, name).encoder.fc_layers[0] for name in encoders]
        self._layers: list[torch.nn.Linear] = [place[0] for place in self._places]
        for layer in self._layers:
            if type(layer) is not torch.nn.Linear or layer.in_features < n_genes:
                raise TypeError(f"unexpected type of first layer: {layer}")
        self._weights = [
            np.ascontiguousarray(layer.weight.detach().numpy()[:, :n_genes].T)
            for layer in self._layers
        ]
        self._rest = [_AfterGenes(layer, n_genes) for layer in self._layers]
        self._n_users = 0

    @contextlib.contextmanager
    def of(self, counts: sp.csr_matrix) -> Iterator[torch.Tensor]:
        """Replace the first layers by their products with `counts`.

        Yields
        ------
        The input for the module's inference in place of the counts: the same cells, with zero
        genes.
        """
        n_cells = counts.shape[0]
        for rest, weights in zip(self._rest, self._weights, strict=True):
            product = np.zeros((n_cells, weights.shape[1]), dtype=np.float32)
            multiply_counts(
                counts.indptr, counts.indices, counts.data, weights, self._logarithm, product
            )
            rest.known.product = torch.from_numpy(product)
        self._change_users(1)
        try:
            yield torch.empty((n_cells, 0))
        finally:
            self._change_users(-1)

    def _change_users(self, change: int) -> None:
        """Replace the first layers for as long as any thread uses them."""
        with _replacing:
            self._n_users += change
            layers = self._rest if self._n_users else self._layers
            for place, layer in zip(self._places, layers, strict=True):
                place[0] = layer
