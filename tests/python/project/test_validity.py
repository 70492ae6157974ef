"""The evidence's own code, on a few cells: its measures against scipy, its tests against R."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

ROOT = Path(__file__).parents[3]
if not (ROOT / "benchmarks" / "validity").is_dir():
    pytest.skip("the benchmarks are no part of this package", allow_module_level=True)
if importlib.util.find_spec("benchmarks") is None:
    sys.path.insert(0, str(ROOT))

from benchmarks.validity import (  # noqa: E402
    measures,
    null_batches,
    peers,
    pseudobulk,
    report,
    runner,
    simulated,
    simulation,
    summary,
)
from benchmarks.validity.rows import Row, table, with_new_runs  # noqa: E402
from benchmarks.validity.simulation import TARGET, simulate  # noqa: E402


def test_the_simulation_draws_negative_binomial_counts():
    rng = np.random.default_rng(0)
    mean, theta = rng.lognormal(0, 2, (50, 40)), rng.lognormal(1, 0.7, 40)
    uniform = rng.random((50, 40))
    counts = simulation.negative_binomial_quantile(uniform, mean, theta)
    expected = scipy.stats.nbinom.ppf(uniform, theta, theta / (theta + mean))
    assert_array_equal(counts, expected)


def test_the_counterfactual_of_a_target_cell_is_the_cell():
    cells, truth = simulation.simulate("balanced", 3, cells_per_donor=20, n_genes=50)
    home = (cells.obs["batch"] == simulation.TARGET).to_numpy()
    counts = cells.X.toarray()
    assert_array_equal(counts[home], truth.counterfactual[home])
    assert (counts[~home] != truth.counterfactual[~home]).mean() > 0.2
    assert cells.obs.groupby("donor", observed=True)["condition"].nunique().max() == 1


def test_adjusted_p_values_are_scipys():
    p = np.random.default_rng(1).random(200) ** 2
    assert_allclose(pseudobulk.adjust(p), scipy.stats.false_discovery_control(p))


def test_pseudobulks_are_sums_over_cells():
    cells, _ = simulation.simulate("balanced", 3, cells_per_donor=30, n_genes=20)
    mask = (cells.obs["cell_type"] == "T1").to_numpy()
    bulk = pseudobulk.aggregate(cells.X, cells.obs, ("donor", "condition"), mask)
    for row, sample in enumerate(bulk.samples.itertuples()):
        own = mask & (cells.obs["donor"] == sample.donor).to_numpy()
        assert own.sum() >= pseudobulk.MIN_CELLS
        assert_allclose(bulk.counts[row], np.asarray(cells.X[own].sum(axis=0)).ravel())


def test_differences_to_the_gold_are_paired():
    rows = [
        ("raw", "~ batch + condition", 1, 0.04, 0.8),
        ("raw", "~ batch + condition", 2, 0.06, 0.9),
        ("raw", "~ condition", 1, 0.01, 0.2),
        ("x", "~ condition", 1, 0.05, 0.4),
        ("x", "~ condition", 2, 0.09, 0.9),
    ]
    long = pd.DataFrame(
        [
            ("e", "d", seed, method, figure, value, "edgeR", formula)
            for method, formula, seed, fdp, power in rows
            for figure, value in (("false discovery proportion", fdp), ("power", power))
        ],
        columns=["experiment", "design", "seed", "method", "figure", "value", "tool", "formula"],
    )
    table = summary.against_gold(long).set_index(["method", "formula"])
    own = table.loc[("x", "~ condition")]
    assert_allclose([own["FDP - gold"], own["power / gold"]], [0.02, 0.75])
    expected = scipy.stats.t.interval(0.95, 1, 0.02, scipy.stats.sem([0.01, 0.03]))
    assert_allclose([own["FDP - gold, lower"], own["FDP - gold, upper"]], expected)


# Batch and condition of each sample, and whether ComBat-seq takes them.
SAMPLES = [
    ("AABB", "cscs", True),
    ("AABBB", "csccc", True),
    ("AABB", "cccc", True),
    ("AAAA", "cscs", False),  # one batch
    ("AAAB", "cscs", False),  # one sample in a batch
    ("AABB", "ccss", False),  # the batches are the conditions
]


def table_of_samples(batch, condition):
    return pd.DataFrame({"batch": list(batch), "condition": list(condition)})


@pytest.mark.parametrize(("batch", "condition", "taken"), SAMPLES)
def test_samples_that_combat_seq_stops_at_are_known(batch, condition, taken):
    assert peers.can_correct(table_of_samples(batch, condition)) is taken


def test_combat_seq_stops_at_these_samples_itself(monkeypatch):
    if shutil.which("Rscript") is None:
        pytest.skip("needs R with sva")
    cases = []
    for batch, condition, _ in SAMPLES:
        counts = np.random.default_rng(2).negative_binomial(5, 0.05, (len(batch), 30))
        cases.append((counts, table_of_samples(batch, condition)))
    found = peers.combat_seq_of_all(cases)
    for (counts, _), corrected, (*samples, taken) in zip(cases, found, SAMPLES, strict=True):
        if taken:
            assert corrected.shape == counts.shape, samples
            assert (corrected != counts).any(), samples
        else:
            assert isinstance(corrected, RuntimeError), samples
    monkeypatch.setattr(peers, "combat_seq_of_all", lambda _: found[-1:])
    with pytest.raises(RuntimeError, match=re.escape(str(found[-1]))):
        peers.combat_seq(*cases[-1])


def test_experiments_run_in_processes_and_are_not_run_again(tmp_path):
    made = [Row("e", "d", 1, "raw", "power", 0.5)]
    runs = {"kept": partial(list, made), "made": partial(list, made), "fails": partial(int, "x")}
    (tmp_path / "kept.csv").write_text("as it was")
    with pytest.raises(ValueError, match="invalid literal"):
        runner.run_all(runs.items(), tmp_path, 1)
    assert (tmp_path / "kept.csv").read_text() == "as it was"
    assert pd.read_csv(tmp_path / "made.csv")["value"].tolist() == [0.5]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept.csv", "made.csv"]


@pytest.mark.parametrize("design", ["", "balanced"])
def test_new_runs_replace_recorded_ones_of_the_same_name(tmp_path, design):
    def stored(name, values):
        made = [Row("mixing", design, seed, "raw", "left", value) for seed, value in values]
        table(made).to_csv(tmp_path / name, index=False)
        return pd.read_csv(tmp_path / name)

    recorded = stored("recorded.csv", [(1, 0.1), (2, 0.2)])
    together = with_new_runs(recorded, stored("new.csv", [(2, 0.5), (3, 0.3)]))
    assert together["seed"].tolist() == [1, 2, 3]
    assert together["value"].tolist() == [0.1, 0.5, 0.3]


def test_the_short_table_takes_each_figure_from_its_experiment():
    test = ("edgeR", "~ donor + condition")
    null = next(iter(null_batches.DESIGNS))
    figures = [
        ("simulation", "balanced", "batch effect left", 0.1),
        ("simulation", "nested", "batch effect left", 0.9),
        ("kang", "spiked, fresh", "false discovery proportion", 0.06, *test),
        ("kang", "spiked, fresh", "false discovery proportion", 0.5, "edgeR", "~ condition"),
        ("null batches", null, "nonzero counts changed", 0.03),
    ]
    rows = [
        Row(experiment, design, seed, summary.DEFAULT, figure, value + shift, *rest)
        for experiment, design, figure, value, *rest in figures
        for seed, shift in ((1, -0.01), (2, 0.01))
    ]
    lines = report.short_table(table(rows)).splitlines()
    names = [name.strip() for name in lines[0].split("|")]
    values = next(line for line in lines if line.startswith(f"| {summary.DEFAULT} |")).split("|")
    shown = {name: value.strip() for name, value in zip(names, values, strict=True) if name}
    assert shown["batch effect left, slope"] == "0.10"
    assert "batch effect left, RMS over genes" not in shown  # older results lack it
    assert shown["false discoveries, real cells"] == "0.06"
    assert shown["changed where nothing differs"] == "0.03"
    assert "two balanced batches, 2 runs" in lines[-1]


def test_errors_of_genes_cancel_in_the_slope_alone():
    """Half of the genes keep their effect, in the others it is turned round."""
    cells, truth = simulate("balanced", 1, cells_per_donor=60, n_genes=100)
    obs, home = cells.obs, (cells.obs["batch"] == TARGET).to_numpy()
    rng = np.random.default_rng(0)
    sign = rng.permutation(np.tile([1.0, -1.0], 50))
    codes = obs["cell_type"].cat.codes.to_numpy()
    effect = truth.batch_effect[0][codes]
    own = truth.mean.astype(float)
    raw, turned = (
        np.where(home[:, None], own, own * np.exp(-effect * part)) for part in (1.0, sign)
    )
    left = measures.batch_effect_left(turned, obs, home, truth)
    raw_left = measures.batch_effect_left(raw, obs, home, truth)
    figures = measures.left_figures(left, raw_left)
    assert raw_left.slope == pytest.approx(1, abs=0.1)
    assert abs(figures["batch effect left"]) < 0.3
    assert figures["batch effect left, RMS over genes"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_small_simulation_tells_the_methods_apart(tmp_path):
    if shutil.which("Rscript") is None:
        pytest.skip("needs R with edgeR and DESeq2")
    methods = ["raw", "quantile, label", "sample", "ComBat_seq, pseudobulk"]
    rows = simulated.run("balanced", 1, tmp_path, small=True, methods=methods)
    figures = {(r.method, r.figure): r.value for r in rows if not r.tool}
    truth = simulated.TRUTH
    assert figures["raw", "Spearman with raw"] == pytest.approx(1)
    assert figures[truth, "Spearman with true counterfactual"] == pytest.approx(1)
    assert figures["raw", "batch effect left"] > 0.8
    assert abs(figures[truth, "batch effect left"]) < 0.2
    assert figures["raw", "batch effect left, RMS over genes"] == pytest.approx(1)
    assert figures[truth, "batch effect left, RMS over genes"] < 0.7
    assert figures["quantile, label", "Spearman with raw"] > 0.6
    assert figures["sample", "Spearman with raw"] < 0.4
    tested = {(r.method, r.tool, r.formula): r.value for r in rows if r.figure == "power"}
    assert len(tested) == 5 * 2 * 2
    assert all(0 <= value <= 1 for value in tested.values())
