"""Progress: what is told, where, and how often."""

from __future__ import annotations

import functools
import io
import itertools
import re
import subprocess
import sys
import threading

import pytest

from scvibridge._utils import progress
from scvibridge._utils.progress import format_seconds, reporting_to, track

CELLS = [slice(0, 300), slice(300, 600), slice(600, 700)]


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def start(self, description, total, unit):
        self.told.append(("start", description, total, unit))

    def update(self, done):
        self.told.append(("update", done))

    def finish(self):
        self.told.append(("finish",))


@pytest.fixture
def _at_once(monkeypatch):
    """Tells everything without waiting."""
    for name in ("_BAR_DELAY", "_LINE_INTERVAL", "_CALL_INTERVAL"):
        monkeypatch.setattr(progress, name, 0.0)


def test_the_items_come_in_order_whether_told_or_not():
    for enabled in (True, False):
        assert list(track(CELLS, "Computing counts", enabled)) == CELLS
        assert list(track([], "Computing counts", enabled)) == []


@pytest.mark.usefixtures("_at_once")
def test_a_reporter_is_told_of_cells():
    recorder = Recorder()
    with reporting_to(recorder):
        list(track(CELLS, "Computing counts", enabled=True))
    assert recorder.told == [
        ("start", "Computing counts", 700, "cells"),
        ("update", 300),
        ("update", 600),
        ("update", 700),
        ("finish",),
    ]


@pytest.mark.usefixtures("_at_once")
def test_other_items_are_counted_as_blocks():
    recorder = Recorder()
    with reporting_to(recorder):
        list(track(["a", slice(0, 5)], "Merging", enabled=True))
    assert recorder.told[0] == ("start", "Merging", 2, "blocks")
    assert recorder.told[1:3] == [("update", 1), ("update", 2)]


@pytest.mark.usefixtures("_at_once")
def test_an_item_is_done_when_the_next_is_asked_for():
    recorder = Recorder()
    with reporting_to(recorder):
        work = track(CELLS, "Computing counts", enabled=True)
        next(work)
        assert recorder.told[1:] == []
        next(work)
        assert recorder.told[1:] == [("update", 300)]
        work.close()


@pytest.mark.usefixtures("_at_once")
def test_a_step_that_fails_is_finished_too():
    recorder = Recorder()

    def fail():
        for block in track(CELLS, "Computing counts", enabled=True):
            if block.start == 300:
                raise ValueError("broken")

    with reporting_to(recorder), pytest.raises(ValueError, match="broken"):
        fail()
    assert recorder.told[-1] == ("finish",)


def test_a_reporter_is_told_a_few_times_a_second(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(progress, "_CALL_INTERVAL", 20.0)
    recorder = Recorder()
    blocks = [slice(i, i + 1) for i in range(100)]
    with reporting_to(recorder):
        list(track(blocks, "Computing counts", enabled=True))
    updates = [told for told in recorder.told if told[0] == "update"]
    assert updates == [("update", done) for done in range(20, 101, 20)]


@pytest.mark.usefixtures("_at_once")
def test_other_threads_and_later_work_leave_the_reporter_alone():
    recorder = Recorder()
    with reporting_to(recorder):
        thread = threading.Thread(target=lambda: list(track(CELLS, "Reading", enabled=True)))
        thread.start()
        thread.join()
    list(track(CELLS, "Reading", enabled=True))
    assert recorder.told == []


@pytest.mark.usefixtures("_at_once")
def test_lines_tell_cells_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 30.0, 60.0, 90.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    blocks = [slice(0, 15_000), slice(15_000, 30_000), slice(30_000, 120_000)]
    list(track(blocks, "Computing counts", enabled=True))
    assert capsys.readouterr().err.splitlines() == [
        "Computing counts: 15,000 of 120,000 cells (12%), 500 cells/s, 3 min 30 s left",
        "Computing counts: 30,000 of 120,000 cells (25%), 500 cells/s, 3 min 00 s left",
    ]


def test_an_imported_ipykernel_is_no_notebook():
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    code = (
        "import ipykernel, IPython\n"
        "from scvibridge._utils.progress import choose_reporter\n"
        "print(type(choose_reporter()).__name__)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "_Lines"


def test_short_work_and_disabled_progress_tell_nothing(capsys):
    list(track(CELLS, "Computing counts", enabled=True))
    list(track(CELLS, "Computing counts", enabled=False))
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("_at_once")
def test_a_terminal_shows_a_bar_with_rate_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(progress, "tqdm", functools.partial(progress.tqdm, mininterval=0))
    for _ in track(CELLS, "Computing counts", enabled=True):
        pass
    text = terminal.getvalue()
    assert re.search(r"Computing counts: +43%.* 300/700 \[00:00<00:00, [\d.]+ cells/s\]", text)
    assert text.endswith("\r")  # the bar is wiped out


def test_a_terminal_shows_nothing_of_short_work(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(track(CELLS, "Computing counts", enabled=True))
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")],
)
def test_durations_are_told_in_their_two_largest_units(seconds, text):
    assert format_seconds(seconds) == text
