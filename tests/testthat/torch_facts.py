"""What torch says of itself."""

from __future__ import annotations

import torch


def version() -> str:
    """Version and build."""
    return str(torch.__version__)
