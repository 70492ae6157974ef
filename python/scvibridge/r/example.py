"""A small example model: simulated cells and an SCVI trained on them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvibridge.models.training.trainer import train

if TYPE_CHECKING:
    from os import PathLike


BATCHES = ("V1", "V2", "V3")

CELL_TYPES = ("B", "NK", "T")

MEAN_TOTAL = 1000.0

THETA = 4.0


def simulated_cells(n_cells: int = 150, n_genes: int = 60, seed: int = 0) -> ad.AnnData:
    """Simulate negative binomial counts of three batches and three cell types.

    Returns
    -------
    AnnData with X = counts (cells x genes, CSR, float32) and obs ``batch``, ``cell_type`` and
    ``condition``.
    """
    rng = np.random.default_rng(seed)
    batch = rng.integers(len(BATCHES), size=n_cells)
    cell_type = rng.integers(len(CELL_TYPES), size=n_cells)
    log_rate = (
        rng.normal(size=n_genes)
        + rng.normal(size=(len(CELL_TYPES), n_genes))[cell_type]
        + rng.normal(scale=0.5, size=(len(BATCHES), n_genes))[batch]
    )
    rate = np.exp(log_rate)
    depth = MEAN_TOTAL * np.exp(rng.normal(scale=0.3, size=n_cells))
    mean = depth[:, None] * rate / rate.sum(axis=1, keepdims=True)
    counts = rng.poisson(rng.gamma(THETA, mean / THETA)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.array(BATCHES)[batch]),
            "cell_type": pd.Categorical(np.array(CELL_TYPES)[cell_type]),
            "condition": pd.Categorical(np.where(rng.random(n_cells) < 0.5, "ctrl", "stim")),
        },
        index=[f"cell{i + 1}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{i + 1}" for i in range(n_genes)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)


def write_example(folder: str | PathLike[str], epochs: int = 3) -> dict[str, str]:
    """Write simulated cells and a model trained on them.

    Parameters
    ----------
    folder
        Output folder; created if it does not exist.
    epochs
        Number of training epochs. The default is small, for speed rather than a good fit.

    Returns
    -------
    dict with the paths ``model`` (a folder, for :func:`scvibridge.load`) and ``adata`` (h5ad).

    Raises
    ------
    FileExistsError
        If one of them exists.
    """
    folder = Path(folder).expanduser()
    paths = {"model": str(folder / "model"), "adata": str(folder / "data.h5ad")}
    for path in paths.values():
        if Path(path).exists():
            raise FileExistsError(f"dir: {path} exists: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    cells = simulated_cells()
    cells.write_h5ad(paths["adata"])
    train(
        cells,
        folder / "model",
        batch_key="batch",
        epochs=epochs,
        seed=0,
        batch_size=64,
        learning_rate=5e-3,
        n_hidden=32,
        n_latent=5,
    )
    return paths
