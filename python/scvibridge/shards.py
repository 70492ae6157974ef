"""The file of one finished block of a result, and of other arrays that a run must not lose.

Such a file is written to a temporary name, brought to the disk and renamed, so one that has its
name is complete. It is an npz file without compression, whose checksums tell of any damage done
to it later.
"""

from __future__ import annotations

import os
import secrets
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scvibridge.plan import Block, Field

TEMPORARY_ENDING = ".tmp"

_COUNT_TYPES = (np.uint8, np.uint16, np.int32)
_UINT16_VALUES = 2**16


class DamagedShardError(ValueError):
    """A file of a finished block does not hold what was written."""


# ---- shards ----------------------------------------------------------------------------------


def shard_path(folder: Path, index: int) -> Path:
    """Path of the shard of one block."""
    return folder / f"block-{index:06d}.npz"


def write_shard(folder: Path, index: int, fields: Sequence[Field], block: Block) -> None:
    """Write one block to its shard; any process may do so, without holding a lock.

    Counts are kept in as few bytes as they need.

    Parameters
    ----------
    folder
        Folder of the shards.
    index
        Number of the block in the plan.
    fields
        The matrices of the block, as the plan has them.
    block
        The matrices.

    Raises
    ------
    ValueError
        The block has other matrices than the plan, or matrices of other shapes.
    """
    if sorted(block) != sorted(field.name for field in fields):
        planned = [field.name for field in fields]
        raise ValueError(f"block {index} holds {sorted(block)}, but {planned} is planned")
    arrays: dict[str, np.ndarray] = {}
    for field in fields:
        matrix = block[field.name]
        if matrix.ndim != 2 or matrix.shape[1] != field.n_columns:
            raise ValueError(
                f"{field.name} of block {index} has shape {matrix.shape}, expected "
                f"{field.n_columns} columns"
            )
        arrays |= _pack(field, matrix)
    write_arrays(shard_path(folder, index), arrays)


def read_shard(folder: Path, index: int, fields: Sequence[Field]) -> Block:
    """Read the block of a shard, bit by bit as it was written.

    Raises
    ------
    DamagedShardError
        The file is cut off or changed.
    """
    path = shard_path(folder, index)
    arrays = read_arrays(path)
    try:
        return {field.name: _unpack(field, arrays) for field in fields}
    except (KeyError, ValueError) as error:
        raise DamagedShardError(f"{path} does not hold the matrices that are expected") from error


def row_lengths(folder: Path, index: int, field: Field) -> np.ndarray:
    """Number of nonzeros of each row of a sparse matrix, shape ``(n_rows,)``."""
    key = f"{field.name}/lengths"
    path = shard_path(folder, index)
    lengths = read_arrays(path, [key])[key]
    return lengths.astype(np.int64)


def read_dense(folder: Path, index: int, field: Field) -> np.ndarray:
    """Read a dense matrix alone, shape ``(n_rows, n_columns)``."""
    return read_arrays(shard_path(folder, index), [field.name])[field.name]


def is_complete(path: Path) -> bool:
    """Whether a file is as long as it was when it was written; its contents are not read."""
    # The table of contents is at the end, and tells where it has to begin.
    try:
        with zipfile.ZipFile(path):
            return True
    except (zipfile.BadZipFile, FileNotFoundError):
        return False


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
    """The same whole numbers in the smallest type that holds them."""
    if field.dtype.kind not in "iu" or values.dtype.kind not in "iu":
        return values.astype(field.dtype)
    smallest, largest = (values.min(), values.max()) if len(values) else (0, 0)
    limits = np.iinfo(field.dtype)
    if smallest < limits.min or largest > limits.max:
        raise ValueError(f"{field.name} holds {largest}, which is no {field.dtype}")
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


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays, so that the file is complete once it has its name."""
    temporary = path.with_name(f".{secrets.token_hex(4)}{TEMPORARY_ENDING}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read named arrays, or only some of them.

    Raises
    ------
    DamagedShardError
        The file is cut off or changed.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError) as error:
        raise DamagedShardError(f"{path} is damaged: {error}") from error


def sync(file: Any) -> None:
    """Bring what was written to an open file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_tree(path: Path) -> None:
    """Bring a file, or all files of a folder, to the disk."""
    if path.is_dir():
        os.sync()  # one file after the other would take milliseconds for each of thousands
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
