"""Small conversions between a module's tensors and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from scvibridge.models.adapters.arrays import Decoded


def activated(logits: torch.Tensor, activation: torch.nn.Module) -> tuple[torch.Tensor, bool]:
    """Return log frequencies up to a constant, or exact ones if they need not sum to one."""
    if isinstance(activation, torch.nn.Softmax):
        return logits, False
    smallest = torch.finfo(torch.float32).tiny
    return torch.log(torch.clamp(activation(logits), min=smallest)), True


def decoded_by(decoder: Any, hidden: torch.Tensor, zero_inflated: bool, own_theta: bool) -> Decoded:
    """Compute the outputs of scvi-tools' ``DecoderSCVI`` from its last hidden layer."""
    linear, activation = decoder.px_scale_decoder[0], decoder.px_scale_decoder[-1]
    logits, is_log_rate = activated(linear(hidden), activation)
    return Decoded(
        logits,
        is_log_rate,
        decoder.px_dropout_decoder(hidden) if zero_inflated else None,
        decoder.px_r_decoder(hidden) if own_theta else None,
    )


def log_of_totals(counts: sp.csr_matrix) -> np.ndarray:
    """Return the log of the observed totals; minus infinity for a cell without counts (rate 0)."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(counts.sum(axis=1), dtype=float).ravel())


def to_tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to a device.

    A copy in torch's own memory: the same sums to the last bit need the same alignment.
    """
    return torch.tensor(np.ascontiguousarray(values), device=device)


def to_dense(counts: sp.csr_matrix, device: torch.device) -> torch.Tensor:
    """Copy sparse counts to a dense tensor of single precision on a device."""
    if device.type == "cpu":
        values = counts.data.astype(np.float32)
        sparse = sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
        return torch.from_numpy(sparse.toarray())
    # Few of the entries are nonzero: only those go to the device.
    parts = (counts.indptr, counts.indices, counts.data)
    crow, column, data = (to_tensor(part, device) for part in parts)
    matrix = torch.sparse_csr_tensor(crow.long(), column.long(), data.float(), size=counts.shape)
    return matrix.to_dense()


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Copy a tensor to the host."""
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
