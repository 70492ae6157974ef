"""Genes added to a model against a model trained on all genes: held-out likelihood and time.

    dev/env python -m benchmarks.extend [--genes 2000] [--own 500] [--seeds 1]

Cells as in `benchmarks/validity/simulation.py`. The most variable genes train a model, the others
are added to it. Log-likelihoods are of the added genes, per entry, over the cells that no model was
trained on, with a cell's total over all genes as its depth and z at its posterior mean.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.stats
import torch
from anndata import AnnData

import scvibridge as sb
from benchmarks.validity.simulation import simulate
from benchmarks.validity.training import EPOCHS, trained
from scvibridge.head_fit import HeadData, fit_head

QUIET = {"progress": False, "device": "cpu"}


def log_likelihood(counts: np.ndarray, mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Mean log-probability of each gene's counts, by scipy."""
    law = scipy.stats.nbinom.logpmf(counts, theta, theta / (theta + mean))
    return np.asarray(law.mean(axis=0))


def regression(
    cells: AnnData, added: np.ndarray, fit: np.ndarray, judge: np.ndarray, features: np.ndarray
) -> np.ndarray:
    """Likelihood of the added genes under a regression on [1, batch] and features, if any."""
    counts = cells[:, added].X.tocsr()
    features = (features - features[fit].mean(axis=0)) / (features[fit].std(axis=0) + 1e-9)
    total = np.asarray(cells.X.sum(axis=1)).ravel()
    batch = cells.obs["batch"].cat.codes.to_numpy().astype(np.int64)

    def data(rows: np.ndarray) -> HeadData:
        return HeadData(
            torch.as_tensor(features[rows]).float(),
            torch.as_tensor(batch[rows]),
            2,
            torch.as_tensor(np.log(total[rows])).float(),
            lambda some: counts[rows[some]].astype(np.int32),
            len(added),
        )

    with torch.inference_mode():
        found = fit_head(data(fit), data(judge), "nb", "gene", 0.01, 20, 0).parameters
        held_out = data(judge)
        mean = found.log_mean(held_out.features, held_out.batch, held_out.log_total).exp()
    theta = found.log_theta.exp()[0].numpy().astype(float)
    return log_likelihood(counts[judge].toarray(), mean.numpy().astype(float), theta)


def most_variable(cells: AnnData, n_genes: int) -> np.ndarray:
    """Positions of the genes whose variance exceeds their mean most, on the log scale."""
    counts = cells.X.toarray()
    mean, variance = counts.mean(axis=0), counts.var(axis=0)
    score = np.log((variance + 1e-9) / (mean + 1e-9))
    return np.sort(np.argsort(-score)[:n_genes])


def compare(seed: int, options: argparse.Namespace, folder: Path) -> dict[str, tuple]:
    """Likelihoods by gene and seconds of each way."""
    cells, _ = simulate(
        "balanced", seed, cells_per_donor=options.cells_per_donor, n_genes=options.genes
    )
    own = most_variable(cells, options.own)
    added = np.setdiff1d(np.arange(cells.n_vars), own)
    given = {"batch_key": "batch", "seed": seed, "epochs": options.epochs}
    model = trained(cells[:, own].copy(), folder / f"own{seed}", **given)
    start = time.perf_counter()
    whole = trained(cells.copy(), folder / f"all{seed}", **given)
    seconds = {"all genes": time.perf_counter() - start}
    start = time.perf_counter()
    extended = sb.extend_genes(model, cells, seed=seed, **QUIET)
    seconds["extended"] = time.perf_counter() - start
    print(extended, flush=True)
    fit, judge = np.sort(model.train_indices), np.sort(model.validation_indices)
    if not np.array_equal(judge, np.sort(whole.validation_indices)):
        raise RuntimeError("the two models held out different cells")
    counts = cells[judge, added].X.toarray()
    names = cells.var_names[added]
    total = np.asarray(cells.X.sum(axis=1)).ravel()[judge]
    shares = sb.denoised_expression(whole, indices=judge, library_size=1.0, **QUIET)[:, names].X
    theta = whole.module.px_r.detach().exp().numpy().astype(float)[added]
    means = sb.denoised_expression(extended, indices=judge, **QUIET)[:, names].X
    own_theta = extended.quality["theta"].loc[names].to_numpy()
    latent = sb.denoised_expression(model, gene_list=list(model.adata.var_names[:1]), **QUIET)
    nothing = np.zeros((cells.n_obs, 1))
    found = {
        "all genes": log_likelihood(counts, shares * total[:, None], theta),
        "extended": log_likelihood(counts, means, own_theta),
        "[1, batch, z]": regression(cells, added, fit, judge, latent.obsm["X_scvi"]),
        "[1, batch]": regression(cells, added, fit, judge, nothing),
    }
    return {name: (values, seconds.get(name)) for name, values in found.items()}


def describe(seed: int, found: dict[str, tuple]) -> None:
    """Print a line for each way: likelihood, paired difference to the full model, seconds."""
    full, full_seconds = found["all genes"]
    for name, (values, seconds) in found.items():
        difference = values - full
        error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
        timed = "" if seconds is None else f"{seconds:.1f} s ({seconds / full_seconds:.2f})"
        print(
            f"| {seed} | {name} | {values.mean():.4f} | "
            f"{difference.mean():+.4f} +- {error:.4f} | {timed} |",
            flush=True,
        )


def main() -> None:
    """Run the comparison for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells-per-donor", type=int, default=300)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--own", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            describe(seed, compare(seed, options, Path(folder)))


if __name__ == "__main__":
    main()
