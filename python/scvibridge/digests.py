"""Digests of numbers, by which a model, data or a run are known again."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def digest(*arrays: np.ndarray) -> str:
    """Digest of the values of arrays (BLAKE2b, 16 bytes, hexadecimal)."""
    hasher = hashlib.blake2b(digest_size=16)
    for values in arrays:
        hasher.update(f"{values.dtype}{values.shape}".encode())
        hasher.update(np.ascontiguousarray(values).view(np.uint8).data)
    return hasher.hexdigest()


def digest_of_weights(module: torch.nn.Module) -> str:
    """Digest of a module's weights, by their names (BLAKE2b, 16 bytes, hexadecimal)."""
    hasher = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        hasher.update(f"{name}{values.dtype}{values.shape}".encode())
        hasher.update(values.tobytes())
    return hasher.hexdigest()
