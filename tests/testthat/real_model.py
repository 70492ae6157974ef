"""A small model of some genes of real cells.

Usage: python real_model.py DATA.h5ad FOLDER
"""

import sys
from pathlib import Path

import anndata as ad
import numpy as np

from scvibridge.models.training.trainer import train


def make(data, folder, n_cells=1000, n_genes=300):
    """Write ``data.h5ad``, some cells with 1,000 genes, and ``model`` of 300 of them."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    cells = ad.read_h5ad(data)
    chosen = np.sort(np.random.default_rng(0).choice(cells.n_obs, n_cells, replace=False))
    most_seen = np.argsort(-np.asarray((cells.X > 0).sum(axis=0)).ravel(), kind="stable")
    cells = cells[chosen, np.sort(most_seen[:1000])].copy()
    cells.write_h5ad(folder / "data.h5ad")
    train(
        cells[:, ::3][:, :n_genes].copy(),
        folder / "model",
        batch_key="batch",
        epochs=5,
        seed=0,
        batch_size=128,
        learning_rate=5e-3,
        n_hidden=32,
        n_latent=5,
    )


if __name__ == "__main__":
    make(*sys.argv[1:])
