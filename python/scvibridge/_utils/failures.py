"""Errors that are not the input's: the message is one sentence, and the exit code is 1."""

from __future__ import annotations


class WriteError(OSError):
    """A result could not be written, though nothing is wrong with what was asked for."""
