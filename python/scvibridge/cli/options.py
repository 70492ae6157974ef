"""Shared code of the commands: options, messages, and tables as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge._utils.wording import csv_table, list_names
from scvibridge.cli import console
from scvibridge.cli.parsing import Files, add_several

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import pandas as pd


SEED = "seed, 0 to 2^32 - 1 (default: 0)"


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the model folder, and whether its code may run."""
    command.add_argument("model_dir", metavar="MODEL_DIR", help="folder that model.save() wrote")
    add_trust(command)


def add_adata(command: argparse.ArgumentParser) -> None:
    """Add the model's data."""
    add_files(
        command,
        "the model's data, .h5ad or .zarr (may be left out if they were saved with the model)",
    )


def add_files(command: Any, text: str, *, required: bool = False) -> None:
    """Add data in one file or several, ``--adata``."""
    add_several(
        command,
        "--adata",
        action=Files,
        required=required,
        metavar="FILE",
        help=f"{text}; several files, such as one for each sample, are joined",
    )


def add_raw_data(command: Any) -> None:
    """Add raw counts in one file or several, ``DATA``."""
    add_several(
        command,
        "data",
        action=Files,
        metavar="DATA",
        help="raw counts, .h5ad or .zarr; several files, such as one for each sample, are joined",
    )


def check_files(files: str | list[str] | None, argument: str = "adata") -> None:
    """Check that files of data exist and are of the right kind.

    Raises
    ------
    ValueError, OSError
        If a file does not exist, or is of another kind.
    """
    from scvibridge.io import paths

    if isinstance(files, list):
        for file in files:
            paths.check_input(file, argument)
    elif files is not None:
        paths.check_input(files, argument, endings=paths.DATA_ENDINGS)


def add_trust(command: Any) -> None:
    """Add the options for loading a saved model: whether its code may run, and the file prefix."""
    command.add_argument(
        "--trust",
        action="store_true",
        help="load a model that is refused because it may run code, and run that code (default: "
        "never run code of a model)",
    )
    command.add_argument(
        "--prefix",
        metavar="TEXT",
        help="prefix of the model's file names, as passed to model.save(prefix=) (default: none, "
        "or that of the only model in the folder)",
    )


def add_running(
    command: argparse.ArgumentParser,
    *,
    seed: str | None = None,
    batch_size: bool = False,
    device: bool = True,
) -> None:
    """Add the options for running a command; `seed` describes the seed, if there is one."""
    running = command.add_argument_group("running")
    if seed is not None:
        running.add_argument("--seed", type=int, default=0, help=seed)
    if batch_size:
        running.add_argument(
            "--batch-size",
            type=int,
            metavar="N",
            help="number of cells in a minibatch (not a batch name)",
        )
    if device:
        running.add_argument(
            "--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)"
        )
    running.add_argument("--quiet", action="store_true", help="show no progress and no warnings")
    running.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_table(command: argparse.ArgumentParser) -> None:
    """Add the file of a table."""
    command.add_argument("--out", metavar="FILE", help="CSV file for the table (default: print it)")
    add_overwrite(command)


def add_overwrite(command: Any) -> None:
    """Add whether existing files may be replaced."""
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing outputs (default: raise an error)",
    )


def add_indices(command: Any, text: str) -> None:
    """Add the file of the cells to use."""
    command.add_argument("--indices", metavar="FILE", help=f"names of cells, one per line: {text}")


def add_covariates(command: Any) -> None:
    """Add the values of covariates other than the batch."""
    add_several(
        command,
        "--transform-covariates",
        type=_covariate,
        metavar="COVARIATE=VALUE",
        help="values of other covariates of the model, e.g. donor=D1 percent_mito=0.05; repeat a "
        "covariate to average over several values",
    )


def _covariate(text: str) -> tuple[str, str]:
    return pair(text, "COVARIATE")


def pair(text: str, what: str) -> tuple[str, str]:
    """Read a name and a value, ``NAME=VALUE``."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"expected {what}=VALUE, got {text!r}")
    return key, value


def by_name(pairs: Sequence[tuple[str, str]] | None) -> dict[str, list[str]] | None:
    """Collect values by name; a repeated name has several."""
    found: dict[str, list[str]] = {}
    for key, value in pairs or ():
        found.setdefault(key, []).append(value)
    return found or None


def number_or_name(text: str) -> float | str:
    """Read an option that is a number or a name."""
    try:
        return float(text)
    except ValueError:
        return text


def read_indices(path: str | None) -> list[str] | None:
    """Read the names of the cells to use; None if no file is named."""
    return None if path is None else read_gene_list(path, "--indices")


def read_gene_list(path: str, option: str = "--gene-list") -> list[str]:
    """Read names of genes or cells, one per line, skipping blank lines."""
    try:
        # Skip the byte order mark that Excel writes, which would be part of the first name.
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{option} {path} could not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{option} {path} is not a text file") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{option} {path} contains no names")
    return names


def plain_warnings(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Show warnings on one line each, or none with ``--quiet``."""
    return console.plain_warnings((lambda _: None) if options.quiet else None)


def listed(files: str | list[str]) -> str:
    """Name one file or several in a message."""
    return files if isinstance(files, str) else list_names(files, 3)


def tell(options: argparse.Namespace, message: str) -> None:
    """Write a status message to standard error, unless ``--quiet`` is set."""
    if not options.quiet:
        console.say(message)


def load_model(options: argparse.Namespace) -> Any:
    """Load the model of :func:`add_model` with the data of :func:`add_adata`.

    Raises
    ------
    ValueError, OSError
        If the data or the device do not exist, or the model cannot be read.
    """
    from scvibridge._utils import devices
    from scvibridge.models import load

    check_files(options.adata)
    devices.resolve_device(options.device)
    tell(options, f"reading the model in {options.model_dir}")
    return load.load(
        options.model_dir,
        options.adata,
        device=options.device,
        trust=options.trust,
        prefix=options.prefix,
    )


def check_table(options: argparse.Namespace, name: str) -> Path | None:
    """Check the path of a table, of the option ``--name``, before it is computed.

    Raises
    ------
    ValueError, OSError
        If its extension is not that of CSV, it exists, or it cannot be written.
    """
    from scvibridge.io import paths

    path = getattr(options, name)
    if path is None:
        return None
    check_not_input(options, path, f"--{name}")
    return paths.check_output(path, (".csv",), f"--{name}", overwrite=options.overwrite)


def check_not_input(options: argparse.Namespace, out: str, argument: str) -> None:
    """Raise an error for an output that is also an input or output of another option.

    Raises
    ------
    ValueError
        If it is.
    """
    from scvibridge.io import opened_files
    from scvibridge.models import load

    given = vars(options)
    inputs: list[Any] = [
        given.get(name)
        for name in ("adata", "data", "result", "dispersion", "gene_list", "indices")
    ]
    inputs += given.get("genes_kept") or []
    for folder in (given.get("model_dir"), given.get("model")):
        if folder is not None:
            inputs += load.files_of_folder(folder)
    opened_files.check_not_source(Path(out).expanduser(), *inputs, argument=argument)
    others = {f"--{name}": given.get(name) for name in ("out", "theta", "quality")}
    for name, other in others.items():
        if name != argument and other is not None and _is_one_file(out, other):
            raise ValueError(
                f"{argument} and {name} are the same file, {out}: choose different names"
            )


def _is_one_file(path: str, other: str) -> bool:
    from scvibridge.io import scratch

    paths = [scratch.behind_links(Path(one).expanduser()) for one in (path, other)]
    return paths[0] == paths[1]


def write_table(
    table: pd.DataFrame | pd.Series, path: Path, *, index: bool, overwrite: bool
) -> None:
    """Write a table as CSV atomically, without cells that spreadsheets treat as formulas."""
    from scvibridge.io import paths

    with paths.replacing(path, overwrite=overwrite) as temporary:
        csv_table(table).to_csv(temporary, index=index)
