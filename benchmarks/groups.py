"""The measurements: groups of contenders, the rows of the table, and the goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.contenders import DEPTH, LABELS
from benchmarks.contest import Contender
from benchmarks.figures import Row
from benchmarks.functions import contest_of_first_calls, contest_of_functions
from benchmarks.inputs import KINDS_OF_FILES, Inputs, Training
from benchmarks.simulation import Simulation
from benchmarks.workflow import workflow_contest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_OURS = "benchmarks.contenders:"
_HANDOVER = "benchmarks.handover:"


@dataclass(frozen=True)
class Scale:
    """Size of the cases: that of the goals, or just enough to test the code.

    Attributes
    ----------
    cells, posterior_cells, genes, rounds
        Cases in memory; `posterior_cells` for many samples of z, which scvi-tools holds in memory.
    many_cells, fewer_cells, dask_cells, own_cells, many_genes, long_rounds
        Cases on disk: the large one, the one it is compared with, that of Dask (only the client
        computes estimates, so fewer cells would mostly measure those), and the model's cells.
    nonzeros
        Nonzeros passed to R.
    known_genes, all_genes
        Number of genes for training, and of genes after extension.
    real_cells, real_genes, real_epochs
        Maximum number of Kang's cells and genes for the way from R to R, and training epochs.
    every_task
        Whether all tasks of that way run, with both kinds of R objects each; otherwise only the
        whole way and that with a loaded model, with one kind each.
    workers, processes
        Numbers of Dask workers, the lowest first, and whether each is a process.
    function_cells
        The two numbers of cells for each public function.
    report_cells
        Number of cells of a large report.
    compiles
        Whether the first call on a machine is measured, which compiles all kernels, and all
        figures of a later process; otherwise one of these. Only then, each function is called once
        before it is measured.
    start_method
        How processes are started (`benchmarks.contest.compete`). Forked ones, which need not import
        the packages, compute on one thread, so that they measure nothing.
    """

    cells: int
    posterior_cells: int
    genes: int
    rounds: int
    many_cells: int
    fewer_cells: int
    dask_cells: int
    own_cells: int
    many_genes: int
    long_rounds: int
    nonzeros: int
    known_genes: int
    all_genes: int
    real_cells: int
    real_genes: int
    real_epochs: int
    every_task: bool
    workers: tuple[int, ...]
    processes: bool
    function_cells: tuple[int, int]
    report_cells: int
    compiles: bool
    start_method: str

    def in_memory(self, n_cells: int | None = None) -> Simulation:
        """Return the cells of the cases in memory; about 21 % of their counts are nonzero."""
        return Simulation(n_cells or self.cells, self.genes, mean_total=1e4, gene_sd=2.2)

    def on_disk(self, n_cells: int) -> Simulation:
        """Return the cells of the cases on disk; about 9 % of their counts are nonzero."""
        return Simulation(n_cells, self.many_genes, mean_total=3e3, gene_sd=2.2)

    def of_some_genes(self, n_cells: int) -> Simulation:
        """Return cells with twice as many genes as a model."""
        return Simulation(n_cells, 2 * self.known_genes, mean_total=3e3, gene_sd=1.7)

    def of_all_genes(self, n_cells: int) -> Simulation:
        """Return cells with all genes; about 5 % of their counts are nonzero."""
        return Simulation(n_cells, self.all_genes, mean_total=3e3, gene_sd=1.7)


SCALES = {
    "full": Scale(
        cells=8000,
        posterior_cells=4000,
        genes=8000,
        rounds=5,
        many_cells=200_000,
        fewer_cells=20_000,
        dask_cells=80_000,
        own_cells=4000,
        many_genes=10_000,
        long_rounds=3,
        nonzeros=10_000_000,
        known_genes=2000,
        all_genes=32_000,
        real_cells=100_000,
        real_genes=100_000,
        real_epochs=5,
        every_task=True,
        workers=(1, 2, 4),
        processes=True,
        function_cells=(5000, 20_000),
        report_cells=100_000,
        compiles=True,
        start_method="spawn",
    ),
    "small": Scale(
        cells=400,
        posterior_cells=200,
        genes=300,
        rounds=1,
        many_cells=1200,
        fewer_cells=400,
        dask_cells=400,
        own_cells=300,
        many_genes=200,
        long_rounds=1,
        nonzeros=20_000,
        known_genes=80,
        all_genes=700,
        real_cells=1200,
        real_genes=300,
        real_epochs=1,
        every_task=False,
        workers=(1, 2),
        processes=False,
        function_cells=(400, 400),  # one size is enough to check that the code works
        report_cells=400,
        compiles=False,
        start_method="forkserver",
    ),
}


@dataclass(frozen=True)
class Group:
    """Contenders that run in turns, and the rows that are computed from their runs.

    Attributes
    ----------
    contenders, rows
        The contenders and the rows.
    rounds, fresh
        Number of runs of each contender, and whether each run has a separate process.
    """

    contenders: list[Contender]
    rows: list[Row]
    rounds: int
    fresh: bool


def counts(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Compare sampled counts with scvi-tools and with the floor."""
    given = _in_memory(scale, inputs)
    sampled = {**given, "method": "sample", "library_size": DEPTH}
    size = f"{scale.cells} x {scale.genes}"
    contenders = [
        Contender("sample", f"{_OURS}corrected_counts", sampled),
        Contender("quantile", f"{_OURS}corrected_counts", {**given, "labels_key": LABELS}),
        Contender("scvi-tools: expression, draw, CSR", f"{_OURS}upstream_recipe", given),
        Contender("scvi-tools: predictive", f"{_OURS}upstream_posterior_predictive", given),
        Contender("scvi-tools: expression", f"{_OURS}upstream_expression", given),
        Contender("floor", f"{_OURS}floor", given),
    ]
    ours, quantile, recipe, predictive, expression, floor = (c.name for c in contenders)
    rows = [
        Row(
            f'`corrected_counts(method="sample")`, times faster than get_normalized_expression + '
            f"draw with torch + CSR, {size}",
            "seconds",
            recipe,
            ours,
            at_least=8,
        ),
        Row(
            "the same, times faster than posterior_predictive_sample",
            "seconds",
            predictive,
            ours,
            at_least=10,
        ),
        Row(
            "the same, time over that of get_normalized_expression alone",
            "seconds",
            ours,
            expression,
            at_most=1,
        ),
        Row(
            "`corrected_counts()` (quantile, by label), time over that of "
            "get_normalized_expression alone",
            "seconds",
            quantile,
            expression,
            at_most=1,
        ),
        Row(
            "`sample`, time over the floor (matrix product of the decoder's last layer, and exp)",
            "seconds",
            ours,
            floor,
            at_most=4,
        ),
    ]
    return Group(contenders, rows, scale.rounds, fresh=False)


def methods(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Compare quantile mapping with sampling."""
    given = _in_memory(scale, inputs)
    settings = {
        "sample": {"method": "sample"},
        "quantile, cell": {"effect": "cell"},
        "quantile, label": {"effect": "label", "labels_key": LABELS},
        "quantile, global": {"effect": "global"},
    }
    contenders = [
        Contender(name, f"{_OURS}corrected_counts", {**given, **setting})
        for name, setting in settings.items()
    ]
    limits = {"quantile, cell": 1.5, "quantile, label": 1.3, "quantile, global": 1.3}
    rows = [
        Row(f"{name} effect, time over `sample`", "seconds", name, "sample", at_most=limit)
        for name, limit in limits.items()
    ]
    return Group(contenders, rows, scale.rounds, fresh=False)


def streaming(scale: Scale, inputs: Inputs, scratch: Path) -> Group:
    """Compare a large file with a smaller one, both streamed to h5ad."""
    given = {**_on_disk(scale, inputs), "out": str(scratch / "streamed.h5ad")}
    contenders = [
        Contender(
            f"{n_cells} cells",
            f"{_OURS}streamed_counts",
            {**given, "cells": inputs.cells(scale.on_disk(n_cells))},
        )
        for n_cells in (scale.fewer_cells, scale.many_cells)
    ]
    fewer, many = (c.name for c in contenders)
    for kind, shown in KINDS_OF_FILES.items():
        path = inputs.converted(inputs.cells(scale.on_disk(scale.fewer_cells)), kind)
        name = f"{fewer}, {shown}"
        contenders.append(Contender(name, f"{_OURS}streamed_counts", {**given, "cells": path}))
    what = f"{scale.many_cells} x {scale.many_genes} streamed from h5ad to h5ad"
    against = f"over that of {scale.fewer_cells} x {scale.many_genes}"
    rows = [
        Row(f"{what}, peak memory {against}", "peak", many, fewer, at_most=1.1),
        Row("the same, peak memory over the loaded model", "extra", many, at_most=2e9),
        Row(f"the same, time per cell {against}", "seconds_per_cell", many, fewer, at_most=1.1),
    ]
    rows += [
        Row(
            f"{scale.fewer_cells} x {scale.many_genes} streamed from {shown}, time over that from "
            "h5ad by cell",
            "seconds",
            f"{fewer}, {shown}",
            fewer,
        )
        for shown in KINDS_OF_FILES.values()
    ]
    return Group(contenders, rows, scale.long_rounds, fresh=True)


def dask(scale: Scale, inputs: Inputs, scratch: Path) -> Group:
    """Compare two Dask workers with one; measure what is not divided among the most workers."""
    given = {
        **_on_disk(scale, inputs),
        "cells": inputs.cells(scale.on_disk(scale.dask_cells)),
        "processes": scale.processes,
    }
    contenders = [
        Contender(
            "1 Dask worker" if workers == 1 else f"{workers} Dask workers",
            f"{_OURS}dask_counts",
            {**given, "out": str(scratch / f"dask-{workers}.zarr"), "workers": workers},
        )
        for workers in scale.workers
    ]
    names = [c.name for c in contenders]
    one, two, most = names[0], names[1], names[-1]
    size = f"{scale.dask_cells} cells"
    rows = [
        Row(
            f"2 Dask workers, times faster than 1 (one thread each), {size}",
            "seconds",
            one,
            two,
            at_least=1.7,
        ),
        Row(
            f"{most}, share of the CPU time of the client while no worker has a task, {size}",
            "serial_share",
            most,
            at_most=0.1,
        ),
        Row("the same, share of the time in which a worker has no task", "idle_share", most),
    ]
    return Group(contenders, rows, scale.long_rounds, fresh=False)


def handover(scale: Scale, _: Inputs, __: Path) -> Group:
    """Compare AnnData to SingleCellExperiment with anndata2ri."""
    given = {"nonzeros": scale.nonzeros}
    contenders = [
        Contender("scvibridge to SCE", f"{_HANDOVER}scvibridge_to_sce", given),
        Contender("anndata2ri to SCE", f"{_HANDOVER}anndata2ri_to_sce", given),
    ]
    ours, theirs = (c.name for c in contenders)
    what = f"AnnData to SingleCellExperiment, 2 matrices of {scale.nonzeros / 1e6:g} M nonzeros"
    rows = [
        Row(f"{what}, times faster than anndata2ri", "seconds", theirs, ours, at_least=8),
        Row(f"{what}, rise of memory over the R object", "rise_over_object", ours, at_most=2.5),
        Row("the same by anndata2ri", "rise_over_object", theirs),
    ]
    return Group(contenders, rows, scale.long_rounds, fresh=True)


def posterior(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Compare normalized expression averaged over samples of z with scvi-tools."""
    given = {
        "model": inputs.model(_training(scale.in_memory())),
        "cells": inputs.cells(scale.in_memory(scale.posterior_cells)),
    }
    ours, theirs = "normalized_expression", "scvi-tools: expression"
    contenders = [
        Contender(f"{name}, {n} draws", _OURS + function, {**given, "n_samples": n})
        for n in (5, 25)
        for name, function in ((ours, "normalized_expression"), (theirs, "upstream_expression"))
    ]
    what = f"n_samples=25, {scale.posterior_cells} x {scale.genes}"
    many, few = "25 draws", "5 draws"
    rows = [
        Row(
            f"{what}, time over scvi-tools'",
            "seconds",
            f"{ours}, {many}",
            f"{theirs}, {many}",
            at_most=1,
        ),
        Row(
            f"{what}, memory over the loaded model, against that of n_samples=5",
            "extra",
            f"{ours}, {many}",
            f"{ours}, {few}",
            at_most=1.1,
        ),
        Row("the same for scvi-tools", "extra", f"{theirs}, {many}", f"{theirs}, {few}"),
    ]
    return Group(contenders, rows, scale.long_rounds, fresh=True)


def support(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Measure the support of many cells, and the choice of a target batch."""
    given = {
        "model": _on_disk(scale, inputs)["model"],
        "cells": inputs.cells(scale.on_disk(scale.many_cells)),
    }
    one, every = "batch_support", "choose_batch"
    contenders = [Contender(name, f"{_OURS}{name}", given) for name in (one, every)]
    size = f"{scale.many_cells} x {scale.many_genes}"
    rows = [
        Row(f"`batch_support()`, {size}, encoding included", "seconds", one, at_most=120),
        Row("`choose_batch()` among 3 batches, the same cells", "seconds", every),
    ]
    return Group(contenders, rows, scale.long_rounds, fresh=True)


def extend(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Add genes from a file that would not fit into the available memory."""
    own = scale.of_all_genes(scale.own_cells)
    given = {
        "model": inputs.model(Training(own, epochs=3, n_genes=scale.known_genes)),
        "own": inputs.cells(own),
        # Memory is that of one pass through the cells, regardless of the number of passes.
        "max_epochs": 1,
    }
    contenders = [
        Contender(
            f"{n_cells} cells",
            f"{_OURS}extended",
            {**given, "cells": inputs.cells(scale.of_all_genes(n_cells))},
        )
        for n_cells in (scale.fewer_cells, scale.many_cells)
    ]
    many = contenders[-1].name
    n_added = scale.all_genes - scale.known_genes
    what = f"`extend_genes()` by {n_added} genes, {scale.many_cells} cells in an h5ad, one epoch"
    rows = [
        Row(f"{what}, peak memory of the process", "peak", many, at_most=4e9),
        Row("the same, seconds", "seconds", many, at_most=140),
    ]
    return Group(contenders, rows, 1, fresh=True)


def workflow(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Compare the whole way from R object to R object with AnnData to AnnData."""
    size = {"n_cells": scale.real_cells, "n_genes": scale.real_genes}
    folder, epochs = str(inputs.folder), scale.real_epochs
    contenders, rows = workflow_contest(folder, size, epochs, scale.every_task)
    return Group(contenders, rows, scale.long_rounds, fresh=True)


def functions(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Measure each public function at two sizes."""
    own = scale.of_some_genes(scale.own_cells)
    model = inputs.model(Training(own, epochs=3, n_genes=scale.known_genes))
    sizes = {
        n_cells: inputs.cells(scale.of_some_genes(n_cells)) for n_cells in scale.function_cells
    }
    of_report = inputs.cells(scale.of_some_genes(scale.report_cells))
    contest = contest_of_functions(model, sizes, of_report, warm=scale.compiles)
    return Group(*contest, 1, fresh=True)


def first_call(scale: Scale, inputs: Inputs, _: Path) -> Group:
    """Measure the first call of a process, with and without compiled kernels."""
    own = scale.on_disk(scale.own_cells)
    given = inputs.model(_training(own)), inputs.cells(own)
    return Group(*contest_of_first_calls(*given, scale.compiles), scale.long_rounds, fresh=True)


GROUPS: dict[str, Callable[[Scale, Inputs, Path], Group]] = {
    "counts": counts,
    "methods": methods,
    "streaming": streaming,
    "dask": dask,
    "handover": handover,
    "workflow": workflow,
    "posterior": posterior,
    "support": support,
    "extend": extend,
    "functions": functions,
    "first-call": first_call,
}


def _in_memory(scale: Scale, inputs: Inputs) -> dict[str, str]:
    cells = scale.in_memory()
    return {"model": inputs.model(_training(cells)), "cells": inputs.cells(cells)}


def _on_disk(scale: Scale, inputs: Inputs) -> dict[str, str]:
    own = scale.on_disk(scale.own_cells)
    return {"model": inputs.model(_training(own)), "own": inputs.cells(own)}


def _training(cells: Simulation) -> Training:
    return Training(cells, epochs=3)
