"""The command ``scvibridge``: corrected counts and expressions, from files to files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import scvibridge
from scvibridge import cli_diagnostics, cli_extend, cli_options, cli_report, cli_support, console
from scvibridge.wording import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COUNT_ENDINGS = (".h5ad", ".zarr", ".rds", ".h5")
EXPRESSION_ENDINGS = (".h5ad", ".zarr", ".rds")

DESCRIPTION = """\
Batch-corrected counts and expressions from a trained scVI model.

  correct     corrected counts, as if every cell came from one batch: for tools that need
              counts and cannot take the batch as a covariate
  normalize   normalized expression at one depth, optionally as if from another batch: for plots
  denoise     denoised expression in the cells' own batches and at their own depth
  extend      add genes that the model never saw, so that those are corrected, too
  support     which cells a target batch supports, since it has cells like them
  report      one HTML page about corrected counts: what was done, and whether they may be used
  calibration whether counts of held-out cells follow the model, and a dispersion that fits them
  damage      what a correction changes between halves of one batch, where nothing should change

The ending of --out decides what is written: .h5ad or .zarr (AnnData) and for counts .h5 (10x
format), all three block by block, so that neither the cells nor the result need fit in memory; or
.rds (an R object, a SingleCellExperiment or a Seurat object).

If your batch is the replicate, correction removes the condition and the variance between
replicates; use raw counts."""

EXAMPLES = """\
example:
  scvibridge correct model_dir --adata data.h5ad --transform-batch V3 \\
      --labels-key cell_type --out corrected.rds --as seurat

exit codes: 0 done, 1 unexpected failure, 2 usage or bad input, 130 interrupted
(143 by SIGTERM, 129 by SIGHUP)"""

CORRECT_EXAMPLES = """\
examples:
  scvibridge correct model_dir --adata data.h5ad --transform-batch V3 --out corrected.h5ad
  scvibridge correct model_dir --adata data.h5ad --transform-batch V2 V3 --labels-key cell_type \\
      --condition-key stimulation --normalized --out corrected.rds --as seurat"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        What follows the name of the command; that of the process if None.

    Returns
    -------
    Exit code: 0 done, 1 unexpected failure, 2 usage or bad input, 130 interrupted
    (143 by SIGTERM, 129 by SIGHUP).
    """
    options = parser().parse_args(arguments)
    return console.run("scvibridge", lambda: work(options), debug=options.debug)


def command() -> NoReturn:
    """Run the command line as this process (what the command ``scvibridge`` calls)."""
    console.open_standard_streams()
    try:
        code = main()
    except SystemExit as ending:  # of --help and usage errors
        code = ending.code if isinstance(ending.code, int) else console.DONE
    console.end_process(code)


# ---- options ---------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = _Parser(prog="scvibridge", description=DESCRIPTION, epilog=EXAMPLES)
    top.add_argument(
        "--version",
        action="version",
        version=f"scvibridge {scvibridge.__version__}",
    )
    commands = top.add_subparsers(
        dest="command",
        title="command",
        metavar="COMMAND",
        required=True,
        help="one of those above; 'scvibridge COMMAND --help' lists its options",
    )
    _add_correct(commands)
    _add_normalize(commands)
    _add_denoise(commands)
    cli_extend.add(commands)
    cli_support.add(commands)
    cli_report.add(commands)
    cli_diagnostics.add(commands)
    return top


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, with where to read on; texts keep their line breaks."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_formatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        told = printable(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(console.BAD_INPUT, f"{told}\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=96)


def _add_correct(commands: Any) -> None:
    command = _add_command(
        commands,
        "correct",
        "batch-corrected counts, as if every cell came from one batch: for tools that need counts "
        "and cannot take the batch as a covariate",
        CORRECT_EXAMPLES,
    )
    counts = command.add_argument_group("which counts")
    counts.add_argument(
        "--transform-batch",
        nargs="+",
        metavar="BATCH",
        help="batch whose likeness the counts take; several are averaged (required where the "
        "model has more than one, unless other covariates are set)",
    )
    _add_covariates(counts)
    counts.add_argument(
        "--method",
        choices=("quantile", "sample"),
        default="quantile",
        help="quantile: the cell keeps its own data (default); sample: a simulation of the cell",
    )
    counts.add_argument(
        "--effect",
        choices=("label", "global", "cell"),
        help="batch effect that is removed: one per label and batch (default with --labels-key), "
        "one per batch (default without), or the cell's own, which leaks the condition",
    )
    counts.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    counts.add_argument(
        "--condition-key",
        metavar="COLUMN",
        help="column of obs with the condition of interest: refuses where it cannot be told from "
        "the batch",
    )
    counts.add_argument(
        "--sample-key",
        metavar="COLUMN",
        help="column of obs with the replicate (donor, sample), whose own differences are kept; "
        "for counts that are compared between samples later",
    )
    counts.add_argument(
        "--allow-confounded", action="store_true", help="correct even then, with a warning"
    )
    _add_depth(counts, None, "scaled; median for --method sample")
    counts.add_argument(
        "--dispersion",
        metavar="FILE",
        help="CSV file of inverse dispersions in place of the model's own: genes by name, and a "
        "column for all or for each batch (calibration --theta writes one)",
    )
    counts.add_argument(
        "--shrinkage",
        type=cli_options.number_or_name,
        metavar="COUNTS",
        help="number of counts at which half of a batch effect is believed, or auto: estimated "
        "from held-out cells (default); 0: the decoder's effects as they are",
    )
    counts.add_argument(
        "--no-zero-inflation",
        action="store_true",
        help="samples of a ZINB model without the zero inflation",
    )
    counts.add_argument(
        "--normalized", action="store_true", help="add the normalized expression as a layer"
    )
    counts.add_argument(
        "--unsupported",
        choices=("keep", "mask", "drop"),
        default="keep",
        help="cells that the target does not support, since it has hardly any like them: keep and "
        "flag them (default), mask their counts, or drop them",
    )
    _add_shared(command, COUNT_ENDINGS)


def _add_normalize(commands: Any) -> None:
    command = _add_command(
        commands,
        "normalize",
        "normalized expression at one depth, optionally as if from another batch: for plots",
        None,
    )
    expression = command.add_argument_group("which expression")
    expression.add_argument(
        "--transform-batch",
        nargs="+",
        metavar="BATCH",
        help="batch to decode as; several are averaged (default: the cell's own)",
    )
    _add_covariates(expression)
    _add_depth(expression, 1e4, "10000")
    _add_averaging(expression)
    _add_shared(command, EXPRESSION_ENDINGS)


def _add_denoise(commands: Any) -> None:
    command = _add_command(
        commands,
        "denoise",
        "denoised expression in the cells' own batches and at their own depth",
        None,
    )
    expression = command.add_argument_group("which expression")
    _add_depth(expression, "latent", "latent")
    _add_averaging(expression)
    _add_shared(command, EXPRESSION_ENDINGS)


def _add_command(
    commands: Any, name: str, text: str, examples: str | None
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        description=text[0].upper() + text[1:] + ".",
        epilog=examples,
    )
    cli_options.add_model(command)
    cli_options.add_adata(command)
    return command


def _add_depth(group: Any, default: float | str | None, described: str) -> None:
    group.add_argument(
        "--library-size",
        type=cli_options.number_or_name,
        default=default,
        metavar="DEPTH",
        help=f"a number, observed, latent, median or scaled (default: {described})",
    )


def _add_averaging(group: Any) -> None:
    group.add_argument(
        "--n-samples",
        type=int,
        metavar="N",
        help="average over N draws of the latent variables (default: their posterior mean)",
    )
    group.add_argument(
        "--zero-inflation", action="store_true", help="means of a ZINB model with its zeros"
    )


def _add_shared(command: argparse.ArgumentParser, endings: Sequence[str]) -> None:
    output = command.add_argument_group("output")
    output.add_argument(
        "--out", required=True, metavar="FILE", help=f"file to write: {', '.join(endings)}"
    )
    cli_options.add_overwrite(output)
    output.add_argument(
        "--as",
        dest="as_",
        choices=("sce", "seurat"),
        help="object in an .rds file: SingleCellExperiment (default) or Seurat",
    )
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on where an interrupted run with the same options stopped (not for .rds)",
    )
    output.add_argument(
        "--gene-list", metavar="FILE", help="genes to give, one name per line (default: all)"
    )
    cli_options.add_running(command, seed=cli_options.SEED, batch_size=True)


# ---- work ------------------------------------------------------------------------------------


def work(options: argparse.Namespace) -> None:
    """Check the options, load the model, compute, write, and print the path of the output."""
    if options.command == "report":
        console.show(cli_report.write(options))
        return
    if options.command == "extend":
        console.show(cli_extend.run(options))
        return
    if options.command == "support":
        console.show(cli_support.run(options))
        return
    if options.command in ("calibration", "damage"):
        console.show(cli_diagnostics.run(options))
        return
    with cli_options.plain_warnings(options):
        out, endings = Path(options.out), _endings(options.command)
        genes = check_options(options, endings)
        from scvibridge.loading import load_apart

        cli_options.tell(options, f"reading the model in {options.model_dir}")
        model, adata = load_apart(
            options.model_dir, options.adata, options.device, options.trust, options.prefix
        )
        if _is_rds(out):
            _check_for_r(model, adata)
        cli_options.tell(options, _described(options))
        result = _function(options.command)(
            model,
            adata=adata,
            gene_list=genes,
            library_size=options.library_size,
            seed=options.seed,
            batch_size=options.batch_size,
            device=options.device,
            progress=not options.quiet,
            out=None if _is_rds(out) else out,
            overwrite=options.overwrite,
            resume=options.resume,
            **_own_arguments(options),
        )
        if _is_rds(out):
            from scvibridge import r

            r.write_rds(result, out, as_=options.as_ or "sce", overwrite=options.overwrite)
        cli_options.tell(options, f"written {out}: {result.n_obs} cells, {result.n_vars} genes")
    console.show(out)


def check_options(options: argparse.Namespace, endings: Sequence[str]) -> list[str] | None:
    """Check all that can be checked before the model is loaded; return the list of genes.

    Raises
    ------
    ValueError, OSError, ImportError
        An option is out of its range, a file is missing or cannot be written, R is missing.
    """
    from scvibridge import devices, files, inputs

    cli_options.check_not_input(options, options.out, "--out")
    out = _check_out(options, endings)
    kind = out.suffix.lower()
    if options.as_ is not None and kind != ".rds":
        raise ValueError(f"--as {options.as_} belongs to an .rds file, but --out ends in {kind}")
    if kind == ".rds" and options.resume:
        raise ValueError("--resume: an .rds file is made in one go; write .h5ad or .zarr")
    if options.library_size is not None:
        inputs.check_library_size(options.library_size)
    if options.adata is not None:
        files.check_input(options.adata, endings=files.DATA_ENDINGS)
    genes = None if options.gene_list is None else cli_options.read_gene_list(options.gene_list)
    devices.resolve_device(options.device)
    if kind == ".rds":
        from scvibridge import r

        r.check_available(options.as_ or "sce")
    return genes


def _check_out(options: argparse.Namespace, endings: Sequence[str]) -> Path:
    from scvibridge import files, readback

    # With --resume it may be the finished result, which is known when the data have been read.
    may_be_own = options.resume and readback.result_of(Path(options.out)) is not None
    overwrite = options.overwrite or may_be_own
    return files.check_output(options.out, endings, "--out", overwrite=overwrite)


def _check_for_r(model: Any, adata: Any) -> None:
    """Check that R can hold the tables of a result, before any work."""
    from scvibridge import inputs, models, storage

    adapter = models.adapter_for(model)
    storage.check_tables(inputs.resolve_adata(adapter, adata, stream=True), ".rds")


def _is_rds(out: Path) -> bool:
    return out.suffix.lower() == ".rds"


def _endings(command: str) -> Sequence[str]:
    return COUNT_ENDINGS if command == "correct" else EXPRESSION_ENDINGS


def _function(command: str) -> Callable[..., Any]:
    import scvibridge

    functions: dict[str, Callable[..., Any]] = {
        "correct": scvibridge.corrected_counts,
        "normalize": scvibridge.normalized_expression,
        "denoise": scvibridge.denoised_expression,
    }
    return functions[command]


def _own_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that only this command's function has."""
    if options.command == "correct":
        return {
            "transform_batch": options.transform_batch,
            "transform_covariates": _by_name(options.transform_covariates),
            "method": options.method,
            "effect": options.effect,
            "labels_key": options.labels_key,
            "condition_key": options.condition_key,
            "sample_key": options.sample_key,
            "allow_confounded": options.allow_confounded,
            "zero_inflation": not options.no_zero_inflation,
            "normalized": options.normalized,
            "dispersion": _dispersion(options),
            "shrinkage": options.shrinkage,
            "unsupported": options.unsupported,
        }
    shared = {"n_samples": options.n_samples, "zero_inflation": options.zero_inflation}
    if options.command == "normalize":
        return {
            **shared,
            "transform_batch": options.transform_batch,
            "transform_covariates": _by_name(options.transform_covariates),
        }
    return shared


def _add_covariates(group: Any) -> None:
    group.add_argument(
        "--transform-covariates",
        nargs="+",
        type=_covariate,
        metavar="COVARIATE=VALUE",
        help="values that other covariates of the model take, e.g. donor=D1 percent_mito=0.05; "
        "a covariate that is named again adds a value to average over",
    )


def _covariate(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected COVARIATE=VALUE, got {text!r}")
    return key, value


def _by_name(pairs: Sequence[tuple[str, str]] | None) -> dict[str, list[str]] | None:
    """Collect values by covariate; one that is named again has several."""
    found: dict[str, list[str]] = {}
    for key, value in pairs or ():
        found.setdefault(key, []).append(value)
    return found or None


def _dispersion(options: argparse.Namespace) -> Any:
    from scvibridge.dispersion import read_dispersion

    return None if options.dispersion is None else read_dispersion(options.dispersion)


def _described(options: argparse.Namespace) -> str:
    doing = {"correct": "correcting", "normalize": "normalizing", "denoise": "denoising"}
    target = getattr(options, "transform_batch", None)
    toward = f", as if from {' and '.join(target)}" if target else ""
    return f"{doing[options.command]} the cells{toward}"


if __name__ == "__main__":
    command()
