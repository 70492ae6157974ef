"""The command ``scvibridge warm-up``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from scvibridge._utils.progress import format_seconds

if TYPE_CHECKING:
    import argparse

TEXT = "compile code for this machine in advance, so that the first calls need not do it"
NOTES = """\
Compiled code is kept next to the package, or in the user's cache folder if the package's is not
writable; NUMBA_CACHE_DIR names another folder, which several installations may share. Run it again
after an update of scvibridge or numba, and on another processor."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "warm-up", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=NOTES
    )
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(_: argparse.Namespace) -> str:
    """Compile; return what to print on standard output."""
    from scvibridge.likelihood.warm_up import compile_kernels

    began = time.monotonic()
    compile_kernels()
    return f"compiled in {format_seconds(time.monotonic() - began)}"
