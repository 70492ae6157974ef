"""Running a job: block by block, into memory or onto the disk, here or by workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.sparse as sp

from scvibridge import distributed, results, streaming
from scvibridge.decoding import blocks, join, minibatch_entries
from scvibridge.devices import resolve_device
from scvibridge.digests import digest, digest_of_names, digest_of_weights
from scvibridge.interrupts import ending_tidily
from scvibridge.on_disk import open_anndata
from scvibridge.progress import track

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from anndata import AnnData

    from scvibridge.models import Adapter
    from scvibridge.plan import Block, Plan
    from scvibridge.sources import CellData

    Arrays = dict[str, np.ndarray]
    Remember = Callable[[str, Callable[[], Arrays]], Arrays]

# What an interruption costs at most, and what a worker is given at a time.
_MINIBATCHES_PER_BLOCK = 4


class Job(Protocol):
    """What makes a result; pickled, it takes what blocks need, and no tables."""

    def pieces(self, selection: slice) -> Iterable[Block]:
        """Compute the matrices of some consecutive cells, in pieces to be stacked."""
        ...

    def tables(self, columns: Arrays, /) -> AnnData:
        """Return everything except the matrices, once all blocks are computed.

        `columns` are the values of all cells that blocks returned for the tables, by field.
        """
        ...


def cut_result(
    n_cells: int, adapter: Adapter, batch_size: int | None, device: str
) -> tuple[slice, ...]:
    """Cut a result into blocks of whole minibatches."""
    entries = _MINIBATCHES_PER_BLOCK * minibatch_entries(resolve_device(device))
    size = max(1, entries // max(len(adapter.genes), 1))
    if batch_size is not None:
        size = max(1, size // batch_size) * batch_size
    return tuple(blocks(n_cells, 1, size))


def run(
    plan: Plan,
    prepare: Callable[[Remember], Job],
    out: Path | None,
    *,
    client: Any = None,
    resume: bool,
    overwrite: bool,
    progress: bool,
    description: str,
) -> AnnData:
    """Run a job.

    Parameters
    ----------
    plan
        What the result is made of.
    prepare
        Gives the job; what it passes to `remember` is kept for a run that goes on.
    out
        File of the result, or None for one in memory.
    client
        Dask client whose workers make the blocks, or None to make them here.
    resume
        Whether to go on with what an interrupted run left; a finished result is left as it is.
    overwrite
        Whether to replace a file of that name.
    progress, description
        Whether to show progress, and of what.

    Returns
    -------
    The result; with `out` its matrices stay on disk.
    """
    if out is None:
        job = prepare(lambda _, compute: compute())
        return _assembled(job, plan, track(plan.blocks, description, progress))
    with (
        ending_tidily(),
        streaming.Shards(out, plan, resume, overwrite=overwrite) as shards,
    ):
        if shards.is_finished:
            return open_anndata(out)
        job = prepare(shards.remember)

        def make(index: int) -> Block:
            block = plan.blocks[index]
            return join(job.pieces(block), block.stop - block.start)

        def fill() -> None:
            if client is None:
                streaming.compute_missing(shards, make, progress=progress, description=description)
            else:
                distributed.compute_missing(
                    client, shards, job, progress=progress, description=description
                )

        def tables() -> AnnData:
            return job.tables(shards.columns())

        streaming.finish(shards, fill, tables, progress=progress)
    return open_anndata(out)


def _assembled(job: Job, plan: Plan, selections: Iterable[slice]) -> AnnData:
    made = (piece for selection in selections for piece in job.pieces(selection))
    matrices = join(made, plan.n_cells)
    columns = [field.name for field in plan.fields if field.is_of_tables]
    result = job.tables({name: np.asarray(matrices.pop(name)) for name in columns})
    results.add_matrices(result, matrices)
    return result


# -- what two runs have to have in common ------------------------------------------------------


def fingerprint(adapter: Adapter, settings: dict[str, Any], *data: CellData) -> dict[str, Any]:
    """Return what blocks depend on, so that blocks of another run are not mistaken for this one's.

    Parameters
    ----------
    adapter
        The model.
    settings
        Settings by name; arrays are digested.
    data
        The cells that counts and estimates are computed from.
    """
    plain = {
        name: digest(value) if isinstance(value, np.ndarray) else value
        for name, value in settings.items()
    }
    described = {f"data_{number}": _identity_of_data(some) for number, some in enumerate(data)}
    return {**plain, "model": _identity_of_model(adapter), **described}


def _identity_of_model(adapter: Adapter) -> dict[str, Any]:
    """Return what a model is known by: weights, likelihood, names of genes and batches."""
    return {
        "weights": digest_of_weights(adapter.module),
        "class": adapter.class_name,
        "likelihood": [adapter.gene_likelihood, adapter.dispersion],
        "genes": digest_of_names(adapter.genes),
        "batches": digest_of_names(adapter.batches),
    }


def _identity_of_data(data: CellData) -> dict[str, str]:
    """Return digests of cells: their names, their covariates, and all of their counts."""
    covariates: list[np.ndarray] = []
    for values in vars(data.covariates).values():
        if sp.issparse(values):
            covariates += [values.data, values.indices, values.indptr]
        elif values is not None:
            covariates.append(values)
    identity = {"cells": digest_of_names(data.names), "covariates": digest(*covariates)}
    if data.counts is not None:
        identity["counts"] = data.counts_digest
    return identity
