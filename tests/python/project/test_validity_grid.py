"""The simulations of what goes wrong have the truth that they claim, and run at small size."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks.validity import grid, measures, short_tables, simulation  # noqa: E402
from benchmarks.validity.rows import Row, table  # noqa: E402
from benchmarks.validity.simulation import TARGET, Scenario, simulate_scenario  # noqa: E402

SIZE = {"cells_per_donor": 40, "n_genes": 300}


def means_of(cells, truth, batch, kind):
    """Mean frequencies of the observed counts and of those in the target, of cells of a type."""
    rows = ((cells.obs["batch"] == batch) & (cells.obs["cell_type"] == kind)).to_numpy()
    observed = cells.X[rows].toarray().sum(axis=0)
    there = truth.mean[rows].sum(axis=0)
    return observed / observed.sum(), there / there.sum()


def test_the_default_scenario_is_the_balanced_design():
    cells, truth = simulation.simulate("balanced", 5, **SIZE)
    same, again = simulate_scenario(Scenario(), [5, 0], **SIZE)
    assert_array_equal(cells.X.toarray(), same.X.toarray())
    assert_array_equal(truth.counterfactual, again.counterfactual)
    pd.testing.assert_frame_equal(cells.obs, same.obs)


@pytest.mark.parametrize(
    "group", ["ambient RNA, 20 % and 2 %", "crossing interaction", "type-specific effects"]
)
def test_batch_effects_are_log_ratios_of_means(group):
    cells, truth = simulate_scenario(
        grid.GROUPS[group].scenario, [3, 3], cells_per_donor=400, n_genes=60
    )
    observed, there = means_of(cells, truth, "A", "T1")
    expected = np.log(there / observed)
    found = truth.batch_effect[0, 0]
    many = observed > 0.005
    difference = (found - expected)[many]
    assert many.sum() > 20
    assert_allclose(difference - difference.mean(), 0, atol=0.1)
    assert not truth.batch_effect[1].any()


def test_a_crossing_effect_has_opposite_signs_and_no_average():
    scenario = replace(grid.BASE, crosses=True)
    with_it, without = (
        simulate_scenario(s, [3, 3], **SIZE)[1]
        for s in (scenario, replace(scenario, crosses=False))
    )
    cells, _ = simulate_scenario(scenario, [3, 3], **SIZE)
    stim = (cells.obs["condition"] == "stim").to_numpy()
    change = np.log(with_it.mean / without.mean)
    change -= np.median(change, axis=1, keepdims=True)
    crossing = np.abs(change).max(axis=0) > 0.2
    assert 0.05 < crossing.mean() < 0.15
    assert not (crossing & with_it.differential).any()
    one, other = change[stim][:, crossing].mean(axis=0), change[~stim][:, crossing].mean(axis=0)
    assert_allclose(one, -other, atol=0.05)
    assert_allclose(np.abs(one - other), simulation.CROSSING, atol=0.05)


def test_ambient_counts_bring_profiles_of_a_batch_together():
    plain, with_ambient = (
        simulate_scenario(s, [3, 3], **SIZE)[0]
        for s in (grid.BASE, replace(grid.BASE, ambient={"A": 0.5, "B": 0.0}))
    )

    def distance(cells, batch):
        rows = cells.obs["batch"] == batch
        types = [cells.X[(rows & (cells.obs["cell_type"] == t)).to_numpy()] for t in ("T1", "T2")]
        profiles = [np.asarray(t.sum(axis=0)).ravel() / t.sum() for t in types]
        return np.abs(profiles[0] - profiles[1]).sum()

    assert distance(with_ambient, "A") < 0.7 * distance(plain, "A")
    assert distance(with_ambient, "B") == pytest.approx(distance(plain, "B"))


def test_zero_inflation_adds_zeros_to_counts_of_both_batches():
    cells, truth = simulate_scenario(replace(grid.BASE, zero_inflated=True), [3, 3], **SIZE)
    theta, mean = truth.theta, truth.mean.astype(float)
    expected = ((theta / (theta + mean)) ** theta).mean()
    assert (truth.counterfactual == 0).mean() > expected + 0.05
    home = (cells.obs["batch"] == TARGET).to_numpy()
    assert_array_equal(cells.X[home].toarray(), truth.counterfactual[home])


def test_shares_of_types_and_depths_are_those_asked_for():
    chosen = grid.GROUPS["composition 5 x apart"].scenario
    cells, _ = simulate_scenario(chosen, [3, 3], cells_per_donor=500, n_genes=20)
    shares = pd.crosstab(cells.obs["batch"], cells.obs["cell_type"], normalize="index")
    for batch, expected in chosen.type_shares.items():
        assert_allclose(shares.loc[batch], expected, atol=0.03)
    absent, _ = simulate_scenario(
        grid.GROUPS["a type absent from the target"].scenario, [3, 3], **SIZE
    )
    of_target = absent.obs.loc[absent.obs["batch"] == TARGET, "cell_type"]
    assert (of_target == "T5").sum() == 0
    deep, _ = simulate_scenario(grid.GROUPS["target 5 x deeper"].scenario, [3, 3], **SIZE)
    totals = pd.Series(np.asarray(deep.X.sum(axis=1)).ravel()).groupby(deep.obs["batch"].to_numpy())
    assert totals.median()["B"] / totals.median()["A"] == pytest.approx(5, rel=0.1)


def test_power_at_equal_errors_is_that_of_the_longest_allowed_list():
    rng = np.random.default_rng(1)
    true = rng.random(300) < 0.3
    p = np.round(np.where(true, rng.beta(0.3, 4, 300), rng.random(300)), 3)
    p[:3] = np.nan
    best = 0.0
    filled = np.nan_to_num(p, nan=1.0)
    for limit in np.unique(filled):
        chosen = filled <= limit
        if (chosen & ~true).sum() <= 0.05 * chosen.sum():
            best = max(best, (chosen & true).sum() / true.sum())
    found = measures.test_figures(p, p, true)[measures.EQUAL_ERRORS]
    # Lists may end within ties, of which the false ones come first.
    assert best <= found <= best + 0.05
    assert np.isnan(measures.test_figures(p, p, np.zeros(300, bool))["power"])


@pytest.mark.parametrize(
    ("message", "subject"),
    [
        ("confounding: conditions are unbalanced across batches", "confounding"),
        ("support: 9 of 9 cells. The model has not mixed 'A' with the target", "mixing"),
        ("support: 9 of 9 cells are not supported; their counts are extrapolated", "support"),
        ("9 of 9 cells are scaled to less than 0.5 times their own depth", "depth"),
        ("labels: the target ('B') has no cells of 'T5'", "labels"),
        ("batches have few samples (sample_key='donor', median 2)", "samples"),
        ("the moon is full", grid.OTHER),
    ],
)
def test_warnings_are_assigned_to_subjects(message, subject):
    found = grid.warned_of([message])
    assert found.pop(f"warned of {subject}") == 1
    assert not any(found.values())
    assert not any(grid.warned_of([]).values())


DESIGNS = ("base", "8 clusters as labels")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    work = tmp_path_factory.mktemp("models")
    base = grid.GROUPS["base"]
    few = replace(base, labels={name: base.labels[name] for name in DESIGNS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(grid.GROUPS, "base", few)
        rows = [
            row
            for group in ("base", "target 5 x shallower")
            for row in grid.run(group, 1, work, small=True)
        ]
    return table(rows)


def test_every_design_of_a_group_has_all_figures(found):
    assert set(found["experiment"]) == {grid.EXPERIMENT}
    assert set(found["design"]) == {*DESIGNS, "target 5 x shallower"}
    figures = found.assign(figure=found["figure"] + found["formula"]).pivot_table(
        index=["design", "method"], columns="figure", values="value", dropna=False
    )
    for design in DESIGNS:
        methods = figures.loc[design]
        assert set(methods.index[methods["type-I error~ condition"].notna()]) == {
            grid.RAW,
            grid.LABEL,
            grid.RESIDUAL,
            grid.GLOBAL,
            grid.LOCAL,
            grid.TRUE_EFFECT,
        }
        assert methods.loc[grid.RAW, "batch effect left, RMS over genes"] == 1
        true = methods.loc[grid.TRUE_EFFECT]
        assert abs(true["batch effect left"]) < 0.3
        assert true["batch effect left, RMS over genes"] < 0.7
    # Three epochs mix nothing, and the package says so.
    assert figures.loc[("base", grid.LABEL), "warned of mixing"] == 1
    shallow = figures.loc["target 5 x shallower"]
    assert shallow.loc[grid.LABEL, "warned of depth"] == 1
    assert shallow.loc[grid.OBSERVED, "warned of depth"] == 0


def test_labels_are_wrong_as_often_as_said(tmp_path):
    case, _ = grid.prepare("base", 1, tmp_path, small=True)
    types = case.cells.obs["cell_type"].astype(str).to_numpy()
    for design, share in (("10 % of labels wrong", 0.10), ("25 % of labels wrong", 0.25)):
        labels = grid.GROUPS["base"].labels[design](case)
        assert (labels != types).mean() == pytest.approx(share, abs=0.05)
    transferred = grid.GROUPS["base"].labels["labels transferred from the target"](case)
    assert_array_equal(transferred[case.at_home()], types[case.at_home()])
    case.cells.obs["label"] = types
    assert grid.wrong_labels(case) == 0
    wrong = grid.GROUPS["base"].labels["25 % of labels wrong"](case)
    case.cells.obs["label"] = wrong
    assert grid.wrong_labels(case) == (wrong != types).mean() > 0.15
    clusters = grid.GROUPS["base"].labels["8 clusters as labels"](case)
    assert len(np.unique(clusters)) == 8
    case.cells.obs["label"] = clusters
    assert np.isnan(grid.wrong_labels(case))


def test_both_tools_test_the_same_counts(found):
    tested = found[(found["design"] == "base") & (found["figure"] == "power")]
    methods = tested.groupby("tool")["method"].agg(set)
    assert methods["DESeq2"] == {grid.RAW, grid.LABEL, grid.GLOBAL}
    assert methods["DESeq2"] < methods["edgeR"]
    raw = tested[tested["method"] == grid.RAW]
    raw = raw.pivot_table(index="formula", columns="tool", values="value")
    assert_allclose(raw["DESeq2"], raw["edgeR"], atol=0.3)


def row(seed, method, figure, value, formula="", tool="edgeR"):
    return Row(grid.EXPERIMENT, "base", seed, method, figure, value, tool * bool(formula), formula)


def cells_of(line):
    return [part.strip() for part in line.split("|")[1:-1]]


def test_the_table_of_effects_without_labels_uses_the_runs_that_have_all_of_them():
    test = short_tables.FDP, "~ batch + condition"
    rows = [
        *(row(seed, grid.RAW, test[0], 0.04, test[1]) for seed in (1, 2, 3)),
        *(row(seed, grid.RAW, "power", 0.8, test[1]) for seed in (2, 3)),
        *(row(seed, grid.LOCAL, test[0], value, test[1]) for seed, value in ((2, 0.05), (3, 0.07))),
        # Another tool, and a run before there was a local effect, do not count.
        row(2, grid.LOCAL, test[0], 0.9, test[1], "DESeq2"),
        row(1, grid.LABEL, test[0], 0.9, test[1]),
        row(2, grid.LABEL, test[0], 0.03, test[1]),
        row(3, grid.LABEL, test[0], 0.03, test[1]),
    ]
    lines = short_tables.without_labels(table(rows)).splitlines()
    shown = [dict(zip(cells_of(lines[0]), cells_of(line), strict=True)) for line in lines[2:]]
    wide = short_tables.without_labels_in_the_grid(table(rows)).splitlines()
    side_by_side = dict(zip(cells_of(wide[0]), cells_of(wide[2]), strict=True))
    assert side_by_side["errors less raw's, `~ batch + condition`"] == "; .020; -.010"
    assert side_by_side["runs"] == "2"
    column = "FDP with the batch; less raw's"
    assert [(line["counts"], line[column], line["runs"]) for line in shown] == [
        ("raw", ".040", "2"),
        ("local", ".060; .020 (.010)", "2"),
        ("label", ".030; -.010 (.000)", "2"),
    ]


def test_the_table_of_tools_shows_runs_of_both():
    rows = [
        row(1, grid.RAW, short_tables.FDP, 0.9, short_tables.BATCH),
        row(2, grid.RAW, short_tables.FDP, 0.04, short_tables.BATCH),
        row(2, grid.RAW, short_tables.FDP, 0.06, short_tables.BATCH, "DESeq2"),
    ]
    lines = short_tables.with_deseq2(table(rows)).splitlines()
    shown = [dict(zip(cells_of(lines[0]), cells_of(line), strict=True)) for line in lines[2:]]
    assert [(line["tool"], line[f"FDP `{short_tables.BATCH}`"]) for line in shown] == [
        ("edgeR", ".040"),
        ("DESeq2", ".060"),
    ]


def test_the_short_table_compares_runs_in_pairs():
    rows = [
        made
        for seed, raw, ours in ((1, 0.03, 0.04), (2, 0.05, 0.10))
        for made in (
            row(seed, grid.RAW, short_tables.FDP, raw, short_tables.BATCH),
            row(seed, grid.LABEL, short_tables.FDP, ours, short_tables.BATCH),
            row(seed, grid.LABEL, short_tables.FDP, raw, short_tables.PLAIN),
            row(seed, grid.RAW, "power", 0.8, short_tables.BATCH),
            row(seed, grid.LABEL, "power", 0.6, short_tables.BATCH),
            row(seed, grid.LABEL, "warned of depth", float(seed == 2)),
        )
    ]
    lines = short_tables.what_goes_wrong(table(rows)).splitlines()
    names, values = ([part.strip() for part in line.split("|")[1:-1]] for line in lines[::2])
    shown = dict(zip(names, values, strict=True))
    assert shown["design"] == "base"
    assert shown["runs"] == "2"
    assert shown["errors; less raw's: `~ batch + condition`"] == ".070; .030 (.020)"
    assert shown["`~ condition`"] == ".040; .000 (.000)"
    assert shown["power over raw's"] == ".75"
    assert shown["warned of"] == "depth (1 of 2)"
    assert shown["above 0.02"] == "yes"
