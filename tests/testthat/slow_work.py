"""Work in Python that tells its progress to R at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scvibridge import from_r, progress

if TYPE_CHECKING:
    from collections.abc import Callable


def start(fail: bool = False) -> None:
    """Register "work" among what R can call: 2,000 cells in blocks of 500."""
    progress._CALL_INTERVAL = 0.0
    from_r.FUNCTIONS["work"] = _failing if fail else _work


def _work(then: Callable[[int], None] | None = None) -> int:
    blocks = [slice(i, i + 500) for i in range(0, 2000, 500)]
    for block in progress.track(blocks, "Drawing counts", enabled=True):
        if then is not None:
            then(block.start)
    return 2000


def _failing() -> None:
    def fail(position: int) -> None:
        if position == 1000:
            raise ValueError("broken")

    _work(fail)
