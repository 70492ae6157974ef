"""Detect files that refer to other files, or claim to hold far more than they store.

HDF5 datasets can keep their numbers in any other file, and a zarr folder or a model folder can
contain symbolic links. Reading such an input from an untrusted source would read other files of
this computer, and their contents would end up in the result. Both are refused here, before anything
is read.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from scvibridge._utils.wording import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_HDF5_ENDINGS = (".h5ad", ".h5mu", ".h5")

# Compression needs at least a thousandth of the size for constant values; fill values need no
# space.
_LARGE, _MOST_COMPRESSED = 2**30, 100_000

# Links within a file may lead from many groups to one: read as a tree, a few links give many
# elements.
_MOST_ELEMENTS = 1_000_000

_THIS_FILE = "."

_DESCRIPTIONS = ("zarr.json", ".zarray", ".zmetadata")


def check_boundary(path: Path) -> None:
    """Check that a file or zarr folder refers to nothing outside it.

    Parameters
    ----------
    path
        An existing HDF5 file or zarr folder. A file that is not HDF5 is left to its reader, which
        reports what is wrong with it.

    Raises
    ------
    ValueError
        If an element is stored elsewhere, or is larger than the file can hold; the message names
        the element.
    """
    if path.is_dir():
        _check_folder(path)
        return
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{printable(path)} is neither a file nor a folder")
    if path.suffix.lower() not in _HDF5_ENDINGS:
        return
    try:
        file = h5py.File(path, "r")
    except OSError:
        return
    with file:
        _check_hdf5(path, file)


# -- HDF5 --------------------------------------------------------------------------------------


class _RefusedError(ValueError):
    """An element that is not read."""


def _check_hdf5(path: Path, file: h5py.File) -> None:
    try:
        # Links by name are followed only once it is known that none leads to another file.
        for follows_names in (False, True):
            n_elements = _Walk(path, follows_names).size(file, "/")
    except _RefusedError:
        raise
    except RecursionError:
        raise ValueError(f"{printable(path)} was not read: it is nested too deeply") from None
    except Exception as error:
        # Damaged files make HDF5 fail in many ways.
        raise ValueError(f"{printable(path)} could not be read: {printable(error)}") from error
    if n_elements > _MOST_ELEMENTS:
        raise ValueError(
            f"{printable(path)} was not read: its links produce more than {_MOST_ELEMENTS:,} "
            "elements"
        )


class _Walk:
    """Visits each object of an HDF5 file once.

    Parameters
    ----------
    path
        Path of the file.
    follows_names
        Whether to follow links that refer to their target within the file by name.
    """

    def __init__(self, path: Path, follows_names: bool) -> None:
        self._path = path
        self._follows_names = follows_names
        # Number of elements at and below each object, as a tree; None while it is visited.
        self._sizes: dict[Any, int | None] = {}

    def size(self, element: h5py.Group | h5py.Dataset, name: str) -> int:
        """Check an element and all elements below it; return their number, read as a tree."""
        address = h5py.h5o.get_info(element.id).addr
        if address in self._sizes:
            size = self._sizes[address]
            if size is None:
                raise self._refused(name, "contains itself")
            return size
        self._sizes[address] = None
        self._check_references(element, name)
        size = 1
        if isinstance(element, h5py.Dataset):
            self._check_dataset(element, name)
        elif isinstance(element, h5py.Group):
            size += sum(self.size(child, at) for at, child in self._children(element, name))
        self._sizes[address] = size
        return size

    def _children(self, group: h5py.Group, name: str) -> Iterator[tuple[str, Any]]:
        for key in group:
            at = f"{name.rstrip('/')}/{key}"
            kind = group.id.links.get_info(key.encode("utf-8", "surrogateescape")).type
            if kind == h5py.h5l.TYPE_HARD or (
                kind == h5py.h5l.TYPE_SOFT and self._follows_names and key in group
            ):
                yield at, group[key]
            elif kind != h5py.h5l.TYPE_SOFT:
                raise self._refused(at, f"is a link to {self._target(group, key)}")

    @staticmethod
    def _target(group: h5py.Group, key: str) -> str:
        try:
            return f"the file {printable(group.get(key, getlink=True).filename)}"
        except (TypeError, AttributeError):  # of a user-defined type
            return "something outside of the file"

    def _check_dataset(self, dataset: h5py.Dataset, name: str) -> None:
        for file, *_ in dataset.external or ():
            raise self._refused(name, f"keeps its values in the file {printable(file)}")
        if dataset.is_virtual:
            for source in dataset.virtual_sources():
                if source.file_name != _THIS_FILE:
                    of = printable(source.file_name)
                    raise self._refused(name, f"reads its values from the file {of}")
        n_bytes = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
        if n_bytes > _LARGE and not dataset.is_virtual:
            stored = dataset.id.get_storage_size()
            if n_bytes > _MOST_COMPRESSED * max(stored, 1):
                raise self._refused(
                    name, f"claims {n_bytes:,} bytes of values, but only {stored:,} are stored"
                )

    def _check_references(self, element: Any, name: str) -> None:
        """Check references in attributes, which old anndata formats use for categories."""
        for key in element.attrs:
            attribute = element.attrs.get_id(key)
            if h5py.check_ref_dtype(attribute.dtype) is not h5py.Reference:
                continue
            for reference in np.ravel(element.attrs[key]):
                if reference:
                    self.size(element.file[reference], f"{name}.attrs[{key!r}]")

    def _refused(self, name: str, what: str) -> ValueError:
        return _RefusedError(
            f"{printable(self._path)} was not read: its element {printable(name)} {what}. Only "
            "the contents of the file itself are read"
        )


# -- folders -----------------------------------------------------------------------------------


def _check_folder(root: Path) -> None:
    """Check the folder of a zarr store."""
    for entry in _entries(root):
        if entry.name in _DESCRIPTIONS:
            for folder, described in _arrays(Path(entry.path)):
                _check_filters(root, folder, described)
                _check_claim(root, folder, described)


def _entries(root: Path) -> Iterator[os.DirEntry[str]]:
    inside = _own_places(root)
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                _check_entry(root, entry, inside)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                else:
                    yield entry


def _check_entry(root: Path, entry: os.DirEntry[str], inside: list[Path]) -> None:
    place = printable(os.path.relpath(entry.path, root))
    if entry.is_symlink():
        _check_link(root, Path(entry.path), place, inside)
    elif not (entry.is_dir() or entry.is_file()):
        raise ValueError(f"{printable(root)} was not read: {place} is neither a file nor a folder")


def _check_link(root: Path, link: Path, place: str, inside: list[Path]) -> None:
    target = Path(os.path.realpath(link))
    if target.is_file() and any(target.is_relative_to(folder) for folder in inside):
        return
    raise ValueError(
        f"{printable(root)} was not read: {place} is a link to {printable(target)}. Only the "
        "contents of the folder itself are read: replace the link by a copy"
    )


def _own_places(root: Path) -> list[Path]:
    """Return the folder and the place where the Hugging Face Hub cache keeps its files."""
    root = Path(os.path.realpath(root))
    places = [root]
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir():
            places.append(folder.parent.parent / "blobs")
            break
    return places


def _arrays(description: Path) -> Iterator[tuple[Path, Any]]:
    """Yield the folder and the description of each array that a zarr metadata file describes."""
    folder = description.parent
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
        consolidated = described.get("consolidated_metadata") or described
        entries = dict(consolidated.get("metadata", {}))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return  # left to the reader to report
    yield folder, described
    for name, entry in entries.items():
        below = Path(name.removesuffix(".zarray"))
        if below.is_absolute() or ".." in below.parts:
            raise ValueError(
                f"{printable(folder)} was not read: it describes an element {printable(name)}, "
                "which is not in it"
            )
        yield folder / below, entry


def _check_filters(root: Path, folder: Path, described: Any) -> None:
    """Refuse the filter that unpickles chunks: zarr 2 runs it, zarr 3 does not know it."""
    if not isinstance(described, dict):
        return
    filters = described.get("filters")
    used = [*(filters if isinstance(filters, list) else []), described.get("compressor")]
    if any(isinstance(one, dict) and one.get("id") == "pickle" for one in used):
        place = printable(os.path.relpath(folder, root))
        raise ValueError(
            f"{printable(root)} could not be read as a zarr folder: its element {place} is stored "
            "as pickles, which can run any program"
        )


def _check_claim(root: Path, folder: Path, described: Any) -> None:
    """Check the size that an array claims against what is stored."""
    try:
        n_values = math.prod(described["shape"])
        is_large = n_values > _LARGE
    except (KeyError, TypeError):
        return  # a group, or left to the reader to report
    if not is_large:
        return
    stored = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if n_values > _MOST_COMPRESSED * stored:
        place = printable(os.path.relpath(folder, root))
        raise ValueError(
            f"{printable(root)} was not read: its element {place} claims {n_values:,} values, but "
            f"only {stored:,} bytes are stored"
        )


def check_own_files(folder: Path, names: Iterable[str]) -> None:
    """Check that files of a folder are regular files in it, not links to other places.

    Parameters
    ----------
    folder
        The folder, such as that of a saved model.
    names
        Names of files; those that do not exist are skipped.

    Raises
    ------
    ValueError
        If one is a link to a file elsewhere, or not a regular file.
    """
    inside = _own_places(folder)
    for name in names:
        path = folder / name
        if path.is_symlink():
            _check_link(folder, path, printable(name), inside)
        elif path.exists() and not path.is_file():
            raise ValueError(f"{printable(path)} is not a file")


def check_links(folder: Path) -> None:
    """Check that nothing in a folder or below is a link to a place outside it.

    Raises
    ------
    ValueError
        If there is such a link.
    """
    inside = _own_places(folder)
    for path in folder.rglob("*"):
        if path.is_symlink():
            _check_link(folder, path, printable(os.path.relpath(path, folder)), inside)
