"""The evidence from paired wells runs at small size, and its figures measure what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks.validity import cells as real  # noqa: E402  (after the path)
from benchmarks.validity import paired  # noqa: E402
from benchmarks.validity.rows import table  # noqa: E402


@pytest.fixture(scope="module")
def cells(shared_data):
    path = shared_data(paired.MIXTURES)
    return real.most_expressed(real.load(path.parent, paired.MIXTURES), 300)


@pytest.fixture(scope="module")
def found(shared_data, tmp_path_factory):
    rows = paired.run(
        1,
        tmp_path_factory.mktemp("models"),
        shared_data(paired.MIXTURES).parent,
        small=True,
        methods=["raw", "quantile, label", "quantile, global, residual", paired.REFERENCE],
    )
    return table(rows).pivot_table(index=["design", "method"], columns="figure", values="value")


def test_each_design_and_method_has_all_figures(found):
    assert found.notna().all().all()
    held_out = found.loc["SCVI, held-out wells"]
    assert set(held_out.index) == {
        "raw",
        "quantile, label",
        "quantile, global, residual",
        paired.REFERENCE,
    }
    assert paired.REFERENCE not in found.loc["SCVI, wells of the training"].index


def test_wells_of_the_same_technology_are_nearer_than_the_other_one(found):
    held_out = found.loc["SCVI, held-out wells"]
    raw, others = held_out.loc["raw"], held_out.loc[paired.REFERENCE]
    assert others["RMSE of log2 pseudobulks"] < 0.5 * raw["RMSE of log2 pseudobulks"]
    assert others["correlation of paired wells"] > raw["correlation of paired wells"]


def test_held_out_wells_are_not_trained_on_and_are_half_of_each_mixture(cells):
    wells = paired.choose_wells(cells, 3, held_out=True)
    assert not set(wells.truth.obs_names) & set(wells.trained.obs_names)
    keys = ["mixture", "mRNA_amount"]
    sizes = [part.obs.groupby(keys, observed=True).size() for part in (wells.truth, wells.others)]
    assert (sizes[0].sub(sizes[1], fill_value=0)).abs().max() <= 1
    assert wells.trained.n_obs + wells.truth.n_obs == cells.n_obs


def test_wells_are_correlated_with_others_of_their_mixture_and_amount(cells):
    some, truth = cells[::7].copy(), cells[::3].copy()
    logs = [np.log1p(x.X.toarray() / x.X.sum(axis=1) * 1e4) for x in (some, truth)]
    expected = []
    for i, (name, row) in enumerate(some.obs.iterrows()):
        same = (truth.obs[["mixture", "mRNA_amount"]] == row[["mixture", "mRNA_amount"]]).all(
            axis=1
        )
        pairs = np.flatnonzero(same & (truth.obs_names != name))
        expected.extend(np.corrcoef(logs[0][i], logs[1][j])[0, 1] for j in pairs)
    assert len(expected) > 100
    assert paired.paired_correlation(some, truth) == pytest.approx(np.mean(expected))


@pytest.fixture
def exact():
    """Wells without noise: mixtures of three lines whose genes hardly overlap."""
    rng = np.random.default_rng(0)
    lines = rng.gamma(0.3, 1, (3, 1200)) + 1e-3
    lines /= lines.sum(axis=1, keepdims=True)
    known = np.concatenate([np.eye(3), rng.dirichlet([1, 1, 1], 40)])
    obs = pd.DataFrame(known, columns=[f"{line}_prop" for line in paired.LINES])
    obs["mixture"] = ["/".join(f"{p:.2f}" for p in row) for row in known]
    obs.index = [f"well{i}" for i in range(len(obs))]
    return ad.AnnData(sp.csr_matrix(np.rint(1e6 * known @ lines)), obs=obs)


def test_proportions_of_exact_mixtures_are_recovered(exact):
    bulk = paired.pseudobulks(exact)
    assert paired.deconvolution_error(exact, bulk) < 1e-3
    assert paired.usage_correlation(exact[:20].copy(), exact[20:].copy()) > 0.97
    genes = np.ones(exact.n_vars, dtype=bool)
    assert paired.fold_change_correlation(bulk, bulk, genes) == pytest.approx(1)


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_shift_of_one_on_the_log_scale_is_an_error_of_one(exact):
    wells = paired.Wells(exact.copy(), truth=exact, others=None)
    wells.trained.obs["technology"] = paired.SOURCE
    exact.obs["mRNA_amount"] = wells.trained.obs["mRNA_amount"] = 1
    changed = wells.trained.copy()
    half = np.arange(exact.n_vars) < exact.n_vars // 2
    changed.X = sp.csr_matrix(exact.X.toarray() * np.where(half, 2, 1))
    error = paired.log2_cpm(paired.pseudobulks(changed)) - paired.log2_cpm(
        paired.pseudobulks(exact)
    )
    with np.errstate(invalid="ignore"):  # no well has a pair here
        shown = paired.figures(changed, wells)["RMSE of log2 pseudobulks"]
    assert shown == pytest.approx(np.sqrt((error.to_numpy() ** 2).mean()), rel=0.2)
    assert error.iloc[0, : half.sum()].median() - error.iloc[0, half.sum() :].median() == (
        pytest.approx(1, abs=0.05)
    )
