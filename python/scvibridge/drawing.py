"""Counts from the parameters of a block, on whichever device the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from scvibridge import likelihood
from scvibridge.likelihood import CountParameters

if TYPE_CHECKING:
    import scipy.sparse as sp

    from scvibridge.parameters import BlockParameters


class Drawing(Protocol):
    """Draws and maps the counts of a block."""

    def sums(self, parameters: BlockParameters) -> np.ndarray:
        """Sum rates, shifted but without their factor, over all genes, shape ``(n,)``."""
        ...

    def sample(
        self, parameters: BlockParameters, cells: np.ndarray, genes: np.ndarray, seed: int
    ) -> sp.csr_matrix:
        """Draw counts; see :func:`scvibridge.likelihood.sample_counts`."""
        ...

    def map(
        self,
        counts: sp.csr_matrix,
        source: BlockParameters,
        target: BlockParameters,
        cells: np.ndarray,
        genes: np.ndarray,
        seed: int,
        keep_unchanged: bool,
    ) -> sp.csr_matrix:
        """Map counts; see :func:`scvibridge.likelihood.quantile_counts`."""
        ...


def drawing_on(device: torch.device) -> Drawing:
    """Choose how counts are drawn where the model is."""
    del device
    return HostDrawing()


class HostDrawing:
    """Drawing on the host, by compiled kernels over its threads."""

    def sums(self, parameters: BlockParameters) -> np.ndarray:
        """Sum rates over all genes."""
        return likelihood.mean_sums(_on_host(parameters, with_factor=False))

    def sample(
        self, parameters: BlockParameters, cells: np.ndarray, genes: np.ndarray, seed: int
    ) -> sp.csr_matrix:
        """Draw counts."""
        return likelihood.sample_counts(_on_host(parameters), cells, genes, seed)

    def map(
        self,
        counts: sp.csr_matrix,
        source: BlockParameters,
        target: BlockParameters,
        cells: np.ndarray,
        genes: np.ndarray,
        seed: int,
        keep_unchanged: bool,
    ) -> sp.csr_matrix:
        """Map counts."""
        return likelihood.quantile_counts(
            counts, _on_host(source), _on_host(target), cells, genes, seed, keep_unchanged
        )


def _on_host(parameters: BlockParameters, with_factor: bool = True) -> CountParameters:
    logits, theta = parameters.zi_logits, parameters.theta
    return CountParameters(
        parameters.rate.cpu().numpy(),
        theta.cpu().numpy() if isinstance(theta, torch.Tensor) else theta,
        parameters.theta_row,
        None if logits is None else logits.cpu().numpy(),
        parameters.factor if with_factor else None,
        parameters.shift,
    )
