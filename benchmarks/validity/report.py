"""Write RESULTS.md and the table of docs/validity.md from the figures."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from typing import TYPE_CHECKING

import pandas as pd

from benchmarks.validity import kang, null_batches, short_tables, summary

if TYPE_CHECKING:
    from pathlib import Path

PACKAGES = ("scvibridge", "scvi-tools", "torch", "anndata", "numpy", "scipy", "inmoose")
R_PACKAGES = ("edgeR", "DESeq2", "sva")
BEGIN, END = "<!-- evidence: written by make evidence -->", "<!-- end of evidence -->"
BEGIN_NAMED = "<!-- evidence, {}: written by make evidence -->"
SHOWN_METHODS = (
    "raw",
    "quantile, label",
    "quantile, label, no sample_key",
    "quantile, label, not shrunk",
    "quantile, global",
    "quantile, cell",
    "sample",
    "posterior_predictive_sample",
    "stochastic rounding",
    "mid-quantile",
    "rounded mean",
    "ComBat_seq, pseudobulk",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and R packages that were run."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    code = (
        "cat(R.version.string, sapply(commandArgs(TRUE), function(p) "
        "as.character(packageVersion(p))), sep = '\\n')"
    )
    done = subprocess.run(
        ["Rscript", "-e", code, *R_PACKAGES], capture_output=True, text=True, check=True
    )
    return {**found, **dict(zip(("R", *R_PACKAGES), done.stdout.splitlines(), strict=False))}


def write(rows: pd.DataFrame, folder: Path, page: Path, described: dict[str, str]) -> None:
    """Write ``results.csv`` and ``RESULTS.md`` to a folder, and the table of a page."""
    rows.to_csv(folder / "results.csv", index=False, float_format="%.5g")
    parts = [_head(described), _goals(rows), *_sections(rows)]
    (folder / "RESULTS.md").write_text("\n\n".join(parts) + "\n")
    tables = {BEGIN: short_table} | {
        BEGIN_NAMED.format(name): table for name, table in short_tables.TABLES.items()
    }
    text = page.read_text()
    for begin, table in tables.items():
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(END)
        if not found:
            raise ValueError(f"{page} lacks the lines {begin!r} and {END!r}")
        text = f"{before}{begin}\n{table(rows)}\n{END}{after}"
    page.write_text(text)


def _head(described: dict[str, str]) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in described.items())
    return (
        "# Results of the evidence\n\n[docs/validity.md](../../docs/validity.md) explains what was "
        "measured and how. The tables show means over runs, with standard errors (the Monte-Carlo "
        "error) in parentheses. All runs are reported; [results.csv](results.csv) has their "
        "seeds. `make evidence` writes this page and that file.\n\n"
        f"Versions: {listed}."
    )


def _goals(rows: pd.DataFrame) -> str:
    """Return the comparison of every method with the gold standard, with intervals."""
    table = summary.against_gold(rows)
    lines = [
        "## Against raw counts with the batch in the design",
        (
            'Raw counts with the batch in the design are the gold standard ("gold"). Differences '
            "in the false discovery proportion (FDP) and ratios of power are paired by run, with "
            "95 % intervals. The goals for the default, `quantile, label`: an upper end of FDP - "
            "gold of at most .02, and a lower end of power / gold of at least .95."
        ),
    ]
    shown = pd.DataFrame(
        {
            "experiment": table["experiment"] + ", " + table["design"],
            "tool": table["tool"],
            "formula": "`" + table["formula"] + "`",
            "method": table["method"],
            "runs": table["runs"],
            "FDP - gold": _intervals(table, "FDP - gold"),
            "power / gold": _intervals(table, "power / gold"),
        }
    ).set_index("experiment")
    return "\n\n".join([*lines, summary.markdown(shown)])


def _intervals(table: pd.DataFrame, name: str) -> list[str]:
    columns = (table[name], table[f"{name}, lower"], table[f"{name}, upper"])
    return [f"{m:.3f} [{a:.3f}, {b:.3f}]" for m, a, b in zip(*columns, strict=True)]


def _sections(rows: pd.DataFrame) -> list[str]:
    sections = []
    table = summary.summarise(rows)
    for key, part in table.groupby(["experiment", "design", "tool", "formula"], sort=False):
        experiment, design, tool, formula = key
        title = f"## {experiment}, {design}" + (f": {tool}, `{formula}`" if tool else "")
        runs = sorted(set(part["runs"]))
        counted = f"{runs[0]} runs" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} runs"
        sections.append(f"{title}\n\n{counted}\n\n{summary.markdown(summary.wide(part))}")
    return sections


def short_table(rows: pd.DataFrame) -> str:
    """Return the short table: information, error and power by edgeR, simulated and real; damage."""
    table = summary.summarise(rows)
    simulated, spiked = ("simulation", "balanced"), (kang.EXPERIMENT, kang.FRESH)
    batch, plain = ("edgeR", "~ batch + condition"), ("edgeR", "~ condition")
    donor, none = ("edgeR", "~ donor + condition"), ("", "")
    columns = {
        "rank correlation with the cell's raw counts": (*simulated, *none, "Spearman with raw"),
        "with its counterfactual counts": (
            *simulated,
            *none,
            "Spearman with true counterfactual",
        ),
        "batch effect left, slope": (*simulated, *none, "batch effect left"),
        "batch effect left, RMS over genes": (
            *simulated,
            *none,
            "batch effect left, RMS over genes",
        ),
        "false discoveries, `~ batch + condition`": (*simulated, *batch, summary.TESTED[1]),
        "power": (*simulated, *batch, "power"),
        "false discoveries, `~ condition`": (*simulated, *plain, summary.TESTED[1]),
        "power ": (*simulated, *plain, "power"),
        "false discoveries, real cells": (*spiked, *donor, summary.TESTED[1]),
        "power  ": (*spiked, *donor, "power"),
        "changed where nothing differs": (*_null_design(), *none, "nonzero counts changed"),
    }
    shown = pd.DataFrame(index=pd.Index(SHOWN_METHODS, name="counts"))
    keys = ["experiment", "design", "tool", "formula", "figure"]
    for name, wanted in columns.items():
        values = table[(table[keys] == list(wanted)).all(axis=1)].set_index("method")["mean"]
        shown[name] = [f"{values[m]:.2f}" if m in values else "" for m in SHOWN_METHODS]
    ours = table[table["method"] == summary.DEFAULT]
    runs = [
        ours[(ours["experiment"] == e) & (ours["design"] == d)]["runs"].max()
        for e, d in (simulated, spiked, _null_design())
    ]
    runs = [0 if pd.isna(number) else int(number) for number in runs]
    # Omit a column for a figure that older results lack.
    shown = shown.loc[:, (shown != "").any()]
    return summary.markdown(shown) + (
        f"\n\nSimulation: cells of 12 donors in two balanced batches, {runs[0]} runs. Real cells: "
        f"8 donors, which are the model's batches, with spiked effects, tested with the donor in "
        f"the design, {runs[1]} runs that had no part in choosing the method. Last column: share "
        f"of nonzero counts changed between random halves of one donor's cells, {runs[2]} runs. "
        f"All tests: edgeR on pseudobulks of donors, nominal false discovery rate .05."
    )


def _null_design() -> tuple[str, str]:
    return null_batches.EXPERIMENT, next(iter(null_batches.DESIGNS))
