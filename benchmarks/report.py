"""Write results.json, with all measurements, and RESULTS.md, which is generated from it."""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_HEAD = """# Results

[README.md](README.md) explains what is measured and how. Figures are ratios of medians over runs;
the smallest and largest ratios within a round are in parentheses. `make bench` writes this page
from [results.json](results.json).
"""


def read(folder: Path) -> dict[str, Any]:
    """Read results of earlier runs, by group; groups that are not run again are kept."""
    path = folder / "results.json"
    groups: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return groups


def write(folder: Path, groups: dict[str, Any]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / "results.json", json.dumps(groups, indent=1) + "\n")
    _replace(folder / "RESULTS.md", page(groups))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def page(groups: dict[str, Any]) -> str:
    """Return RESULTS.md as text."""
    parts = [_HEAD]
    if any(group["scale"] != "full" for group in groups.values()):
        parts.append("**This small run only checks that the code works. It measures nothing.**\n")
    parts.append(_table_of_goals(groups))
    parts += ["## Runs\n", *(_runs(name, group) for name, group in groups.items())]
    parts += ["## Machine and versions\n", *_machines(groups)]
    return "\n".join(parts)


def _table_of_goals(groups: dict[str, Any]) -> str:
    rows = [
        (row["what"], row["goal"], row.get("text", ""), row["verdict"])
        for group in groups.values()
        for row in group["rows"]
    ]
    return _table(("what", "goal", "figure", "verdict"), rows)


def _runs(name: str, group: dict[str, Any]) -> str:
    rows = [
        _row_of_contender(contender, outcome) for contender, outcome in group["outcomes"].items()
    ]
    heads = ("contender", "seconds: median (range)", "peak memory", "over loaded", "its result")
    processes = "a process for each run" if group["fresh"] else "a process for each contender"
    return (
        f"### {name}\n\n`{group['command']}`, {group['date']}; rounds: {group['rounds']}, "
        f"{processes}, threads: {_threads(group)}; load of the machine at the start: "
        f"{group['load']:.2f}; seed {group['seed']}.\n\n{_table(heads, rows)}"
    )


def _row_of_contender(name: str, outcome: dict[str, Any]) -> tuple[str, ...]:
    runs = outcome["runs"]
    if outcome["error"] is not None or not runs:
        return name, str(outcome["error"]), "", "", ""
    seconds = [run["seconds"] for run in runs]
    peak = median(run["peak_bytes"] for run in runs)
    extra = peak - median(outcome["loaded_bytes"])
    return (
        name,
        f"{median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})",
        f"{peak / 1e9:.2f} GB",
        f"{extra / 1e9:.2f} GB",
        _facts(runs[-1]["facts"]),
    )


def _facts(facts: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in facts.items())


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1 else f"{value:,.0f}"


def _threads(group: dict[str, Any]) -> str:
    used = {
        ", ".join(f"{key} {number}" for key, number in outcome["threads"].items())
        for outcome in group["outcomes"].values()
        if outcome["threads"]
    }
    return "; ".join(sorted(used)) or "none"


def _machines(groups: dict[str, Any]) -> Iterator[str]:
    """Describe each machine once, with the groups that ran on it."""
    described: dict[str, list[str]] = {}
    for name, group in groups.items():
        machine = json.dumps([group["machine"], group["commit"]])
        described.setdefault(machine, []).append(name)
    for text, names in described.items():
        machine, commit = json.loads(text)
        packages = ", ".join(f"{key} {value}" for key, value in machine["packages"].items())
        yield (
            f"{', '.join(names)}: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gb']} GB, {machine['system']}; Python {machine['python']}, "
            f"R {machine['r']}, {packages}; commit {commit}.\n"
        )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(_cell(text) for text in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
