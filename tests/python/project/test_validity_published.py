"""Twins by thinning and the published benchmarks: their truth, their tests, and a small run."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scvi.model import SCVI

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks.validity import cells as real  # noqa: E402
from benchmarks.validity import null_batches, published, short_tables, twins  # noqa: E402
from benchmarks.validity.neighbours import log_normalised  # noqa: E402
from benchmarks.validity.rows import table  # noqa: E402

KANG_LABELS = twins.LABELS[real.KANG]


@pytest.fixture(scope="module")
def data(shared_data):
    paths = [shared_data(name) for name in (real.KANG, real.CHEMISTRIES)]
    return paths[0].parent


# -- twins -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(data):
    return twins.make(real.load(data, real.KANG), KANG_LABELS, 1, small=True)


def test_copies_keep_the_share_of_counts_of_their_batch(made, data):
    cells = made.cells
    whole = real.load(data, real.KANG)[cells.obs_names, cells.var_names].X
    in_b = (cells.obs["half"] == "B").to_numpy()
    assert (made.there.toarray() <= whole.toarray()).all()
    assert_array_equal(cells.X[in_b].toarray(), made.there[in_b].toarray())
    sums = [np.asarray(m.sum(axis=0)).ravel() for m in (cells.X[~in_b], made.there[~in_b])]
    of_all = np.asarray(whole[~in_b].sum(axis=0)).ravel()
    many = of_all > 2000
    shares = [s[many] / of_all[many] for s in sums]
    assert many.sum() > 20
    assert_allclose(np.log2(shares[1] / shares[0]), made.log2_effect[many], atol=0.15)


def test_halves_of_twins_have_equal_numbers_of_each_kind(made):
    keys = [KANG_LABELS, "condition", "sample", "half"]
    sizes = made.cells.obs.groupby(keys, observed=True).size().unstack(fill_value=0)
    assert (sizes["A"] - sizes["B"]).abs().max() <= 1


def test_twins_themselves_have_no_error(made):
    exact = twins.figures(made.there, made, KANG_LABELS)
    assert exact["RMSE of log2 pseudobulks"] == 0
    assert exact["Spearman with the twin"] == pytest.approx(1)
    shares = ("markers shared", "variable genes shared", "gene-gene edges shared")
    assert [exact[name] for name in shares] == [1, 1, 1]
    raw = twins.figures(sp.csr_matrix(made.cells.X), made, KANG_LABELS)
    assert raw["batch effect left"] == pytest.approx(1, abs=0.05)
    assert raw["RMSE of log2 pseudobulks"] > 0.5
    name = "genes differential within types, Wilcoxon"
    assert raw[name] > 100
    assert exact[name] <= 5


def test_twins_run_at_small_size(data, tmp_path):
    methods = ["raw", "quantile, label", "sample", twins.OTHER_COPY]
    found = table(twins.run(1, tmp_path, data, small=True, methods=methods))
    wide = found.pivot_table(index=["design", "method"], columns="figure", values="value")
    assert wide.notna().all().all()
    for design in twins.DESIGNS:
        figures = wide.loc[design]
        best = figures.loc[twins.OTHER_COPY]
        assert best["RMSE of log2 pseudobulks"] < 0.5 * figures.loc["raw"].iloc[0]
        mapped, simulated = (figures.loc[m] for m in ("quantile, label", "sample"))
        assert mapped["Spearman with the twin"] > simulated["Spearman with the twin"] + 0.2
        lines = short_tables.TABLES[f"twins, {design}"](found).splitlines()
        assert [line.split("|")[1].strip() for line in lines[2:6]] == methods


# -- published benchmarks --------------------------------------------------------------------------


def test_the_hurdle_test_adds_two_likelihood_ratios():
    rng = np.random.default_rng(1)
    group = rng.random(120) < 0.4
    values = np.where(rng.random((120, 6)) < 0.6, rng.normal(2, 1, (120, 6)) ** 2, 0)
    values[group, 0] += 3
    values[:, 5] = np.abs(values[:, 5]) + 1  # never zero
    p = published.hurdle(values, group)
    for gene in range(6):
        x = values[:, gene]
        seen = x > 0
        shares = [seen.mean(), *(seen[g].mean() for g in (group, ~group))]
        logs = [
            stats.bernoulli.logpmf(seen[rows], share).sum()
            for rows, share in zip((slice(None), group, ~group), shares, strict=True)
        ]
        discrete = 2 * (logs[1] + logs[2] - logs[0])
        fit = stats.linregress(group[seen].astype(float), x[seen])
        continuous = -seen.sum() * np.log1p(-(fit.rvalue**2))
        freedom = 1 + (0 < seen.sum() < len(seen))
        assert p[gene] == pytest.approx(stats.chi2.sf(discrete + continuous, freedom))
    assert p[0] < 1e-4


def test_wilcoxon_is_scipys():
    rng = np.random.default_rng(2)
    values, group = rng.poisson(2.0, (60, 4)).astype(float), rng.random(60) < 0.5
    expected = stats.mannwhitneyu(
        values[group], values[~group], use_continuity=False, method="asymptotic"
    ).pvalue
    assert_allclose(published.wilcoxon(values, group), expected)


def test_simulated_groups_differ_in_the_genes_named():
    cells, differential = published.splatter(3)
    assert differential.mean() == pytest.approx(published.GROUP_SHARE, abs=0.03)
    first, in_a = ((cells.obs[k] == v).to_numpy() for k, v in (("group", "1"), ("batch", "A")))
    assert first[in_a].mean() == pytest.approx(0.7, abs=0.08)
    assert first[~in_a].mean() == pytest.approx(0.3, abs=0.08)
    values = log_normalised(sp.csr_matrix(cells.X))
    within = published.group_figures(values, cells, differential, published.WITHIN)
    together = published.group_figures(values, cells, differential, published.RAW)
    assert within["type-I error"] < 0.1 < together["type-I error"]


@pytest.mark.skipif(
    "transform_batch" not in inspect.signature(SCVI.posterior_predictive_sample).parameters,
    reason="scvi-tools' samples as if from another batch need a later scvi-tools",
)
def test_published_benchmarks_run_at_small_size(data, tmp_path):
    found = table(
        row
        for part in published.parts()
        for row in published.run(part, 1, tmp_path, data, small=True)
    )
    assert found["value"].notna().all()
    designs = [f"null batches: {name}" for name in null_batches.DESIGNS]
    designs += [f"simulated groups, {name}" for name in published.MODELS]
    assert set(found["design"]) == set(designs)
    null = found[found["design"] == designs[0]].pivot_table(
        index="method", columns="figure", values="value"
    )
    calls = {f"{published.DRAWN}, {call}" for call in (published.THEIRS, published.TRANSFORMED)}
    assert set(null.index) == {published.RAW, published.OURS, *calls}
    assert null.loc[published.RAW, "markers of raw counts that are found, hurdle"] == 1
    assert null.loc[published.RAW, "genes differential between fake batches, hurdle"] <= 1
