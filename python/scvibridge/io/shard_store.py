"""The finished blocks of a run, each in a separate file."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from scvibridge._utils.failures import WriteError
from scvibridge.io.parts_folder import (
    check_finished,
    check_own,
    check_same_run,
    holds_other_run,
    is_part,
    parts_folder,
    write_manifest,
)
from scvibridge.io.paths import check_absent, out_of_space, replace, space_message
from scvibridge.io.readback import check_readable, result_of
from scvibridge.io.scratch import LOCK, behind_links, clear_abandoned, remove, take_lock
from scvibridge.io.shards import (
    TEMPORARY_ENDING,
    DamagedShardError,
    has_seal,
    read_arrays,
    read_dense,
    read_shard,
    row_lengths,
    shard_path,
    sync_folder,
    sync_tree,
    write_arrays,
    write_shard,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from scvibridge.io.plan import Block, Field, Plan


MERGED = "merged"


# ---- parts ----------------------------------------------------------------------------------


class UnfinishedError(WriteError):
    """All blocks of a result exist, but could not be merged into one file."""


class Shards:
    """The blocks of a result on disk, for one process at a time (a context manager).

    When the context ends after `publish`, the folder is removed. When it ends otherwise, finished
    blocks are kept, also those of another run where the result is found finished.

    Parameters
    ----------
    out
        Path of the result.
    plan
        The plan of the result.
    resume
        Whether to reuse the blocks of an interrupted run, and to keep the result if it is
        finished.
    overwrite
        Whether to replace an existing file.

    Attributes
    ----------
    out
        Path of the result, with links resolved.
    ending
        Type of the result: ``".h5ad"``, ``".zarr"`` or ``".h5"``.
    folder
        Folder of the blocks.
    is_finished
        Whether the result exists: with the same settings, complete and under its final name.

    Raises
    ------
    FileExistsError
        As for `check_leftover`; or `out` exists, is not the finished result, and may not be
        replaced.
    ValueError
        If existing blocks belong to a run with other settings.
    WriteError
        If another process is writing the same result, or the folder was removed in the meantime.
    OSError
        If there is no space for the blocks; the message says how much is finished.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        plan: Plan,
        resume: bool = False,
        *,
        overwrite: bool = True,
    ) -> None:
        self.out = behind_links(out)
        self.plan = plan
        self.folder = parts_folder(out)
        self.ending = Path(out).suffix.lower()
        self.is_finished = False
        self._resume, self._overwrite = resume, overwrite
        self._is_of_others = False
        # Small parts of blocks that need not be read from their files.
        self._noted: dict[int, dict[str, np.ndarray]] = {}

    def __enter__(self) -> Self:
        check_own(self.folder, self.out)
        clear_abandoned(self.out)
        self._handle = take_lock(self.folder, self.out, self._mode())
        try:
            check_finished(self.folder, self._resume)
            self.is_finished = self._resume and result_of(self.out) == self.plan.result
            self._is_of_others = self.is_finished and holds_other_run(self.folder, self.plan)
            if not self.is_finished:
                self._open()
        except BaseException:
            self._leave(is_needed=any(self.folder.glob("*.npz")))
            raise
        return self

    def _mode(self) -> int:
        """Return the folder's permissions: users who cannot read an older result get no blocks."""
        is_private = self.out.exists() and not self.out.stat().st_mode & 0o077
        return 0o700 if is_private else 0o777

    def _open(self) -> None:
        if not self._overwrite:
            check_absent(self.out, "out")
        if self._resume:
            check_same_run(self.folder, self.plan)
        write_manifest(self.folder, self.plan)
        self._tidy()

    def _tidy(self) -> None:
        """Remove temporary files of an interrupted run, and files without a seal of this run."""
        self._remove_unfinished()
        for path in self.folder.glob("*.npz"):
            if not has_seal(path, self._seal_of(path)):
                path.unlink()

    def _seal_of(self, path: Path) -> str:
        """Return the seal that a file should have, given its name, or an empty string."""
        found = re.fullmatch(r"block-(\d+)", path.stem)
        if found is None:
            return self.plan.seal(path.stem)
        index = int(found[1])
        return self.plan.seal(index) if index < len(self.plan.blocks) else ""

    def _remove_unfinished(self) -> None:
        for path in (*self.folder.glob(f".*{TEMPORARY_ENDING}"), *self.folder.glob(f"{MERGED}.*")):
            remove(path)

    def _clear(self) -> None:
        """Remove what an interrupted run left, except the lock."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if is_part(path) and path.name != LOCK:
                    remove(path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = out_of_space(error)
        self._was_removed = not self.folder.is_dir()
        n_finished = len(self.plan.blocks) - len(self.missing())
        is_needed = n_finished > 0 or any(self.folder.glob("*.npz"))
        is_needed = is_needed and (self._is_of_others or not self.is_finished)
        self._leave(is_needed=is_needed)
        self._explain(error, code, n_finished, is_needed)

    def _leave(self, *, is_needed: bool) -> None:
        """Release the folder, and remove it unless its blocks are needed."""
        if is_needed:
            self._remove_unfinished()
            os.close(self._handle)
            return
        self._clear()
        # Only once everything else is removed, so that the rest is not mistaken for another
        # folder.
        (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._handle)
        # Another process may have started there.
        with suppress(OSError):
            self.folder.rmdir()

    def _explain(
        self, error: BaseException | None, code: int | None, n_finished: int, is_kept: bool
    ) -> None:
        """Add to an error what is kept.

        Raises
        ------
        OSError
            If there is no space, or the folder was removed.
        """
        if code is not None:
            raise OSError(code, self._space_message(code, n_finished, is_kept)) from error
        if self._was_removed and isinstance(error, Exception):
            raise WriteError(
                f"{self.folder}, which holds the blocks of {self.out} until it is complete, was "
                "removed in the meantime: nothing is left of them, start over"
            ) from error
        if error is not None and is_kept and not isinstance(error, UnfinishedError):
            error.add_note(self._what_is_kept(n_finished))

    def _space_message(self, code: int, n_finished: int, is_kept: bool) -> str:
        reason = f"{space_message(code)}: {self.out} could not be written"
        if not is_kept:
            return f"{reason}, and no block is finished"
        return f"{reason}. {self._what_is_kept(n_finished)} once there is space"

    def _what_is_kept(self, n_finished: int) -> str:
        return (
            f"{n_finished} of {len(self.plan.blocks)} blocks are finished and kept in "
            f"{self.folder}: continue with the same call and resume=True"
        )

    def missing(self) -> list[int]:
        """Return the numbers of the blocks that are still to be computed."""
        indices = range(len(self.plan.blocks))
        return [index for index in indices if not shard_path(self.folder, index).exists()]

    def write(self, index: int, block: Block) -> None:
        """Write a block to its shard.

        Raises
        ------
        ValueError
            If the block does not match the plan.
        """
        span = self.plan.blocks[index]
        for name, matrix in block.items():
            if matrix.shape[0] != span.stop - span.start:
                raise ValueError(
                    f"{name} of block {index} has {matrix.shape[0]} rows for "
                    f"{span.stop - span.start} cells"
                )
        write_shard(self.folder, index, self.plan.fields, block, self.plan.seal(index))

    def note(self, index: int, noted: dict[str, np.ndarray]) -> None:
        """Take note of the small parts of a block that was written to its shard elsewhere."""
        self._noted[index] = noted

    def read(self, index: int) -> Block:
        """Read the block of a shard; a damaged shard is removed, and so is missing again.

        Raises
        ------
        DamagedShardError
            If the shard is truncated or changed.
        """
        try:
            return self.peek(index)
        except DamagedShardError:
            self.discard(index)
            raise

    def peek(self, index: int) -> Block:
        """Read the block of a shard, and keep the shard if it is damaged; see `read`."""
        return read_shard(self.folder, index, self.plan.fields, self.plan.seal(index))

    def discard(self, index: int) -> None:
        """Remove a shard, so that its block is missing again."""
        shard_path(self.folder, index).unlink(missing_ok=True)
        self._noted.pop(index, None)

    def row_lengths(self, name: str) -> np.ndarray:
        """Return nonzeros of each cell in a sparse matrix of all blocks, shape ``(n_cells,)``.

        Raises
        ------
        DamagedShardError
            If a shard is truncated or changed; it is removed.
        """
        field = next(field for field in self.plan.fields if field.name == name)
        return self._gather(field, row_lengths)

    def columns(self) -> dict[str, np.ndarray]:
        """Return numbers of all blocks used for the tables, ``(n_cells, n_columns)``, by name.

        Raises
        ------
        DamagedShardError
            If a shard is truncated or changed; it is removed.
        """
        fields = [field for field in self.plan.fields if field.is_of_tables]
        return {field.name: self._gather(field, read_dense) for field in fields}

    def _gather(
        self, field: Field, read: Callable[[Path, int, Field, str], np.ndarray]
    ) -> np.ndarray:
        parts = []
        for index in range(len(self.plan.blocks)):
            if field.name in self._noted.get(index, {}):
                parts.append(self._noted[index][field.name])
                continue
            try:
                parts.append(read(self.folder, index, field, self.plan.seal(index)))
            except DamagedShardError:
                self.discard(index)
                raise
        return np.concatenate(parts)

    def remember(
        self, name: str, compute: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Compute arrays once for all runs that work on the same result.

        Parameters
        ----------
        name
            A name for them, of letters, digits and ``_``.
        compute
            Returns the arrays, of numbers, booleans or text (no objects).

        Returns
        -------
        The arrays; in a resumed run those of the first run, bit by bit.
        """
        path = self.folder / f"estimate-{name}.npz"
        seal = self.plan.seal(path.stem)
        with suppress(DamagedShardError):
            return read_arrays(path, seal)
        arrays = compute()
        write_arrays(path, arrays, seal)
        return arrays

    def publish(self, merged: Path) -> Path:
        """Rename the complete result into place, after checking that it can be read.

        Raises
        ------
        WriteError
            If it cannot be read.
        FileExistsError
            If a file of this name has appeared in the meantime, and may not be replaced.
        """
        check_readable(merged)
        sync_tree(merged)
        if not self._overwrite:
            check_absent(self.out, "out")
        replace(merged, self.out)
        sync_folder(self.out.parent)
        self.is_finished = True
        return self.out

    def unfinished(self, error: Exception) -> UnfinishedError:
        """Return the error for a result with complete blocks that could not be written."""
        reason, kept = str(error) or type(error).__name__, self._what_is_kept(len(self.plan.blocks))
        return UnfinishedError(
            f"{self.out} could not be written: {reason}. {kept} once this is fixed"
        )
