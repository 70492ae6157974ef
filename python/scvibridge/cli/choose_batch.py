"""The command ``scvibridge choose-batch``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import check_table, load_model, plain_warnings, write_table

if TYPE_CHECKING:
    import argparse

TEXT = "rank the batches as targets by the number of cells of other batches that each supports"
EXAMPLES = """\
examples:
  scvibridge choose-batch model_dir --adata data.h5ad --labels-key cell_type
  scvibridge choose-batch model_dir --adata data.h5ad --labels-key cell_type \\
      --condition-key stimulation --out batches.csv

The table has a row for each batch, the best target first: the share of the other batches' cells
that it supports, with labels how many types it supports and which it lacks, with conditions which
it lacks, and its cells, depth and genes."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "choose-batch", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    options.add_model(command)
    options.add_adata(command)
    command.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    command.add_argument(
        "--condition-key",
        metavar="COLUMN",
        help="column of obs with the condition of interest: lists those that a batch lacks",
    )
    options.add_table(command)
    options.add_running(command, batch_size=True)


def run(options: argparse.Namespace) -> str:
    """Compute the table; return what to print on standard output: the table, or the file's path.

    Raises
    ------
    ValueError, TypeError, OSError
        If an option is out of range, or a file is missing or cannot be read or written.
    """
    import scvibridge

    with plain_warnings(options):
        out = check_table(options, "out")
        table = scvibridge.choose_batch(
            load_model(options),
            labels_key=options.labels_key,
            condition_key=options.condition_key,
            batch_size=options.batch_size,
            device=options.device,
            progress=not options.quiet,
        )
        if out is None:
            return str(table.to_string(float_format="{:.3g}".format))
        write_table(table, out, index=True, overwrite=options.overwrite)
        return str(out)
