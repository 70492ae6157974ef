"""Triton's kernels without a GPU: their values by its interpreter, and that they compile for GPUs.

Triton decides when it is imported whether its functions are interpreted, so that both run in
processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from scvibridge.likelihood.gpu import drawing

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

TRITON = tuple(map(int, metadata.version("triton").split(".")[:2]))
if TRITON < drawing._FIRST_TRITON:
    pytest.skip("the kernels need a later Triton", allow_module_level=True)

HERE = Path(__file__).parents[1] / "helpers"


def run(*arguments, **environment):
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_interpreted_kernels_draw_as_numba_does():
    printed = run("-m", "pytest", "-q", HERE / "gpu_triton_interpreted.py", TRITON_INTERPRET="1")
    assert " passed" in printed


def test_kernels_compile_for_gpus():
    printed = run(HERE / "gpu_triton_compiled.py", TRITON_INTERPRET="0").split()
    assert printed.count("screen_kernel") == printed.count("solve_kernel") == 18
