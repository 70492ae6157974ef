"""Run the benchmarks: ``python -m benchmarks``, or ``make bench``."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine, report
from benchmarks.contenders import SEED
from benchmarks.contest import compete
from benchmarks.groups import GROUPS, SCALES, Scale
from benchmarks.inputs import Inputs, working_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

# Loaded once, where processes are forked.
_PRELOADED = [
    "scvi.model",
    "scvibridge.correction.corrected_counts",
    "scvibridge.expression.normalized",
    "benchmarks.worker",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run groups and write their results; the exit code is 1 if a contender failed."""
    given = _parse(arguments)
    scale = SCALES[given.scale]
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    results = {} if given.out is None else report.read(given.out)
    here = {
        "commit": given.commit,
        "load": os.getloadavg()[0],
        "machine": machine.describe(),
    }
    failed = False
    with working_folder(given.cache, keep=given.keep) as folder:
        for name in given.groups or GROUPS:
            results[name] = {**_measure(name, scale, folder, given), **here}
            failed |= any(row["verdict"].startswith("failed") for row in results[name]["rows"])
            results = {group: results[group] for group in GROUPS if group in results}
            if given.out is not None:
                report.write(given.out, results)
    print(report.page(results))
    return int(failed)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument("--rounds", type=int, help="runs of each contender")
    parser.add_argument(
        "--out", type=Path, help="output folder of the results (full scale: benchmarks)"
    )
    parser.add_argument("--cache", type=Path, help="folder for simulated cells and models")
    parser.add_argument("--keep", action="store_true", help="keep simulated cells and models")
    parser.add_argument("--commit", default="unknown", help="what was measured")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {given.rounds}")
    if given.out is None and given.scale == "full":
        given.out = Path(__file__).parent
    return given


def _measure(name: str, scale: Scale, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Run one group; a failure of a contender is part of its results."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    group = GROUPS[name](scale, Inputs(folder), folder)
    rounds = given.rounds or group.rounds
    outcomes = compete(group.contenders, rounds, fresh=group.fresh, start_method=scale.start_method)
    return {
        "scale": given.scale,
        "command": _command(name, given),
        "date": datetime.now(UTC).date().isoformat(),
        "seed": SEED,
        "rounds": rounds,
        "fresh": group.fresh,
        "rows": [
            {"what": row.what, "goal": row.goal(), **row.evaluate(outcomes)} for row in group.rows
        ],
        "outcomes": {contender: asdict(outcome) for contender, outcome in outcomes.items()},
    }


def _command(name: str, given: argparse.Namespace) -> str:
    settings = {"BENCH": name, "SCALE": given.scale if given.scale != "full" else None}
    settings["ROUNDS"] = given.rounds
    words = [f"{key}={value}" for key, value in settings.items() if value is not None]
    return " ".join(["make bench", *words])


if __name__ == "__main__":
    sys.exit(main())
