"""Memory of this process as counted by the kernel (Linux)."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS = Path("/proc/self/status")
_KIB = 1024


def resident() -> int:
    """Return the current memory of the process in bytes."""
    return _field("VmRSS")


def peak() -> int:
    """Return the peak memory of the process since `forget_peak`, in bytes."""
    return _field("VmHWM")


def forget_peak() -> None:
    """Reset the peak if the kernel allows it; otherwise it is that of the whole lifetime."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"{_STATUS} has no {name}")
