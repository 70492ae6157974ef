"""What a contender gives: a function to be timed, and what goes around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class NotAvailableError(Exception):
    """The installed scvibridge, or this machine, lacks what a contender needs."""


def _nothing() -> None:
    pass


def _no_facts(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """A contender that is ready to run: model and data are loaded.

    Attributes
    ----------
    run
        What is timed.
    warm_up
        What is run before, so that neither compilation nor first calls count; `run` where None.
    before
        What is done before each run, outside of its time.
    seconds
        What a result of `run` tells of its time, where that was in another process; where None, it
        is timed here.
    facts
        Numbers about a result of `run`, which show that contenders did the same work.
    close
        What is done at the end.
    """

    run: Callable[[], Any]
    warm_up: Callable[[], Any] | None = None
    before: Callable[[], None] = _nothing
    seconds: Callable[[Any], float] | None = None
    facts: Callable[[Any], dict[str, Any]] = _no_facts
    close: Callable[[], None] = _nothing
