"""A result that can be made block by block or as a whole, for the tests of streaming.

And processes that stream it to a file, to be interrupted.
"""

from __future__ import annotations

import os
import resource
import signal
import time
import warnings
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import preloaded
import scipy.sparse as sp

import scvibridge as sb
from scvibridge.io import (
    backed,
    blocks,
    h5ad,
    paths,
    row_order,
    row_reader,
    shard_store,
    shards,
    streaming,
)
from scvibridge.io.plan import Field, Plan
from scvibridge.io.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

N_GENES = 60


def plan_of(n_cells: int = 230, n_genes: int = N_GENES, step: int = 40, **settings) -> Plan:
    """What a result of counts, all layers included, is made of."""
    fields = (
        Field("X", sparse=True, dtype=np.dtype(np.int32), n_columns=n_genes),
        Field("layers/raw_counts", sparse=True, dtype=np.dtype(np.int32), n_columns=n_genes),
        Field("layers/normalized", sparse=False, dtype=np.dtype(np.float32), n_columns=n_genes),
        Field("obsm/X_scvi", sparse=False, dtype=np.dtype(np.float32), n_columns=3),
    )
    blocks = tuple(slice(i, min(i + step, n_cells)) for i in range(0, n_cells, step))
    fingerprint = {"kind": "counts", "n_genes": n_genes, "settings": {"seed": 0, **settings}}
    return Plan(n_cells, blocks, fields, fingerprint)


def counts_plan(plan: Plan) -> Plan:
    """The same with X alone, as a 10x HDF5 file holds it."""
    return Plan(plan.n_cells, plan.blocks, plan.fields[:1], plan.fingerprint)


def block(plan: Plan, index: int) -> dict[str, sp.csr_matrix | np.ndarray]:
    """A block of the plan, of random numbers that depend on nothing else."""
    n_rows = plan.blocks[index].stop - plan.blocks[index].start
    made = {}
    for number, field in enumerate(plan.fields):
        rng = np.random.default_rng([index, number])
        if field.sparse:
            counts = rng.poisson(rng.gamma(0.2, 3.0, size=(n_rows, field.n_columns)))
            counts[rng.random(counts.shape) < 0.002] *= 1000  # some that need more bytes
            made[field.name] = sp.csr_matrix(counts.astype(np.int32))
        else:
            made[field.name] = rng.gamma(2.0, size=(n_rows, field.n_columns)).astype(field.dtype)
    return made


def skeleton(plan: Plan) -> ad.AnnData:
    """The tables, with all types of columns that users have, text with missing values included."""
    n_cells, n_genes = plan.n_cells, plan.fields[0].n_columns
    cell = np.arange(n_cells)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.array(["V3", "V2"])[cell % 2], categories=["V3", "x", "V2"]),
            "stage": pd.Categorical.from_codes(cell % 3 - 1, ["early", "late"], ordered=True),
            "text": [f"née {i % 2}" for i in cell],
            "partial": [None if i % 3 else "a" for i in cell],
            "flag": cell % 3 == 0,
            "maybe": pd.array([None if i % 3 else True for i in cell], dtype="boolean"),
            "whole": pd.array([None if i % 5 else int(i) for i in cell], dtype="Int32"),
            "ratio": np.linspace(0, 1, n_cells).astype(np.float32),
            "large": cell * 2**40,
        },
        index=[f"cell_{i}" for i in cell],
    )
    var = pd.DataFrame(
        {"gene_ids": [f"ENSG{i}" for i in range(n_genes)], "low": np.arange(n_genes) % 2 == 0},
        index=[f"gene_{i}" for i in range(n_genes)],
    )
    result = ad.AnnData(obs=obs, var=var)
    result.varm["detection"] = np.arange(2 * n_genes).reshape(n_genes, 2)
    result.uns[h5ad.PROVENANCE_KEY] = {
        "kind": "corrected_counts",
        "depth": [1.5, 2.0],
        "label": None,
    }
    return result


def whole(plan: Plan) -> ad.AnnData:
    """The result as it is made in memory."""
    blocks = [block(plan, index) for index in range(len(plan.blocks))]
    result = skeleton(plan)
    for field in plan.fields:
        parts = [made[field.name] for made in blocks]
        matrix = sp.vstack(parts, format="csr") if field.sparse else np.vstack(parts)
        place, _, key = field.name.partition("/")
        if key:
            getattr(result, place)[key] = matrix
        else:
            result.X = matrix
    return result


def contents(root):
    """Attributes of all groups and arrays, with types and values of the latter."""
    found = {"/": (_plain(root.attrs), None, None)}

    def look(name, element):
        is_array = not hasattr(element, "keys")
        kind = element.dtype if is_array else None
        found[name] = (_plain(element.attrs), kind, np.array(element[()]) if is_array else None)

    if isinstance(root, h5py.Group) or not hasattr(root, "members"):  # zarr 2 names it as h5py does
        root.visititems(look)
    else:
        for name, element in root.members(max_depth=None):
            look(name, element)
    return found


def _plain(attributes):
    """Attributes as Python's own values, whichever library read them."""
    return {key: np.asarray(value).tolist() for key, value in dict(attributes).items()}


def run(
    out: Path,
    plan: Plan,
    resume: bool = False,
    *,
    pause: float = 0,
    before: Callable[[int], None] = lambda _: None,
) -> Path:
    """Stream the result to a file.

    `before` is called before a block is computed, and with the number of blocks before the tables.
    """

    def compute(index: int):
        before(index)
        time.sleep(pause)
        return block(plan, index)

    def tables():
        before(len(plan.blocks))
        return skeleton(plan)

    with shard_store.Shards(out, plan, resume) as shards:
        return streaming.stream(shards, compute, tables)


def run_if_needed(out: Path, plan: Plan) -> None:
    """Go on with a result, and fail if anything has to be computed."""
    with shard_store.Shards(out, plan, resume=True) as shards:
        assert shards.is_finished


# ---- in processes of their own ---------------------------------------------------------------


def in_child(function: Callable, *arguments) -> Child:
    """Call a function in a process of its own."""
    return Child(function, arguments)


class Child:
    """A process that calls a function."""

    def __init__(self, function: Callable, arguments: tuple) -> None:
        self._end, other = preloaded.context.Pipe()
        self.process = preloaded.context.Process(target=_call, args=(other, function, arguments))
        self.process.start()
        other.close()

    def result(self) -> Any:
        """What the function returned; its error is raised here."""
        try:
            outcome = self._end.recv()
        finally:
            self.process.join()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def kill(self) -> None:
        """End the process as nothing can hinder, if it still runs."""
        self.process.kill()
        self.process.join()


def _call(end: Connection, function: Callable, arguments: tuple) -> None:
    try:
        end.send(function(*arguments))
    except Exception as error:  # noqa: BLE001, the parent raises it
        end.send(error)


def kill_at(out: Path, plan: Plan, index: int) -> None:
    """Stream until this process kills itself before a block, or before the tables."""

    def before(current: int) -> None:
        if current == index:
            os.kill(os.getpid(), signal.SIGKILL)

    run(out, plan, resume=True, before=before)


def run_slowly(out: Path, plan: Plan, resume: bool) -> None:
    """Stream with some time between the blocks."""
    run(out, plan, resume, pause=0.1)


def correct(model_dir: Path, cells: Path, out: Path) -> None:
    """Correct counts in small blocks, going on with what is there."""
    blocks._ENTRIES_PER_BLOCK = 4 * 120
    warnings.simplefilter("ignore")
    sb.corrected_counts(
        sb.load(model_dir, adata=False),
        cells,
        out=out,
        resume=True,
        transform_batch="V3",
        labels_key="cell_type",
        batch_size=4,
        progress=False,
    )


def write_all(out: Path, plan: Plan) -> None:
    """Compute all blocks, and end before the merge."""
    with shard_store.Shards(out, plan) as shards:
        write_blocks(shards.folder, plan, range(len(plan.blocks)))
        os.kill(os.getpid(), signal.SIGKILL)


def take_scratch_and_die(out: Path) -> None:
    """Put something into a scratch folder, and end without removing it."""
    scratch = Scratch(out)
    (scratch.folder / "rows").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)


def run_with_small_files(out: Path, plan: Plan, largest_file: int) -> None:
    """Stream while the system refuses files of more than some bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    run(out, plan)


def write_blocks(folder: Path, plan: Plan, indices: Sequence[int]) -> None:
    """Write shards as a worker does, which holds no lock."""
    for index in indices:
        shards.write_shard(folder, index, plan.fields, block(plan, index), plan.seal(index))


def highest_memory(function: Callable, *arguments) -> int:
    """Bytes by which the memory of this process grew, at most, while a function was called."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    function(*arguments)
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def stream_repeated(out: Path, plan: Plan) -> None:
    """Stream a result that has the same block again and again, which takes no time to make."""
    made = block(plan, 0)
    with shard_store.Shards(out, plan) as shards:
        streaming.stream(shards, lambda _: made, lambda: skeleton(plan))


def read_all_rows(path, scratch) -> int:
    """Read a matrix by columns in blocks of rows; return the sum."""
    matrix = backed.open_anndata(path).X
    reader = row_reader.RowReader(row_order.row_ordered(matrix, scratch, 2000))
    starts = range(0, reader.shape[0], 1000)
    return sum(int(reader.read(slice(start, start + 1000)).sum()) for start in starts)


def die_while_writing(path):
    with paths.replacing(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
