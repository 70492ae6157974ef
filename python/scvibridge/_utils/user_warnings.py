"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.partition(".")[0]

# The command line calls the public functions as users do, and shows warnings by their place.
_COMMANDS = f"{_PACKAGE}.cli"


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning that names the line from which this package was called."""
    warnings.warn(message, category, stacklevel=_level_of_caller())


def _level_of_caller() -> int:
    """Find the `stacklevel`, seen from `warn`, of the caller of the outermost of our functions.

    Functions of other packages may be called in between, such as decorators of torch.
    """
    level = outermost = 1
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_back is not None:
        level, frame = level + 1, frame.f_back
        name = frame.f_globals.get("__name__", "")
        if _is_in(name, _PACKAGE) and not _is_in(name, _COMMANDS):
            outermost = level
    return outermost + 1


def _is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
