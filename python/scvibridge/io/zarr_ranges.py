"""Fill the matrices of a zarr folder from the files of blocks, one range of chunks at a time.

The ranges of a run of blocks begin and end with chunks, so that each chunk is written by one task
alone: it holds what begins in these blocks, and the beginning of the next ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from scvibridge.io.shards import DamagedShardError, read_field, read_shard, shard_path
from scvibridge.io.stores import Pieces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scvibridge.io.plan import Block, Field, Plan


@dataclass(frozen=True)
class Filling:
    """Task: copy a run of blocks to the matrices of a zarr folder.

    Attributes
    ----------
    folder
        Folder of the blocks.
    plan
        The plan of the result.
    path
        The zarr folder, in which the arrays exist.
    starts
        Position of the first value (of a table: row) of each block, and the end of the last one, by
        the name of the field; shape ``(n_blocks + 1,)``.
    """

    folder: Path
    plan: Plan
    path: Path
    starts: dict[str, np.ndarray]

    reads_here = False

    def without_source(self) -> Filling:
        """Return the task itself."""
        return self

    def read(self, run: slice, /) -> slice:
        """Return the numbers of the blocks."""
        return run

    def compute(self, run: slice, /) -> None:
        """Copy the blocks; a damaged one is removed.

        Raises
        ------
        DamagedShardError
            If a block is truncated or changed.
        """
        root = zarr.open_group(self.path, mode="r+")
        fields = [field for field in self.plan.fields if not field.is_of_tables]
        ranges = [_Range.of(root, field, self.starts[field.name], run) for field in fields]
        for index in range(run.start, run.stop):
            block = self._read(index, self.plan.fields)
            for field, some in zip(fields, ranges, strict=True):
                some.add(index, block[field.name])
        for field, some in zip(fields, ranges, strict=True):
            for index in some.further(run.stop):
                some.add(index, self._read(index, [field])[field.name])
            some.close()

    def _read(self, index: int, fields: Any) -> Block:
        seal = self.plan.seal(index)
        try:
            if len(fields) < len(self.plan.fields):
                return {field.name: read_field(self.folder, index, field, seal) for field in fields}
            return read_shard(self.folder, index, fields, seal)
        except DamagedShardError:
            shard_path(self.folder, index).unlink(missing_ok=True)
            raise


class _Range:
    """Whole chunks of the vectors of a sparse matrix, or of a table.

    Parameters
    ----------
    arrays
        The arrays to fill, of equal lengths.
    starts
        As in :class:`Filling`, for this field.
    lower, upper
        The first value (or row) of the range, and the one after the last.
    """

    def __init__(self, arrays: list[Any], starts: np.ndarray, lower: int, upper: int) -> None:
        self._starts, self._lower, self._upper = starts, lower, upper
        self._pieces = [_pieces_of(array, lower) for array in arrays]

    @staticmethod
    def of(root: zarr.Group, field: Field, starts: np.ndarray, run: slice) -> _Range:
        names = [f"{field.name}/{part}" for part in ("data", "indices")]
        arrays = [root[name] for name in (names if field.sparse else [field.name])]
        chunk, end = arrays[0].chunks[0], int(starts[-1])
        bounds = (-(-int(starts[index]) // chunk) * chunk for index in (run.start, run.stop))
        lower, upper = (min(bound, end) for bound in bounds)
        return _Range(arrays, starts, lower, end if run.stop == len(starts) - 1 else upper)

    def add(self, index: int, matrix: Any) -> None:
        """Add the part of a block that is in the range."""
        first = int(self._starts[index])
        inside = slice(max(self._lower - first, 0), max(self._upper - first, 0))
        vectors = (matrix,) if isinstance(matrix, np.ndarray) else (matrix.data, matrix.indices)
        for pieces, values in zip(self._pieces, vectors, strict=True):
            pieces.append(values[inside])

    def further(self, index: int) -> Iterator[int]:
        """Yield the numbers of the following blocks that begin in the range."""
        while index < len(self._starts) - 1 and self._starts[index] < self._upper:
            yield index
            index += 1

    def close(self) -> None:
        """Write the values that are still buffered."""
        for pieces in self._pieces:
            pieces.close()


def _pieces_of(array: Any, start: int) -> Pieces:
    def put(first: int, values: np.ndarray) -> None:
        array[first : first + len(values)] = values

    return Pieces(array.chunks[0], put, start)
