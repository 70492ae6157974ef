"""The command ``scvibridge support``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import (
    by_name,
    check_table,
    load_model,
    plain_warnings,
    read_indices,
    tell,
)
from scvibridge.cli.parsing import add_several

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


TEXT = "check which cells have similar cells in a target batch"

EXAMPLES = """\
examples:
  scvibridge support model_dir --adata data.h5ad --transform-batch V3 --labels-key cell_type
  scvibridge support model_dir --adata data.h5ad --transform-batch V3 --labels-key cell_type \\
      --condition-key stimulation --out support.csv

The table has a row for each label and batch: cells, cells of that label in the target, the median
share of target cells among a cell's neighbours (1: as many as in all cells), the share of cells
that are unsupported, and a verdict."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "support", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    options.add_model(command)
    options.add_adata(command)
    add_several(
        command,
        "--transform-batch",
        metavar="BATCH",
        help="the target batch; cells of several are pooled (required unless other covariates are "
        "set)",
    )
    options.add_covariates(command)
    command.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    command.add_argument(
        "--condition-key",
        metavar="COLUMN",
        help="column of obs with the condition of interest: checks whether it can be "
        "distinguished from the batch",
    )
    options.add_indices(command, "the cells to check (default: all)")
    options.add_table(command)
    options.add_running(command, batch_size=True)


def run(options: argparse.Namespace) -> str:
    """Compute the table; return what to print on standard output: the table, or the file's path.

    Raises
    ------
    ValueError, TypeError, OSError
        If an option is out of range, or a file is missing or cannot be read or written.
    """
    from scvibridge.diagnostics import batch_support

    with plain_warnings(options):
        out = check_table(options, "out")
        if options.transform_batch is None and options.transform_covariates is None:
            raise ValueError("name the target: --transform-batch or --transform-covariates")
        indices = read_indices(options.indices)
        found = batch_support.batch_support(
            load_model(options),
            transform_batch=options.transform_batch,
            labels_key=options.labels_key,
            condition_key=options.condition_key,
            transform_covariates=by_name(options.transform_covariates),
            indices=indices,
            batch_size=options.batch_size,
            device=options.device,
            progress=not options.quiet,
        )
        tell(options, found.summary())
        return _show(found, out, options.overwrite)


def _show(found: Any, out: Path | None, overwrite: bool) -> str:
    if out is None:
        table = found.labels.round({"share": 2, "unsupported": 3})
        return str(table.to_string(index=False))
    options.write_table(found.labels, out, index=False, overwrite=overwrite)
    return str(out)
