"""Corrected counts block by block: the same whatever draws them, in little memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from count_requests import QUIET, make_request

import scvibridge as sb
from conftest import differing
from scvibridge.correction import corrected_counts as engine
from scvibridge.correction import count_blocks
from scvibridge.correction.reference import choose_reference
from scvibridge.likelihood.backends import DeviceDrawing

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:.*have no sample of at least"),
    pytest.mark.filterwarnings("ignore:there was nothing to correct"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "gene-batch", "gene-cell"])
@pytest.mark.parametrize("effect", ["label", "global", "cell"])
def test_target_cells_are_untouched_without_the_short_cut(models, name, effect):
    model = models[name]
    request = make_request(model, effect=effect, labels_key="cell_type")
    request = replace(request, keep_unchanged=False)
    result = engine.compute(request, choose_reference(request))
    target = (result.obs["batch"] == "V3").to_numpy()
    changed = (result.X[target] != result.layers["raw_counts"][target]).nnz
    assert changed <= 1e-6 * target.sum() * result.n_vars
    elsewhere = (result.X[~target] != result.layers["raw_counts"][~target]).nnz
    assert elsewhere > 0


@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_threads_do_not_matter(models, method):
    arguments = {"transform_batch": "V3", "method": method, **QUIET}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = sb.corrected_counts(models["nb"], **arguments)
        torch.set_num_threads(2)
        two = sb.corrected_counts(models["nb"], **arguments)
    finally:
        torch.set_num_threads(threads)
    assert (one.X != two.X).nnz == 0


@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_counts_are_sorted_int32_csr(models, method):
    result = sb.corrected_counts(models["nb"], transform_batch="V3", method=method, **QUIET)
    for matrix in (result.X, result.layers["raw_counts"]):
        assert sp.isspmatrix_csr(matrix) or isinstance(matrix, sp.csr_array)
        assert matrix.dtype == np.int32
        assert matrix.data.min() > 0
        assert all(
            (np.diff(matrix.indices[a:b]) > 0).all()
            for a, b in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
        )


def test_no_dense_matrix_of_cells_by_genes_is_held(simulate, train):
    """Peak of numpy's memory, against a dense matrix of the result's type."""
    adata = simulate(n_cells=2500, n_genes=3000, mean_total=150)
    model = train(adata, max_epochs=1, n_hidden=16, batch_size=512)
    arguments = {"transform_batch": "V3", "batch_size": 48, **QUIET}
    for method in ("quantile", "sample"):
        sb.corrected_counts(model, indices=[0, 1], method=method, **arguments)  # compile
        tracemalloc.start()
        result = sb.corrected_counts(model, method=method, **arguments)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert result.X.nnz < 0.08 * np.prod(result.shape)
        assert peak < 0.5 * np.prod(result.shape) * 4, method


def test_results_share_no_memory_with_the_data(models):
    model = models["nb"]
    at_home = np.flatnonzero(model.adata.obs["batch"] == "V3")
    for indices in (None, slice(0, 40), at_home):
        result = sb.corrected_counts(model, transform_batch="V3", indices=indices, **QUIET)
        matrices = [result.X, result.layers["raw_counts"], model.adata.X]
        for position, matrix in enumerate(matrices):
            for other in matrices[position + 1 :]:
                assert not np.shares_memory(matrix.data, other.data)
                assert not np.shares_memory(matrix.indices, other.indices)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "gene-batch", "gene-cell"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "sample"},
        {"labels_key": "cell_type"},
        {"effect": "cell", "gene_list": [7, 3, 11]},
    ],
)
def test_drawing_where_the_model_is_gives_the_same_counts(models, monkeypatch, name, arguments):
    """What a GPU runs, here on the CPU by plain torch, in several minibatches."""
    model = models[name]
    if "gene_list" in arguments:
        genes = model.adata.var_names[arguments["gene_list"]]
        arguments = {**arguments, "gene_list": list(genes)}
    arguments = {"transform_batch": "V3", "batch_size": 64, **arguments, **QUIET}
    expected = sb.corrected_counts(model, **arguments)
    monkeypatch.setattr(count_blocks, "drawing_on", DeviceDrawing)
    found = sb.corrected_counts(model, **arguments)
    assert differing(expected.X, found.X) <= 1e-5
    assert found.X.nnz > 0
    assert found.X.has_sorted_indices
