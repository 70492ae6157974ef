"""Distinguish the files of a zarr folder from other files in it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


# Metadata of the formats 2 and 3.
_METADATA = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata", "zarr.json"})

_GROUP_OF_2, _ARRAY_OF_2, _NODE_OF_3 = ".zgroup", ".zarray", "zarr.json"

# Chunks: "0.12" in format 2; "c/0/12" (and "c" where there are no dimensions) in format 3.
_CHUNK = re.compile(r"(\d+([./]\d+)*|c([./]\d+)*)$")


def foreign_entry(folder: Path) -> str | None:
    """Return the path of a file that is not part of a zarr folder, relative to it.

    Parameters
    ----------
    folder
        A folder that may be replaced if all its contents are zarr's.

    Returns
    -------
    Path of the first such file, or None. Symbolic links are never part of a zarr folder.
    """
    return next(_foreign(folder, ""), None)


def _foreign(folder: Path, prefix: str) -> Iterator[str]:
    """Yield foreign files in a group, or in an empty folder."""
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    names = {entry.name for entry in entries}
    is_array = _is_array(folder, names)
    is_node = bool(names & {_GROUP_OF_2, _ARRAY_OF_2, _NODE_OF_3})
    for entry in entries:
        path = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield path
        elif entry.is_dir():
            if is_array:
                yield from _foreign_among_chunks(Path(entry.path), entry.name, prefix)
            elif not is_node or _is_empty(entry.path):
                yield path
            else:
                yield from _foreign(Path(entry.path), f"{path}/")
        elif not (is_node and entry.name in _METADATA) and not (
            is_array and _CHUNK.fullmatch(entry.name)
        ):
            yield path


def _is_array(folder: Path, names: set[str]) -> bool:
    if _ARRAY_OF_2 in names:
        return True
    if _NODE_OF_3 not in names:
        return False
    try:
        node = json.loads((folder / _NODE_OF_3).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(node, dict) and node.get("node_type") == "array"


def _foreign_among_chunks(folder: Path, name: str, prefix: str) -> Iterator[str]:
    """Yield foreign files in a folder of chunks."""
    if not _CHUNK.fullmatch(name):
        yield f"{prefix}{name}"
        return
    for above, folders, files in os.walk(folder):
        for entry in (*folders, *files):
            path = Path(above, entry)
            inside = f"{name}/{path.relative_to(folder).as_posix()}"
            if path.is_symlink() or not _CHUNK.fullmatch(inside):
                yield f"{prefix}{inside}"


def _is_empty(folder: str) -> bool:
    with os.scandir(folder) as found:
        return next(found, None) is None
