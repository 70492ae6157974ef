"""The command ``scvibridge``: corrected counts and expression, from files to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from scvibridge import _version
from scvibridge._utils import exit_codes
from scvibridge.cli import (
    choose_batch,
    console,
    diagnostics,
    extend,
    report,
    support,
    train,
    warm_up,
)
from scvibridge.cli.correct import (
    add_correct,
    add_denoise,
    add_normalize,
    arguments_of,
    check_for_r,
    check_options,
    endings_of,
    function_of,
    is_rds,
    text_of_options,
)
from scvibridge.cli.options import plain_warnings, tell
from scvibridge.cli.parsing import Parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


DESCRIPTION = """\
Batch-corrected counts and expression from a trained scVI model.

  train         train a model on raw counts, and save it with its data
  choose-batch  rank the batches as targets by the number of cells of other batches that each
                supports
  support       check which cells have similar cells in a target batch
  correct       corrected counts, as if every cell came from one batch: for tools that need
                counts and cannot use the batch as a covariate
  normalize     normalized expression at one depth, optionally as if from another batch: for plots
  denoise       denoised expression of each cell, in its observed batch and at its observed depth
  extend        add genes that the model was not trained on, so that they can be corrected as well
  report        one HTML page about corrected counts: what was done, and whether they can be used
  calibration   check whether counts of held-out cells follow the model, and estimate a dispersion
                that fits them
  damage        measure what a correction changes between halves of one batch, where nothing
                should change
  warm-up       compile code for this machine in advance, so that the first calls need not do it

The extension of --out determines the format: .h5ad or .zarr (AnnData) and for counts .h5 (10x
format), all written block by block, so that neither the cells nor the result need fit in memory;
or .rds (an R object, a SingleCellExperiment or a Seurat object).

If your batch is the replicate, correction removes the condition and the variance between
replicates; use raw counts."""

EXAMPLES = """\
example:
  scvibridge correct model_dir --adata data.h5ad --transform-batch V3 \\
      --labels-key cell_type --out corrected.rds --as seurat

exit codes: 0 done, 1 unexpected failure, 2 usage or invalid input, 130 interrupted
(143 by SIGTERM, 129 by SIGHUP)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        The arguments after the name of the command; those of the process if None.

    Returns
    -------
    Exit code: 0 done, 1 unexpected failure, 2 usage or invalid input, 130 interrupted
    (143 by SIGTERM, 129 by SIGHUP).
    """
    options = parser().parse_args(arguments)
    return console.run("scvibridge", lambda: work(options), debug=options.debug)


def command() -> NoReturn:
    """Run the command line as this process (entry point of the command ``scvibridge``)."""
    console.open_standard_streams()
    try:
        code = main()
    except SystemExit as ending:  # of --help and usage errors
        code = ending.code if isinstance(ending.code, int) else exit_codes.DONE
    console.end_process(code)


# ---- options ---------------------------------------------------------------------------------


def parser() -> Parser:
    """Build the parser with all commands and their options."""
    top = Parser(prog="scvibridge", description=DESCRIPTION, epilog=EXAMPLES)
    top.add_argument(
        "--version",
        action="version",
        version=f"scvibridge {_version.__version__}",
    )
    commands = top.add_subparsers(
        dest="command",
        title="command",
        metavar="COMMAND",
        required=True,
        help="one of those above; 'scvibridge COMMAND --help' lists its options",
    )
    train.add(commands)
    choose_batch.add(commands)
    add_correct(commands)
    add_normalize(commands)
    add_denoise(commands)
    extend.add(commands)
    support.add(commands)
    report.add(commands)
    diagnostics.add(commands)
    warm_up.add(commands)
    return top


# ---- work ------------------------------------------------------------------------------------

# Commands with their own function; the others share the code below.
_ALONE: dict[str, Callable[[argparse.Namespace], object]] = {
    "train": train.run,
    "choose-batch": choose_batch.run,
    "extend": extend.run,
    "support": support.run,
    "report": report.write,
    "calibration": diagnostics.run,
    "damage": diagnostics.run,
    "warm-up": warm_up.run,
}


def work(options: argparse.Namespace) -> None:
    """Check the options, load the model, compute, write, and print the path of the output."""
    if options.command in _ALONE:
        console.show(_ALONE[options.command](options))
        return
    with plain_warnings(options):
        out, endings = Path(options.out).expanduser(), endings_of(options.command)
        genes = check_options(options, endings)
        given = arguments_of(options)
        from scvibridge.models.load import load_apart

        tell(options, f"reading the model in {options.model_dir}")
        model, adata = load_apart(
            options.model_dir, options.adata, options.device, options.trust, options.prefix
        )
        if is_rds(out):
            check_for_r(model, adata)
        tell(options, text_of_options(options))
        arguments = {
            **given,
            "adata": adata,
            "gene_list": genes,
            "out": None if is_rds(out) else out,
            "progress": not options.quiet,
        }
        result = function_of(options.command)(model, **arguments)
        if is_rds(out):
            from scvibridge.r import objects

            objects.write_rds(result, out, as_=options.as_ or "sce", overwrite=options.overwrite)
        tell(options, f"written {out}: {result.n_obs} cells, {result.n_vars} genes")
    console.show(out)


if __name__ == "__main__":
    command()
