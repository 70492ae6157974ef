"""The commands `correct`, `normalize` and `denoise`."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import (
    by_name,
    check_files,
    check_not_input,
    read_gene_list,
    read_indices,
)
from scvibridge.cli.parsing import add_several

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


COUNT_ENDINGS = (".h5ad", ".zarr", ".rds", ".h5")

EXPRESSION_ENDINGS = (".h5ad", ".zarr", ".rds")

CORRECT_EXAMPLES = """\
examples:
  scvibridge correct model_dir --adata data.h5ad --transform-batch V3 --out corrected.h5ad
  scvibridge correct model_dir --adata data.h5ad --transform-batch V2 V3 --labels-key cell_type \\
      --condition-key stimulation --normalized --out corrected.rds --as seurat"""


def add_correct(commands: Any) -> None:
    """Add the command `correct`."""
    command = _add_command(
        commands,
        "correct",
        "batch-corrected counts, as if every cell came from one batch: for tools that need counts "
        "and cannot use the batch as a covariate",
        CORRECT_EXAMPLES,
    )
    counts = command.add_argument_group("which counts")
    add_several(
        counts,
        "--transform-batch",
        metavar="BATCH",
        help="target batch of the counts; several are averaged (required if the model has more "
        "than one, unless other covariates are set)",
    )
    options.add_covariates(counts)
    counts.add_argument(
        "--method",
        choices=("quantile", "sample"),
        default="quantile",
        help="quantile: the cell keeps its own data (default); sample: a simulation of the cell",
    )
    counts.add_argument(
        "--effect",
        choices=("label", "global", "local", "cell"),
        help="batch effect to remove. label: one per label and batch (default with --labels-key); "
        "global: one per batch (default without); local: varies over the latent space; cell: one "
        "per cell, which leaks the condition",
    )
    counts.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    counts.add_argument(
        "--condition-key",
        metavar="COLUMN",
        help="column of obs with the condition of interest: raises an error if it cannot be "
        "distinguished from the batch",
    )
    counts.add_argument(
        "--sample-key",
        metavar="COLUMN",
        help="column of obs with the replicate (donor, sample): keeps the differences between "
        "samples. Pass it if you compare samples later",
    )
    counts.add_argument(
        "--allow-confounded", action="store_true", help="correct even if confounded, with a warning"
    )
    _add_depth(counts, None, "scaled; median for --method sample")
    counts.add_argument(
        "--dispersion",
        metavar="FILE",
        help="CSV file of inverse dispersions to use instead of the model's: gene names, and one "
        "column for all or one per batch (calibration --theta writes one)",
    )
    counts.add_argument(
        "--shrinkage",
        type=options.number_or_name,
        metavar="COUNTS",
        help="number of counts at which half of a batch effect is removed, or auto: estimated "
        "from held-out cells (default); 0: the decoder's effects unchanged",
    )
    counts.add_argument(
        "--residual",
        choices=("never", "auto", "always"),
        default="never",
        help="remove batch effects that the decoder misses, estimated from the samples of "
        "--sample-key: if conditions are balanced over batches (auto), always, or never (the "
        "default)",
    )
    add_several(
        counts,
        "--estimate-on",
        type=_column_value,
        metavar="COLUMN=VALUE",
        help="estimate batch effects and depth only on cells with this value of a column of obs, "
        "such as controls that every batch has (condition=ctrl), and remove the effects from all "
        "cells. Repeat a column to add a value; cells must match all columns",
    )
    add_several(
        counts,
        "--genes-kept",
        metavar="GENE",
        help="genes whose counts stay unchanged: names, or a text file with one name per line",
    )
    counts.add_argument(
        "--no-zero-inflation",
        dest="zero_inflation",
        action="store_false",
        help="leave out the zero inflation of a ZINB model (only with --method sample)",
    )
    counts.add_argument(
        "--normalized", action="store_true", help="add the normalized expression as a layer"
    )
    counts.add_argument(
        "--unsupported",
        choices=("keep", "mask", "drop"),
        default="keep",
        help="cells without enough similar cells in the target: keep and flag them (default), "
        "mask their counts, or drop them",
    )
    _add_shared(command, COUNT_ENDINGS)


def add_normalize(commands: Any) -> None:
    """Add the command `normalize`."""
    command = _add_command(
        commands,
        "normalize",
        "normalized expression at one depth, optionally as if from another batch: for plots",
        None,
    )
    expression = command.add_argument_group("which expression")
    add_several(
        expression,
        "--transform-batch",
        metavar="BATCH",
        help="batch to decode as; several are averaged (default: the cell's batch)",
    )
    options.add_covariates(expression)
    _add_depth(expression, 1e4, "10000")
    _add_averaging(expression)
    _add_shared(command, EXPRESSION_ENDINGS)


def add_denoise(commands: Any) -> None:
    """Add the command `denoise`."""
    command = _add_command(
        commands,
        "denoise",
        "denoised expression of each cell, in its observed batch and at its observed depth",
        None,
    )
    expression = command.add_argument_group("which expression")
    _add_depth(expression, "latent", "latent", "observed, latent or median")
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
    options.add_model(command)
    options.add_adata(command)
    return command


def _add_depth(
    group: Any,
    default: float | str | None,
    described: str,
    names: str = "observed, latent, median or scaled",
) -> None:
    group.add_argument(
        "--library-size",
        type=options.number_or_name,
        default=default,
        metavar="DEPTH",
        help=f"depth: a number, {names} (default: {described})",
    )


def _add_averaging(group: Any) -> None:
    group.add_argument(
        "--n-samples",
        type=int,
        metavar="N",
        help="average over N samples of the latent variables (default: their posterior mean)",
    )
    group.add_argument(
        "--zero-inflation",
        action="store_true",
        help="include the zero inflation of a ZINB model in the means",
    )


def _add_shared(command: argparse.ArgumentParser, endings: Sequence[str]) -> None:
    output = command.add_argument_group("output")
    output.add_argument(
        "--out", required=True, metavar="FILE", help=f"file to write: {', '.join(endings)}"
    )
    options.add_overwrite(output)
    output.add_argument(
        "--as",
        dest="as_",
        choices=("sce", "seurat"),
        help="type of object in an .rds file: SingleCellExperiment (default) or Seurat",
    )
    output.add_argument(
        "--resume",
        action="store_true",
        help="continue an interrupted run with the same options (not for .rds)",
    )
    options.add_indices(output, "the cells to return (default: all)")
    output.add_argument(
        "--gene-list", metavar="FILE", help="genes to return, one name per line (default: all)"
    )
    options.add_running(command, seed=options.SEED, batch_size=True)


def check_options(options: argparse.Namespace, endings: Sequence[str]) -> list[str] | None:
    """Check everything that can be checked before the model is loaded; return the list of genes.

    Raises
    ------
    ValueError, OSError, ImportError
        If an option is out of range, a file is missing or cannot be written, or R is missing.
    """
    from scvibridge._utils import devices
    from scvibridge.expression.depth import Depth

    check_not_input(options, options.out, "--out")
    out = _check_out(options, endings)
    kind = out.suffix.lower()
    if options.as_ is not None and kind != ".rds":
        raise ValueError(f"--as {options.as_} requires an .rds file, but --out ends in {kind}")
    if kind == ".rds" and options.resume:
        raise ValueError("--resume: an .rds file is written in one step; write .h5ad or .zarr")
    if options.library_size is not None:
        Depth.of(options.library_size)
    check_files(options.adata)
    genes = None if options.gene_list is None else read_gene_list(options.gene_list)
    devices.resolve_device(options.device)
    if kind == ".rds":
        from scvibridge.r import objects

        objects.check_available(options.as_ or "sce")
    return genes


def _check_out(options: argparse.Namespace, endings: Sequence[str]) -> Path:
    from scvibridge.io import paths, readback

    # With --resume it may be the finished result, which is known once the data have been read.
    may_be_own = options.resume and readback.result_of(Path(options.out).expanduser()) is not None
    overwrite = options.overwrite or may_be_own
    return paths.check_output(options.out, endings, "--out", overwrite=overwrite)


def check_for_r(model: Any, adata: Any) -> None:
    """Check that R can hold the tables of a result, before any work."""
    from scvibridge.io import storage
    from scvibridge.models import adapters, alignment

    adapter = adapters.adapter_for(model)
    storage.check_tables(alignment.resolve_adata(adapter, adata, stream=True), ".rds")


def is_rds(out: Path) -> bool:
    """Return whether a path names a file of R."""
    return out.suffix.lower() == ".rds"


def endings_of(command: str) -> Sequence[str]:
    """Return the file extensions that a command can write."""
    return COUNT_ENDINGS if command == "correct" else EXPRESSION_ENDINGS


def function_of(command: str) -> Callable[..., Any]:
    """Return the public function that a command calls."""
    import scvibridge

    functions: dict[str, Callable[..., Any]] = {
        "correct": scvibridge.corrected_counts,
        "normalize": scvibridge.normalized_expression,
        "denoise": scvibridge.denoised_expression,
    }
    return functions[command]


def arguments_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of the command's function: the options with the same names.

    Raises
    ------
    ValueError, OSError
        If a file that an option names cannot be read.
    """
    parameters = inspect.signature(function_of(options.command)).parameters
    given = {name: value for name, value in vars(options).items() if name in parameters}
    readers: dict[str, Callable[[Any], Any]] = {
        "indices": read_indices,
        "transform_covariates": by_name,
        "dispersion": _read_dispersion,
        "estimate_on": by_name,
        "genes_kept": _read_genes_kept,
    }
    return {name: readers[name](v) if name in readers else v for name, v in given.items()}


def _column_value(text: str) -> tuple[str, str]:
    return options.pair(text, "COLUMN")


def _read_dispersion(path: str | None) -> Any:
    from scvibridge.correction.given_dispersion import read_dispersion

    return None if path is None else read_dispersion(path)


def _read_genes_kept(given: Sequence[str] | None) -> list[str] | None:
    """Return names of genes; a single word that names a file, or ends like one, is read."""
    if given is None:
        return None
    if len(given) == 1 and (Path(given[0]).expanduser().is_file() or given[0].endswith(".txt")):
        return read_gene_list(given[0], "--genes-kept")
    return list(given)


def text_of_options(options: argparse.Namespace) -> str:
    """Describe the work of a command in a few words."""
    doing = {"correct": "correcting", "normalize": "normalizing", "denoise": "denoising"}
    target = getattr(options, "transform_batch", None)
    toward = f", as if from {' and '.join(target)}" if target else ""
    return f"{doing[options.command]} the cells{toward}"
