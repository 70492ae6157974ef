"""How work ends: by signals, with standard streams that are closed, and in forked processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import pytest
from preloaded import NO_READER, run_code

import scvibridge as sb
from scvibridge._utils.interrupts import endings_interrupt, no_lost_interrupts

QUIET = {"progress": False, "device": "cpu"}
COMMAND = [sys.executable, "-m", "scvibridge"]
COMMAND_ONCE_IMPORTED = "from scvibridge.cli import main as cli; cli.command()"
# Kills its own process when the third block is made.
KILLED = """
import os, sys
from scvibridge.correction import count_blocks as correction
made = correction.Correction.pieces
calls = []
def pieces(self, selection):
    calls.append(selection)
    if len(calls) == 3:
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    yield from made(self, selection)
correction.Correction.pieces = pieces
correction_cut = __import__("scvibridge.correction.corrected_counts", fromlist=["x"])
correction_cut.cut_result = lambda n, *_: tuple(slice(i, min(i + 20, n)) for i in range(0, n, 20))
"""
BY_COMMAND = KILLED + COMMAND_ONCE_IMPORTED
BY_PYTHON = (
    KILLED
    + """
import scvibridge as sb
model = sb.load(sys.argv[1], adata=sys.argv[2], device="cpu")
sb.corrected_counts(model, transform_batch="V1", out=sys.argv[3], progress=False, device="cpu",
                    resume=len(sys.argv) > 4)
print("done")
"""
)


@pytest.fixture(scope="module")
def files(model_folder, data_file) -> list[str]:
    return [str(model_folder), "--adata", str(data_file), "--transform-batch", "V1"]


def run(command, **settings):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, **settings
    )


def killed(code, arguments, number):
    return run_code(code, *arguments, environment={"SIGNAL": str(int(number))})


# ---- signals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signals_end_the_command_and_keep_blocks(name, files, tmp_path):
    number, out = getattr(signal, name), tmp_path / "x.h5ad"
    arguments = ["correct", *files, "--out", out, "--quiet"]
    ended = killed(BY_COMMAND, arguments, number)
    assert ended.returncode == 128 + number
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("scvibridge: interrupted, nothing written; ")
    assert "2 of 15 blocks" in line
    assert not out.exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_a_script_and_keep_blocks(name, model_folder, data_file, tmp_path):
    """As Ctrl-C does, but for the trace: the process ends by the signal, for its parent to see."""
    number, out = getattr(signal, name), tmp_path / "x.h5ad"
    arguments = [model_folder, data_file, out]
    ended = killed(BY_PYTHON, arguments, number)
    assert ended.returncode == -number
    assert ended.stdout == ""
    assert f"scvibridge: interrupted by {name}; " in ended.stderr
    assert "2 of 15 blocks" in ended.stderr
    assert "Traceback" not in ended.stderr
    resumed = run_code(BY_PYTHON.replace("== 3", "== 0"), *arguments, "r")
    assert resumed.stdout == "done\n", resumed.stderr
    model = sb.load(model_folder, adata=data_file, device="cpu")
    expected = sb.corrected_counts(model, transform_batch="V1", **QUIET)
    assert (ad.read_h5ad(out).X != expected.X).nnz == 0


def test_a_signal_that_is_ignored_ends_nothing(files, tmp_path):
    out = tmp_path / "x.h5ad"
    ignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    ended = killed(
        ignored + BY_COMMAND, ["correct", *files, "--out", out, "--quiet"], signal.SIGHUP
    )
    assert ended.returncode == 0, ended.stderr
    assert out.exists()


def test_nohup_goes_on_without_any_stream(files, tmp_path):
    """A new interpreter, which gets the signal and its streams from a shell."""
    out = tmp_path / "x.h5ad"
    environment = {**os.environ, "SIGNAL": str(int(signal.SIGHUP))}
    command = ["nohup", sys.executable, "-c", BY_COMMAND, "correct", *files, "--out", str(out)]
    done = run(["sh", "-c", f"{shlex.join(command)} <&- >&- 2>&-"], env=environment)
    assert done.returncode == 0
    assert ad.read_h5ad(out).n_obs == 300


def test_handlers_of_the_program_are_left_alone(model_folder, data_file, tmp_path):
    own = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))\n"
    ended = killed(own + BY_PYTHON, [model_folder, data_file, tmp_path / "x.h5ad"], signal.SIGTERM)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "mine\ndone\n"


def test_handlers_are_put_back(trained_model, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    sb.corrected_counts(trained_model, transform_batch="V1", out=tmp_path / "x.h5ad", **QUIET)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


# ---- standard streams ------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [[1], [2], [1, 2], [0, 1, 2]])
def test_closed_streams(closed, files, tmp_path):
    """What is written to a closed one must not go into the file that takes its number."""
    out = tmp_path / "x.h5ad"
    streams = dict.fromkeys(closed)
    arguments = ["correct", *files, "--out", out]
    done = run_code(COMMAND_ONCE_IMPORTED, *arguments, streams=streams)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert ("written" in done.stderr) == (2 not in closed)
    assert done.stdout == ("" if 1 in closed else f"{out}\n")
    assert ad.read_h5ad(out).n_obs == 300


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["correct", "--help"]])
def test_reader_that_has_gone(arguments):
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_reader_that_has_gone_before_the_path_is_told(files, tmp_path):
    arguments = ["correct", *files, "--out", tmp_path / "x.h5ad", "--quiet"]
    done = run_code(COMMAND_ONCE_IMPORTED, *arguments, streams={1: NO_READER})
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x.h5ad").exists()


@pytest.mark.parametrize(("out", "code"), [("x.h5ad", 0), ("no/x.h5ad", 2)])
def test_messages_that_nobody_reads(out, code, files, tmp_path):
    """A run goes on where its standard error is closed, and fails with its code."""
    arguments = ["correct", *files, "--out", tmp_path / out]
    done = run_code(COMMAND_ONCE_IMPORTED, *arguments, streams={2: NO_READER})
    assert done.returncode == code
    assert (tmp_path / out).exists() == (code == 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_does_not_fit_is_a_failure(files, tmp_path):
    arguments = ["correct", *files, "--out", tmp_path / "x.h5ad", "--quiet"]
    done = run_code(COMMAND_ONCE_IMPORTED, *arguments, streams={1: "/dev/full"})
    assert done.returncode == 1
    assert "No space left" in done.stderr


# ---- forked processes ------------------------------------------------------------------------

# Each case is a process of its own, which knows scvi-tools already, and scvibridge not yet.
FORKED = """
import os, sys, multiprocessing, traceback
import anndata, scvi.model, torch

def case(before):
    import scvibridge as sb
    torch.set_num_threads(2)
    def work(_):
        model = sb.load(sys.argv[1], adata=sys.argv[2], device="cpu")
        made = sb.corrected_counts(model, transform_batch="V1", progress=False, device="cpu")
        return int(made.X.sum())
    if before == "torch":
        x = torch.randn(1500, 1500)
        torch.exp(x), x @ x
    elif before == "ours":
        print("before", work(0), flush=True)
    global forked
    forked = work
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(before, pool.map_async(by_name, [0]).get(90)[0], flush=True)

def by_name(number):
    return forked(number)

for before in sys.argv[3:]:
    process = os.fork()
    if not process:
        try:
            case(before)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(process, 0)
"""


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="needs fork")
def test_forked_processes_work(model_folder, data_file):
    """Threads of OpenMP do not survive a fork: the child would wait for them for ever."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", "-c", FORKED, model_folder, data_file]
    done = subprocess.run(
        [*map(str, command), "nothing", "torch", "ours"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    model = sb.load(model_folder, adata=data_file, device="cpu")
    total = int(sb.corrected_counts(model, transform_batch="V1", **QUIET).X.sum())
    expected = [f"{case} {total}" for case in ("nothing", "torch", "before", "ours")]
    assert done.stdout.splitlines() == expected, done.stderr


class Finalized:
    """An object in whose finalizer a signal arrives, where Python ignores exceptions."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        signal.raise_signal(self.number)


def test_an_interrupt_that_python_ignores_is_raised_again_during_the_work(capsys):
    def work() -> None:
        Finalized(signal.SIGINT)
        while time.monotonic() < started + 60:
            time.sleep(0.01)

    before = sys.unraisablehook
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), no_lost_interrupts():
        work()
    assert time.monotonic() < started + 30
    assert sys.unraisablehook is before
    assert "ignored" not in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 15)])
def test_an_ignored_interrupt_is_raised_when_the_work_ends(number, code):
    with pytest.raises(KeyboardInterrupt) as caught, endings_interrupt(), no_lost_interrupts():
        Finalized(number)
    assert getattr(caught.value, "number", None) == code


def test_other_ignored_exceptions_are_left_to_the_hook_before(monkeypatch):
    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with no_lost_interrupts():
        Failing()
    assert [type(ignored.exc_value) for ignored in seen] == [ValueError]
