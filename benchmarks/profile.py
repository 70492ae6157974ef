"""Profile one contender by function, or by line of some functions.

``python -m benchmarks.profile counts sample`` runs the contender "sample" of the group "counts" and
prints the share of each function of scvibridge, including the packages that it calls (torch, numba,
h5py). ``--lines scvibridge.correction.corrected_counts:compute`` profiles by line instead.
"""

from __future__ import annotations

import argparse
import cProfile
import importlib
import pstats
import sys
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scvibridge
from benchmarks.groups import GROUPS, SCALES
from benchmarks.inputs import Inputs, working_folder
from benchmarks.worker import load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contest import Contender
    from benchmarks.task import Task

_PACKAGE = str(Path(scvibridge.__file__).parent)
_SHOWN = 30

# File, line and name, as in the profiler.
Function = tuple[str, int, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile a contender."""
    given = _parse(arguments)
    warnings.simplefilter("ignore")
    with working_folder(given.cache, keep=given.keep) as folder:
        group = GROUPS[given.group](SCALES[given.scale], Inputs(folder), folder)
        task = _ready(_choose(group.contenders, given.contender))
        if given.lines:
            _by_line(task, given.lines)
        else:
            _by_function(task, given.plain)
        task.close()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("contender", help="its name, as in RESULTS.md")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument(
        "--lines", nargs="+", metavar="MODULE:FUNCTION", help="profile these functions by line"
    )
    parser.add_argument(
        "--plain", action="store_true", help="run without a profiler, for py-spy and perf"
    )
    parser.add_argument("--cache", type=Path, help="folder for simulated cells and models")
    parser.add_argument("--keep", action="store_true", help="keep simulated cells and models")
    return parser.parse_args(arguments)


def _choose(contenders: Sequence[Contender], name: str) -> Contender:
    for contender in contenders:
        if contender.name == name:
            return contender
    names = "; ".join(contender.name for contender in contenders)
    raise SystemExit(f"no contender {name!r} in this group; there are: {names}")


def _ready(contender: Contender) -> Task:
    task = load(contender.function, contender.arguments)
    task.before()
    (task.warm_up or task.run)()
    task.before()
    return task


# -- by function -------------------------------------------------------------------------------


def _by_function(task: Task, plain: bool) -> None:
    profiler = cProfile.Profile()
    start = time.perf_counter()
    if plain:
        task.run()
    else:
        profiler.runcall(task.run)
    seconds = time.perf_counter() - start
    print(f"{seconds:8.3f} s in all (the main thread)")
    if plain:
        return
    own = own_seconds(pstats.Stats(profiler))
    ranked = sorted(own.items(), key=lambda item: -item[1])
    for (file, line, name), spent in ranked[:_SHOWN]:
        place = f"{Path(file).relative_to(_PACKAGE)}:{line}"
        print(f"{spent:8.3f} s {spent / seconds:6.1%}  {place} {name}")


def own_seconds(stats: Any) -> dict[Function, float]:
    """Return seconds of each function of the package, excluding calls to others of the package."""
    own: dict[Function, float] = defaultdict(float)
    for function, (_, _, _, cumulative, callers) in stats.stats.items():
        if not _is_ours(function):
            continue
        own[function] += cumulative
        for caller, (_, _, _, of_caller) in callers.items():
            if _is_ours(caller) and caller != function:
                own[caller] -= of_caller
    return dict(own)


def _is_ours(function: Function) -> bool:
    return function[0].startswith(f"{_PACKAGE}/")


# -- by line -----------------------------------------------------------------------------------


def _by_line(task: Task, names: Sequence[str]) -> None:
    from line_profiler import LineProfiler

    profiler: Any = LineProfiler()
    for name in names:
        profiler.add_function(_function(name))
    profiler.runcall(task.run)
    profiler.print_stats(sys.stdout, output_unit=1e-3, stripzeros=True)


def _function(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    value: Any = importlib.import_module(module)
    for part in path.split("."):
        value = getattr(value, part)
    function: Callable[..., Any] = value
    return function


if __name__ == "__main__":
    main()
