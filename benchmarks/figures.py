"""Compute figures from the runs of contenders, and compare them with goals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.contest import Outcome

_GB = 1e9

MEASURES = {
    "seconds": "wall-clock time of a run",
    "seconds_per_cell": "the same for each cell",
    "peak": "peak memory of the process",
    "extra": "peak memory over what the process held with model and data loaded",
    "serial_share": "share of the CPU time in which no worker had a task",
    "idle_share": "largest share of a run in which a worker had no task",
    "rise_over_object": "rise of memory during a run, over the size of the R object made",
}

_SHARES = ("serial_share", "idle_share")


@dataclass(frozen=True)
class Row:
    """A figure of the table and its goal.

    Attributes
    ----------
    what
        Description of the figure.
    measure
        One of `MEASURES`.
    of, over
        Contenders whose medians are divided, ``of / over``; if `over` is None, the median of `of`.
    at_least, at_most
        The goal, at most one of them; a row without a goal is for information.
    """

    what: str
    measure: str
    of: str
    over: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    def goal(self) -> str:
        """Return the goal as text."""
        limit = self.at_least if self.at_least is not None else self.at_most
        if limit is None:
            return ""
        return f"{'>=' if self.at_least is not None else '<='} {self._text(limit, spec='g')}"

    def _text(self, value: float, spec: str = ".2f") -> str:
        if self.over is None and self.measure in ("peak", "extra"):
            return f"{value / _GB:{spec}} GB"
        if self.over is None and self.measure == "seconds":
            return f"{value:{spec}} s"
        if self.measure in _SHARES:
            return f"{100 * value:{spec}}%"
        return f"{value:{spec}} x"

    def evaluate(self, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
        """Compute the figure, its range over the rounds, and the verdict.

        The range is that of the ratios within a round: contenders run in turns, so runs of a round
        share the state of the machine.
        """
        try:
            of = values(outcomes[self.of], self.measure)
            over = [1.0] * len(of)
            if self.over is not None:
                over = values(outcomes[self.over], self.measure)
        except MissingError as error:
            return {"verdict": str(error)}
        figure = median(of) / median(over)
        ratios = [a / b for a, b in zip(of, over, strict=True)]
        return {
            "figure": figure,
            "range": [min(ratios), max(ratios)],
            "text": f"{self._text(figure)} "
            f"({self._text(min(ratios))} to {self._text(max(ratios))})",
            "verdict": self._verdict(figure),
        }

    def _verdict(self, figure: float) -> str:
        if self.at_least is not None:
            return "reached" if figure >= self.at_least else "missed"
        if self.at_most is not None:
            return "reached" if figure <= self.at_most else "missed"
        return "for information"


class MissingError(Exception):
    """A contender has no figure; the message says why."""


def values(outcome: Outcome, measure: str) -> list[float]:
    """Return one value of a measure for each run of a contender.

    Raises
    ------
    MissingError
        If the contender is not available or failed.
    """
    if outcome.error is not None:
        kind = "failed" if outcome.available else "not available"
        raise MissingError(f"{kind}: {outcome.error}")
    return [
        _value(measure, run, _loaded(outcome, number)) for number, run in enumerate(outcome.runs)
    ]


def _loaded(outcome: Outcome, number: int) -> int:
    """Return the memory after loading of the process of a run."""
    return outcome.loaded_bytes[min(number, len(outcome.loaded_bytes) - 1)]


def _value(measure: str, run: Mapping[str, Any], loaded_bytes: int) -> float:
    if measure == "seconds":
        return float(run["seconds"])
    if measure == "seconds_per_cell":
        return float(run["seconds"]) / run["facts"]["n_cells"]
    if measure == "peak":
        return float(run["peak_bytes"])
    if measure == "extra":
        return float(run["peak_bytes"] - loaded_bytes)
    if measure in _SHARES:
        return float(run["facts"][measure])
    if measure == "rise_over_object":
        return float(run["peak_bytes"] - run["start_bytes"]) / run["facts"]["object_bytes"]
    raise ValueError(f"measure {measure!r} is not among {', '.join(MEASURES)}")
