"""A result that can be made block by block or as a whole, for the tests of streaming.

Run as a program it streams one to a file: to be interrupted.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvibridge import files, streaming
from scvibridge.plan import Field, Plan

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
            "text": [f"note {i % 2}" for i in cell],
            "partial": [None if i % 3 else "a" for i in cell],
            "flag": cell % 3 == 0,
            "maybe": pd.array([None if i % 3 else True for i in cell], dtype="boolean"),
            "whole": pd.array([None if i % 5 else int(i) for i in cell], dtype="Int32"),
            "ratio": np.linspace(0, 1, n_cells).astype(np.float32),
            "large": cell * 2**40,
        },
        index=[f"cell_é{i}" for i in cell],
    )
    var = pd.DataFrame(
        {"gene_ids": [f"ENSG{i}" for i in range(n_genes)], "low": np.arange(n_genes) % 2 == 0},
        index=[f"gene_{i}" for i in range(n_genes)],
    )
    result = ad.AnnData(obs=obs, var=var)
    result.varm["detection"] = np.arange(2 * n_genes).reshape(n_genes, 2)
    result.uns[files.PROVENANCE_KEY] = {"kind": "counts", "depth": [1.5, 2.0], "label": None}
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


def run(out: Path, plan: Plan, resume: bool, computed: list[int] | None = None, **how) -> Path:
    """Stream the result to a file; tell which blocks were computed."""

    def compute(index: int):
        if computed is not None:
            computed.append(index)
        time.sleep(how.get("pause", 0))
        if index == how.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        return block(plan, index)

    def tables():
        if how.get("kill_at") == len(plan.blocks):
            os.kill(os.getpid(), signal.SIGKILL)
        return skeleton(plan)

    with streaming.Shards(out, plan, resume) as shards:
        return streaming.stream(shards, compute, tables)


def main() -> None:
    """Stream a result, with the limits that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--cells", type=int, default=230)
    parser.add_argument("--genes", type=int, default=N_GENES)
    parser.add_argument("--step", type=int, default=40)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--largest-file", type=int)
    parser.add_argument("--tell-memory", action="store_true")
    options = parser.parse_args()
    plan = plan_of(options.cells, options.genes, options.step)
    if options.out.suffix == ".h5":
        plan = counts_plan(plan)
    if options.largest_file:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file, options.largest_file))
    print("ready", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(options.out, plan, options.resume, pause=options.pause, kill_at=options.kill_at)
    if options.tell_memory:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


if __name__ == "__main__":
    main()
