"""The folder in which the parts of a result lie until it is complete: whose it is, and of what."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import tempfile
import weakref
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge.file_boundary import check_links
from scvibridge.files import behind_links, remove
from scvibridge.shards import TEMPORARY_ENDING, shard_path, sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.plan import Plan

LOCK = "lock"

_FORMAT = 1
_MANIFEST = "manifest.json"


def parts_folder(out: str | os.PathLike[str]) -> Path:
    """Folder beside `out` in which its parts lie until it is complete."""
    target = behind_links(out)
    return target.with_name(f"{target.name}.parts")


def check_leftover(out: str | os.PathLike[str], resume: bool) -> None:
    """Check that no interrupted run is left, or that it is to be resumed, before any work.

    Raises
    ------
    FileExistsError
        Blocks of an interrupted run are there and `resume` is False, or the folder of the parts
        holds something else.
    RuntimeError
        Another process is writing the same result.
    """
    folder = parts_folder(out)
    check_own(folder, out)
    _check_free(folder, out)
    check_finished(folder, resume)


def check_own(folder: Path, out: str | os.PathLike[str]) -> None:
    """Refuse a folder that is not of this kind, before anything is put there."""
    is_own = folder.is_dir() and ((folder / LOCK).exists() or not any(folder.iterdir()))
    if folder.exists() and not is_own:
        raise FileExistsError(
            f"{folder} is where the parts of {out} are kept while it is written, but something "
            "else is there: move it, or choose another name"
        )
    if is_own:
        check_links(folder)


def _check_free(folder: Path, out: str | os.PathLike[str]) -> None:
    with suppress(FileNotFoundError), (folder / LOCK).open("rb") as lock:
        _flock(lock.fileno(), fcntl.LOCK_SH, out)


def check_finished(folder: Path, resume: bool) -> None:
    """Refuse a folder with finished parts, unless these are to be used again."""
    manifest = _read_manifest(folder)
    if resume or manifest is None or not any(folder.glob("*.npz")):
        return
    n_blocks = len(manifest["blocks"])
    n_finished = sum(shard_path(folder, index).exists() for index in range(n_blocks))
    raise FileExistsError(
        f"{folder} was left by an interrupted run, with {n_finished} of {n_blocks} blocks "
        "finished: resume=True goes on from there; to start over, delete that folder"
    )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{folder} is damaged ({error}): delete it to start over") from error
    return manifest


def _manifest_of(plan: Plan) -> dict[str, Any]:
    manifest = {
        "format": _FORMAT,
        "fingerprint": plan.fingerprint,
        "n_cells": plan.n_cells,
        "blocks": [[block.start, block.stop] for block in plan.blocks],
        "fields": [{**asdict(field), "dtype": np.dtype(field.dtype).name} for field in plan.fields],
    }
    plain: dict[str, Any] = json.loads(json.dumps(manifest))
    return plain


def write_manifest(folder: Path, plan: Plan) -> None:
    """Write what result the parts are of."""
    temporary = folder / f".{secrets.token_hex(4)}{TEMPORARY_ENDING}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(_manifest_of(plan), file, indent=1)
        sync(file)
    temporary.replace(folder / _MANIFEST)


def is_of(folder: Path, plan: Plan) -> bool:
    """Whether the parts of a folder are of a result, and not of none.

    Raises
    ------
    ValueError
        There are finished parts of another result; the settings that differ are named.
    """
    old, new = _read_manifest(folder), _manifest_of(plan)
    if old is None or old == new:
        return old is not None
    if not any(folder.glob("*.npz")):
        return False
    differences = [*_differences(old.pop("fingerprint", {}), new.pop("fingerprint"))]
    differences = differences or [*_differences(old, new)]
    raise ValueError(
        f"{folder} was left by a run with other settings ({'; '.join(differences)}): go on "
        "with the settings of then, or delete that folder to start over"
    )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Name the settings that differ, with what they were and are."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: {_shorten(old)} then, {_shorten(new)} now"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- scratch ---------------------------------------------------------------------------------


class Scratch:
    """A folder beside a result, for files that are needed before its parts are begun.

    It is removed with this object or when the interpreter ends; those that killed processes left
    are removed when the next one is made for the same result.

    Parameters
    ----------
    out
        Path of the result.

    Attributes
    ----------
    folder
        The folder.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        target = behind_links(out)
        prefix = f".{target.name}.scratch-"
        for older in target.parent.iterdir():
            if older.name.startswith(prefix) and _is_abandoned(older):
                remove(older)
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
        handle = take_lock(self.folder, target)
        self._finalizer = weakref.finalize(self, _remove_scratch, self.folder, handle)


def _is_abandoned(folder: Path) -> bool:
    try:
        _check_free(folder, folder)
    except RuntimeError:
        return False
    return True


def _remove_scratch(folder: Path, handle: int) -> None:
    remove(folder)
    os.close(handle)


# ---- one process at a time -------------------------------------------------------------------


def take_lock(folder: Path, out: Path) -> int:
    """Take the lock of a folder, made where needed; the system ends it with the process."""
    while True:
        folder.mkdir(exist_ok=True)
        path = folder / LOCK
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # the folder was removed in between
            continue
        try:
            _flock(handle, fcntl.LOCK_EX, out)
        except RuntimeError:
            os.close(handle)
            raise
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return handle
        os.close(handle)  # the lock of a folder that is gone


def _flock(handle: int, kind: int, out: str | os.PathLike[str]) -> None:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise RuntimeError(
            f"{out} is being written by {holder}: wait for it to end, or choose another name"
        ) from None
    except OSError:
        pass  # A file system without locks: it has to do without.
