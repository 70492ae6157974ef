"""A small model whose target batch lacks a cell type, and whose genes Seurat would rename.

Usage: python odd_model.py FOLDER
"""

import sys
from pathlib import Path

from scvibridge.models.training.trainer import train
from scvibridge.r.example import simulated_cells

NAMES = {"GENE2": "GENE_2", "GENE3": "GENE|3", "GENE4": "GENE-2"}


def make(folder):
    """Write ``data.h5ad`` and ``model`` to a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    cells = simulated_cells(600)
    cells = cells[(cells.obs["batch"] != "V3") | (cells.obs["cell_type"] != "T")].copy()
    cells.var_names = [NAMES.get(name, name) for name in cells.var_names]
    cells.write_h5ad(folder / "data.h5ad")
    train(
        cells,
        folder / "model",
        batch_key="batch",
        epochs=10,
        seed=0,
        batch_size=64,
        learning_rate=5e-3,
        n_hidden=32,
        n_latent=5,
    )


if __name__ == "__main__":
    make(sys.argv[1])
