"""The command ``scvibridge support``: its options, and what it does with them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scvibridge import console

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

TEXT = "which cells a target batch supports, since it has cells like them"
EXAMPLES = """\
examples:
  scvibridge support model_dir --adata data.h5ad --transform-batch V3 --labels-key cell_type
  scvibridge support model_dir --adata data.h5ad --transform-batch V3 --labels-key cell_type \\
      --condition-key stimulation --out support.csv

The table has a row for each label and batch: cells, cells of that label in the target, the median
share of target cells among a cell's neighbours (1: as many as in all cells), the share of cells
that are unsupported, and a verdict."""
ENDINGS = (".csv",)


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "support", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    command.add_argument("model_dir", metavar="MODEL_DIR", help="folder that model.save() wrote")
    command.add_argument(
        "--adata",
        metavar="FILE",
        help="the model's data, .h5ad or .zarr (may be left out if they were saved with the model)",
    )
    command.add_argument(
        "--transform-batch",
        nargs="+",
        metavar="BATCH",
        required=True,
        help="the target batch; cells of several are pooled",
    )
    command.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    command.add_argument(
        "--condition-key",
        metavar="COLUMN",
        help="column of obs with the condition of interest: tells whether it can be told from the "
        "batch",
    )
    command.add_argument(
        "--out", metavar="FILE", help="CSV file for the table (default: it is printed)"
    )
    running = command.add_argument_group("running")
    running.add_argument(
        "--batch-size", type=int, metavar="N", help="number of cells in a minibatch (no batch name)"
    )
    running.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)"
    )
    running.add_argument("--quiet", action="store_true", help="no progress, no warnings")
    running.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(options: argparse.Namespace) -> str:
    """Make the table; returns what belongs on standard output: the table, or the path of the file.

    Raises
    ------
    ValueError, TypeError, OSError
        An option is out of its range, or a file is missing or cannot be read or written.
    """
    from scvibridge import devices, files, loading, support

    with console.plain_warnings((lambda _: None) if options.quiet else None):
        out = None if options.out is None else files.check_output(options.out, ENDINGS, "--out")
        if options.adata is not None:
            files.check_input(options.adata)
        devices.resolve_device(options.device)
        _tell(options, f"reading the model in {options.model_dir}")
        found = support.batch_support(
            loading.load(options.model_dir, adata=options.adata, device=options.device),
            transform_batch=options.transform_batch,
            labels_key=options.labels_key,
            condition_key=options.condition_key,
            batch_size=options.batch_size,
            device=options.device,
            progress=not options.quiet,
        )
        _tell(options, found.summary())
        return _show(found, out)


def _show(found: Any, out: Path | None) -> str:
    from scvibridge import files

    if out is None:
        table = found.labels.round({"share": 2, "unsupported": 3})
        return str(table.to_string(index=False))
    with files.replacing(out) as temporary:
        found.labels.to_csv(temporary, index=False)
    return str(out)


def _tell(options: argparse.Namespace, message: str) -> None:
    if not options.quiet:
        sys.stderr.write(f"{message}\n")
