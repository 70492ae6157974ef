"""The command ``scvibridge report``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import check_files, check_not_input, plain_warnings, tell

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


TEXT = "one HTML page about corrected counts: what was done, and whether they can be used"

EXAMPLES = """\
examples:
  scvibridge report corrected.h5ad --out report.html
  scvibridge report corrected.h5ad --out report.html --model model_dir --adata data.h5ad

--model adds what requires the model: how well it fits cells that it was not trained on, and
normalized expression of markers if the result has none."""


def add(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "report", description=f"{TEXT[0].upper()}{TEXT[1:]}.", epilog=EXAMPLES
    )
    command.add_argument(
        "result", metavar="RESULT", help="file written by scvibridge correct: .h5ad or .zarr"
    )
    command.add_argument(
        "--out", metavar="FILE", help="HTML file to write (default: RESULT_report.html next to it)"
    )
    options.add_overwrite(command)
    command.add_argument("--title", help="heading of the page")
    command.add_argument(
        "--labels-key", metavar="COLUMN", help="cell types (default: those of the result)"
    )
    command.add_argument(
        "--condition-key", metavar="COLUMN", help="condition (default: that of the result)"
    )
    model = command.add_argument_group("sections that require the model")
    model.add_argument("--model", metavar="MODEL_DIR", help="folder that model.save() wrote")
    options.add_files(model, "the model's data, .h5ad or .zarr")
    options.add_trust(model)
    options.add_running(command, seed="seed of the layouts (default: 0)", device=False)


def write(options: argparse.Namespace) -> Path:
    """Write the report; return its path.

    Raises
    ------
    ValueError, TypeError, OSError, ImportError
        If an option is out of range, or a file is missing or cannot be read or written. Nothing is
        written in that case.
    """
    from scvibridge.diagnostics import report
    from scvibridge.diagnostics.report import reading
    from scvibridge.models import load

    if options.adata is not None and options.model is None:
        raise ValueError("--adata is the model's data: it requires --model")
    with plain_warnings(options):
        report.check_available()
        if options.out is not None:
            check_not_input(options, options.out, "--out")
        out = report.check_report(options.out, options.result, overwrite=options.overwrite)
        reading.open_result(options.result, options.labels_key, options.condition_key)
        model = None
        if options.model is not None:
            check_files(options.adata)
            tell(options, f"reading the model in {options.model}")
            model = load.load(
                options.model, adata=options.adata, trust=options.trust, prefix=options.prefix
            )
        tell(options, f"reading {options.result}")
        return report.report(
            options.result,
            out,
            model=model,
            labels_key=options.labels_key,
            condition_key=options.condition_key,
            title=options.title,
            overwrite=options.overwrite,
            seed=options.seed,
            progress=not options.quiet,
        )
