"""The whole way from R object to R object, compared with AnnData to AnnData in Python.

Kang's cells are found through ``SCVIBRIDGE_TEST_DATA``. R runs in a separate process, which creates
its object, warms up and reports its times (workflow.R).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from benchmarks.contest import Contender
from benchmarks.figures import Row
from benchmarks.task import NotAvailableError, Task, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

_DATA = "kang_ifnb_pbmc_4k.h5ad"
_CODE = Path(__file__).with_name("workflow.R")
_R_PACKAGES = ("scvibridge", "SingleCellExperiment", "Seurat", "HDF5Array", "rhdf5")
_COLUMNS = ["donor", "condition", "cell_type"]
_FEW_CELLS = 1200  # so that labels have enough cells in a batch
_LABELS = {"labels_key": "cell_type", "condition_key": "condition"}
_SEED = 1
_GOAL = 1.3  # times as long in R
_GOAL_OF_MANY, _COPIES = 1.1, 5  # the same with more cells, and how many times as many
_WHOLE_TRAINING = 4  # times as many epochs as when only training is timed
_KINDS = {"Seurat": "seurat", "SingleCellExperiment": "sce"}


def workflow_contest(
    folder: str, size: dict[str, int], epochs: int, every_task: bool
) -> tuple[list[Contender], list[Row]]:
    """Return the contenders, Python and both types of R objects, and the rows of their times.

    Without `every_task`, those that repeat most of another one do not run, and the others run with
    one type of R objects each, in turns.
    """
    given = {"folder": folder, **size}
    contenders, rows = [], []
    tasks = [task for task in _tasks(epochs) if every_task or not task.repeats]
    for place, task in enumerate(tasks):
        arguments = {**given, "epochs": task.epochs} if task.epochs else dict(given)
        if task.copies > 1:
            arguments["copies"] = task.copies
        python = f"{task.name}, AnnData"
        contenders.append(Contender(python, f"{__name__}:{task.function}_in_python", arguments))
        kinds = list(_KINDS.items())
        for shown, kind in kinds if every_task else [kinds[place % len(kinds)]]:
            in_r = {**arguments, "task": task.function, "kind": kind}
            name = f"{task.name}, {shown}"
            contenders.append(Contender(name, f"{__name__}:timed_in_r", in_r))
            what = task.what.format(object=shown)
            rows.append(Row(what, "seconds", name, python, at_most=task.at_most))
            if task.measures_memory:
                what = "the same, peak memory of R's process over that of Python's"
                rows.append(Row(what, "peak", name, python, at_most=_GOAL))
    return contenders, rows


@dataclass(frozen=True)
class _InBoth:
    """A task timed in both languages: `function` with ``_in_python``, and in workflow.R.

    With several `copies`, the cells are repeated under other names. A task that `repeats` is for
    the most part a part of another one.
    """

    name: str
    function: str
    what: str
    at_most: float | None = None
    epochs: int = 0
    copies: int = 1
    measures_memory: bool = False
    repeats: bool = False


def _tasks(epochs: int) -> list[_InBoth]:
    whole = _WHOLE_TRAINING * epochs
    return [
        _InBoth(
            "whole workflow",
            "whole",
            f"the whole workflow in R, {{object}} to {{object}} (`train_scvi()` with {whole} "
            "epochs, `corrected_counts()` by label, `add_latent()`, `batch_support()`), time over "
            "that of the same in Python",
            at_most=_GOAL,
            epochs=whole,
            measures_memory=True,
        ),
        _InBoth(
            "corrected_counts, model at hand",
            "given_back",
            "`corrected_counts(object, model)` by label in R, {object} to the same {object}, time "
            "over that in Python, AnnData to AnnData",
            at_most=_GOAL,
            repeats=True,
        ),
        _InBoth(
            f"corrected_counts, model at hand, {_COPIES} times the cells",
            "given_back",
            f"the same with {_COPIES} times the cells",
            at_most=_GOAL_OF_MANY,
            copies=_COPIES,
            repeats=True,
        ),
        _InBoth(
            "corrected_counts, model loaded",
            "corrected",
            "`load_scvi()` and `corrected_counts(model)` by label in R, {object} to a new "
            "{object}, time over that in Python, AnnData to AnnData",
            at_most=_GOAL,
            repeats=True,
        ),
        _InBoth(
            "train_scvi",
            "trained",
            f"`train_scvi()` in R of a {{object}}, {epochs} epochs, time over that in Python",
            epochs=epochs,
            repeats=True,
        ),
    ]


def corrected_in_python(folder: str, n_cells: int, n_genes: int) -> Task:
    """Run ``load`` and ``corrected_counts`` by label, from AnnData to AnnData."""
    import scvibridge as sb

    cells, model = _inputs(Path(folder), n_cells, n_genes)
    adata = ad.read_h5ad(cells)

    def run(data: AnnData) -> AnnData:
        return _corrected(sb.load(model, adata=data), data, _target(adata))

    return Task(lambda: run(adata), warm_up=_warm_up(run, adata), facts=_facts_of_counts)


def given_back_in_python(folder: str, n_cells: int, n_genes: int, copies: int = 1) -> Task:
    """Run ``corrected_counts`` by label with a model that is already loaded."""
    import scvibridge as sb

    cells, path = _inputs(Path(folder), n_cells, n_genes, copies)
    adata = ad.read_h5ad(cells)
    model = sb.load(path, adata=adata)

    def run(data: AnnData) -> AnnData:
        return _corrected(model, data, _target(adata))

    return Task(lambda: run(adata), warm_up=_warm_up(run, adata), facts=_facts_of_counts)


def trained_in_python(folder: str, n_cells: int, n_genes: int, epochs: int) -> Task:
    """Run ``train_scvi`` on an AnnData."""
    cells, _ = _inputs(Path(folder), n_cells, n_genes)
    adata = ad.read_h5ad(cells)

    def facts(model: Any) -> dict[str, float]:
        from scvibridge.r.descriptions import describe_training

        training = describe_training(model) or {}
        return {"n_cells": model.adata.n_obs, "loss": training["training_loss"]}

    def run(data: AnnData) -> Any:
        return _trained(data, epochs)

    return Task(lambda: run(adata), warm_up=_warm_up(run, adata), facts=facts)


def whole_in_python(folder: str, n_cells: int, n_genes: int, epochs: int) -> Task:
    """Run training, counts by label, the latent space, and the support of the target."""
    import scvibridge as sb

    cells, _ = _inputs(Path(folder), n_cells, n_genes)
    adata = ad.read_h5ad(cells)
    target = _target(adata)

    def run(data: AnnData) -> AnnData:
        model = _trained(data, epochs)
        counts = _corrected(model, data, target)
        counts.obsm["X_scvi"] = model.get_latent_representation()
        sb.batch_support(model, transform_batch=target, **_LABELS, progress=False)
        return counts

    return Task(lambda: run(adata), warm_up=_warm_up(run, adata), facts=_facts_of_counts)


def _trained(data: AnnData, epochs: int) -> Any:
    import scvibridge as sb

    return sb.train_scvi(data, batch_key="donor", max_epochs=epochs, seed=_SEED, progress=False)


def _corrected(model: Any, data: AnnData, target: str) -> AnnData:
    import scvibridge as sb

    return sb.corrected_counts(
        model, adata=data, transform_batch=target, **_LABELS, seed=_SEED, progress=False
    )


def _facts_of_counts(counts: AnnData) -> dict[str, float]:
    return {"n_cells": counts.n_obs, "total": float(counts.X.sum())}


def timed_in_r(
    task: str,
    folder: str,
    n_cells: int,
    n_genes: int,
    kind: str,
    epochs: int = 0,
    copies: int = 1,
) -> Task:
    """Run the task with this name in workflow.R, on an object of a `kind`, "sce" or "seurat"."""
    _need_r()
    cells, model = _inputs(Path(folder), n_cells, n_genes, copies)
    target = _target(ad.read_h5ad(cells, backed="r"))
    process = _RProcess([task, kind, cells, model, epochs, target, _SEED])
    return Task(
        process.run,
        warm_up=process.wait_until_ready,
        seconds=lambda told: told["seconds"],
        facts=lambda told: {name: told[name] for name in told if name != "seconds"},
        close=process.close,
        process=process.number,
    )


class _RProcess:
    """An R process that runs on request and reports the outcome; it has created its object."""

    def __init__(self, arguments: list[object]) -> None:
        self._process = subprocess.Popen(
            ["Rscript", _CODE, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write: Any = self._process.stdin
        self._read: Any = self._process.stdout
        self._answer()

    @property
    def number(self) -> int:
        """Number of the process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        self._answer()

    def run(self) -> dict[str, float]:
        self._write.write("run\n")
        self._write.flush()
        pairs = (pair.split("=") for pair in self._answer().split())
        return {name: float(value) for name, value in pairs}

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> str:
        """Return the next line marked by workflow.R; packages may print other lines."""
        for line in self._read:
            if line.startswith("workflow:"):
                return line.removeprefix("workflow:").strip()
        raise RuntimeError(f"R ended with exit code {self._process.wait()}")


def _need_r() -> None:
    code = f"c({', '.join(map(repr, _R_PACKAGES))})"
    code = f"cat(Filter(function(p) !nzchar(system.file(package = p)), {code}))"
    if shutil.which("Rscript") is None:
        raise NotAvailableError("there is no R")
    done = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True)
    if done.stdout.strip():
        raise NotAvailableError(f"R lacks {done.stdout.strip()}")


# -- cells and model ---------------------------------------------------------------------------


def _inputs(folder: Path, n_cells: int, n_genes: int, copies: int = 1) -> tuple[str, str]:
    """Return the paths of cells and of a model trained on them for a few epochs; created once.

    With several `copies`, the cells are repeated; the model is that of the cells themselves.
    """
    import scvibridge as sb
    from scvibridge.io.h5ad import write_h5ad

    cells, model = (folder / f"kang-{n_cells}-{n_genes}{end}" for end in (".h5ad", "-model"))
    if not cells.is_file():
        write_h5ad(_kang(n_cells, n_genes), cells)
    if not model.is_dir():
        sb.train_scvi(
            cells, batch_key="donor", max_epochs=3, seed=_SEED, save=model, progress=False
        )
    if copies == 1:
        return str(cells), str(model)
    many = folder / f"kang-{n_cells}-{n_genes}-{copies}.h5ad"
    if not many.is_file():
        parts = {str(copy): ad.read_h5ad(cells) for copy in range(copies)}
        write_h5ad(ad.concat(parts, index_unique="-", merge="same"), many)
    return str(many), str(model)


def _kang(n_cells: int, n_genes: int) -> AnnData:
    """Select cells of all donors and the most detected genes; all if there are no more."""
    named = os.environ.get("SCVIBRIDGE_TEST_DATA")
    if not named or not (Path(named) / _DATA).is_file():
        raise NotAvailableError(f"SCVIBRIDGE_TEST_DATA names no folder with {_DATA}")
    adata = ad.read_h5ad(Path(named) / _DATA)
    genes = np.sort(np.argsort(-adata.X.getnnz(axis=0), kind="stable")[:n_genes])
    chosen = _few(adata, n_cells)[:, genes]
    return ad.AnnData(chosen.X, obs=chosen.obs[_COLUMNS], var=chosen.var[[]])


def _warm_up(run: Callable[[AnnData], Any], adata: AnnData) -> Callable[[], Any]:
    """Return a run on few cells; none if there are no more, since nothing is measured then."""
    if adata.n_obs <= _FEW_CELLS:
        return nothing
    return lambda: run(_few(adata))


def _few(adata: AnnData, n_cells: int = _FEW_CELLS) -> AnnData:
    n_cells = min(n_cells, adata.n_obs)
    return adata[np.linspace(0, adata.n_obs - 1, n_cells).round().astype(int)].copy()


def _target(adata: AnnData) -> str:
    return str(adata.obs["donor"].value_counts().index[0])
