"""The task of a contender: a function to be timed, and the code around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


class NotAvailableError(Exception):
    """The installed scvibridge, or this machine, lacks what a contender needs."""


def nothing() -> None:
    """Do nothing: where a task needs no preparation, or no end."""


def _no_facts(_: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Task:
    """A contender that is ready to run: model and data are loaded.

    Attributes
    ----------
    run
        The function to be timed.
    warm_up
        Run beforehand, so that neither compilation nor first calls count; `run` if None.
    before
        Run before each run, not timed.
    seconds
        Returns the time reported by a result of `run` if it ran in another process; if None, it is
        timed here.
    facts
        Numbers about a result of `run`, which show that contenders did the same work.
    close
        Run at the end.
    process
        Number of the process whose memory is measured; if None, this one.
    """

    run: Callable[[], Any]
    warm_up: Callable[[], Any] | None = None
    before: Callable[[], None] = nothing
    seconds: Callable[[Any], float] | None = None
    facts: Callable[[Any], dict[str, Any]] = _no_facts
    close: Callable[[], None] = nothing
    process: int | None = None
