"""``python -m scvibridge``: the command line."""

from __future__ import annotations

from scvibridge.cli.main import command

command()
