"""Compiled kernels on disk: used again, and discarded when any file of the kernels changes."""

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


def run_in(folder):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    probability, hits = run.stdout.split()
    return float(probability), int(hits)


def test_a_change_in_a_called_kernel_is_seen(tmp_path):
    package = tmp_path / "scvibridge"
    shutil.copytree(
        Path(cpu.__file__).parent,
        package / "likelihood" / "cpu",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "__init__.py").touch()
    (package / "likelihood" / "__init__.py").touch()
    shutil.copytree(Path(progress.__file__).parent, package / "_utils")
    (package / "likelihood" / "cpu" / "zero.py").write_text(ENTRY)
    assert run_in(tmp_path) == (0.36787944117144233, 0)
    assert run_in(tmp_path) == (0.36787944117144233, 1)
    # The entry is in zero.py, which stays as it is; what it calls in the end is in mass.py.
    source = (package / "likelihood" / "cpu" / "mass.py").read_text()
    assert source.count("        return -mean\n") == 1
    changed = source.replace("        return -mean\n", "        return -2.0 * mean\n")
    (package / "likelihood" / "cpu" / "mass.py").write_text(changed)
    assert run_in(tmp_path) == (0.1353352832366127, 0)


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
