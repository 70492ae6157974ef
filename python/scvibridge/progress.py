"""Progress on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from tqdm.auto import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")

# Seconds between two plain lines; shorter work prints none.
_LINE_INTERVAL = 10.0


def track(items: Sequence[T], description: str, enabled: bool) -> Iterator[T]:
    """Yield the items, telling how far the work has come.

    Parameters
    ----------
    items
        What is worked through, one after the other.
    description
        What is being done, e.g. ``"Drawing counts"``.
    enabled
        Whether to tell anything.
    """
    if not enabled:
        yield from items
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        yield from tqdm(items, desc=description, unit="block", leave=False)
    else:
        yield from _plain_lines(items, description)


def _plain_lines(items: Sequence[T], description: str) -> Iterator[T]:
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > _LINE_INTERVAL:
            last = time.monotonic()
            sys.stderr.write(f"{description}: {done} of {len(items)} blocks\n")
            sys.stderr.flush()
        yield item
