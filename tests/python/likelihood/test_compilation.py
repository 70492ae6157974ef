"""Compiled kernels on disk: used again, also by other copies, until any of their files changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from preloaded import run_code

from scvibridge._utils import progress
from scvibridge.likelihood import cpu

ENTRY = """
import numpy as np
from scvibridge.likelihood.cpu.compilation import entry
from scvibridge.likelihood.cpu.zero_inflation import probability_of_zero

@entry
def zero(mean):
    return probability_of_zero(mean, np.inf, -np.inf)[0]
"""

SCRIPT = """
from scvibridge.likelihood.cpu.zero import zero

print(zero(1.0), sum(zero.stats.cache_hits.values()))
"""


# A process that ends before numba has written the code that its index already names.
ENDS_EARLY = """
import os
from numba.core.caching import IndexDataCacheFile

IndexDataCacheFile._save_data = lambda *_: os._exit(9)
"""


def run_in(folder, *, cache=None, code=SCRIPT):
    """Return the probability of zero, and whether its kernel was found on disk."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": "" if cache is None else str(cache)},
        capture_output=True,
        text=True,
        check=code == SCRIPT,
    )
    return tuple(map(float, run.stdout.split()))


def write_package(folder):
    """Copy the kernels, and add an entry in a file that no change below touches."""
    package = folder / "scvibridge"
    shutil.copytree(
        Path(cpu.__file__).parent,
        package / "likelihood" / "cpu",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "__init__.py").touch()
    (package / "likelihood" / "__init__.py").touch()
    shutil.copytree(Path(progress.__file__).parent, package / "_utils")
    (package / "likelihood" / "cpu" / "zero.py").write_text(ENTRY)
    return package / "likelihood" / "cpu"


def change_a_called_kernel(kernels):
    """Square the probability, in a function that the entry calls in the end."""
    source = (kernels / "mass.py").read_text()
    assert source.count("        return -mean\n") == 1
    changed = source.replace("        return -mean\n", "        return -2.0 * mean\n")
    (kernels / "mass.py").write_text(changed)


PROBABILITY = 0.36787944117144233  # exp(-1)
CHANGED = 0.1353352832366127


def test_a_change_in_a_called_kernel_is_seen(tmp_path):
    kernels = write_package(tmp_path)
    assert run_in(tmp_path) == (PROBABILITY, 0)
    assert run_in(tmp_path) == (PROBABILITY, 1)
    old = sorted((kernels / "__pycache__").glob("zero*.nb?"))
    assert len(old) == 2
    change_a_called_kernel(kernels)
    assert run_in(tmp_path) == (CHANGED, 0)
    assert run_in(tmp_path) == (CHANGED, 1)
    new = sorted((kernels / "__pycache__").glob("zero*.nb?"))
    assert len(new) == 2
    assert not {*new} & {*old}


def test_copies_of_the_package_share_a_given_folder(tmp_path):
    copies = [tmp_path / name for name in ("first", "second")]
    kernels = [write_package(copy) for copy in copies]
    cache = tmp_path / "cache"
    assert run_in(copies[0], cache=cache) == (PROBABILITY, 0)
    assert run_in(copies[1], cache=cache) == (PROBABILITY, 1)
    change_a_called_kernel(kernels[1])
    assert run_in(copies[1], cache=cache) == (CHANGED, 0)
    assert run_in(copies[0], cache=cache) == (PROBABILITY, 1)
    assert not list(tmp_path.glob("*/scvibridge/**/*.nb?"))


def test_a_shared_folder_that_cannot_be_written_to_is_not_used(tmp_path):
    write_package(tmp_path)
    cache = tmp_path / "cache"
    assert run_in(tmp_path, cache=cache) == (PROBABILITY, 0)
    (shared,) = cache.glob("scvibridge_*")
    shutil.rmtree(shared)
    shared.touch()  # also for the superuser, who may write to any folder
    assert run_in(tmp_path, cache=cache) == (PROBABILITY, 0)
    assert run_in(tmp_path, cache=cache) == (PROBABILITY, 1)


def test_a_process_that_ends_while_it_stores_leaves_no_old_code_to_be_used(tmp_path):
    kernels = write_package(tmp_path)
    assert run_in(tmp_path) == (PROBABILITY, 0)
    change_a_called_kernel(kernels)
    (kernels / "zero.py").write_text(f"{ENTRY}\n\n")  # numba then numbers the files from 1 again
    assert run_in(tmp_path, code=ENDS_EARLY + SCRIPT) == ()
    assert run_in(tmp_path) == (CHANGED, 0)


# What entries were asked for, be they compiled or found on disk, and what had to be compiled.
ENTRIES = """
import sys, warnings
warnings.simplefilter("ignore")
from numba.core import event
from numba.core.dispatcher import Dispatcher
compiled = []
class Listener(event.Listener):
    def on_start(self, started):
        compiled.append(started.data["dispatcher"].py_func)
    def on_end(self, ended):
        pass
event.register("numba:compile", Listener())
def print_entries():
    modules = [module for name, module in sys.modules.items() if name.startswith("scvibridge.")]
    found = {value for module in modules for value in vars(module).values()
             if isinstance(value, Dispatcher) and "no_cpython_wrapper" not in value.targetoptions}
    for entry in found:
        for types in entry.signatures:
            print(entry.py_func.__module__, entry.py_func.__name__, types)
"""

WARM_UP = """
from scvibridge.cli.main import main
assert main(["warm-up"]) == 0
print_entries()
"""

FIRST_CALL = """
import scvibridge as sb
model = sb.load(sys.argv[1], adata=sys.argv[2], device="cpu")
for method in ("quantile", "sample"):
    sb.corrected_counts(model, transform_batch="V1", method=method, progress=False, device="cpu")
print([f.__name__ for f in compiled if f.__module__.startswith("scvibridge")])
print_entries()
"""


def test_nothing_is_compiled_after_warm_up(model_folder, data_file):
    """Where others compiled the same before, nothing is left to it: so the entries are compared."""
    warm_up = run_code(ENTRIES + WARM_UP)
    assert warm_up.returncode == 0, warm_up.stderr
    said, *warmed = warm_up.stdout.splitlines()
    assert said.startswith("compiled in ")
    call = run_code(ENTRIES + FIRST_CALL, model_folder, data_file)
    assert call.returncode == 0, call.stderr
    compiled, *called = call.stdout.splitlines()
    assert compiled == "[]"
    assert called
    assert {*called} <= {*warmed}
