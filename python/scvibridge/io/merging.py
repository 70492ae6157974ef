"""Merge the blocks that workers compute: side by side, or while others are computed."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from scvibridge._utils.pools import SPAN, results_in_order
from scvibridge._utils.progress import track
from scvibridge.io import block_writer, streaming
from scvibridge.io.shard_store import MERGED
from scvibridge.io.shards import DamagedShardError
from scvibridge.io.zarr_ranges import Filling

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from anndata import AnnData

    from scvibridge._utils.pools import Pool
    from scvibridge.io.shard_store import Shards


def merging_of(shards: Shards, pool: Pool, progress: bool) -> InRanges | AsFinished:
    """Return how the blocks of a result are merged: as a context that the blocks are computed in.

    Parameters
    ----------
    shards
        The opened shards.
    pool
        What computes the blocks.
    progress
        Whether to show progress.
    """
    if shards.ending == ".zarr":
        return InRanges(shards, pool, progress)
    return AsFinished(shards, progress)


def _new_path(shards: Shards) -> Path:
    # A task of an earlier attempt that is still running must not write to the same path.
    return shards.folder / f"{MERGED}.{secrets.token_hex(4)}{shards.ending}"


class InRanges:
    """Merges into a zarr folder once all blocks exist; each task writes a range of the matrices."""

    def __init__(self, shards: Shards, pool: Pool, progress: bool) -> None:
        self._shards, self._pool, self._progress = shards, pool, progress

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def finished(self, index: int) -> None:
        """Take note of a finished block."""

    def merge(self, skeleton: AnnData) -> Path:
        """Write the merged folder, and return its path.

        Raises
        ------
        DamagedShardError
            If a block is truncated or changed; it is removed.
        """
        shards, plan, path = self._shards, self._shards.plan, _new_path(self._shards)
        lengths = {f.name: shards.row_lengths(f.name) for f in plan.fields if f.sparse}
        bounds = np.array([0, *(block.stop for block in plan.blocks)])
        starts = {
            field.name: np.concatenate([[0], np.cumsum(lengths[field.name])])[bounds]
            if field.sparse
            else bounds
            for field in plan.fields
        }
        block_writer.create_zarr(path, plan, lengths)
        n_blocks = len(plan.blocks)
        runs = [slice(i, min(i + SPAN, n_blocks)) for i in range(0, n_blocks, SPAN)]
        task = Filling(shards.folder, plan, path, starts)
        filled = results_in_order(self._pool, task, runs, torch.device("cpu"), span=1)
        cells = [slice(int(bounds[run.start]), int(bounds[run.stop])) for run in runs]
        steps = track(cells, f"Writing {shards.out.name}", self._progress)
        # The workers need not wait for the tables.
        with ThreadPoolExecutor(1) as thread:
            tables = thread.submit(block_writer.add_zarr_tables, path, plan, skeleton)
            for _ in zip(steps, filled, strict=True):
                pass
            tables.result()
        block_writer.close_zarr(path)
        return path


class AsFinished:
    """Merges into an HDF5 file while blocks are computed: a thread appends them in order.

    HDF5 files have a single writer.
    """

    def __init__(self, shards: Shards, progress: bool) -> None:
        self._shards, self._progress = shards, progress
        self._changed = threading.Condition()
        missing = set(shards.missing())
        self._ready = [index not in missing for index in range(len(shards.plan.blocks))]
        self._is_stopped = False
        self._error: BaseException | None = None
        self._damaged: int | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._file = block_writer.GrowingFile(_new_path(self._shards), self._shards.plan)
        self._thread = threading.Thread(target=self._append_all, name="scvibridge-merge")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()
        self._file.abandon()

    def finished(self, index: int) -> None:
        """Take note of a finished block."""
        with self._changed:
            self._ready[index] = True
            self._changed.notify()

    def merge(self, skeleton: AnnData) -> Path:
        """Wait for the remaining blocks, write everything else, and return the path of the file.

        Raises
        ------
        DamagedShardError
            If a block is truncated or changed; it is removed.
        """
        if self._thread is None:  # an earlier attempt has found a damaged block
            return streaming.merge(self._shards, skeleton, self._progress)
        self._thread.join()
        self._thread = None
        if self._damaged is not None:
            self._shards.discard(self._damaged)
        if self._error is not None:
            self._file.abandon()
            raise self._error
        return self._file.finish(skeleton)

    def _stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _append_all(self) -> None:
        try:
            for index in range(len(self._ready)):
                if not self._wait_for(index):
                    return
                self._append(index)
        except BaseException as error:  # noqa: BLE001 - raised by `merge`
            self._error = error

    def _append(self, index: int) -> None:
        try:
            self._file.append(self._shards.peek(index))
        except DamagedShardError:
            # Removed when all blocks exist: until then a missing block means that the workers have
            # no access to the folder.
            self._damaged = index
            raise

    def _wait_for(self, index: int) -> bool:
        """Wait until a block exists; return False if nobody needs the file any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready[index] or self._is_stopped)
            return not self._is_stopped
