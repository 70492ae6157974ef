"""A result with more nonzeros than R's integers can count, of which hardly any are on the disk."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp

N_GENES, N_CELLS = 50_000, 60_000
NONZEROS_OF_CELL = 40_000
LAST = 3


def write(path: str) -> None:
    """Write 60,000 cells with 40,000 nonzeros each; those of all but the last three are no data.

    HDF5 keeps no room for parts of a dataset that were never written.
    """
    adata = ad.AnnData(sp.csr_matrix((N_CELLS, N_GENES), dtype="int32"))
    adata.obs_names = [f"cell{i}" for i in range(N_CELLS)]
    adata.var_names = [f"GENE{i}" for i in range(N_GENES)]
    adata.obs["group"] = np.arange(N_CELLS) % 2
    adata.uns["scvibridge"] = {"kind": "corrected_counts"}
    adata.write_h5ad(path)
    n_nonzeros = N_CELLS * NONZEROS_OF_CELL
    with h5py.File(path, "r+") as file:
        group = file["X"]
        del group["data"], group["indices"], group["indptr"]
        group["indptr"] = np.arange(N_CELLS + 1, dtype="int64") * NONZEROS_OF_CELL
        for name, values in last_cells().items():
            dataset = group.create_dataset(
                name, (n_nonzeros,), dtype="int32", chunks=(2**16,), compression="gzip"
            )
            dataset[-len(values) :] = values


def last_cells() -> dict[str, np.ndarray]:
    """Positions and values of the last cells."""
    rng = np.random.default_rng(0)
    genes = [np.sort(rng.permutation(N_GENES)[:NONZEROS_OF_CELL]) for _ in range(LAST)]
    values = rng.integers(1, 100, LAST * NONZEROS_OF_CELL)
    return {"indices": np.concatenate(genes), "data": values}


def expected() -> sp.csr_matrix:
    """Give the last cells, cells x genes."""
    parts = last_cells()
    pointers = np.arange(LAST + 1) * NONZEROS_OF_CELL
    return sp.csr_matrix((parts["data"], parts["indices"], pointers), shape=(LAST, N_GENES))
