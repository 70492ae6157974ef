"""Digests that identify a model, data or a run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import scipy.sparse as sp
    import torch


def digest(*arrays: np.ndarray) -> str:
    """Compute the digest of the values of arrays (BLAKE2b, 16 bytes, hexadecimal)."""
    hasher = hashlib.blake2b(digest_size=16)
    for values in arrays:
        hasher.update(f"{values.dtype}{values.shape}".encode())
        hasher.update(np.ascontiguousarray(values).view(np.uint8).data)
    return hasher.hexdigest()


def digest_of_text(text: str) -> str:
    """Compute the digest of a text (BLAKE2b, 16 bytes, hexadecimal)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def digest_of_names(names: Iterable[Any]) -> str:
    """Compute the digest of names in their order."""
    return digest_of_text(json.dumps([str(name) for name in names]))


def digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Compute the digest of named arrays, regardless of their order."""
    return digest_of_text(" ".join(f"{name}={digest(arrays[name])}" for name in sorted(arrays)))


def digest_of_table(table: pd.DataFrame) -> str:
    """Compute the digest of a table: row and column names and all values, of any type."""
    parts = [digest_of_names(table.index), digest_of_names(table.columns)]
    for position in range(table.shape[1]):
        column = table.iloc[:, position].astype(object)
        try:
            codes, values = pd.factorize(column)
        except TypeError:  # lists and the like cannot be looked up
            codes, values = pd.factorize(column.map(str))
        parts.append(f"{digest(codes)} {digest_of_names(values)}")
    return digest_of_text(" ".join(parts))


class CountsDigest:
    """Digest of a canonical CSR matrix of counts that is added in pieces of any number of rows."""

    def __init__(self) -> None:
        self._parts = [hashlib.blake2b(digest_size=16) for _ in range(3)]

    def update(self, rows: sp.csr_matrix) -> None:
        """Add the next rows."""
        vectors = (np.diff(rows.indptr), rows.indices, rows.data)
        for part, vector in zip(self._parts, vectors, strict=True):
            part.update(np.ascontiguousarray(vector, dtype=np.int32).view(np.uint8).data)

    def hexdigest(self) -> str:
        """Return the digest of all rows so far."""
        return digest_of_text(" ".join(part.hexdigest() for part in self._parts))


def digest_of_weights(module: torch.nn.Module) -> str:
    """Compute the digest of a module's weights, by name (SHA-256, 16 bytes, hexadecimal).

    Processors compute SHA-256 in half the time of BLAKE2b.
    """
    hasher = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = np.ascontiguousarray(tensor.detach().cpu().numpy())
        hasher.update(f"{name}{values.dtype}{values.shape}".encode())
        hasher.update(values.tobytes())
    return hasher.hexdigest()[:32]
