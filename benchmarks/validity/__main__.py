"""Run the experiments that have no figures yet, and write the tables.

Usage: python -m benchmarks.validity [--data FOLDER] [--work FOLDER] [--jobs N] [--small] [--tables]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.validity import kang, mixing, null_batches, report, simulated
from benchmarks.validity.rows import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.validity.rows import Row

HERE = Path(__file__).parent


def experiments(
    work: Path, data: Path | None, *, small: bool
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Name each run, and give what makes its figures."""
    models = work / "models"
    for design, seeds in simulated.SEEDS.items():
        for seed in range(1, 2 if small else seeds + 1):
            name = f"{simulated.EXPERIMENT}-{design.replace(' ', '_')}-{seed}"
            yield name, partial(simulated.run, design, seed, models, small=small)
    if data is None:
        print("SCVIBRIDGE_TEST_DATA is not set: the experiments on real cells are left out")
        return
    for module in (null_batches, kang, mixing):
        for seed in module.SEEDS[:1] if small else module.SEEDS:
            run = partial(module.run, seed, models, data, small=small)
            yield f"{module.EXPERIMENT}-{seed}", run


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="benchmarks.validity", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SCVIBRIDGE_TEST_DATA"))
    parser.add_argument("--work", type=Path, help="folder of models and figures, kept")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--small", action="store_true", help="a minute; measures nothing")
    parser.add_argument("--tables", action="store_true", help="write tables of what there is")
    options = parser.parse_args()
    data = None if options.data is None else Path(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.work is None else options.work
        (work / "models").mkdir(parents=True, exist_ok=True)
        if not options.tables:
            _run_all(work, data, options.jobs, small=options.small)
        files = sorted(work.glob("*.csv"))
        if not files:
            parser.error(f"no figures in {work}")
        rows = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    if options.small:
        print(f"{len(rows)} figures; nothing is written at this scale")
        return
    report.write(rows, HERE, HERE.parents[1] / "README.md", report.versions())


def _run_all(work: Path, data: Path | None, jobs: int, *, small: bool) -> None:
    # Not forked: torch's and numba's threads would not survive it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        runs = [
            pool.submit(_run, work / f"{name}.csv", run)
            for name, run in experiments(work, data, small=small)
            if not (work / f"{name}.csv").is_file()
        ]
        try:
            for done in as_completed(runs):
                print(done.result(), flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(path: Path, run: Callable[[], list[Row]]) -> str:
    """Write the figures of one run; an interrupted one leaves none."""
    started = time.monotonic()
    unfinished = path.with_suffix(".partial")
    table(run()).to_csv(unfinished, index=False)
    unfinished.rename(path)
    return f"{path.stem}: {time.monotonic() - started:.0f} s"


if __name__ == "__main__":
    main()
