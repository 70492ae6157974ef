"""Memory of this process, as the kernel counts it (Linux)."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")
_KIB = 1024


def resident() -> int:
    """Memory that the process holds now, in bytes."""
    return _field("VmRSS")


def peak() -> int:
    """Most memory that the process has held since `forget_peak`, in bytes."""
    return _field("VmHWM")


def forget_peak() -> None:
    """Count the peak from now on, where the kernel lets us; else it is that of the whole life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"{_STATUS} has no {name}")
