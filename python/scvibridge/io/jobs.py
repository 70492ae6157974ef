"""Run a job block by block: into memory or to disk, in this process or on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge._utils.devices import resolve_device
from scvibridge._utils.interrupts import ending_tidily
from scvibridge._utils.pools import HERE
from scvibridge._utils.progress import track
from scvibridge.io import shard_store, streaming
from scvibridge.io.backed import open_anndata
from scvibridge.io.blocks import add_matrices, block_size, blocks, join, minibatch_entries
from scvibridge.io.dask_workers import Workers
from scvibridge.io.merging import merging_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from scvibridge._utils.pools import Pool
    from scvibridge.io.plan import Block, Job, Plan, Remember


# The most that an interruption costs, and the size of a worker's task.
_MINIBATCHES_PER_BLOCK = 4


def cut_result(
    n_cells: int, n_genes: int, batch_size: int | None, device: str
) -> tuple[slice, ...]:
    """Divide a result into blocks of whole minibatches."""
    entries = minibatch_entries(resolve_device(device))
    size = block_size(n_genes, batch_size, entries)
    n_minibatches = max(1, _MINIBATCHES_PER_BLOCK * entries // max(n_genes, 1) // size)
    return tuple(blocks(n_cells, 1, n_minibatches * size))


def run(
    plan: Plan,
    prepare: Callable[[Remember], Job],
    out: Path | None,
    *,
    pool: Pool = HERE,
    resume: bool,
    overwrite: bool,
    progress: bool,
    description: str,
) -> AnnData:
    """Run a job.

    Parameters
    ----------
    plan
        The plan of the result.
    prepare
        Returns the job; what it passes to `remember` is kept for a resumed run.
    out
        File of the result, or None for a result in memory.
    pool
        What computes the blocks: Dask workers, or the threads of this process.
    resume
        Whether to resume an interrupted run; a finished result is left unchanged.
    overwrite
        Whether to replace an existing file.
    progress, description
        Whether to show progress, and its description.

    Returns
    -------
    The result; with `out` its matrices stay on disk.
    """
    if out is None:
        job = prepare(lambda _, compute: compute())
        return _assembled(job, plan, track(plan.blocks, description, progress))
    with (
        ending_tidily(),
        shard_store.Shards(out, plan, resume, overwrite=overwrite) as shards,
    ):
        if shards.is_finished:
            return open_anndata(out)
        job = prepare(shards.remember)

        def make(index: int) -> Block:
            block = plan.blocks[index]
            return join(job.pieces(block), block.stop - block.start)

        def tables() -> AnnData:
            return job.tables(shards.columns())

        if isinstance(pool, Workers):
            _on_workers(pool, shards, job, tables, progress=progress, description=description)
        else:
            streaming.stream(shards, make, tables, progress=progress, description=description)
    return open_anndata(out)


def _on_workers(
    workers: Workers,
    shards: shard_store.Shards,
    job: Job,
    tables: Callable[[], AnnData],
    *,
    progress: bool,
    description: str,
) -> None:
    """Have workers compute the missing blocks, and write the result."""
    with merging_of(shards, workers, progress) as merging:

        def fill() -> None:
            workers.compute_missing(
                shards, job, merging.finished, progress=progress, description=description
            )

        streaming.finish(shards, fill, tables, progress=progress, merged_with=merging.merge)


def _assembled(job: Job, plan: Plan, selections: Iterable[slice]) -> AnnData:
    pieces = iter(job.pieces(slice(0, plan.n_cells)))
    matrices = join(_in_turn(pieces, selections), plan.n_cells)
    columns = [field.name for field in plan.fields if field.is_of_tables]
    result = job.tables({name: np.asarray(matrices.pop(name)) for name in columns})
    add_matrices(result, matrices)
    return result


def _in_turn(pieces: Iterator[Block], selections: Iterable[slice]) -> Iterator[Block]:
    """Yield the pieces of all cells, and advance to the next selection where its cells begin."""
    reached = 0
    for selection in selections:
        while reached < selection.stop:
            piece = next(pieces)
            reached += next(iter(piece.values())).shape[0]
            yield piece
