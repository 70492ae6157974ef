"""Compiled kernels on disk: used again, and thrown away when any file of the kernels changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from scvibridge._utils import process_state
from scvibridge.likelihood import cpu

SCRIPT = """
import numpy as np
from scvibridge.likelihood.cpu.zero_inflation import probability_of_zero as kernel

print(kernel(1.0, np.inf, -np.inf)[0], sum(kernel.stats.cache_hits.values()))
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
    (package / "_utils").mkdir()
    (package / "_utils" / "__init__.py").touch()
    shutil.copy(process_state.__file__, package / "_utils")
    assert run_in(tmp_path) == (0.36787944117144233, 0)
    assert run_in(tmp_path) == (0.36787944117144233, 1)
    # The kernel is in zero_inflation.py, which stays as it is; what it calls is in mass.py.
    source = (package / "likelihood" / "cpu" / "mass.py").read_text()
    assert source.count("        return -mean\n") == 1
    changed = source.replace("        return -mean\n", "        return -2.0 * mean\n")
    (package / "likelihood" / "cpu" / "mass.py").write_text(changed)
    assert run_in(tmp_path) == (0.1353352832366127, 0)
