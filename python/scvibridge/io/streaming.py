"""Results that are computed and written block by block, and can be resumed.

While ``x.h5ad`` is being computed, the folder ``x.h5ad.parts`` next to it holds a shard for each
finished block of cells, the estimates that all blocks use, and a manifest that describes the
result. Once all blocks exist they are merged, also in that folder, and the merged file is renamed
to ``x.h5ad``; only then is the folder removed. A file with its final name is therefore complete,
and any end of a run (an exception, a full disk, a kill) costs only the block that was being
computed.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from scvibridge._utils.failures import WriteError
from scvibridge._utils.progress import track
from scvibridge.io import block_writer
from scvibridge.io.h5ad import writable
from scvibridge.io.paths import out_of_space
from scvibridge.io.scratch import remove
from scvibridge.io.shard_store import MERGED, Shards
from scvibridge.io.shards import DamagedShardError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.io.plan import Block


__all__ = ["compute_missing", "finish", "merge", "stream"]

_MAX_MERGES = 3


# ---- a run -----------------------------------------------------------------------------------


def stream(
    shards: Shards,
    compute: Callable[[int], Block],
    skeleton: Callable[[], AnnData],
    *,
    progress: bool = False,
    description: str = "Computing blocks",
) -> Path:
    """Compute the missing blocks in this process, and write the result.

    Parameters
    ----------
    shards
        The opened shards.
    compute
        Returns the block with a given number, always the same one.
    skeleton
        Returns the tables of the result, as for `finish`; called when all blocks are finished.
    progress
        Whether to show progress.
    description
        Description of the work.

    Returns
    -------
    Path of the result.
    """
    return finish(
        shards,
        lambda: compute_missing(shards, compute, progress=progress, description=description),
        skeleton,
        progress=progress,
    )


def compute_missing(
    shards: Shards,
    compute: Callable[[int], Block],
    *,
    progress: bool = False,
    description: str = "Computing blocks",
) -> None:
    """Compute and write the missing blocks; each is written while the next is computed."""
    missing = shards.missing()
    spans = [shards.plan.blocks[index] for index in missing]
    written: Future[None] | None = None
    # Leaving the pool waits for the shard that is being written, even after an error.
    with ThreadPoolExecutor(1) as pool:
        for index, _ in zip(missing, track(spans, description, progress), strict=True):
            block = compute(index)
            if written is not None:
                written.result()
            written = pool.submit(shards.write, index, block)
            del block
        if written is not None:
            written.result()


def finish(
    shards: Shards,
    fill: Callable[[], None],
    skeleton: Callable[[], AnnData],
    *,
    progress: bool = False,
    merged_with: Callable[[AnnData], Path] | None = None,
) -> Path:
    """Merge the shards into the result, and rename it to its final name.

    Parameters
    ----------
    shards
        The opened shards.
    fill
        Computes all missing blocks, in this process or elsewhere; called again if a shard turns out
        to be damaged.
    skeleton
        Returns the result without the matrices of the plan: an AnnData with ``obs``, ``var``,
        ``uns`` and other small elements; called when all blocks are finished.
    progress
        Whether to show progress.
    merged_with
        Merges the shards with the rest of the result, and returns the path of the merged file;
        None to do so here.

    Returns
    -------
    Path of the result.

    Raises
    ------
    WriteError
        If `fill` left out blocks.
    UnfinishedError
        If the blocks could not be merged; they are kept.
    DamagedShardError
        If shards are damaged right after they were written.
    """
    for attempt in range(1, _MAX_MERGES + 1):
        fill()
        if missing := shards.missing():
            raise WriteError(f"{len(missing)} blocks were not computed, such as {missing[0]}")
        try:
            content = writable(skeleton(), shards.ending)
            if merged_with is not None:
                return shards.publish(merged_with(content))
            return shards.publish(merge(shards, content, progress))
        except DamagedShardError:
            if attempt == _MAX_MERGES:
                raise
        except Exception as error:
            if out_of_space(error) is not None or not shards.folder.is_dir():
                raise
            raise shards.unfinished(error) from error
    raise AssertionError


def merge(shards: Shards, skeleton: AnnData, progress: bool) -> Path:
    """Write all blocks, in order, and everything else; return the path of the merged file."""
    plan = shards.plan
    merged = shards.folder / f"{MERGED}{shards.ending}"
    remove(merged)
    lengths = {field.name: shards.row_lengths(field.name) for field in plan.fields if field.sparse}
    steps = track(plan.blocks, f"Writing {shards.out.name}", progress)
    blocks = (shards.read(index) for index, _ in enumerate(steps))
    block_writer.write(merged, plan, skeleton, blocks, lengths)
    return merged
