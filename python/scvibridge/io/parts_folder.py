"""The folder that contains the blocks of a result until it is complete, and checks of its owner."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from scvibridge.io.file_boundary import check_links
from scvibridge.io.scratch import LOCK, behind_links, check_free
from scvibridge.io.shards import TEMPORARY_ENDING, shard_path, sync

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from scvibridge.io.plan import Plan


_FORMAT = 2

_MANIFEST = "manifest.json"

_PART = re.compile(
    rf"{LOCK}|manifest\.json|block-\d+\.npz|estimate-\w+\.npz|merged(\.[0-9a-f]+)?\.\w+|"
    rf"\.[0-9a-f]+{re.escape(TEMPORARY_ENDING)}"
)


def parts_folder(out: str | os.PathLike[str]) -> Path:
    """Return the folder next to `out` that contains its shards until it is complete."""
    target = behind_links(out)
    return target.with_name(f"{target.name}.parts")


def check_leftover(out: str | os.PathLike[str], resume: bool) -> None:
    """Check that there is no interrupted run, or that it is to be resumed, before any work.

    Raises
    ------
    FileExistsError
        If there are blocks of an interrupted run and `resume` is False, or the folder contains
        something else.
    WriteError
        If another process is writing the same result.
    """
    folder = parts_folder(out)
    check_own(folder, out)
    check_free(folder, out)
    check_finished(folder, resume)


def check_own(folder: Path, out: str | os.PathLike[str]) -> None:
    """Raise an error for an existing folder of another kind, before anything is written to it."""
    if not folder.exists():
        return
    is_own = folder.is_dir() and not folder.is_symlink() and all(map(is_part, folder.iterdir()))
    if not is_own:
        raise FileExistsError(
            f"{folder} is needed for the blocks of {out} while it is written, but contains "
            "something else: move it, or choose another name"
        )
    if is_own:
        check_links(folder)


def is_part(path: Path) -> bool:
    """Return whether a file or folder has the name of a block file."""
    return _PART.fullmatch(path.name) is not None


def check_finished(folder: Path, resume: bool) -> None:
    """Raise an error for a folder with finished blocks, unless they are to be reused."""
    manifest = _read_manifest(folder)
    if resume or manifest is None or not any(folder.glob("*.npz")):
        return
    n_blocks = len(manifest["blocks"])
    n_finished = sum(shard_path(folder, index).exists() for index in range(n_blocks))
    raise FileExistsError(
        f"{folder} was left by an interrupted run, with {n_finished} of {n_blocks} blocks "
        "finished: use resume=True to continue, or delete that folder to start over"
    )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        len(manifest["blocks"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is damaged ({error}): delete it to start over") from error
    return manifest


def _manifest_of(plan: Plan) -> dict[str, Any]:
    return {"format": _FORMAT, **plan.manifest()}


def write_manifest(folder: Path, plan: Plan) -> None:
    """Write the description of the result that the blocks belong to."""
    temporary = folder / f".{secrets.token_hex(4)}{TEMPORARY_ENDING}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(_manifest_of(plan), file, indent=1)
        sync(file)
    temporary.replace(folder / _MANIFEST)


def check_same_run(folder: Path, plan: Plan) -> None:
    """Raise an error for finished blocks of another run.

    Raises
    ------
    ValueError
        If there are any; the message names the settings that differ.
    """
    old, new = _read_manifest(folder), _manifest_of(plan)
    if old is None or old == new or not any(folder.glob("*.npz")):
        return
    differences = [*_differences(old.pop("fingerprint", {}), new.pop("fingerprint"))]
    differences = differences or [*_differences(old, new)]
    raise ValueError(
        f"{folder} was left by a run with other settings ({'; '.join(differences)}): continue "
        "with those settings, or delete that folder to start over"
    )


def holds_other_run(folder: Path, plan: Plan) -> bool:
    """Return whether a folder holds finished blocks of a result with another content."""
    old, new = _read_manifest(folder), _manifest_of(plan)
    if old is None or not any(folder.glob("*.npz")):
        return False
    return {**old, "blocks": None} != {**new, "blocks": None}


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Yield descriptions of the settings that differ, with their old and new values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name}: {_shorten(old)} then, {_shorten(new)} now"


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
