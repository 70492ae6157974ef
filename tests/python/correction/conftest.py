"""Cells with the groups and genes that corrected counts treat apart, and models of them.

Fixtures (all of the session; don't change them)
------------------------------------------------
data            cells with a small group, an empty cell and genes that a batch lacks
models          models of each likelihood and dispersion by name; each is trained when first used
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp


@pytest.fixture(scope="session")
def data(simulate):
    adata = simulate(n_cells=330, n_genes=60)
    counts = adata.X.toarray()
    counts[adata.obs["batch"] == "V1", 5] = 0  # not seen in one batch
    counts[3] = 0  # a cell without counts
    counts[adata.obs["batch"] == "V2", 6] = 0
    adata.X = sp.csr_matrix(counts)
    rare = (adata.obs["batch"] == "V3") & (adata.obs["cell_type"] == "NK")
    drop = adata.obs_names[rare][8:]  # a group under 20 cells
    return adata[~adata.obs_names.isin(drop)].copy()


@pytest.fixture(scope="session")
def models(data, train):
    setups = {
        "nb": {},
        "zinb": {"gene_likelihood": "zinb"},
        "poisson": {"gene_likelihood": "poisson"},
        "gene-batch": {"dispersion": "gene-batch"},
        "gene-cell": {"dispersion": "gene-cell"},
        "gene-label": {"dispersion": "gene-label"},
    }
    full = data[np.asarray(data.X.sum(axis=1)).ravel() > 0]

    class Trained(dict):
        def __missing__(self, name):
            self[name] = train(full.copy(), max_epochs=12, seed=4, **setups[name])
            return self[name]

    return Trained()
