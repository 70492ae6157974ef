"""A model of some genes, extended by others.

Fixtures (all of the session; don't change them)
------------------------------------------------
full            cells with all genes, those of the model and those that are added
own_names       the genes of the model
added_names     the others
model           SCVI of the own genes
extended        `model` extended by the others
"""

from __future__ import annotations

import numpy as np
import pytest
from extension import N_GENES, N_OWN, QUIET

import scvibridge as sb


@pytest.fixture(scope="session")
def full(simulate):
    return simulate(n_cells=300, n_genes=N_GENES, seed=5)


@pytest.fixture(scope="session")
def own_names(full):
    chosen = np.sort(np.random.default_rng(0).permutation(N_GENES)[:N_OWN])
    return full.var_names[chosen]


@pytest.fixture(scope="session")
def added_names(full, own_names):
    return full.var_names[~full.var_names.isin(own_names)]


@pytest.fixture(scope="session")
def model(full, own_names, train):
    return train(full[:, own_names].copy(), labels_key=None)


@pytest.fixture(scope="session")
def extended(model, full):
    return sb.extend_genes(model, full, max_epochs=12, ridge=0.1, **QUIET)
