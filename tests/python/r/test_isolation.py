"""Isolated calls from the side of R's process: what goes over, and how they end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scvibridge._utils.interrupts import staying_interrupts
from scvibridge.diagnostics.calibration.calibration import Calibration
from scvibridge.r import endpoints, exchange, launch, process, reticulate, threads


def over(value, path):
    exchange.write(value, path / "value.json")
    return exchange.read(path / "value.json")


TABLE = pd.DataFrame(
    {
        "text": ["a", None, "c"],
        "double": np.array([0.1, np.nan, np.inf]),
        "single": np.array([0.1, 0.2, 0.3], dtype="float32"),
        "flag": [True, False, True],
        "level": pd.Categorical(["x", None, "y"], categories=["y", "x"], ordered=True),
        "whole": pd.array([1, None, 3], dtype="Int64"),
        "time": pd.to_datetime(["2020-01-01", None, "2021-01-01"]),
    },
    index=pd.Index(["r1", "r2", "r3"], name="rows"),
)


@pytest.mark.parametrize("table", [TABLE, TABLE.reset_index(drop=True), TABLE.iloc[:0]])
def test_tables_go_over_unchanged(table, tmp_path):
    table = table.copy()
    table.attrs = {"n": 3, "names": ["a", "b"], "none": None}
    found = over(table, tmp_path)
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    assert found.attrs == table.attrs
    pd.testing.assert_series_equal(over(table["level"], tmp_path), table["level"])


def test_plain_values_and_arrays_go_over_unchanged(tmp_path):
    value = {
        "a": [1, 2.5, "x", None, True, (1, "y")],
        3: {"nested": 0.1 + 0.2, "not a number": float("nan")},
        "numpy": np.float64(0.1),
    }
    found = over(value, tmp_path)
    assert str(found) == str({**value, "numpy": 0.1})
    for array in (np.arange(6, dtype="int32").reshape(2, 3, order="F"), np.zeros((0, 2))):
        found = over(array, tmp_path)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    large = np.random.default_rng(0).random((400, 400))
    found = over(large, tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(found, large)


def test_what_cannot_go_over_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a set cannot be passed"):
        over({1, 2}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_data_and_records_go_over(tmp_path, simulated):
    found = over({"adata": simulated}, tmp_path)["adata"]
    assert isinstance(found, AnnData)
    pd.testing.assert_frame_equal(found.obs, simulated.obs)
    assert (found.X != simulated.X).nnz == 0
    named = simulated.copy()
    named.obs["CD4/CD8"] = np.arange(named.n_obs) / 3
    named.obs["column 0"] = "mine"
    named.var["a/b"] = "x"
    named.obsm["X_pca/x"] = np.ones((named.n_obs, 2))
    named.obsm["own"] = np.zeros((named.n_obs, 1))
    found = over(named, tmp_path)
    assert list(found.obsm) == ["X_pca/x", "own"]
    for table, expected in ((found.obs, named.obs), (found.var, named.var)):
        assert list(table.columns) == list(expected.columns)
    assert found.obs["CD4/CD8"].tolist() == named.obs["CD4/CD8"].tolist()

    kept = Calibration(TABLE, TABLE["double"], TABLE, TABLE, None, "keep", TABLE, {"seed": 1})
    found = over(exchange.Held(kept), tmp_path)
    again = over(found, tmp_path)  # from R's process to the next one
    revived = endpoints.given_back(again)
    assert isinstance(revived, Calibration)
    pd.testing.assert_frame_equal(revived.genes, TABLE)
    assert (revived.theta, revived.advice, revived.settings) == (None, "keep", {"seed": 1})


def test_the_calibration_of_added_genes_goes_over(tmp_path):
    added = Calibration(TABLE, TABLE["double"], TABLE, TABLE, TABLE["double"], "refit", TABLE)
    own = Calibration(TABLE, TABLE["double"], TABLE, TABLE, None, "keep", TABLE, {}, added)
    again = over(over(exchange.Held(own), tmp_path), tmp_path)
    revived = endpoints.given_back(again)
    assert isinstance(revived.added, Calibration)
    pd.testing.assert_series_equal(revived.added.theta, TABLE["double"])
    assert (revived.added.advice, revived.added.added, revived.theta) == ("refit", None, None)


needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
if_forked = pytest.mark.skipif(not launch._FORKS, reason="calls are not forked here")
both_ways = pytest.mark.parametrize(
    "forks", [pytest.param(True, marks=if_forked), False], ids=["fork", "new interpreter"]
)


@pytest.fixture(scope="module", autouse=True)
def no_server_stays():
    yield
    if launch._Server._running is not None:
        launch._Server._running.end()


@pytest.fixture
def given(model_folder, data_file):
    adata = str(data_file)
    return {"model_dir": str(model_folder), "adata": adata, "device": "cpu", "trust": False}


def in_a_constant_environment():
    """Remove what pytest changes with each test, so that tests share a server."""
    os.environ.pop("PYTEST_CURRENT_TEST", None)


def isolated(name, tmp_path, **arguments):
    in_a_constant_environment()
    session = {"isolate": True, "folder": str(tmp_path)}
    return reticulate.call(name, arguments, None, session)


def workers_of(parent):
    """The processes of isolated calls whose parent this is, and whether each is a server."""
    found = {}
    for process_folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (process_folder / "cmdline").read_bytes().split(b"\0")
            status = (process_folder / "status").read_text()
        except OSError:
            continue
        if b"scvibridge.r.worker" in words and f"\nPPid:\t{parent}\n" in status:
            found[int(process_folder.name)] = b"--serve" in words
    return found


def running():
    """The process of an isolated call of this test, once it is there."""
    for number, is_server in workers_of(os.getpid()).items():
        if not is_server:
            return number
        for forked in workers_of(number):
            return forked
    return None


def when_running(act):
    """Do something once there is such a process, from another thread."""

    def wait():
        while (process := running()) is None:
            time.sleep(0.01)
        act(process)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@needs_proc
@both_ways
def test_a_process_that_is_killed_is_an_error_that_says_so(forks, monkeypatch, tmp_path, given):
    monkeypatch.setattr(launch, "_FORKS", forks)
    when_running(lambda process: os.kill(process, signal.SIGKILL))
    error = isolated("load", tmp_path, **given)["error"]
    assert error["type"] == "ChildProcessError"
    assert "ended by the signal SIGKILL, possibly because memory ran out" in error["message"]
    assert list(tmp_path.iterdir()) == []


@needs_proc
@both_ways
def test_an_interrupt_ends_the_process_and_leaves_no_files(forks, monkeypatch, tmp_path, given):
    monkeypatch.setattr(launch, "_FORKS", forks)
    when_running(lambda _: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        isolated("load", tmp_path, **given)
    end = time.monotonic() + 10
    # An interrupt before the process is known here ends it by closing its standard input.
    while running() is not None and time.monotonic() < end:
        time.sleep(0.05)
    assert running() is None
    assert list(tmp_path.iterdir()) == []


@both_ways
def test_calls_find_relative_paths_and_the_next_one_is_not_disturbed(
    forks, monkeypatch, tmp_path, given, data_file
):
    """After calls that were killed or interrupted, and in a directory that the server is not in."""
    monkeypatch.setattr(launch, "_FORKS", forks)
    monkeypatch.chdir(data_file.parent)
    outcome = isolated("load", tmp_path, **{**given, "adata": data_file.name})
    assert outcome["error"] is None
    assert outcome["value"].source.adata == str(data_file)
    assert outcome["value"].summary["n_cells"] == ad.read_h5ad(data_file).n_obs
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_was_replaced_is_refused(tmp_path, given):
    folder = tmp_path / "model"
    shutil.copytree(given["model_dir"], folder)
    data = shutil.copy(given["adata"], tmp_path / "data.h5ad")
    model = isolated("load", tmp_path, **{**given, "model_dir": str(folder), "adata": str(data)})[
        "value"
    ]
    arguments = {"model": model, "adata": None}
    (folder / "notes.txt").write_text("another file")
    assert isolated("choose_batch", tmp_path, **arguments)["error"] is None
    for path in (folder / "model.pt", data):
        before = path.stat()
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
        error = isolated("choose_batch", tmp_path, **arguments)["error"]
        assert error["type"] == "ValueError"
        assert f"{path} was replaced or changed after the model was loaded" in error["message"]
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (folder / "model.pt").unlink()
    assert isolated("choose_batch", tmp_path, **arguments)["error"]["type"] == "FileNotFoundError"


# ---- the server that calls are forks of ------------------------------------------------------


@if_forked
def test_calls_share_a_server(tmp_path, given):
    in_a_constant_environment()
    server = launch._Server.current()
    first, second = (isolated("load", tmp_path, **given)["value"] for _ in range(2))
    assert first.summary == second.summary
    assert launch._Server.current() is server
    assert server.is_usable()


@if_forked
def test_a_fork_of_this_process_has_a_server_of_its_own():
    in_a_constant_environment()
    server = launch._Server.current()
    child = os.fork()
    if child == 0:
        other = launch._Server.current()
        is_other = other is not server and other._process.pid != server._process.pid
        other.end()
        os._exit(0 if is_other else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert server.is_usable()


@if_forked
def test_a_server_is_replaced_when_it_was_killed_or_the_environment_changes(monkeypatch):
    killed = launch._Server.current()
    os.kill(killed._process.pid, signal.SIGKILL)
    killed._process.wait()
    second = launch._Server.current()
    assert second is not killed
    monkeypatch.setenv("SCVIBRIDGE_TEST_OF_SERVERS", "1")
    third = launch._Server.current()
    assert third is not second
    assert second.has_ended()
    assert third._environment["SCVIBRIDGE_TEST_OF_SERVERS"] == "1"
    third.end()


@if_forked
def test_an_interrupt_while_the_server_imports_ends_it(tmp_path, given, monkeypatch):
    make_request = launch._Server.request

    def request(*arguments):
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        return make_request(*arguments)

    monkeypatch.setattr(launch._Server, "request", request)
    if launch._Server._running is not None:
        launch._Server._running.end()
    with pytest.raises(KeyboardInterrupt):
        isolated("load", tmp_path, **given)
    assert launch._Server._running is None
    assert list(tmp_path.iterdir()) == []


# ---- which calls are isolated ----------------------------------------------------------------


def test_only_models_that_are_not_at_hand_are_isolated():
    session = process.Session(isolate=True)
    model = process.IsolatedModel(exchange.ModelSource("x", None, "cpu", False), {})
    assert process.is_wanted({"model": model}, process.Session())
    assert process.is_wanted({"name": "x", "arguments": {"model": model}}, process.Session())
    assert process.is_wanted({"adata": "x"}, session)
    assert not process.is_wanted({"model": object()}, session)
    assert not process.is_wanted({"adata": "x"}, process.Session())


def test_an_exit_for_an_interrupt_is_an_interrupt():
    def ending():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), staying_interrupts():
        ending()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit), staying_interrupts():
        sys.exit(3)


def test_threads_keep_to_the_cores_at_hand(monkeypatch, tmp_path):
    for name in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    assert threads.available() == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert threads.available() == 8
    (tmp_path / "cpu.max").write_text("250000 100000\n")
    assert threads.available() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2,4")
    assert threads.available() == 2
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    assert threads.available() == 1
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    monkeypatch.setenv("OMP_THREAD_LIMIT", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads.available() == 7


def test_torch_and_numba_are_limited():
    import numba
    import torch

    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        assert threads.limit(1) == 1
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
        threads.limit()  # never raises a number that somebody has lowered
        assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
