"""The file of one finished block of a result, or of other arrays that a run must keep.

Such a file is written to a temporary name, flushed to disk and renamed, so a file with its final
name is complete. It is an npz file without compression. Its seal contains the run and its position
there, and a digest of its contents: files that are damaged, from another run or in the wrong place
are detected.
"""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.digests import digest_of_arrays

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scvibridge.io.plan import Block, Field


TEMPORARY_ENDING = ".tmp"

_SEAL = "seal"

# Errors from reading a file that is missing, truncated or changed.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    FileNotFoundError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    SyntaxError,
    TypeError,
    UnicodeError,
    ValueError,
)

_COUNT_TYPES = (np.uint8, np.uint16, np.int32)

_UINT16_VALUES = 2**16


class DamagedShardError(ValueError):
    """A file of a finished block does not contain what was written."""


# ---- shards ----------------------------------------------------------------------------------


def shard_path(folder: Path, index: int) -> Path:
    """Return the path of the shard of one block."""
    return folder / f"block-{index:06d}.npz"


def write_shard(folder: Path, index: int, fields: Sequence[Field], block: Block, seal: str) -> None:
    """Write one block to its shard; any process may do so, without holding a lock.

    Counts are stored in as few bytes as they need.

    Parameters
    ----------
    folder
        Folder of the shards.
    index
        Number of the block in the plan.
    fields
        The matrices of the block, according to the plan.
    block
        The matrices.
    seal
        The seal that identifies the block in the plan.

    Raises
    ------
    ValueError
        If the block has other matrices than the plan, or matrices of other shapes.
    """
    if sorted(block) != sorted(field.name for field in fields):
        planned = [field.name for field in fields]
        raise ValueError(f"block {index} has {sorted(block)}, but the plan has {planned}")
    arrays: dict[str, np.ndarray] = {}
    for field in fields:
        matrix = block[field.name]
        if matrix.ndim != 2 or matrix.shape[1] != field.n_columns:
            raise ValueError(
                f"{field.name} of block {index} has shape {matrix.shape}, expected "
                f"{field.n_columns} columns"
            )
        arrays |= _pack(field, matrix)
    write_arrays(shard_path(folder, index), arrays, seal)


def read_shard(folder: Path, index: int, fields: Sequence[Field], seal: str) -> Block:
    """Read the block of a shard, bit by bit as it was written.

    Raises
    ------
    DamagedShardError
        If the file is missing, truncated, changed, or has another seal.
    """
    path = shard_path(folder, index)
    arrays = read_arrays(path, seal)
    try:
        return {field.name: _unpack(field, arrays) for field in fields}
    except (KeyError, ValueError) as error:
        raise DamagedShardError(f"{path} does not contain the expected matrices") from error


def row_lengths(folder: Path, index: int, field: Field, seal: str) -> np.ndarray:
    """Return the number of nonzeros of each row of a sparse matrix, shape ``(n_rows,)``."""
    key = f"{field.name}/lengths"
    path = shard_path(folder, index)
    lengths = read_arrays(path, seal, [key])[key]
    return lengths.astype(np.int64)


def read_dense(folder: Path, index: int, field: Field, seal: str) -> np.ndarray:
    """Read only a dense matrix, shape ``(n_rows, n_columns)``."""
    return read_arrays(shard_path(folder, index), seal, [field.name])[field.name]


def read_field(folder: Path, index: int, field: Field, seal: str) -> sp.csr_matrix | np.ndarray:
    """Read only one matrix of a shard; the digest of the shard is not checked.

    Raises
    ------
    DamagedShardError
        If the file is missing, truncated, or has another seal.
    """
    path = shard_path(folder, index)
    parts = [f"{field.name}/{part}" for part in ("data", "indices", "lengths")]
    arrays = read_arrays(path, seal, parts if field.sparse else [field.name])
    return _unpack(field, arrays)


def noted_of(fields: Sequence[Field], block: Block) -> dict[str, np.ndarray]:
    """Return the small parts of a block: lengths of rows, and numbers for the tables, by field."""
    noted = {}
    for field in fields:
        matrix: Any = block[field.name]
        if field.sparse:
            noted[field.name] = np.diff(matrix.indptr).astype(np.int64)
        elif field.is_of_tables:
            noted[field.name] = np.asarray(matrix, dtype=field.dtype)
    return noted


def has_seal(path: Path, seal: str) -> bool:
    """Return whether a file has a seal, and the length with which it was written.

    Its other contents are not read: their digest is checked when they are.
    """
    # The table of contents is at the end of the file, so a truncated file has none.
    try:
        read_arrays(path, seal, [])
    except DamagedShardError:
        return False
    return True


def _pack(field: Field, matrix: sp.csr_matrix | np.ndarray) -> dict[str, np.ndarray]:
    if not field.sparse:
        return {field.name: np.asarray(matrix, dtype=field.dtype)}
    csr = sp.csr_matrix(matrix)
    if not csr.has_sorted_indices:
        csr = csr.sorted_indices()
    index_type = np.uint16 if field.n_columns <= _UINT16_VALUES else np.int32
    return {
        f"{field.name}/data": _narrow(csr.data, field),
        f"{field.name}/indices": csr.indices.astype(index_type),
        f"{field.name}/lengths": np.diff(csr.indptr).astype(np.uint32),
    }


def _narrow(values: np.ndarray, field: Field) -> np.ndarray:
    """Return the same whole numbers in the smallest type that can hold them."""
    if field.dtype.kind not in "iu" or values.dtype.kind not in "iu":
        return values.astype(field.dtype)
    smallest, largest = (values.min(), values.max()) if len(values) else (0, 0)
    limits = np.iinfo(field.dtype)
    if smallest < limits.min or largest > limits.max:
        raise ValueError(f"{field.name} contains {largest}, which does not fit into {field.dtype}")
    fitting = (
        t for t in _COUNT_TYPES if np.iinfo(t).min <= smallest and largest <= np.iinfo(t).max
    )
    return values.astype(next(fitting, field.dtype))


def _unpack(field: Field, arrays: dict[str, np.ndarray]) -> sp.csr_matrix | np.ndarray:
    if not field.sparse:
        return arrays[field.name]
    lengths = arrays[f"{field.name}/lengths"]
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    indices = arrays[f"{field.name}/indices"].astype(np.int32)
    values = arrays[f"{field.name}/data"].astype(field.dtype, copy=False)
    return sp.csr_matrix((values, indices, indptr), shape=(len(lengths), field.n_columns))


# ---- files of arrays -------------------------------------------------------------------------


def write_arrays(path: Path, arrays: dict[str, np.ndarray], seal: str) -> None:
    """Write named arrays with a seal, so that a file with its final name is complete."""
    sealed: dict[str, Any] = {_SEAL: np.array([seal, digest_of_arrays(arrays)]), **arrays}
    temporary = path.with_name(f".{secrets.token_hex(4)}{TEMPORARY_ENDING}")
    try:
        with temporary.open("wb") as file:
            # Not allow_pickle=: numpy before 2.1 takes it for the name of an array.
            np.savez(file, **sealed)
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path, seal: str, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read named arrays, or only some of them.

    Raises
    ------
    DamagedShardError
        If the file is missing, truncated, changed (if all arrays are read), or has another seal.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found_seal, found_digest = arrays[_SEAL]
            some = [name for name in arrays.files if name != _SEAL] if names is None else names
            read = {name: arrays[name] for name in some}
    except _DAMAGES as error:
        raise DamagedShardError(f"{path} is damaged: {error}") from error
    if found_seal != seal:
        raise DamagedShardError(f"{path} does not belong there")
    if names is None and found_digest != digest_of_arrays(read):
        raise DamagedShardError(f"{path} is damaged: its contents have another digest")
    return read


def sync(file: Any) -> None:
    """Flush what was written to an open file to disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_tree(path: Path) -> None:
    """Flush a file, or all files of a folder, to disk."""
    if path.is_dir():
        os.sync()  # sequentially, this would take milliseconds for each of thousands of files
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, if the file system can (some shares cannot)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
