"""The evidence on real cells runs, at small size, and its figures are what they say they are."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

import scvibridge as sb  # noqa: E402  (after the path)
from benchmarks.validity import cells as real  # noqa: E402
from benchmarks.validity import (  # noqa: E402
    donors,
    kang,
    markers,
    mixing,
    neighbours,
    null_batches,
    spikes,
    training,
)
from benchmarks.validity.pseudobulk import Pseudobulk  # noqa: E402
from benchmarks.validity.rows import table  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:confounding")


@pytest.fixture(scope="module")
def data(shared_data):
    """Folder of the real data sets."""
    paths = [shared_data(name) for name in (real.KANG, real.CHEMISTRIES)]
    return paths[0].parent


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def figures_of(rows, design=None):
    """Methods by figures (with the formula, where there is one)."""
    made = table(rows)
    made = made[made["design"] == design] if design else made
    name = made["figure"] + made["formula"].map(lambda formula: f" {formula}" if formula else "")
    return made.assign(figure=name).pivot_table(index="method", columns="figure", values="value")


# -- null pseudo-batches -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def null(data, work):
    methods = ["raw", "quantile, label", "sample"]
    return null_batches.run(1, work, data, small=True, methods=methods)


@pytest.mark.parametrize("design", null_batches.DESIGNS)
def test_raw_counts_of_a_null_split_are_undamaged(null, design):
    raw = figures_of(null, design).loc["raw"]
    assert raw["counts changed"] == raw["nonzero counts changed"] == 0
    assert raw["markers kept"] == 1
    assert raw["Spearman with raw counts"] == pytest.approx(1)
    assert raw.filter(like="differential").max() <= 2


@pytest.mark.parametrize("design", null_batches.DESIGNS)
def test_simulated_cells_are_damaged_more_than_mapped_ones(null, design):
    found = figures_of(null, design)
    mapped, simulated = found.loc["quantile, label"], found.loc["sample"]
    assert 0 < mapped["nonzero counts changed"] < simulated["nonzero counts changed"]
    assert mapped["Spearman with raw counts"] > simulated["Spearman with raw counts"]


@pytest.mark.filterwarnings("ignore:labels. .* used the effect of their batch")
def test_shares_changed_are_those_of_the_public_function(null, data, work):
    design, (name, batch) = next(iter(null_batches.DESIGNS.items()))
    labels_key = null_batches.LABELS[name]
    cells = null_batches.halves(real.load(data, name), batch, labels_key, 1, small=True)
    epochs = null_batches.SMALL["epochs"]
    folder = work / f"null-{batch}-1-small"
    model = training.trained(cells, folder, batch_key="half", seed=1, epochs=epochs)
    result = sb.corrected_counts(
        model,
        transform_batch="B",
        labels_key=labels_key,
        condition_key="condition",
        sample_key="half",
        seed=1,
        progress=False,
    )
    in_a = (cells.obs["half"] == "A").to_numpy()
    raw, new = cells.X[in_a].toarray(), result.X[in_a].toarray()
    share = ((raw > 0) & (raw != new)).sum() / (raw > 0).sum()
    found = figures_of(null, design).loc["quantile, label"]
    assert found["nonzero counts changed"] == pytest.approx(share)


def test_halves_hold_equal_numbers_of_each_type_and_condition(data):
    cells = null_batches.halves(
        real.load(data, real.KANG), null_batches.DONOR, "cell_type_coarse", 1, small=True
    )
    sizes = pd.crosstab([cells.obs["cell_type_coarse"], cells.obs["condition"]], cells.obs["half"])
    assert (sizes["A"] - sizes["B"]).abs().max() <= 1
    assert set(cells.obs["batch"]) == {null_batches.DONOR}


def test_rank_sum_scores_are_those_of_scipy():
    rng = np.random.default_rng(1)
    values = rng.poisson(1.0, (60, 5)).astype(float)
    values[:, 4] = 1.0
    groups = rng.integers(3, size=60)
    z = markers.rank_sum_z(values, groups)
    for g in range(3):
        own, others = values[groups == g, :4], values[groups != g, :4]
        p = stats.mannwhitneyu(own, others, use_continuity=False, method="asymptotic").pvalue
        np.testing.assert_allclose(2 * stats.norm.sf(np.abs(z[g, :4])), p)
    assert not z[:, 4].any()


@pytest.mark.parametrize("test", ["Wilcoxon", "t"])
def test_differential_finds_the_genes_that_differ_and_no_others(test):
    rng = np.random.default_rng(2)
    half = np.arange(200) < 100
    values = rng.normal(size=(200, 50))
    assert markers.differential(values, half, test) <= 1
    values[half, :7] += 2
    label = pd.Series(np.tile(["a", "b"], 100))
    assert 7 <= markers.differential(values, half, test) <= 9
    assert 14 <= markers.differential_by_label(values, half, label, test) <= 16


def test_markers_are_the_genes_of_their_type():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(80, 30))
    label = pd.Series(np.repeat(["x", "y"], 40))
    values[:40, :5] += 3
    values[40:, 10:15] += 3
    found = markers.top_markers(values, label, 5)
    assert found == {"x": set(range(5)), "y": set(range(10, 15))}
    assert markers.markers_kept(found, {"x": {0, 1, 20, 21, 22}, "y": found["y"]}) == 0.7


# -- donors and a condition --------------------------------------------------------------------


@pytest.mark.r
def test_kang_holds_raw_counts_to_be_the_standard(data, work):
    if shutil.which("Rscript") is None:
        pytest.skip("needs R (there is no Rscript on the path)")
    rows = kang.run(1, work, data, small=True, methods=["raw", "quantile, label"])
    found = figures_of(rows, "condition, 9 types")
    raw, gold = found.loc["raw"], donors.FORMULAS[1]
    for name in ("donor variance over raw", "slope of log fold changes"):
        assert raw[name] == pytest.approx(1)
    assert raw["correlation of log fold changes"] == pytest.approx(1)
    assert raw[f"gold's genes found {gold}"] == 1
    assert raw[f"found that gold does not {gold}"] == 0
    assert raw[f"genes found {gold}"] > 50, "interferon changes many genes"
    assert found.loc["quantile, label", "correlation of log fold changes"] > 0.9
    spiked = figures_of(rows, "spiked")
    for formula in donors.FORMULAS:
        assert (spiked[f"type-I error {formula}"] < 0.2).all()
        assert spiked[f"tests {formula}"].min() > 50


def test_a_spike_thins_some_genes_in_one_half_and_leaves_the_others(data):
    cells = real.load(data, real.KANG)
    controls = real.most_expressed(cells[(cells.obs["condition"] == "ctrl").to_numpy()], 300)
    new, spiked = spikes.spike(controls, 4, "cell_type_coarse")
    assert spiked.sum() == 30
    assert (new.X[:, ~spiked] != controls.X[:, ~spiked]).nnz == 0
    half = (new.obs["condition"] == "stim").to_numpy()
    kept = np.array(
        [
            np.asarray(new.X[h].sum(axis=0) / controls.X[h].sum(axis=0)).ravel()[spiked]
            for h in (half, ~half)
        ]
    )
    assert (kept.max(axis=0) == 1).all()
    # exp(-1) to exp(-0.4), give or take what drawing from some hundreds of counts does.
    assert 0.3 < kept.min() < 0.45
    assert 0.6 < kept.min(axis=0).max() < 0.75
    donor_sizes = pd.crosstab([new.obs["donor"], new.obs["cell_type_coarse"]], half)
    assert donor_sizes.diff(axis=1).abs().max().max() <= 1


def test_errors_by_hand():
    types = {
        "x": donors.TypeTest(np.ones(1, bool), np.array([0, 1, 2])),
        "y": donors.TypeTest(np.ones(1, bool), np.array([1, 3])),
    }
    spiked = np.array([True, True, False, False])
    p = {"x": np.array([1e-4, 0.9, 0.04]), "y": np.array([0.5, 1e-4])}
    found = spikes.errors(p, types, spiked)
    # Adjusted: x .0003 .9 .06; y .5 .0002.
    assert found["genes found"] == 2
    assert found["tests"] == 5
    assert found["type-I error"] == 1.0
    assert found["false discovery proportion"] == 0.5
    assert found["power"] == pytest.approx(1 / 3)


def test_power_at_a_true_share_of_false_discoveries():
    p = np.array([0.5, 0.01, 0.02, 0.03, np.nan, 0.04])
    truth = np.array([True, True, True, False, True, True])
    # By p: true, true, false, true, true, true: shares of false 0, 0, 1/3, 1/4, 1/5, 1/6.
    assert spikes.power_at(p, truth, 0.05) == 2 / 5
    assert spikes.power_at(p, truth, 0.2) == 1.0
    assert spikes.power_at(p, ~truth, 0.05) == 0.0


def test_fold_changes_are_means_over_donors():
    samples = pd.DataFrame({"donor": ["1", "1", "2", "2"], "condition": ["c", "s"] * 2})
    counts = np.array([[100, 900], [200, 800], [100, 900], [400, 600]], dtype=float) * 1000
    change = donors.fold_changes(Pseudobulk(counts, samples))
    np.testing.assert_allclose(change[0], 1.5, atol=1e-4)
    spread = donors.donor_variance(Pseudobulk(counts, samples))
    np.testing.assert_allclose(spread[0], 0.25, atol=1e-4)  # ctrl 0, stim (1 doubling)^2 / 2


@pytest.mark.r
def test_genes_tested_are_those_of_filter_by_expr(run_r, tmp_path):
    rng = np.random.default_rng(5)
    means = rng.lognormal(2.3, 1.0, 200) * rng.lognormal(0, 0.4, (14, 1))
    counts = rng.poisson(means).astype(float)
    counts.astype("<f8").tofile(tmp_path / "counts")
    code = """
    path <- commandArgs(trailingOnly = TRUE)
    x <- matrix(readBin(path, "double", n = 14 * 200), nrow = 200)
    cat(as.integer(edgeR::filterByExpr(x, group = rep(c("c", "s"), 7))))
    """
    theirs = np.array(run_r(code, tmp_path / "counts", needs=("edgeR",)).split()) == "1"
    assert 20 < theirs.sum() < 180
    np.testing.assert_array_equal(donors.expressed(counts, 7), theirs)


# -- mixing ------------------------------------------------------------------------------------


def test_mixing_by_hand():
    batch = pd.Series(np.repeat(["a", "b"], 20))
    label = pd.Series(["t"] * 40)
    apart = np.r_[np.arange(20), np.arange(20) + 100.0][:, None]
    label_pair = pd.Series(np.repeat(["t", "u"], 20))
    figures = neighbours.mixing(apart, batch, label_pair)
    # Each type has one batch alone: nothing to compare; the types are far apart.
    assert np.isnan(figures[neighbours.MIXING])
    assert figures[neighbours.SILHOUETTE] > 0.9
    # All 10 neighbours are of the own batch, which has 19 of the 39 other cells.
    index = neighbours.same_batch_neighbours(apart, batch, label, neighbours.N_NEIGHBOURS)
    assert index == pytest.approx(39 / 19)


def test_log_normalised_counts():
    counts = sp.csr_matrix([[1, 3], [0, 0]])
    expected = [[np.log1p(2500), np.log1p(7500)], [0, 0]]
    np.testing.assert_allclose(neighbours.log_normalised(counts), expected, rtol=1e-6)


def test_chemistries_are_apart_in_raw_counts(data, work):
    found = figures_of(mixing.run(1, work, data, small=True, methods=["raw", "sample"]))
    assert set(found.index) == {"latent space", "raw", "sample"}
    assert found.loc["raw", neighbours.MIXING] > 1.1
    assert found.loc["sample", neighbours.MIXING] < found.loc["raw", neighbours.MIXING]
