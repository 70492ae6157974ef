"""The parser of the commands: one-line usage errors, and options with several values."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scvibridge._utils import exit_codes
from scvibridge._utils.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable


_WIDTH = 96


class Parser(argparse.ArgumentParser):
    """Parser with one-line usage errors that refer to the help, and texts that keep line breaks.

    The usage in a help text has the arguments without a name first: after the options, one with
    several values would take them.

    Attributes
    ----------
    several
        The values of each option with several values, by the option as it was written.
    """

    def __init__(self, description: str = "", **settings: Any) -> None:
        if "\n" not in description:
            description = textwrap.fill(description, _WIDTH)
        super().__init__(
            description=description, formatter_class=_formatter, allow_abbrev=False, **settings
        )
        self.several: dict[str, list[Any]] = {}

    def format_help(self) -> str:
        """Return the help text."""
        needed = [action for action in self._actions if action.required]
        words = [
            " ".join([*action.option_strings[:1], str(action.metavar)])
            for action in sorted(needed, key=lambda action: bool(action.option_strings))
        ]
        self.usage = " ".join(["%(prog)s", *words, "[OPTION ...]"])
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """End with a message on one line."""
        text = printable(
            f"{self.prog}: {message}{self._misplaced(message)} (see {self.prog} --help)"
        )
        self.exit(exit_codes.BAD_INPUT, f"{text}\n")

    def _misplaced(self, message: str) -> str:
        """Return which option took the value of an argument that a message reports as missing."""
        for argument, is_one in _KINDS.items():
            for option, values in self.several.items():
                if argument in message and is_one(values[-1]):
                    return (
                        f"; if {values[-1]!r} is {argument}, put it first: here it is a value of "
                        f"{option}"
                    )
        return ""


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=_WIDTH)


class Several(argparse.Action):
    """Collect all values of an option, which can also be repeated."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Add values to those of the option so far."""
        so_far = getattr(namespace, self.dest)
        if so_far is None:
            so_far = []
        elif not isinstance(so_far, list):
            so_far = [so_far]
        collected = [*so_far, *values]
        if option is not None:
            parser.several[option] = collected
        setattr(namespace, self.dest, self.stored(collected))

    def stored(self, values: list[Any]) -> Any:
        """Return the value of the option."""
        return values


class Files(Several):
    """Collect files, as :class:`Several` does; a single one is stored as such."""

    def stored(self, values: list[Any]) -> Any:
        """Return the path, or the paths."""
        return values[0] if len(values) == 1 else values


def add_several(group: Any, *names: str, action: type[Several] = Several, **settings: Any) -> None:
    """Add an option, or a positional argument, with one or more values."""
    group.add_argument(*names, nargs="+", action=action, **settings)


# ---- positional arguments ----------------------------------------------------------------------


def _is_model(value: Any) -> bool:
    return any(Path(str(value)).glob("*model.pt"))


def _is_data(value: Any) -> bool:
    return Path(str(value)).exists() and str(value).lower().endswith((".h5ad", ".zarr", ".h5mu"))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "MODEL_DIR": _is_model,
    "DATA": _is_data,
    "RESULT": _is_data,
}
