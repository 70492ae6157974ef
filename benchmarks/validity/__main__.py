"""Run the experiments that have no figures yet, and write the tables.

Usage: python -m benchmarks.validity [--data FOLDER] [--work FOLDER] [--jobs N] [--only TEXT]
[--small] [--tables]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.validity import (
    added,
    grid,
    kang,
    mixing,
    null_batches,
    paired,
    published,
    report,
    runner,
    simulated,
    trainings,
    trajectories,
    twins,
)
from benchmarks.validity.rows import with_new_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.validity.rows import Row

HERE = Path(__file__).parent


def experiments(
    work: Path, data: Path | None, *, small: bool
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Return the name of each run, and the function that computes its figures."""
    models = work / "models"
    yield from _simulations(models, data, small=small)
    if data is None:
        print("SCVIBRIDGE_TEST_DATA is not set: the experiments on real cells are left out")
        return
    for module in (null_batches, kang, mixing, paired, twins):
        for seed in module.SEEDS[:1] if small else module.SEEDS:
            run = partial(module.run, seed, models, data, small=small)
            yield f"{module.EXPERIMENT.replace(' ', '_')}-{seed}", run
    for seed in kang.SEEDS_WITHOUT_LABELS[: 1 if small else None]:
        run = partial(kang.run_without_labels, seed, models, data, small=small)
        yield f"kang_without_labels-{seed}", run
    for seed in published.SEEDS[:1] if small else published.SEEDS:
        for part in published.parts():
            run = partial(published.run, part, seed, models, data, small=small)
            yield f"published-{grid.slug(part)}-{seed}", run


def _simulations(
    models: Path, data: Path | None, *, small: bool
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for design, seeds in simulated.SEEDS.items():
        for seed in range(1, 2 if small else seeds + 1):
            name = f"{simulated.EXPERIMENT}-{design.replace(' ', '_')}-{seed}"
            yield name, partial(simulated.run, design, seed, models, small=small)
    for design, seeds in added.SEEDS.items():
        for seed in range(1, 2 if small else seeds + 1):
            if data is None and design != simulated.EXPERIMENT:
                continue
            name = f"added-{design.replace(', ', '_').replace(' ', '_')}-{seed}"
            yield name, partial(added.run, design, seed, models, data, small=small)
    for seed in trajectories.SEEDS[:1] if small else trajectories.SEEDS:
        run = partial(trajectories.run, seed, models, small=small)
        yield f"{trajectories.EXPERIMENT}-{seed}", run
    for seed in trainings.SEEDS[:1] if small else trainings.SEEDS:
        run = partial(trainings.run, seed, models, data, small=small)
        yield f"{trainings.EXPERIMENT.replace(' ', '_')}-{seed}", run
    for seed in grid.SEEDS[:1] if small else grid.SEEDS:
        # The first group has many designs.
        for group in list(grid.GROUPS)[1:2] if small else grid.GROUPS:
            run = partial(grid.run, group, seed, models, small=small)
            yield f"grid-{grid.slug(group)}-{seed}", run


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="benchmarks.validity", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SCVIBRIDGE_TEST_DATA"))
    parser.add_argument("--work", type=Path, help="folder of models and figures (kept)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of simultaneous runs, one core each"
    )
    parser.add_argument("--only", default="", help="run only experiments whose names start so")
    parser.add_argument(
        "--small", action="store_true", help="a test run of a minute, without measurements"
    )
    parser.add_argument(
        "--tables", action="store_true", help="only write the tables of existing figures"
    )
    options = parser.parse_args()
    data = None if options.data is None else Path(options.data)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if options.work is None else options.work
        (work / "models").mkdir(parents=True, exist_ok=True)
        if not options.tables:
            named = experiments(work, data, small=options.small)
            wanted = [(name, run) for name, run in named if name.startswith(options.only)]
            runner.run_all(wanted, work, options.jobs)
        files = sorted(work.glob("*.csv"))
        if not files:
            parser.error(f"no figures in {work}")
        rows = pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
    if options.small:
        print(f"{len(rows)} figures; nothing is written at this scale")
        return
    rows = with_new_runs(pd.read_csv(HERE / "results.csv"), rows)
    report.write(rows, HERE, HERE.parents[1] / "docs" / "validity.md", report.versions())


if __name__ == "__main__":
    main()
