"""At home in R: the whole way from an object of R to one, against that of an AnnData in Python.

Kang's cells are found through ``SCVIBRIDGE_TEST_DATA``. R has a process of its own, which makes its
object, warms up and tells its times (home.R).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from benchmarks.contest import Contender
from benchmarks.figures import Row
from benchmarks.task import NotAvailableError, Task

if TYPE_CHECKING:
    from anndata import AnnData

_DATA = "kang_ifnb_pbmc_4k.h5ad"
_CODE = Path(__file__).with_name("home.R")
_R_PACKAGES = ("scvibridge", "SingleCellExperiment", "Seurat", "HDF5Array", "rhdf5")
_COLUMNS = ["donor", "condition", "cell_type"]
_FEW_CELLS = 200
_SEED = 1
_KINDS = {"Seurat": "seurat", "SingleCellExperiment": "sce"}


def home_contest(
    folder: str, size: dict[str, int], epochs: int
) -> tuple[list[Contender], list[Row]]:
    """Give the contenders, Python and both kinds of objects of R, and the rows of their times."""
    given = {"folder": folder, **size}
    tasks = {
        "corrected_counts": ("corrected", given),
        "train_scvi": ("trained", {**given, "epochs": epochs}),
    }
    contenders, rows = [], []
    for name, (function, arguments) in tasks.items():
        python = f"{name}, AnnData"
        contenders.append(Contender(python, f"{__name__}:{function}_in_python", arguments))
        for shown, kind in _KINDS.items():
            in_r = {**arguments, "kind": kind}
            contenders.append(Contender(f"{name}, {shown}", f"{__name__}:{function}_in_r", in_r))
            rows.append(_row(name, shown, python, epochs))
    return contenders, rows


def _row(name: str, shown: str, python: str, epochs: int) -> Row:
    if name == "train_scvi":
        what = f"`train_scvi()` in R of a {shown}, {epochs} epochs, time over that in Python"
        return Row(what, "seconds", f"{name}, {shown}", python)
    what = (
        f"`load_scvi()` and `corrected_counts()` by label in R, {shown} to {shown}, time over that "
        "in Python, AnnData to AnnData"
    )
    return Row(what, "seconds", f"{name}, {shown}", python, at_most=1.3)


def corrected_in_python(folder: str, n_cells: int, n_genes: int) -> Task:
    """``load`` and ``corrected_counts`` by label, from AnnData to AnnData."""
    import scvibridge as sb

    cells, model = _material(Path(folder), n_cells, n_genes)
    adata = ad.read_h5ad(cells)
    target = _target(adata)

    def run(data: AnnData) -> AnnData:
        return sb.corrected_counts(
            sb.load(model, adata=data),
            transform_batch=target,
            labels_key="cell_type",
            condition_key="condition",
            seed=_SEED,
            progress=False,
        )

    def facts(counts: AnnData) -> dict[str, float]:
        return {"n_cells": counts.n_obs, "total": float(counts.X.sum())}

    return Task(lambda: run(adata), warm_up=lambda: run(_few(adata)), facts=facts)


def trained_in_python(folder: str, n_cells: int, n_genes: int, epochs: int) -> Task:
    """``train_scvi`` of an AnnData."""
    import scvibridge as sb

    cells, _ = _material(Path(folder), n_cells, n_genes)
    adata = ad.read_h5ad(cells)

    def run(data: AnnData) -> Any:
        return sb.train_scvi(data, batch_key="donor", max_epochs=epochs, seed=_SEED, progress=False)

    def facts(model: Any) -> dict[str, float]:
        from scvibridge.from_r import describe_training

        training = describe_training(model) or {}
        return {"n_cells": model.adata.n_obs, "loss": training["training_loss"]}

    return Task(lambda: run(adata), warm_up=lambda: run(_few(adata)), facts=facts)


def corrected_in_r(folder: str, n_cells: int, n_genes: int, kind: str) -> Task:
    """``load_scvi()`` and ``corrected_counts()`` by label, from and to an object of a `kind`."""
    return _in_r("correct", Path(folder), n_cells, n_genes, kind, 0)


def trained_in_r(folder: str, n_cells: int, n_genes: int, kind: str, epochs: int) -> Task:
    """``train_scvi()`` of an object of a `kind`, "sce" or "seurat"."""
    return _in_r("train", Path(folder), n_cells, n_genes, kind, epochs)


def _in_r(task: str, folder: Path, n_cells: int, n_genes: int, kind: str, epochs: int) -> Task:
    _need_r()
    cells, model = _material(folder, n_cells, n_genes)
    target = _target(ad.read_h5ad(cells, backed="r"))
    process = _RProcess([task, kind, cells, model, epochs, target, _SEED])
    return Task(
        process.run,
        warm_up=process.wait_until_ready,
        seconds=lambda told: told["seconds"],
        facts=lambda told: {name: told[name] for name in told if name != "seconds"},
        close=process.close,
    )


class _RProcess:
    """An R that runs when it is told to, and tells what came of it."""

    def __init__(self, arguments: list[object]) -> None:
        self._process = subprocess.Popen(
            ["Rscript", _CODE, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write: Any = self._process.stdin
        self._read: Any = self._process.stdout

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
        """Give the next line that home.R marks as its own: packages may print others."""
        for line in self._read:
            if line.startswith("home:"):
                return line.removeprefix("home:").strip()
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


def _material(folder: Path, n_cells: int, n_genes: int) -> tuple[str, str]:
    """Paths of cells and of a model trained on them for a few epochs; made once."""
    import scvibridge as sb
    from scvibridge.files import write_h5ad

    cells, model = (folder / f"kang-{n_cells}-{n_genes}{end}" for end in (".h5ad", "-model"))
    if not cells.is_file():
        write_h5ad(_kang(n_cells, n_genes), cells)
    if not model.is_dir():
        sb.train_scvi(
            cells, batch_key="donor", max_epochs=3, seed=_SEED, save=model, progress=False
        )
    return str(cells), str(model)


def _kang(n_cells: int, n_genes: int) -> AnnData:
    """Cells of all donors and the genes that most of them show; all where there are not more."""
    named = os.environ.get("SCVIBRIDGE_TEST_DATA")
    if not named or not (Path(named) / _DATA).is_file():
        raise NotAvailableError(f"SCVIBRIDGE_TEST_DATA names no folder with {_DATA}")
    adata = ad.read_h5ad(Path(named) / _DATA)
    genes = np.sort(np.argsort(-adata.X.getnnz(axis=0), kind="stable")[:n_genes])
    chosen = _few(adata, n_cells)[:, genes]
    return ad.AnnData(chosen.X, obs=chosen.obs[_COLUMNS], var=chosen.var[[]])


def _few(adata: AnnData, n_cells: int = _FEW_CELLS) -> AnnData:
    n_cells = min(n_cells, adata.n_obs)
    return adata[np.linspace(0, adata.n_obs - 1, n_cells).round().astype(int)].copy()


def _target(adata: AnnData) -> str:
    return str(adata.obs["donor"].value_counts().index[0])
