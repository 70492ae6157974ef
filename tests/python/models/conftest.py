"""Models that scvi-tools saved.

Fixtures
--------
cells           function: the cells of the saved models, made anew (scvi-tools writes to them)
multimodal      function: the same cells as MuData, made anew
saved           function: the folder of a saved model by its name in `saved_models.MODELS`
victim          the folder of a saved SCVI model, for a test to change
marker          a path at which hostile code leaves a file
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from hostile_pickles import copied
from saved_models import MODELS, N_GENES, N_REGIONS, PROTEINS


@pytest.fixture(scope="session")
def cells(simulate):
    """Make the cells anew: scvi-tools writes to those that it trains on."""

    def make(seed: int = 1) -> ad.AnnData:
        adata = simulate(60, N_GENES, seed=seed)
        rng = np.random.default_rng(seed)
        adata.obs["site"] = pd.Categorical(rng.choice(["x", "y"], 60))
        adata.obs["flag"] = rng.random(60) < 0.5
        adata.obs["age"] = rng.normal(size=60)
        counts = rng.poisson(5, (60, len(PROTEINS))).astype(np.float32)
        adata.obsm["proteins"] = pd.DataFrame(counts, index=adata.obs_names, columns=PROTEINS)
        return adata

    return make


@pytest.fixture(scope="session")
def multimodal(cells):
    def make() -> mudata.MuData:
        rna = cells()
        open_regions = np.random.default_rng(0).poisson(0.5, (60, N_REGIONS)).astype(np.float32)
        modalities = {
            "rna": rna,
            "atac": ad.AnnData(open_regions),
            "protein": ad.AnnData(rna.obsm["proteins"].to_numpy()),
        }
        modalities["atac"].var_names = [f"region_{i}" for i in range(N_REGIONS)]
        modalities["protein"].var_names = PROTEINS
        for part in modalities.values():
            part.obs_names = rna.obs_names
        return mudata.MuData(modalities)

    return make


@pytest.fixture(scope="session")
def saved(cells, multimodal, tmp_path_factory):
    """The folder of a model that scvi-tools trained and saved with its data."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp("saved") / "model"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MODELS[name](cells, multimodal).save(str(folder), save_anndata=True)
        return folder

    return folder_of


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def victim(saved, tmp_path) -> Path:
    return copied(saved("SCVI"), tmp_path)
