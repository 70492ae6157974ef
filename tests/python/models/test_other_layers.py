"""Results whose other layers, or ``raw``, got the corrected counts before X was normalised."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import scvibridge as sb
from scvibridge.io.unchanged import check_unchanged

TRAIN = {"n_top_genes": None, "max_epochs": 2, "progress": False}
QUIET = {"transform_batch": "V3", "library_size": "observed", "shrinkage": 0, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cells(simulated):
    made = ad.AnnData(
        simulated[:, :30].X.copy(), obs=simulated.obs[["batch"]].copy(), var=simulated.var[:30][[]]
    )
    return made[np.asarray(made.X.sum(axis=1)).ravel() > 0].copy()


def counts_layer(result):
    result.layers["counts"] = result.X.copy()


def raw(result):
    result.raw = result.copy()


@pytest.mark.parametrize(("layer", "keep"), [("counts", counts_layer), ("raw", raw)])
def test_the_raw_counts_of_a_result_are_read(cells, layer, keep):
    given = cells.copy()
    keep(given)
    sc.pp.log1p(given)
    model = sb.train_scvi(given, "batch", layer=layer, **TRAIN)
    result = sb.corrected_counts(model, **QUIET)
    other = result.copy()
    keep(other)
    sc.pp.log1p(other)
    with pytest.warns(UserWarning, match=r"read from its layers\['raw_counts'\], not from"):
        again = sb.corrected_counts(model, adata=other, **QUIET)
    assert (again.layers["raw_counts"] != cells.X).nnz == 0
    assert (again.X != result.X).nnz == 0
    assert (result.X != cells.X).nnz > 0


def test_a_logarithm_of_the_normalized_layer_is_warned_of(trained_model):
    result = sb.corrected_counts(trained_model, normalized=True, **QUIET)
    check_unchanged(result)
    sc.pp.log1p(result, layer="normalized")
    with pytest.warns(UserWarning, match=r"layers\['normalized'\] was changed in place"):
        check_unchanged(result)
