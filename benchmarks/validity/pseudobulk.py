"""Pseudobulk tests for a condition, with edgeR and DESeq2 in R."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT = Path(__file__).with_suffix(".R")
TOOLS = ("edgeR", "DESeq2")
# As usual, a donor with fewer cells of a type has no pseudobulk of it.
MIN_CELLS = 10


@dataclass(frozen=True)
class Pseudobulk:
    """Sums of counts over the cells of each sample.

    Attributes
    ----------
    counts
        Shape ``(n_samples, n_genes)``.
    samples
        One row each: the donor and what is constant within the donor, such as condition and batch.
    """

    counts: np.ndarray
    samples: pd.DataFrame


def aggregate(
    counts: Any, obs: pd.DataFrame, samples: Sequence[str], mask: np.ndarray | None = None
) -> Pseudobulk:
    """Sum counts over the cells of each combination of some columns of ``obs``.

    `mask` selects cells; combinations with fewer than `MIN_CELLS` of them are skipped.
    """
    rows = np.arange(len(obs)) if mask is None else np.flatnonzero(mask)
    table = obs.iloc[rows][list(samples)].astype(str).reset_index(drop=True)
    groups = table.groupby(list(samples), sort=True).ngroup().to_numpy()
    sizes = np.bincount(groups)
    shape = (len(sizes), len(rows))
    members = sp.csr_matrix((np.ones(len(rows)), (groups, np.arange(len(rows)))), shape=shape)
    # Not `X[rows]` of a dense matrix in double precision: there may be many cells.
    sums = members @ counts[rows]
    sums = np.asarray(sums.toarray() if sp.issparse(sums) else sums, dtype=float)
    first = table.groupby(groups).first()
    kept = sizes >= MIN_CELLS
    return Pseudobulk(sums[kept], first[kept].reset_index(drop=True))


@dataclass(frozen=True)
class Job:
    """One test: a pseudobulk, a tool and a design whose last coefficient is the condition."""

    name: tuple[Any, ...]
    pseudobulk: Pseudobulk
    tool: str
    formula: str


def test_all(jobs: Sequence[Job]) -> dict[tuple[Any, ...], np.ndarray]:
    """Run tests in one R process.

    Returns
    -------
    dict of p values by the name of the job, each of shape ``(n_genes,)``: 1 for genes without
    counts, NaN if the design cannot be estimated or the tool returned none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written: dict[int, str] = {}
        rows = []
        for number, job in enumerate(jobs):
            known = written.setdefault(id(job.pseudobulk), f"m{number}")
            if known == f"m{number}":
                # R stores matrices by column, and a column is a sample.
                job.pseudobulk.counts.astype("<f8").tofile(folder / known)
                job.pseudobulk.samples.to_csv(folder / f"{known}.csv", index=False)
            n_genes = job.pseudobulk.counts.shape[1]
            rows.append((known, f"{known}.csv", n_genes, job.tool, job.formula))
        columns = ["matrix", "samples", "genes", "tool", "formula"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "jobs.csv", index=False)
        subprocess.run(["Rscript", str(SCRIPT), name], check=True, stdout=subprocess.DEVNULL)
        values = np.fromfile(folder / "pvalues", dtype="<f8")
    ends = np.cumsum([row[2] for row in rows])
    return {job.name: p for job, p in zip(jobs, np.split(values, ends[:-1]), strict=True)}


def adjust(p: np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg adjusted p values; NaN counts as 1."""
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p)
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return adjusted
