"""What the commands have in common: options, messages, and tables as files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge._utils.wording import csv_table
from scvibridge.cli import console

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pandas as pd


SEED = "seed, 0 to 2^32 - 1 (default: 0)"


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the folder of the model, and whether its code may run."""
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
    command.add_argument(
        "--adata",
        action=_Files,
        nargs="+",
        required=required,
        metavar="FILE",
        help=f"{text}; several files, such as one for each sample, are joined",
    )


class _Files(argparse.Action):
    """Store the path of a single file as such, and those of several as a list."""

    def __call__(
        self, _parser: Any, namespace: argparse.Namespace, files: Any, _: Any = None
    ) -> None:
        setattr(namespace, self.dest, files[0] if len(files) == 1 else files)


def check_files(files: str | list[str] | None, argument: str = "adata") -> None:
    """Check that the files of :func:`add_files` exist, and are of the right kind.

    Raises
    ------
    ValueError, OSError
        One does not, or is of another kind.
    """
    from scvibridge.io import paths

    if isinstance(files, list):
        for file in files:
            paths.check_input(file, argument)
    elif files is not None:
        paths.check_input(files, argument, endings=paths.DATA_ENDINGS)


def add_trust(command: Any) -> None:
    """Add how a saved model is loaded: whether its code may run, and the names of its files."""
    command.add_argument(
        "--trust",
        action="store_true",
        help="load a model that is refused since it may run code: it runs (default: nothing in a "
        "model runs)",
    )
    command.add_argument(
        "--prefix",
        metavar="TEXT",
        help="what the names of the model's files begin with, as given to model.save(prefix=) "
        "(default: nothing, or that of the only model in the folder)",
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
    add_overwrite(command)


def add_overwrite(command: Any) -> None:
    """Add whether files that exist may be replaced."""
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what exists under the name of an output (default: refuse)",
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
        # With a byte order mark, as Excel writes it, the first name would be another.
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
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
    """Check the path of a table, of the option ``--name``, before there is one.

    Raises
    ------
    ValueError, OSError
        If its ending is not that of CSV, it exists, or it cannot be written.
    """
    from scvibridge.io import paths

    path = getattr(options, name)
    if path is None:
        return None
    check_not_input(options, path, f"--{name}")
    return paths.check_output(path, (".csv",), f"--{name}", overwrite=options.overwrite)


def check_not_input(options: argparse.Namespace, out: str, argument: str) -> None:
    """Refuse an output that is a file which another option names as an input, or as an output.

    Raises
    ------
    ValueError
        It is one.
    """
    from scvibridge.io import opened_files
    from scvibridge.models import load

    given = vars(options)
    inputs = [given.get(name) for name in ("adata", "data", "result", "dispersion", "gene_list")]
    for folder in (given.get("model_dir"), given.get("model")):
        if folder is not None:
            inputs += load.files_of_folder(folder)
    opened_files.check_not_source(Path(out).expanduser(), *inputs, argument=argument)
    others = {f"--{name}": given.get(name) for name in ("out", "theta", "quality")}
    for name, other in others.items():
        if name != argument and other is not None and _is_one_file(out, other):
            raise ValueError(f"{argument} and {name} name one file, {out}: choose two names")


def _is_one_file(path: str, other: str) -> bool:
    from scvibridge.io import scratch

    paths = [scratch.behind_links(Path(one).expanduser()) for one in (path, other)]
    return paths[0] == paths[1]


def write_table(
    table: pd.DataFrame | pd.Series, path: Path, *, index: bool, overwrite: bool
) -> None:
    """Write a table as CSV, at once or not at all; no cell is a formula of a spreadsheet."""
    from scvibridge.io import paths

    with paths.replacing(path, overwrite=overwrite) as temporary:
        csv_table(table).to_csv(temporary, index=index)
