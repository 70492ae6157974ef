"""Each public function at two sizes, and the first call of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import DEPTH, LABELS, SEED, TARGET, remove
from benchmarks.contest import Contender
from benchmarks.figures import Row
from benchmarks.task import Task, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = "benchmarks.functions:"

_EPOCHS = 2

# -- public functions ------------------------------------------------------------------------------

FUNCTIONS = (
    "load",
    "train_scvi",
    "corrected_counts",
    "corrected_counts to h5ad",
    "normalized_expression",
    "denoised_expression",
    "batch_support",
    "choose_batch",
    "calibration",
    "damage",
    "report",
    "extend_genes",
)


def public(name: str, model: str, cells: str, warm: bool) -> Task:
    """Run a public function on all cells of a file, which has more genes than the model."""
    run, before = _calls(name, model, cells)
    return Task(run, warm_up=run if warm else nothing, before=before)


def _calls(name: str, model: str, cells: str) -> tuple[Callable[[], Any], Callable[[], None]]:
    """Return a function that runs one of `FUNCTIONS`, and one to be called before each run."""
    import anndata as ad

    import scvibridge as sb

    quiet: dict[str, Any] = {"progress": False, "device": "cpu"}
    if name == "load":
        return lambda: sb.load(model, adata=cells, device="cpu"), nothing
    trained = sb.load(model, adata=cells, device="cpu")
    own: ad.AnnData = trained.adata
    target = {"transform_batch": TARGET, "seed": SEED, **quiet}
    folder = tempfile.mkdtemp(dir=Path(cells).parent)
    out = str(Path(folder) / ("report.html" if name == "report" else "out.h5ad"))
    result = None
    if name == "report":
        result = sb.corrected_counts(trained, labels_key=LABELS, **target)
    calls: dict[str, Callable[[], Any]] = {
        "train_scvi": lambda: sb.train_scvi(
            own, batch_key="batch", n_top_genes=None, max_epochs=_EPOCHS, seed=SEED, **quiet
        ),
        "corrected_counts": lambda: sb.corrected_counts(trained, labels_key=LABELS, **target),
        "corrected_counts to h5ad": lambda: sb.corrected_counts(
            trained, cells, labels_key=LABELS, out=out, **target
        ),
        "normalized_expression": lambda: sb.normalized_expression(
            trained, library_size=DEPTH, **target
        ),
        "denoised_expression": lambda: sb.denoised_expression(trained, seed=SEED, **quiet),
        "batch_support": lambda: sb.batch_support(
            trained, transform_batch=TARGET, labels_key=LABELS, **quiet
        ),
        "choose_batch": lambda: sb.choose_batch(trained, labels_key=LABELS, **quiet),
        "calibration": lambda: sb.calibration(trained, seed=SEED, **quiet),
        "damage": lambda: sb.damage(own, batch_key="batch", max_epochs=_EPOCHS, seed=SEED, **quiet),
        "report": lambda: sb.report(
            result, out, model=trained, labels_key=LABELS, seed=SEED, progress=False
        ),
        "extend_genes": lambda: sb.extend_genes(
            trained, cells, max_epochs=1, ridge=0.1, seed=SEED, **quiet
        ),
    }
    return calls[name], lambda: remove(out)


def upstream_training(model: str, cells: str) -> Task:
    """Train with scvi-tools alone, as `train_scvi` does, on the cells and genes of a model."""
    import scvi

    import scvibridge as sb

    scvi.settings.seed = SEED
    own = sb.load(model, adata=cells, device="cpu").adata

    def run() -> Any:
        data = own.copy()
        scvi.model.SCVI.setup_anndata(data, batch_key="batch")
        trained = scvi.model.SCVI(data, gene_likelihood="nb")
        trained.train(
            max_epochs=_EPOCHS,
            early_stopping=True,
            check_val_every_n_epoch=1,
            accelerator="cpu",
            enable_progress_bar=False,
        )
        return trained

    return Task(run)


def report_of_file(model: str, cells: str, warm: bool) -> Task:
    """Write a report on the corrected counts of many cells, which are in a file."""
    import scvibridge as sb

    trained = sb.load(model, adata=cells, device="cpu")
    folder = Path(tempfile.mkdtemp(dir=Path(cells).parent))
    counts, out = str(folder / "counts.h5ad"), str(folder / "report.html")
    sb.corrected_counts(
        trained,
        cells,
        transform_batch=TARGET,
        labels_key=LABELS,
        out=counts,
        seed=SEED,
        progress=False,
        device="cpu",
    )

    def run() -> Any:
        return sb.report(counts, out, model=trained, labels_key=LABELS, seed=SEED, progress=False)

    return Task(run, warm_up=run if warm else nothing, before=lambda: remove(out))


def contest_of_functions(
    model: str, sizes: dict[int, str], cells_of_report: str, warm: bool
) -> tuple[list[Contender], list[Row]]:
    """Return the contenders, each function at each size, and the rows with their growth.

    Parameters
    ----------
    model
        Folder of the model.
    sizes
        Path of the cells by their number.
    cells_of_report
        Path of the cells of a large report.
    warm
        Whether each runs once before it is measured.
    """
    contenders = [
        Contender(
            f"{name}, {n_cells} cells",
            f"{_HERE}public",
            {"name": name, "model": model, "cells": cells, "warm": warm},
        )
        for name in FUNCTIONS
        for n_cells, cells in sizes.items()
    ]
    few, many = min(sizes), max(sizes)
    rows = [
        Row(
            f"`{name}`, {what} with {many} cells over that with {few}",
            measure,
            f"{name}, {many} cells",
            f"{name}, {few} cells",
        )
        for name in FUNCTIONS
        for what, measure in (("time", "seconds"), ("peak memory", "peak"))
    ]
    given = {"model": model, "cells": sizes[many]}
    upstream = Contender(f"scvi-tools: train, {many} cells", f"{_HERE}upstream_training", given)
    report = Contender(
        "report, many cells",
        f"{_HERE}report_of_file",
        {"model": model, "cells": cells_of_report, "warm": warm},
    )
    rows += [
        Row(
            f"`train_scvi`, {many} cells, time over that of scvi-tools' own training",
            "seconds",
            f"train_scvi, {many} cells",
            upstream.name,
            at_most=1.05,
        ),
        Row("`report`, many cells in a file", "seconds", report.name, at_most=60),
        Row("the same, peak memory of the process", "peak", report.name, at_most=2e9),
    ]
    return [*contenders, upstream, report], rows


# -- the first call --------------------------------------------------------------------------------

_CALLS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
started = time.perf_counter()
import scvibridge as sb
model = sb.load(sys.argv[1], adata=sys.argv[2], device="cpu")
seconds = [time.perf_counter() - started]
for _ in range(2):
    started = time.perf_counter()
    sb.corrected_counts(model, transform_batch=sys.argv[3], labels_key=sys.argv[4],
                        progress=False, device="cpu")
    seconds.append(time.perf_counter() - started)
print(json.dumps(seconds))
"""


def first_call(model: str, cells: str, compiled: bool, what: str, warm: bool = True) -> Task:
    """Time the first call of `corrected_counts` in a new process.

    Parameters
    ----------
    model, cells
        The model and its cells.
    compiled
        Whether an earlier process has compiled the kernels, or this is the first on its machine.
    what
        "load" for import and loading, "first" for the time of the first call over that of the
        second, or "second".
    warm
        Whether a process runs beforehand where kernels are compiled, so that they are.
    """

    def run() -> list[float]:
        environment = dict(os.environ)
        with tempfile.TemporaryDirectory() as folder:
            if not compiled:
                environment["NUMBA_CACHE_DIR"] = folder
            command = [sys.executable, "-c", _CALLS, model, cells, TARGET, LABELS]
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
        seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
        return seconds

    def warm_up() -> list[float] | None:
        return run() if compiled and warm else None

    def chosen(found: list[float]) -> float:
        load, first, second = found
        return {"load": load, "first": first - second, "second": second}[what]

    return Task(run, warm_up=warm_up, seconds=chosen)


def contest_of_first_calls(
    model: str, cells: str, compiles: bool
) -> tuple[list[Contender], list[Row]]:
    """Return the contenders of the first call of a process, and the rows.

    Without `compiles`, only a later process is timed, one figure of it, and none runs beforehand.
    """
    given = {"model": model, "cells": cells}
    contests = {
        "import and load": (True, "load"),
        "first call over the second, kernels to be compiled": (False, "first"),
        "first call over the second, kernels in numba's cache": (True, "first"),
        "second call": (True, "second"),
    }
    whats = (
        "`import scvibridge` and `load()`",
        "the first `corrected_counts()` on a machine, over the second",
        "the first `corrected_counts()` of a later process, over the second",
        "the second `corrected_counts()` of a process",
    )
    contenders, rows = [], []
    for (name, (compiled, what)), shown in zip(contests.items(), whats, strict=True):
        if compiles or (compiled and what == "first"):
            settings = {"compiled": compiled, "what": what, "warm": compiles}
            contenders.append(Contender(name, f"{_HERE}first_call", {**given, **settings}))
            rows.append(Row(shown, "seconds", name, at_most=5 if what == "first" else None))
    return contenders, rows
