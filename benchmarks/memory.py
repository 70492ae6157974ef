"""Memory of a process, by default this one, as counted by the kernel (Linux)."""

from __future__ import annotations

import contextlib
from pathlib import Path

_KIB = 1024


def resident(process: int | None = None) -> int:
    """Return the current memory of a process in bytes."""
    return _field("VmRSS", process)


def peak(process: int | None = None) -> int:
    """Return the peak memory of a process since `forget_peak`, in bytes."""
    return _field("VmHWM", process)


def forget_peak(process: int | None = None) -> None:
    """Reset the peak if the kernel allows it; otherwise it is that of the whole lifetime."""
    with contextlib.suppress(OSError):
        (_folder(process) / "clear_refs").write_text("5")


def _folder(process: int | None) -> Path:
    return Path("/proc", "self" if process is None else str(process))


def _field(name: str, process: int | None) -> int:
    status = _folder(process) / "status"
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * _KIB
    raise RuntimeError(f"{status} has no {name}")
