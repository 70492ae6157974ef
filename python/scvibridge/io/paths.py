"""Check input and output paths, and write files so that no incomplete file is left.

Outputs are first written to a temporary name in the same folder and renamed once complete, so that
a failure (or Ctrl-C) leaves an older file unchanged and nothing else behind.
"""

from __future__ import annotations

import difflib
import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scvibridge._utils.wording import printable
from scvibridge.io.file_boundary import check_boundary
from scvibridge.io.scratch import Scratch, behind_links, remove
from scvibridge.io.zarr_folders import foreign_entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

READABLE_ENDINGS = (".h5ad", ".zarr")

# Including those of several modalities, which some models need.
DATA_ENDINGS = (*READABLE_ENDINGS, ".h5mu")

_KINDS = {
    ".h5ad": "an h5ad file",
    ".h5mu": "an h5mu file",
    ".zarr": "a zarr folder",
    ".h5": "a 10x HDF5 file",
    ".rds": "an .rds file",
}

_CONTENTS = {".h5ad": " that holds an AnnData", ".zarr": " that holds an AnnData"}

_DATA_ARGUMENTS = ("adata", "result", "--adata", "DATA")

# Maximum bytes in the name of an output: temporary files next to it add up to 20.
_LONGEST_NAME = 235

_OUT_OF_SPACE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the disk quota is exceeded",
    errno.EFBIG: "the file is larger than the file system allows",
}


def is_zarr(path: Path) -> bool:
    """Return whether a path has the name of a zarr folder."""
    return path.suffix.lower() == ".zarr"


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Explain a read error: the file is truncated, or contains something else.

    Raises
    ------
    ValueError
        From any error raised within the context.
    """
    try:
        yield
    except Exception as error:
        ending = path.suffix.lower()
        raise ValueError(
            f"{path} could not be read as {_KINDS[ending]}{_CONTENTS.get(ending, '')}: "
            f"{printable(_first_line(error))}"
        ) from error


def check_input(
    path: str | os.PathLike[str],
    argument: str = "adata",
    endings: Sequence[str] = READABLE_ENDINGS,
) -> Path:
    """Check that a file of the right type exists, without reading it.

    Raises
    ------
    TypeError, FileNotFoundError, IsADirectoryError, ValueError
        As for `read_anndata`.
    """
    path = _as_path(path, argument)
    _check_ending(path, endings, argument)
    if not path.exists():
        raise FileNotFoundError(_missing_file_message(path, endings))
    if path.is_dir() and not is_zarr(path):
        kind = _KINDS[path.suffix.lower()]
        raise IsADirectoryError(f"{path} is a folder, expected {kind}")
    check_boundary(path)
    return path


def _as_path(path: object, argument: str) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"{argument} must be the path of a file, not {path!r}")
    name = os.fsdecode(path)
    if "\0" in name:
        raise ValueError(f"{argument}={name!r} contains a NUL character")
    return Path(name).expanduser()


def named(path: object, argument: str = "out") -> Path:
    """Return the path of an output, with ``~`` expanded, whatever is there.

    Raises
    ------
    TypeError
        If it is not a path, or empty.
    ValueError
        If no file can have its name.
    """
    found = _as_path(path, argument)
    _check_length(found, argument)
    return found


def _check_ending(path: Path, endings: Sequence[str], argument: str) -> None:
    if path.suffix.lower() in endings:
        return
    expected = " or ".join(endings)
    found = f"ends in {path.suffix}" if path.suffix else "has no extension"
    hint = ""
    if path.suffix.lower() == ".rds" and argument in _DATA_ARGUMENTS:
        hint = (
            f"; read R objects with scvibridge.r.read_rds({str(path)!r}) and pass the AnnData "
            "that it returns (write_h5ad() writes it to a file for the command line)"
        )
    if endings in (READABLE_ENDINGS, DATA_ENDINGS) and path.suffix.lower() in (".h5", ".hdf5"):
        hint = "; read a 10x file with scanpy.read_10x_h5() and pass the result"
    raise ValueError(f"{argument}={str(path)!r} {found}, expected {expected}{hint}")


def _missing_file_message(path: Path, endings: Sequence[str]) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no file {path}: its folder {folder} does not exist"
    names = [p.name for p in folder.iterdir() if p.suffix.lower() in endings]
    nearest = difflib.get_close_matches(path.name, names, n=1)
    hint = f"; did you mean {folder / nearest[0]}?" if nearest else ""
    return f"there is no file {path}{hint}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---- checking an output before any work ------------------------------------------------------


def check_output(
    path: str | os.PathLike[str],
    endings: Sequence[str],
    argument: str = "out",
    *,
    overwrite: bool = False,
) -> Path:
    """Check that a file can be written, before its contents are computed.

    Parameters
    ----------
    path
        The file to be written, or the folder if it ends in ``.zarr``.
    endings
        The allowed extensions, lower case with the dot, such as ``(".h5ad",)``.
    argument
        The name of the caller's argument, for error messages.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    Path, with ``~`` expanded.

    Raises
    ------
    TypeError
        If `path` is not a path.
    ValueError
        If the extension is not one of `endings`.
    FileExistsError
        If the file exists and `overwrite` is False, or a zarr folder of that name also contains
        files that are not part of it.
    FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError
        If the folder does not exist, is not a folder or is not writable; or `path` is a folder
        (other than a zarr folder, if that is what will be written).
    """
    path = named(path, argument)
    _check_ending(path, endings, argument)
    # The file is written where a link leads.
    folder = behind_links(path).parent if path.is_symlink() else path.parent
    _check_replaceable(path, argument)
    if not overwrite:
        check_absent(path, argument)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{argument}: {folder} is a file, not a folder to write to")
    if not folder.exists():
        raise FileNotFoundError(f"{argument}: the folder {folder} does not exist; create it first")
    check_writable(folder, argument)
    return path


def check_absent(path: Path, argument: str) -> None:
    """Raise an error if a file or folder exists.

    Raises
    ------
    FileExistsError
        If it exists, except an empty folder that a zarr folder is to replace.
    """
    is_empty = is_zarr(path) and path.is_dir() and not any(path.iterdir())
    if is_empty or not path.exists():
        return
    way = "pass --overwrite" if argument.startswith("--") else "set overwrite=True"
    raise FileExistsError(f"{argument}: {path} exists: choose another name, or {way}")


def _check_length(path: Path, argument: str) -> None:
    """Check that a name leaves room for the longer names of temporary files next to it."""
    length = len(os.fsencode(behind_links(path).name))
    if length > _LONGEST_NAME:
        raise ValueError(
            f"{argument}: the name of {path} is {length} bytes long, the maximum is {_LONGEST_NAME}"
        )


def _check_replaceable(path: Path, argument: str) -> None:
    if not is_zarr(path):
        if path.is_dir():
            raise IsADirectoryError(f"{argument}: {path} is a folder, expected the name of a file")
        if path.exists() and not path.is_file():
            # The result is renamed into place, and would replace a device for all processes.
            raise FileExistsError(
                f"{argument}: {path} is a device, a pipe or a socket, which a file cannot replace: "
                "choose another name"
            )
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{argument}: {path} is a file, expected a zarr folder")
    foreign = foreign_entry(path) if path.is_dir() else None
    if foreign is not None:
        raise FileExistsError(
            f"{argument}: {path} would be replaced but contains {foreign}, which is not part of a "
            "zarr folder: choose another name, or move that file away first"
        )


def check_writable(folder: Path, argument: str) -> None:
    """Check that files can be created in a folder.

    Raises
    ------
    PermissionError
        If the folder is not writable.
    """
    # Only an attempt is conclusive: permission bits mean nothing for root or on a read-only file
    # system.
    probe = folder / f".scvibridge-{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"{argument}: the folder {folder} is not writable ({error.strerror})"
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary name next to `path`, renamed to `path` at the end, removed on any failure.

    Parameters
    ----------
    path
        The file or folder to be written.
    overwrite
        Whether to replace a file that exists at the end.

    Raises
    ------
    OSError
        If there is no space for the file; other errors are passed on unchanged.
    FileExistsError
        If the file exists at the end, and `overwrite` is False.

    Examples
    --------
    >>> with replacing("table.csv") as temporary:  # doctest: +SKIP
    ...     table.to_csv(temporary)
    """
    target = behind_links(path)
    scratch = Scratch(target)
    try:
        temporary = scratch.folder / target.name
        yield temporary
        if not overwrite:
            check_absent(target, "path")
        replace(temporary, target)
    except Exception as error:
        code = out_of_space(error)
        if code is None:
            raise
        reason = _OUT_OF_SPACE[code]
        raise OSError(code, f"{reason}: {target} could not be written") from error
    finally:
        scratch.remove()


def replace(temporary: Path, target: Path) -> None:
    """Rename a complete file or folder into place, replacing an existing one.

    Both are on one file system. The permissions of the replaced file are kept. A file is replaced
    atomically; an older folder is moved aside first, moved back if the new one cannot be renamed,
    and removed at the end.
    """
    _keep_permissions(target, temporary)
    if not target.is_dir():
        temporary.replace(target)
        return
    aside = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    target.replace(aside)
    try:
        temporary.replace(target)
    except BaseException:
        aside.replace(target)
        raise
    remove(aside)


def _keep_permissions(old: Path, new: Path) -> None:
    if not old.exists() or old.is_dir() != new.is_dir():
        return
    known = old.stat()
    # Only a privileged user can change the owner of a file, and some file systems (FAT, shares,
    # buckets) support neither: the result is worth more than its permissions.
    with suppress(OSError):
        new.chmod(stat.S_IMODE(known.st_mode))  # before the file belongs to someone else
    with suppress(OSError):
        os.chown(new, known.st_uid, known.st_gid)


def out_of_space(error: BaseException | None) -> int | None:
    """Return the code of an error or its cause if it means that there is no space; else None."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        if code in _OUT_OF_SPACE:
            return code
        error = error.__cause__ or error.__context__
    return None


def space_message(code: int) -> str:
    """Return the message for a code of `out_of_space`."""
    return _OUT_OF_SPACE[code]


@contextmanager
def explaining_space(what: str, folder: Path, advice: str = "") -> Iterator[None]:
    """Explain an error for lack of space: what could not be written where, and what to do.

    Raises
    ------
    OSError
        In place of such an error; others are passed on unchanged.
    """
    try:
        yield
    except OSError as error:
        code = out_of_space(error)
        if code is None:
            raise
        message = f"{_OUT_OF_SPACE[code]}: {what} could not be written to {folder}{advice}"
        raise OSError(code, message) from error


# For files in the system's folder of temporary files.
SET_TMPDIR = " (set TMPDIR to a folder with enough space)"
