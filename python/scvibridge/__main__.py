"""``python -m scvibridge``: the command line."""

from scvibridge.cli import command

command()
