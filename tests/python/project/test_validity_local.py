"""Trajectories and trainings run at small size, and their figures measure what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks.validity import trainings, trajectories  # noqa: E402  (after the path)
from benchmarks.validity.rows import table  # noqa: E402


def test_slopes_are_whole_in_raw_counts_and_gone_in_the_counterfactual():
    cells, path = trajectories.simulate(1, cells_per_donor=150, n_genes=400)
    home = (cells.obs["batch"] == "B").to_numpy()
    raw = sp.csr_matrix(cells.X)
    found = trajectories.slope_figures(raw, cells.obs, home, path)
    assert 0.85 < found["share of the slopes left"] < 1.15
    true = np.where(home[:, None], raw.toarray(), path.truth.counterfactual)
    gone = trajectories.slope_figures(sp.csr_matrix(true), cells.obs, home, path)
    assert abs(gone["share of the slopes left"]) < 0.1
    for figures in (found, gone):
        assert figures["genes without a slope that have one"] < 0.2


def test_a_small_trajectory_has_all_figures(tmp_path):
    methods = ["raw", "quantile, global", "quantile, local"]
    rows = table(trajectories.run(1, tmp_path, small=True, methods=methods))
    figures = rows.pivot_table(index="method", columns="figure", values="value")
    assert list(figures.index) == sorted(methods)
    assert figures["share of the slopes left"].notna().all()
    assert set(rows["formula"]) == {"", "~ condition", "~ batch + condition"}


def test_equal_discoveries_do_not_differ_and_other_ones_do():
    some, others = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert trainings._changed(some, some) == 0
    assert trainings._changed(some, others) == pytest.approx(2 / 3)
    assert trainings._changed(some, ~some) == 1


def test_the_mean_of_one_table_is_that_table(tmp_path):
    data = trainings._simulated(1, small=True)
    cells = data.cells
    model = trainings.trained(cells, tmp_path / "model", batch_key="batch", seed=1, epochs=2)
    case = trainings.Case(cells, model, data.target)
    tables: list[np.ndarray] = []
    usual = trainings._corrected(case, trainings._recording(tables))
    assert (trainings._corrected(case, trainings._replacing(tables[0])) != usual).nnz == 0
    moved = tables[0] + np.linspace(0, 2, tables[0].shape[1])
    assert (trainings._corrected(case, trainings._replacing(moved)) != usual).nnz > 0
