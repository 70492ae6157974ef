"""Describe the machine and versions of a run, without names of hosts or folders."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import scvibridge

PACKAGES = (
    "scvi-tools",
    "torch",
    "numba",
    "numpy",
    "scipy",
    "anndata",
    "h5py",
    "zarr",
    "sparse",
    "dask",
    "distributed",
    "rpy2",
    "anndata2ri",
)


def describe() -> dict[str, Any]:
    """Return machine and versions as plain values."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "python": platform.python_version(),
        "r": _r_version(),
        "packages": {
            "scvibridge": scvibridge.__version__,
            **{name: _version(name) for name in PACKAGES},
        },
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _r_version() -> str:
    program = shutil.which("Rscript")
    if program is None:
        return "none"
    command = [program, "-e", "cat(as.character(getRversion()))"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
