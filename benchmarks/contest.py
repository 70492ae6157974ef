"""Run contenders against each other, each in a separate process, in turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.worker import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

# Seconds after which a contender that does not answer is aborted.
TIMEOUT = 3600.0


@dataclass(frozen=True)
class Contender:
    """A contender.

    Attributes
    ----------
    name
        Its name in the tables.
    function
        ``"module:name"`` of a function that loads what is needed and returns a
        :class:`benchmarks.task.Task`.
    arguments
        Its arguments, plain values.
    """

    name: str
    function: str
    arguments: dict[str, Any]


@dataclass
class Outcome:
    """The outcome for a contender: its runs, or why there are none."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    loaded_bytes: list[int] = field(default_factory=list)
    threads: dict[str, int] = field(default_factory=dict)
    error: str | None = None
    available: bool = True


class _Process:
    """A contender's process, as seen by the parent."""

    def __init__(self, contender: Contender, context: Any, outcome: Outcome) -> None:
        self._outcome = outcome
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, contender.function, contender.arguments)
        )
        self._process.start()
        other.close()

    def wait_until_ready(self) -> None:
        answer = self._receive()
        if answer is not None:
            self._outcome.loaded_bytes.append(answer["loaded_bytes"])
            self._outcome.threads = answer["threads"]

    def run(self) -> None:
        with contextlib.suppress(ConnectionError):  # `_receive` reports why
            self._connection.send("run")
        answer = self._receive()
        if answer is not None:
            self._outcome.runs.append(answer)

    def stop(self) -> None:
        self._connection.close()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> dict[str, Any] | None:
        """Receive an answer; on failure, return None and record the reason."""
        answer: dict[str, Any]
        try:
            if self._connection.poll(TIMEOUT):
                answer = self._connection.recv()
            else:
                answer = {"error": f"no answer within {TIMEOUT:g} s", "available": True}
        except (EOFError, ConnectionError):
            self._process.join(30)
            code = self._process.exitcode
            answer = {"error": f"its process ended with exit code {code}", "available": True}
        if "error" not in answer:
            return answer
        self._outcome.error, self._outcome.available = answer["error"], answer["available"]
        return None


def compete(
    contenders: Sequence[Contender], rounds: int, *, fresh: bool, start_method: str = "spawn"
) -> dict[str, Outcome]:
    """Let contenders run in turns, A B C A B C, for a number of rounds.

    Parameters
    ----------
    contenders
        The contenders.
    rounds
        Number of runs of each.
    fresh
        Whether each run has a separate process, as memory measurements require; otherwise each
        contender has one process for all its runs, which waits while the others run.
    start_method
        Start method of :mod:`multiprocessing`. ``"spawn"`` starts a new interpreter.

    Returns
    -------
    The outcome of each contender by its name. If one fails, the others continue.
    """
    context = multiprocessing.get_context(start_method)
    outcomes = {contender.name: Outcome() for contender in contenders}
    if fresh:
        for _ in range(rounds):
            for contender in contenders:
                if outcomes[contender.name].error is None:
                    _run_all([contender], 1, context, outcomes)
    else:
        _run_all(contenders, rounds, context, outcomes)
    return outcomes


def _run_all(
    contenders: Sequence[Contender], rounds: int, context: Any, outcomes: dict[str, Outcome]
) -> None:
    processes = {}
    try:
        # In sequence: what the first one compiles, the others find in numba's cache.
        for contender in contenders:
            process = _Process(contender, context, outcomes[contender.name])
            processes[contender.name] = process
            process.wait_until_ready()
            if outcomes[contender.name].error is not None:
                _say(contender.name, outcomes[contender.name])
        for _ in range(rounds):
            for name, process in processes.items():
                if outcomes[name].error is None:
                    process.run()
                    _say(name, outcomes[name])
    finally:
        for process in processes.values():
            process.stop()


def _say(name: str, outcome: Outcome) -> None:
    if outcome.error is None:
        print(f"bench: {name}: {outcome.runs[-1]['seconds']:.3f} s", file=sys.stderr, flush=True)
    else:
        print(f"bench: {name}: {outcome.error}", file=sys.stderr, flush=True)
