"""The commands ``scvibridge calibration`` and ``scvibridge damage``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from scvibridge import console

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import pandas as pd

CALIBRATION = "whether counts of held-out cells follow the model, and a dispersion that fits them"
DAMAGE = "what a correction changes between random halves of one batch, where nothing should change"
CALIBRATION_EXAMPLES = """\
examples:
  scvibridge calibration model_dir --adata data.h5ad
  scvibridge calibration model_dir --adata data.h5ad --out fit.csv --theta theta.csv
  scvibridge correct model_dir --adata data.h5ad --transform-batch V3 --dispersion theta.csv \\
      --out corrected.h5ad"""
DAMAGE_EXAMPLES = """\
examples:
  scvibridge damage data.h5ad --batch-key batch --labels-key cell_type
  scvibridge damage data.h5ad --batch-key batch --labels-key cell_type --model model_dir \\
      --method sample --out damage.csv"""
ENDINGS = (".csv",)
_WIDTH = 96


def add(commands: Any) -> None:
    """Add the commands."""
    _add_calibration(commands)
    _add_damage(commands)


def _add_calibration(commands: Any) -> None:
    command = _add_command(commands, "calibration", CALIBRATION, CALIBRATION_EXAMPLES)
    command.add_argument("model_dir", metavar="MODEL_DIR", help="folder that model.save() wrote")
    command.add_argument(
        "--adata",
        metavar="FILE",
        help="the model's data, or cells that it has not seen, .h5ad or .zarr (may be left out if "
        "data were saved with the model)",
    )
    command.add_argument(
        "--n-references",
        type=int,
        default=20,
        metavar="N",
        help="data sets drawn from the model to compare with (default: 20)",
    )
    _add_out(command)
    command.add_argument(
        "--theta",
        metavar="FILE",
        help="CSV file for the dispersions that are advised, for correct --dispersion (none is "
        "written where the model's own do as well)",
    )
    _add_running(command)


def _add_damage(commands: Any) -> None:
    command = _add_command(commands, "damage", DAMAGE, DAMAGE_EXAMPLES)
    command.add_argument("data", metavar="DATA", help="raw counts, .h5ad or .zarr")
    command.add_argument(
        "--batch-key", required=True, metavar="COLUMN", help="column of obs with the batches"
    )
    command.add_argument("--labels-key", metavar="COLUMN", help="column of obs with cell types")
    command.add_argument(
        "--batch", metavar="BATCH", help="the batch to split (default: that with the most cells)"
    )
    command.add_argument(
        "--model",
        metavar="MODEL_DIR",
        help="a saved model whose genes and architecture are taken (default: all genes, "
        "scvi-tools' defaults)",
    )
    command.add_argument("--layer", metavar="LAYER", help="layer with the counts (default: X)")
    command.add_argument(
        "--max-epochs", type=int, metavar="N", help="epochs of training (default: scvi-tools' own)"
    )
    command.add_argument(
        "--method", choices=("quantile", "sample"), default="quantile", help="default: quantile"
    )
    command.add_argument(
        "--effect",
        choices=("label", "global", "cell"),
        help="batch effect that is removed (default: label with --labels-key, else global)",
    )
    _add_out(command)
    _add_running(command)


def _add_command(commands: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, description=f"{text[0].upper()}{text[1:]}.", epilog=examples
    )
    return command


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", metavar="FILE", help="CSV file for the table (default: it is printed)"
    )


def _add_running(command: argparse.ArgumentParser) -> None:
    running = command.add_argument_group("running")
    running.add_argument("--seed", type=int, default=0, help="seed, 0 to 2^32 - 1 (default: 0)")
    running.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)"
    )
    running.add_argument("--quiet", action="store_true", help="no progress, no warnings")
    running.add_argument("--debug", action="store_true", help="show the traceback of an error")


# ---- work ------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> str:
    """Do what a command asks for; returns what belongs on standard output: a table, or a path.

    Raises
    ------
    ValueError, TypeError, OSError
        An option is out of its range, or a file is missing or cannot be read or written.
    """
    from scvibridge import devices, files

    with console.plain_warnings((lambda _: None) if options.quiet else None):
        out = _checked(options.out, "--out")
        devices.resolve_device(options.device)
        if options.command == "damage":
            files.check_input(options.data, "DATA")
            return _given(_damage(options), out, index=False)
        theta = _checked(options.theta, "--theta")
        if options.adata is not None:
            files.check_input(options.adata)
        found = _calibration(options)
        if theta is not None and found.theta is not None:
            _write(found.theta, theta, index=True)
        _tell(options, found.summary())
        return _given(found.batches, out, index=True)


def _checked(path: str | None, argument: str) -> Path | None:
    from scvibridge import files

    return None if path is None else files.check_output(path, ENDINGS, argument)


def _calibration(options: argparse.Namespace) -> Any:
    import scvibridge

    _tell(options, f"reading the model in {options.model_dir}")
    own = None if options.adata is None else False
    model = scvibridge.load(options.model_dir, adata=own, device=options.device)
    return scvibridge.calibration(
        model,
        adata=options.adata,
        n_references=options.n_references,
        seed=options.seed,
        device=options.device,
        progress=not options.quiet,
    )


def _damage(options: argparse.Namespace) -> pd.DataFrame:
    import scvibridge

    model = None
    if options.model is not None:
        model = scvibridge.load(options.model, adata=False, device=options.device)
    _tell(options, "training a model on random halves of a batch")
    return scvibridge.damage(
        options.data,
        options.batch_key,
        labels_key=options.labels_key,
        batch=options.batch,
        model=model,
        layer=options.layer,
        max_epochs=options.max_epochs,
        method=options.method,
        effect=options.effect,
        seed=options.seed,
        device=options.device,
        progress=not options.quiet,
    )


def _given(table: pd.DataFrame, out: Path | None, *, index: bool) -> str:
    """Write a table and name its file, or spell it out."""
    if out is None:
        # Verdicts are sentences, which the summary tells.
        shown = table.drop(columns="verdict", errors="ignore")
        return shown.to_string(index=index, float_format="{:.3g}".format, line_width=_WIDTH)
    _write(table, out, index=index)
    return str(out)


def _write(table: pd.DataFrame | pd.Series, path: Path, *, index: bool) -> None:
    from scvibridge import files

    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=index)


def _tell(options: argparse.Namespace, message: str) -> None:
    if not options.quiet:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
