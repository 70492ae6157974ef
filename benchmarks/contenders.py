"""The contenders: scvibridge, scvi-tools used as its documentation recommends, and the floor.

Each function loads what it needs and returns a :class:`benchmarks.task.Task`. Seeds are fixed.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.task import NotAvailableError, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

SEED = 1
TARGET = "V2"
LABELS = "cell_type"
DEPTH = 1e4
_FLOOR_ROWS = 512


# -- scvibridge --------------------------------------------------------------------------------


def corrected_counts(model: str, cells: str, **settings: Any) -> Task:
    """Compute corrected counts in memory; `settings` are further arguments of the function."""
    import scvibridge as sb

    trained = _load(model, cells)

    def run() -> AnnData:
        return sb.corrected_counts(
            trained, transform_batch=TARGET, seed=SEED, progress=False, **settings
        )

    return Task(run, facts=lambda result: _facts_of_counts(result.X))


def streamed_counts(model: str, own: str, cells: str, out: str, **settings: Any) -> Task:
    """Stream corrected counts of a file to an h5ad file; `own` are the model's cells.

    The warm-up streams the model's cells.
    """
    import scvibridge as sb

    _need_argument(sb.corrected_counts, "resume", "streaming to a file")
    trained = _load(model, own)

    def stream(path: str) -> AnnData:
        return sb.corrected_counts(
            trained,
            path,
            transform_batch=TARGET,
            labels_key=LABELS,
            out=out,
            seed=SEED,
            progress=False,
            **settings,
        )

    return Task(
        run=lambda: stream(cells),
        warm_up=lambda: stream(own),
        before=lambda: remove(out),
        facts=_facts_of_file,
        close=lambda: remove(out),
    )


def dask_counts(
    model: str, own: str, cells: str, out: str, workers: int, processes: bool, **settings: Any
) -> Task:
    """Compute corrected counts on a LocalCluster of `workers` with one thread each."""
    import scvibridge as sb

    _need_argument(sb.corrected_counts, "client", "Dask")
    from benchmarks.cluster import Observation, start_cluster

    trained = _load(model, own)
    cluster, client = start_cluster(workers, processes=processes)
    observed = Observation(client)

    def distribute(path: str) -> AnnData:
        with observed:
            return sb.corrected_counts(
                trained,
                path,
                transform_batch=TARGET,
                labels_key=LABELS,
                out=out,
                client=client,
                seed=SEED,
                progress=False,
                **settings,
            )

    def close() -> None:
        client.close()
        cluster.close()
        remove(out)

    return Task(
        run=lambda: distribute(cells),
        warm_up=lambda: distribute(own),
        before=lambda: remove(out),
        facts=lambda result: {**_facts_of_file(result), **observed.facts()},
        close=close,
    )


def extended(model: str, own: str, cells: str, max_epochs: int) -> Task:
    """Extend a model to all genes of a file; `own` are the model's cells."""
    import scvibridge as sb

    trained = _load(model, own)

    def extend(path: str) -> Any:
        return sb.extend_genes(
            trained, path, max_epochs=max_epochs, ridge=0.1, device="cpu", progress=False
        )

    return Task(
        run=lambda: extend(cells),
        warm_up=lambda: extend(own),
        facts=lambda found: {"n_cells": found.settings["n_cells"], "n_genes": len(found.genes)},
    )


def normalized_expression(model: str, cells: str, n_samples: int) -> Task:
    """Compute normalized expression at the target, the mean over samples of z."""
    import scvibridge as sb

    trained = _load(model, cells)

    def run(indices: Any = None) -> AnnData:
        return sb.normalized_expression(
            trained,
            transform_batch=TARGET,
            library_size=DEPTH,
            n_samples=n_samples,
            indices=indices,
            seed=SEED,
            progress=False,
        )

    return Task(
        run,
        warm_up=lambda: run(np.arange(100)),
        facts=lambda result: _facts_of_expression(result.X),
    )


def batch_support(model: str, cells: str) -> Task:
    """Compute the support of all cells by the target, compared with each other."""
    import scvibridge as sb

    trained = _load(model, cells)

    def run(indices: Any = None) -> Any:
        return sb.batch_support(
            trained, transform_batch=TARGET, labels_key=LABELS, indices=indices, progress=False
        )

    return Task(
        run, warm_up=lambda: run(np.arange(100)), facts=lambda found: _facts_of_support(found.cells)
    )


def choose_batch(model: str, cells: str) -> Task:
    """Evaluate each batch as the target, on one encoding of all cells."""
    import scvibridge as sb

    trained = _load(model, cells)

    def run() -> Any:
        return sb.choose_batch(trained, labels_key=LABELS, progress=False)

    return Task(run, facts=lambda table: {"n_cells": int(table["n_cells"].sum())})


# -- scvi-tools --------------------------------------------------------------------------------


def upstream_expression(model: str, cells: str, n_samples: int = 1) -> Task:
    """Compute scvi-tools' normalized expression at the target, the mean over samples of z."""
    trained = _load(model, cells)

    def run(indices: Any = None) -> np.ndarray:
        return trained.get_normalized_expression(
            indices=indices,
            transform_batch=TARGET,
            library_size=DEPTH,
            n_samples=n_samples,
            return_mean=True,
            return_numpy=True,
        )

    warm_up = None if n_samples == 1 else lambda: run(np.arange(100))
    return Task(run, warm_up, facts=_facts_of_expression)


def upstream_recipe(model: str, cells: str) -> Task:
    """Run the recommended recipe: expression, sampling with torch, a sparse matrix."""
    import scipy.sparse as sp

    trained = _load(model, cells)

    def run() -> sp.csr_matrix:
        mean = torch.from_numpy(
            trained.get_normalized_expression(
                transform_batch=TARGET, library_size=DEPTH, return_numpy=True
            )
        )
        theta = torch.exp(trained.module.px_r.detach())
        rate = torch.distributions.Gamma(theta, theta / mean).sample()
        return sp.csr_matrix(torch.poisson(rate).numpy())

    return Task(run, facts=_facts_of_counts)


def upstream_posterior_predictive(model: str, cells: str) -> Task:
    """Compute scvi-tools' posterior predictive sample at the target (a `sparse.GCXS`)."""
    trained = _load(model, cells)
    _need_argument(trained.posterior_predictive_sample, "transform_batch", "the counts at a target")

    def run() -> Any:
        return trained.posterior_predictive_sample(transform_batch=TARGET, n_samples=1)

    return Task(run, facts=_facts_of_counts)


# -- the floor ---------------------------------------------------------------------------------


@torch.inference_mode()
def floor(model: str, cells: str) -> Task:
    """Compute the minimum of any decoding: hidden layer times output weights, and one exp."""
    trained = _load(model, cells)
    decoder = trained.module.decoder
    z = torch.as_tensor(trained.get_latent_representation())
    batch = torch.full((len(z), 1), list(trained.adata.obs["batch"].cat.categories).index(TARGET))
    hidden = decoder.px_decoder(z, batch)
    output = decoder.px_scale_decoder[0]

    @torch.inference_mode()
    def run() -> torch.Tensor:
        for rows in hidden.split(_FLOOR_ROWS):
            means = torch.addmm(output.bias, rows, output.weight.T).exp_()
        return means

    return Task(run)


# -- common ------------------------------------------------------------------------------------


def _load(model: str, cells: str) -> Any:
    import scvi

    import scvibridge as sb

    scvi.settings.seed = SEED
    return sb.load(model, adata=cells, device="cpu")


def _need_argument(function: Callable[..., Any], argument: str, what: str) -> None:
    if argument not in inspect.signature(function).parameters:
        raise NotAvailableError(
            f"{what}: {function.__name__} has no argument {argument} in this version"
        )


def remove(path: str) -> None:
    """Remove a result, and what an interrupted run left of it."""
    for target in (Path(path), Path(f"{path}.parts")):
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)


def _facts_of_counts(counts: Any) -> dict[str, Any]:
    n_cells, n_genes = counts.shape
    return {
        "n_cells": n_cells,
        "nonzero_share": counts.nnz / (n_cells * n_genes),
        "mean_total": float(counts.sum()) / n_cells,
    }


def _facts_of_support(cells: Any) -> dict[str, Any]:
    return {"n_cells": len(cells), "supported_share": float(cells["supported"].mean())}


def _facts_of_expression(expression: np.ndarray) -> dict[str, Any]:
    return {
        "n_cells": len(expression),
        "mean_total": float(expression.sum(dtype=np.float64)) / len(expression),
    }


def _facts_of_file(result: AnnData) -> dict[str, Any]:
    """Return facts about a result on disk, reading a thousand cells."""
    return {**_facts_of_counts(result[:1000].to_memory().X), "n_cells": result.n_obs}
