"""The whole workflow on real cells: ``python -m examples.demo --out demo``."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import scvibridge as sb
from examples.demo.cells import DemoCells, bundled_cells, cells_of_file
from examples.demo.report import Results, compare, draw
from scvibridge.cli import console
from scvibridge.io.h5ad import write_h5ad
from scvibridge.io.ten_x import write_10x_h5
from scvibridge.models.training.trainer import train

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp


R_SCRIPT = Path(__file__).with_name("demo.R")

EPOCHS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; return an exit code like the command line."""
    options = parser().parse_args(arguments)
    return console.run(
        "demo", lambda: run(options), debug=options.debug, code=Path(__file__).resolve().parent
    )


def parser() -> argparse.ArgumentParser:
    """Build the parser of the demo's options."""
    top = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Train a small scVI model, correct the counts, pass them to R, and measure "
        "how much of the batch effect is gone: on cells that come with scanpy and a "
        "known batch effect, or on your own file.",
    )
    top.add_argument("--out", default="demo", help="folder for the results (default: demo)")
    top.add_argument("--data", metavar="FILE", help="your own cells with counts in X: .h5ad, .zarr")
    top.add_argument("--batch-key", metavar="COLUMN", help="column of obs with the batch")
    top.add_argument("--labels-key", metavar="COLUMN", help="column of obs with the cell type")
    top.add_argument("--transform-batch", metavar="BATCH", help="target (default: the largest)")
    top.add_argument("--epochs", type=int, default=EPOCHS, help=f"of training (default: {EPOCHS})")
    top.add_argument("--seed", type=int, default=0, help="seed of all random numbers (default: 0)")
    top.add_argument("--no-r", action="store_true", help="skip R")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


# ---- the steps -------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> None:
    """Run all steps, one after the other."""
    started = time.monotonic()
    check_options(options)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    step = Steps(total=5 if options.no_r else 6)
    with console.plain_warnings(note):
        step("Cells")
        cells = load_cells(options)
        describe_cells(cells)
        step("A small scVI model")
        model = train_model(cells, out, options)
        step("Corrected counts")
        results = correct(model, cells, out, options.seed)
        step("How much of the batch effect is gone")
        report = compare(cells, results)
        for line in report.lines:
            say(line)
        step("Pictures")
        for path in draw(cells, results, report, out):
            say(str(path))
    if not options.no_r:
        step("The same from R")
        show_in_r(out, cells, options.seed)
    console.show(f"\nDone in {time.monotonic() - started:.0f} s; everything is in {out}/")


def check_options(options: argparse.Namespace) -> None:
    """Raise an error for options that cannot be combined."""
    if options.data and not (options.batch_key and options.labels_key):
        raise ValueError("--data needs --batch-key and --labels-key, the columns of batch and type")
    if not options.data and (options.batch_key or options.labels_key or options.transform_batch):
        raise ValueError("--batch-key, --labels-key and --transform-batch belong to --data")
    if options.epochs < 1:
        raise ValueError(f"--epochs must be at least 1, not {options.epochs}")


class Steps:
    """Numbered headings."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0

    def __call__(self, heading: str) -> None:
        """Print the next heading."""
        self.number += 1
        console.show(f"\n{self.number}/{self.total} {heading}")


def say(line: str) -> None:
    """Print a line of a step."""
    console.show(f"   {line}")


def note(message: str) -> None:
    """Print a warning from scvibridge as a paragraph."""
    for line in textwrap.wrap(f"note: {message}", 85, subsequent_indent="      "):
        say(line)


def load_cells(options: argparse.Namespace) -> DemoCells:
    """Return the user's cells, or scanpy's."""
    if not options.data:
        return bundled_cells(options.seed)
    return cells_of_file(
        options.data, options.batch_key, options.labels_key, options.transform_batch, options.seed
    )


def describe_cells(cells: DemoCells) -> None:
    """Print a description of the cells."""
    obs, (n_cells, n_genes) = cells.adata.obs, cells.adata.shape
    n_types = obs[cells.labels_key].nunique()
    say(f"{n_cells} cells, {n_genes} genes, {n_types} cell types: {cells.source}")
    sizes = obs[cells.batch_key].value_counts()
    say("batches: " + ", ".join(f"{name} ({size} cells)" for name, size in sizes.items()))
    if cells.log_kept is not None:
        low, high = np.exp([cells.log_kept.min(), cells.log_kept.max()])
        say(f"the batch effect is ours: a random half of the cells, 'thinned', keeps {low:.0%} to")
        say(f"{high:.0%} of its counts, a known share for each gene; the full counts are the truth")


def train_model(cells: DemoCells, out: Path, options: argparse.Namespace) -> Any:
    """Train, save the model and its data, and report the time."""
    started = time.monotonic()
    write_h5ad(cells.adata, out / "cells.h5ad", overwrite=True)
    model = train(
        cells.adata,
        out / "model",
        batch_key=cells.batch_key,
        epochs=options.epochs,
        seed=options.seed,
        batch_size=64 if cells.adata.n_obs < 2000 else 128,
        learning_rate=3e-3,
        n_hidden=64,
        n_latent=10,
    )
    say(f"SCVI, negative binomial, {options.epochs} epochs in {time.monotonic() - started:.0f} s")
    return model


def correct(model: Any, cells: DemoCells, out: Path, seed: int) -> Results:
    """Compute corrected counts and expression with the public functions, and write files."""
    target, labels_key = cells.target, cells.labels_key
    say(f"corrected_counts(model, transform_batch={target!r}, labels_key={labels_key!r})")
    counts = sb.corrected_counts(
        model,
        transform_batch=target,
        labels_key=labels_key,
        normalized=True,
        seed=seed,
        out=out / "corrected.h5ad",
        overwrite=True,
        progress=False,
    ).to_memory()
    write_10x_h5(counts, out / "corrected.h5", overwrite=True)
    own = sb.normalized_expression(model, progress=False).X
    rows = cells.in_target
    changed = (counts.layers["raw_counts"] != counts.X).tocsr()
    say(
        f"changed entries: {share_of(changed[~rows])} in the other cells, "
        f"{share_of(changed[rows])} in those of {cells.target!r}"
    )
    say(f"written: {out / 'corrected.h5ad'}, {out / 'corrected.h5'} (10x)")
    return Results(counts, own)


def share_of(changed: sp.csr_matrix) -> str:
    """Return the share of the entries of a matrix that are set, as text."""
    return f"{changed.nnz / max(1, np.prod(changed.shape)):.1%}"


def show_in_r(out: Path, cells: DemoCells, seed: int) -> None:
    """Run the R script of the demo with this Python."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        say("left out: there is no R here (no Rscript on the PATH)")
        return
    sys.stdout.flush()
    done = subprocess.run(  # noqa: S603 - our own script
        [rscript, str(R_SCRIPT), str(out), cells.target, cells.labels_key, str(seed)],
        env={"RETICULATE_PYTHON": sys.executable, **os.environ},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{R_SCRIPT.name} failed in R with exit code {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
