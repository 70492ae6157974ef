"""The commands ``scvibridge calibration`` and ``scvibridge damage``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvibridge.cli import options
from scvibridge.cli.options import (
    check_files,
    check_table,
    plain_warnings,
    read_indices,
    tell,
    write_table,
)

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    import pandas as pd


CALIBRATION = (
    "check whether counts of held-out cells follow the model, and estimate a dispersion that fits "
    "them"
)

DAMAGE = (
    "measure what a correction changes between random halves of one batch, where nothing should "
    "change"
)

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

_WIDTH = 96


def add(commands: Any) -> None:
    """Add the commands."""
    _add_calibration(commands)
    _add_damage(commands)


def _add_calibration(commands: Any) -> None:
    command = _add_command(commands, "calibration", CALIBRATION, CALIBRATION_EXAMPLES)
    options.add_model(command)
    options.add_files(
        command,
        "the model's data, or cells that it was not trained on, .h5ad or .zarr (optional if the "
        "data were saved with the model)",
    )
    options.add_indices(
        command,
        "cells that were held out (default: those held out of training; for a model saved by "
        "model.save(), known only if its data were saved with it)",
    )
    command.add_argument(
        "--n-references",
        type=int,
        default=20,
        metavar="N",
        help="number of data sets sampled from the model for comparison (default: 20)",
    )
    command.add_argument(
        "--max-cells",
        type=int,
        default=2000,
        metavar="N",
        help="maximum number of cells of each batch (default: 2000)",
    )
    options.add_table(command)
    command.add_argument(
        "--theta",
        metavar="FILE",
        help="CSV file for the recommended dispersions, for correct --dispersion (not written if "
        "the model's fit as well)",
    )
    options.add_running(command, seed=options.SEED, batch_size=True)


def _add_damage(commands: Any) -> None:
    command = _add_command(commands, "damage", DAMAGE, DAMAGE_EXAMPLES)
    options.add_raw_data(command)
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
        help="saved model whose genes and architecture are used (default: all genes, scvi-tools' "
        "defaults)",
    )
    options.add_trust(command)
    command.add_argument("--layer", metavar="LAYER", help="layer with the counts (default: X)")
    command.add_argument(
        "--max-epochs",
        type=int,
        metavar="N",
        help="number of training epochs (default: scvi-tools' default)",
    )
    command.add_argument(
        "--method",
        choices=("quantile", "sample"),
        default="quantile",
        help="method of the correction (default: quantile)",
    )
    command.add_argument(
        "--effect",
        choices=("label", "global", "local", "cell"),
        help="batch effect to remove (default: label with --labels-key, else global)",
    )
    command.add_argument(
        "--library-size",
        type=options.number_or_name,
        metavar="DEPTH",
        help="depth of the correction: a number, observed, latent, median or scaled (default: "
        "scaled; median for --method sample)",
    )
    options.add_table(command)
    options.add_running(command, seed=options.SEED)


def _add_command(commands: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, description=f"{text[0].upper()}{text[1:]}.", epilog=examples
    )
    return command


# ---- work ------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> str:
    """Run a command; return what to print on standard output: a table, or a path.

    Raises
    ------
    ValueError, TypeError, OSError
        If an option is out of range, or a file is missing or cannot be read or written.
    """
    from scvibridge._utils import devices
    from scvibridge.correction import given_dispersion

    with plain_warnings(options):
        out = check_table(options, "out")
        devices.resolve_device(options.device)
        if options.command == "damage":
            check_files(options.data, "DATA")
            table = _damage(options)
            if "note" in table.attrs:
                tell(options, f"note: {table.attrs['note']}")
            return _given(table, out, options, index=False)
        theta = check_table(options, "theta")
        check_files(options.adata)
        found = _calibration(options)
        advised = given_dispersion.advised(found)
        if theta is not None and advised is not None:
            write_table(advised, theta, index=True, overwrite=options.overwrite)
        elif theta is not None:
            theta.unlink(missing_ok=True)  # an older table would be taken for this calibration's
            tell(options, f"no {theta} is written: no other dispersions are recommended")
        tell(options, found.summary())
        return _given(found.batches, out, options, index=True)


def _calibration(options: argparse.Namespace) -> Any:
    import scvibridge
    from scvibridge.models.load import load_apart

    indices = read_indices(options.indices)
    tell(options, f"reading the model in {options.model_dir}")
    model, adata = load_apart(
        options.model_dir, options.adata, options.device, options.trust, options.prefix
    )
    return scvibridge.calibration(
        model,
        adata=adata,
        indices=indices,
        n_references=options.n_references,
        max_cells=options.max_cells,
        batch_size=options.batch_size,
        seed=options.seed,
        device=options.device,
        progress=not options.quiet,
    )


def _damage(options: argparse.Namespace) -> pd.DataFrame:
    import scvibridge
    from scvibridge.models.load import load_apart

    model = None
    if options.model is not None:
        model, _ = load_apart(
            options.model, options.data, options.device, options.trust, options.prefix
        )
    tell(options, "training a model on random halves of a batch")
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
        library_size=options.library_size,
        seed=options.seed,
        device=options.device,
        progress=not options.quiet,
    )


def _given(
    table: pd.DataFrame, out: Path | None, options: argparse.Namespace, *, index: bool
) -> str:
    """Write a table and return the file's path, or return the table as text."""
    if out is None:
        # Verdicts are sentences, which the summary contains.
        shown = table.drop(columns="verdict", errors="ignore")
        return shown.to_string(index=index, float_format="{:.3g}".format, line_width=_WIDTH)
    write_table(table, out, index=index, overwrite=options.overwrite)
    return str(out)
