"""Conversion to R: AnnData to SingleCellExperiment, compared with anndata2ri.

``python -m benchmarks.handover --nonzeros 1e6`` runs only this comparison.
"""

from __future__ import annotations

import argparse
import warnings
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from benchmarks.contest import Contender, compete
from benchmarks.task import NotAvailableError, Task

if TYPE_CHECKING:
    from collections.abc import Callable

_GENES = 2000
_NONZEROS_OF_CELL = 200
_WARM_UP_NONZEROS = 4000
_SEED = 1


def scvibridge_to_sce(nonzeros: int) -> Task:
    """Convert with ``scvibridge.r.to_sce``; each of the two matrices has `nonzeros` nonzeros."""
    import scvibridge as sb

    return _task(nonzeros, sb.r.to_sce)


def anndata2ri_to_sce(nonzeros: int) -> Task:
    """Convert the same AnnData with anndata2ri, as in its documentation."""
    try:
        import anndata2ri
        from rpy2 import robjects
    except ImportError as error:
        raise NotAvailableError(f"anndata2ri is not installed: {error}") from error
    converter = robjects.default_converter + anndata2ri.converter

    def convert(adata: AnnData) -> Any:
        with converter.context() as context:
            return context.py2rpy(adata)

    return _task(nonzeros, convert)


def _task(nonzeros: int, convert: Callable[[AnnData], Any]) -> Task:
    adata, little = simulate_result(nonzeros), simulate_result(_WARM_UP_NONZEROS)
    try:
        convert(little)  # R is running and its packages are loaded: their memory does not count
    except ImportError as error:
        raise NotAvailableError(str(error)) from error
    return Task(lambda: convert(adata), warm_up=lambda: convert(little), facts=_facts)


def simulate_result(nonzeros: int) -> AnnData:
    """Simulate a result of ``corrected_counts``, with two matrices of `nonzeros` nonzeros each."""
    rng = np.random.default_rng(_SEED)
    n_cells = max(1, nonzeros // _NONZEROS_OF_CELL)
    adata = AnnData(_simulate_counts(rng, n_cells))
    adata.layers["raw_counts"] = _simulate_counts(rng, n_cells)
    adata.obs_names = [f"CELL{i:08d}-1" for i in range(n_cells)]
    adata.var_names = [f"GENE{i}" for i in range(_GENES)]
    adata.obs["batch"] = pd.Categorical.from_codes(np.arange(n_cells) % 3, ["V1", "V2", "V3"])
    adata.obs["scvibridge_depth_ratio"] = rng.random(n_cells)
    adata.obs["scvibridge_empty"] = rng.random(n_cells) < 0.01
    adata.obsm["X_scvi"] = rng.random((n_cells, 10), dtype=np.float32)
    adata.uns["scvibridge"] = {"kind": "corrected_counts", "transform_batch": "V3"}
    return adata


def _simulate_counts(rng: np.random.Generator, n_cells: int) -> sp.csr_matrix:
    """Simulate counts at one random gene of each run of neighbours, so positions are sorted."""
    gap = _GENES // _NONZEROS_OF_CELL
    first = np.arange(0, _GENES, gap, dtype=np.int32)
    genes = first + rng.integers(0, gap, (n_cells, len(first)), dtype=np.int32)
    counts = rng.geometric(0.4, genes.size).astype(np.int32)
    pointers = np.arange(0, genes.size + 1, len(first), dtype=np.int32)
    return sp.csr_matrix((counts, genes.ravel(), pointers), shape=(n_cells, _GENES))


def _facts(sce: Any) -> dict[str, Any]:
    from rpy2 import robjects

    described = robjects.r(
        """function(sce) {
          assays <- SummarizedExperiment::assays(sce)
          list(as.numeric(object.size(sce)), sum(sapply(assays, sum)), dim(sce))
        }"""
    )(sce)
    object_bytes, total, (n_genes, n_cells) = described[0][0], described[1][0], described[2]
    return {
        "object_bytes": object_bytes,
        "total": total,
        "n_genes": int(n_genes),
        "n_cells": int(n_cells),
    }


def main() -> None:
    """Run both contenders and print times, their ratio, and the memory increase."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.handover", description=__doc__)
    parser.add_argument("--nonzeros", type=float, default=1e7, help="of each of two matrices")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender")
    given = parser.parse_args()
    functions = ("scvibridge_to_sce", "anndata2ri_to_sce")
    arguments = {"nonzeros": int(given.nonzeros)}
    contenders = [Contender(name, f"benchmarks.handover:{name}", arguments) for name in functions]
    outcomes = compete(contenders, given.rounds, fresh=True)
    seconds = {}
    for name, outcome in outcomes.items():
        if outcome.error is not None:
            print(f"{name}: {outcome.error}")
            continue
        seconds[name] = median(run["seconds"] for run in outcome.runs)
        rises = [
            (run["peak_bytes"] - run["start_bytes"]) / run["facts"]["object_bytes"]
            for run in outcome.runs
        ]
        print(f"{name}: {seconds[name]:.3f} s, memory rises by {max(rises):.2f} x the R object")
    if len(seconds) == len(functions):
        print(f"times faster: {seconds[functions[1]] / seconds[functions[0]]:.1f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
