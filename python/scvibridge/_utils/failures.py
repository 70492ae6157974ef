"""Errors not caused by the input: the message is one sentence, and the exit code is 1."""

from __future__ import annotations


class WriteError(OSError):
    """A result could not be written, although the request is valid."""
