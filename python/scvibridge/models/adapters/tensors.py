"""Small conversions between a module's tensors and arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge.models.adapters.arrays import Decoded

if TYPE_CHECKING:
    import scipy.sparse as sp


def activated(logits: torch.Tensor, activation: torch.nn.Module) -> tuple[torch.Tensor, bool]:
    """Return log frequencies up to a constant, or exact ones if they need not sum to one."""
    if isinstance(activation, torch.nn.Softmax):
        return logits, False
    smallest = torch.finfo(torch.float32).tiny
    return torch.log(torch.clamp(activation(logits), min=smallest)), True


def decoded_by(decoder: Any, hidden: torch.Tensor, zero_inflated: bool, own_theta: bool) -> Decoded:
    """Compute the outputs of scvi-tools' ``DecoderSCVI`` from its last hidden layer."""
    linear, activation = decoder.px_scale_decoder[0], decoder.px_scale_decoder[-1]
    logits, is_log_scale = activated(linear(hidden), activation)
    return Decoded(
        logits,
        is_log_scale,
        decoder.px_dropout_decoder(hidden) if zero_inflated else None,
        decoder.px_r_decoder(hidden) if own_theta else None,
    )


def log_of_totals(counts: sp.csr_matrix) -> np.ndarray:
    """Return the log of the observed totals; minus infinity for a cell without counts (rate 0)."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(counts.sum(axis=1), dtype=float).ravel())


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor to the host."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
