"""The benchmarks run, at small size, and their figures are what they say they are."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scvi.model import SCVI

ROOT = Path(__file__).resolve().parents[3]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not part of the installed package", allow_module_level=True)
sys.path.append(str(ROOT))

from benchmarks import profile, report  # noqa: E402  (after the path)
from benchmarks.contest import Contender, Outcome, compete  # noqa: E402
from benchmarks.figures import Row  # noqa: E402
from benchmarks.groups import GROUPS, SCALES, Group  # noqa: E402
from benchmarks.inputs import Inputs  # noqa: E402
from benchmarks.simulation import Simulation, write_cells  # noqa: E402

FULL = SCALES["full"]


def outcome(seconds, peaks=None, loaded=(0,), n_cells=1):
    peaks = peaks or [1] * len(seconds)
    runs = [
        {"seconds": time, "peak_bytes": peak, "start_bytes": 0, "facts": {"n_cells": n_cells}}
        for time, peak in zip(seconds, peaks, strict=True)
    ]
    return Outcome(runs, list(loaded))


# -- figures -----------------------------------------------------------------------------------


def test_a_ratio_is_one_of_medians_and_its_range_that_of_rounds():
    row = Row("b over a", "seconds", "b", "a", at_least=2.5)
    found = row.evaluate({"a": outcome([1.0, 2.0, 4.0]), "b": outcome([6.0, 5.0, 4.0])})
    assert found["figure"] == 2.5
    assert found["range"] == [1.0, 6.0]
    assert found["verdict"] == "reached"
    assert found["text"] == "2.50 x (1.00 x to 6.00 x)"


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({"at_least": 2.1}, "missed"),
        ({"at_most": 2.0}, "reached"),
        ({"at_most": 1.9}, "missed"),
        ({}, "for information"),
    ],
)
def test_verdicts(limits, verdict):
    row = Row("b over a", "seconds", "b", "a", **limits)
    assert row.evaluate({"a": outcome([1.0]), "b": outcome([2.0])})["verdict"] == verdict


def test_memory_is_counted_from_what_was_loaded():
    row = Row("memory", "extra", "a", at_most=2e9)
    many = outcome([1.0, 1.0, 1.0], [5e9, 4e9, 6e9], [3e9, 3e9, 3e9])
    found = row.evaluate({"a": many})
    assert found["figure"] == 2e9
    assert found["text"] == "2.00 GB (1.00 GB to 3.00 GB)"
    assert row.goal() == "<= 2 GB"


def test_goals_are_not_rounded():
    assert Row("ratio", "seconds", "b", "a", at_most=1.05).goal() == "<= 1.05 x"
    assert Row("share", "serial_share", "a", at_most=0.1).goal() == "<= 10%"


def test_time_per_cell():
    row = Row("time per cell", "seconds_per_cell", "many", "few")
    found = row.evaluate({"many": outcome([30.0], n_cells=100), "few": outcome([4.0], n_cells=20)})
    assert found["figure"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("available", "said"), [(False, "not available: no R"), (True, "failed: no R")]
)
def test_a_figure_that_is_missing_says_why(available, said):
    missing = Outcome(error="no R", available=available)
    row = Row("b over a", "seconds", "b", "a", at_least=2)
    assert row.evaluate({"a": outcome([1.0]), "b": missing}) == {"verdict": said}


# -- simulated cells ---------------------------------------------------------------------------


def test_a_small_file_holds_the_first_cells_of_a_large_one(tmp_path):
    small, large = (Simulation(n, 40, mean_total=100.0, gene_sd=1.0) for n in (700, 1500))
    write_cells(small, tmp_path / "small.h5ad")
    write_cells(large, tmp_path / "large.h5ad")
    few, many = (ad.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("small", "large"))
    assert few.shape == (700, 40)
    assert many.shape == (1500, 40)
    assert many.obs_names.is_unique
    np.testing.assert_array_equal(few.X.toarray(), many.X[:700].toarray())
    np.testing.assert_array_equal(many.X.toarray(), large.cells().X.toarray())
    assert few.obs.equals(many.obs[:700])


@pytest.mark.parametrize(
    ("simulation", "low", "high"),
    [(FULL.in_memory(1000), 0.19, 0.24), (FULL.on_disk(1000), 0.08, 0.10)],
)
def test_as_many_counts_are_zero_as_the_page_says(simulation, low, high):
    cells = simulation.cells()
    assert low < cells.X.nnz / np.prod(cells.shape) < high
    assert cells.X.sum() / cells.n_obs == pytest.approx(simulation.mean_total, rel=0.05)


# -- contests ----------------------------------------------------------------------------------

CONTENDERS = """
import os
from pathlib import Path
from benchmarks.task import NotAvailableError, Task

def writes(name, log, size=0):
    def run():
        with Path(log).open("a") as file:
            file.write(name)
        return bytearray(size)
    return Task(run, facts=lambda result: {"n_cells": len(result)})

def fails(at):
    runs = []
    def run():
        runs.append(1)
        if len(runs) == at:
            raise ValueError("no such count")
    return Task(run)

def is_not_available():
    raise NotAvailableError("no R here")

def is_killed():
    return Task(lambda: os._exit(9), warm_up=lambda: None)
"""


@pytest.fixture
def contender(tmp_path, monkeypatch):
    """Contenders of a module that the processes of a contest can import."""
    (tmp_path / "strange_contenders.py").write_text(CONTENDERS)
    monkeypatch.syspath_prepend(tmp_path)

    def make(name, function, /, **arguments):
        return Contender(name, f"strange_contenders:{function}", arguments)

    return make


def test_contenders_run_in_turns_after_their_warm_up(contender, tmp_path):
    log = tmp_path / "log"
    both = [contender(name, "writes", name=name, log=str(log)) for name in "AB"]
    outcomes = compete(both, 3, fresh=False)
    assert log.read_text() == "AB" + "AB" * 3
    assert [len(outcomes[name].runs) for name in "AB"] == [3, 3]


def test_a_fresh_process_for_each_run_counts_its_memory(contender, tmp_path):
    log, size = tmp_path / "log", 10**8
    both = [
        contender(name, "writes", name=name, log=str(log), size=size)
        for name, size in (("A", 0), ("B", size))
    ]
    outcomes = compete(both, 2, fresh=True)
    assert log.read_text() == "AABBAABB"
    for few, many in zip(outcomes["A"].runs, outcomes["B"].runs, strict=True):
        rise = (many["peak_bytes"] - many["start_bytes"]) - (few["peak_bytes"] - few["start_bytes"])
        assert rise == pytest.approx(size, rel=0.05)
    assert len(outcomes["B"].loaded_bytes) == 2


def test_who_fails_does_not_stop_the_others(contender, tmp_path):
    outcomes = compete(
        [
            contender("fails", "fails", at=3),
            contender("not available", "is_not_available"),
            contender("not there", "is_nowhere"),
            contender("killed", "is_killed"),
            contender("well", "writes", name="W", log=str(tmp_path / "log")),
        ],
        3,
        fresh=False,
    )
    assert len(outcomes["well"].runs) == 3
    assert outcomes["well"].error is None
    assert len(outcomes["fails"].runs) == 1
    assert (outcomes["fails"].error, outcomes["fails"].available) == (
        "ValueError: no such count",
        True,
    )
    assert (outcomes["not available"].error, outcomes["not available"].available) == (
        "no R here",
        False,
    )
    assert not outcomes["not there"].available
    assert outcomes["killed"].error == "its process ended with exit code 9"


# -- all of it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """All groups at small size: the folder of their results, and that of the inputs."""
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--scale", "small", "--keep"]
    command += ["--out", folder / "out", "--cache", folder / "cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def groups(small_run):
    return json.loads((small_run / "out" / "results.json").read_text())


# Not in the lowest version of scvi-tools.
_PREDICTS_AT_TARGETS = (
    "transform_batch" in inspect.signature(SCVI.posterior_predictive_sample).parameters
)


@pytest.mark.slow
def test_every_row_has_a_figure_or_says_what_is_not_there(groups):
    assert list(groups) == list(GROUPS)
    for name in ("counts", "methods", "posterior"):
        for row in groups[name]["rows"]:
            if "posterior_predictive_sample" in row["what"] and not _PREDICTS_AT_TARGETS:
                assert row["verdict"].startswith("not available: the counts at a target")
            else:
                assert row["verdict"] in {"reached", "missed", "for information"}
    for group in groups.values():
        for row in group["rows"]:
            assert ("figure" in row) != row["verdict"].startswith("not available: ")


@pytest.mark.slow
def test_contenders_that_are_compared_do_the_same_work(groups):
    def facts(group, name):
        return groups[group]["outcomes"][name]["runs"][-1]["facts"]

    sample = facts("counts", "sample")
    recipe = facts("counts", "scvi-tools: expression, draw, CSR")
    assert recipe["n_cells"] == sample["n_cells"]
    assert recipe["nonzero_share"] == pytest.approx(sample["nonzero_share"], abs=0.02)
    assert recipe["mean_total"] == pytest.approx(sample["mean_total"], rel=0.05)
    ours = facts("posterior", "normalized_expression, 25 draws")
    theirs = facts("posterior", "scvi-tools: expression, 25 draws")
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
def test_the_page_has_every_row_and_no_folder_of_this_machine(small_run, groups):
    page = (small_run / "out" / "RESULTS.md").read_text()
    assert page == report.page(groups)
    assert "It measures nothing" in page
    for group in groups.values():
        for row in group["rows"]:
            assert f"| {row['what']} | {row['goal']} |" in page
        for name in group["outcomes"]:
            assert f"| {name} | " in page
    assert str(small_run) not in page
    assert re.search(r"scvi-tools \d+\.\d+", page)


@pytest.mark.slow
def test_a_profile_tells_functions_of_the_package(small_run, capsys):
    arguments = ["counts", "sample", "--scale", "small", "--cache", str(small_run / "cache")]
    profile.main([*arguments, "--keep"])
    assert re.search(r"s +\d+\.\d% +[\w/]+\.py:\d+ ", capsys.readouterr().out)
    profile.main(
        [*arguments, "--keep", "--lines", "scvibridge.correction.corrected_counts:corrected_counts"]
    )
    assert "% Time  Line Contents" in capsys.readouterr().out


def test_contenders_and_rows_of_every_group_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(Inputs, "model", lambda *_: "model")
    monkeypatch.setattr(Inputs, "cells", lambda *_: "cells")
    monkeypatch.setattr(Inputs, "converted", lambda *_: "cells")
    for make in GROUPS.values():
        group = make(FULL, Inputs(tmp_path), tmp_path)
        assert isinstance(group, Group)
        names = {contender.name for contender in group.contenders}
        assert len(names) == len(group.contenders)
        assert {row.of for row in group.rows} | {row.over for row in group.rows} <= {*names, None}
