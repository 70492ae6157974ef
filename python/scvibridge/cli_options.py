"""What the commands have in common: options, messages, and tables as files."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge import console

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractContextManager

    import pandas as pd

SEED = "seed, 0 to 2^32 - 1 (default: 0)"


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the folder of the model, and whether its code may run."""
    command.add_argument("model_dir", metavar="MODEL_DIR", help="folder that model.save() wrote")
    add_trust(command)


def add_adata(command: argparse.ArgumentParser) -> None:
    """Add the model's data."""
    command.add_argument(
        "--adata",
        metavar="FILE",
        help="the model's data, .h5ad or .zarr (may be left out if they were saved with the model)",
    )


def add_trust(command: Any) -> None:
    """Add whether code of a saved model may run."""
    command.add_argument(
        "--trust",
        action="store_true",
        help="load a model that is refused since it may run code: it runs (default: nothing in a "
        "model runs)",
    )


def add_running(
    command: argparse.ArgumentParser,
    *,
    seed: str | None = None,
    batch_size: bool = False,
    device: bool = True,
) -> None:
    """Add how a command is run; `seed` says what it is the seed of, none without."""
    running = command.add_argument_group("running")
    if seed is not None:
        running.add_argument("--seed", type=int, default=0, help=seed)
    if batch_size:
        running.add_argument(
            "--batch-size",
            type=int,
            metavar="N",
            help="number of cells in a minibatch (no batch name)",
        )
    if device:
        running.add_argument(
            "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)"
        )
    running.add_argument("--quiet", action="store_true", help="no progress, no warnings")
    running.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_table(command: argparse.ArgumentParser) -> None:
    """Add the file of a table."""
    command.add_argument(
        "--out", metavar="FILE", help="CSV file for the table (default: it is printed)"
    )


def number_or_name(text: str) -> float | str:
    """Read an option that is a number or one of some names."""
    try:
        return float(text)
    except ValueError:
        return text


def read_gene_list(path: str, option: str = "--gene-list") -> list[str]:
    """Names of genes or cells, one per line, blank lines left out."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{option} {path} could not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {path} is no text file") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{option} {path} holds no names")
    return names


def plain_warnings(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Show warnings in one line each, or none of them with ``--quiet``."""
    return console.plain_warnings((lambda _: None) if options.quiet else None)


def tell(options: argparse.Namespace, message: str) -> None:
    """Say what is done, on standard error, but for ``--quiet``."""
    if not options.quiet:
        with suppress(OSError, AttributeError, ValueError):  # nobody reads it any more
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()


def check_table(path: str | None, argument: str) -> Path | None:
    """Check the path of a table before there is one.

    Raises
    ------
    ValueError, OSError
        If its ending is not that of CSV, or it cannot be written.
    """
    from scvibridge import files

    return None if path is None else files.check_output(path, (".csv",), argument)


def write_table(table: pd.DataFrame | pd.Series, path: Path, *, index: bool) -> None:
    """Write a table as CSV, at once or not at all."""
    from scvibridge import files

    with files.replacing(path) as temporary:
        table.to_csv(temporary, index=index)
