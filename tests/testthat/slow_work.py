"""Work in Python that tells its progress to R at once."""

from __future__ import annotations

import time

from scvibridge._utils import progress
from scvibridge.r import endpoints


def start() -> None:
    """Register "work" among what R can call: 2,000 cells in blocks of 500."""
    progress._CALL_INTERVAL = 0.0
    endpoints.FUNCTIONS["work"] = _work


def _work(fail: bool, seconds: float) -> int:
    blocks = [slice(i, i + 500) for i in range(0, 2000, 500)]
    for block in progress.track(blocks, "Computing counts", enabled=True):
        time.sleep(seconds)
        if fail and block.start == 1000:
            raise ValueError("broken")
    return 2000
