"""Files that are being read, so that no output replaces them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from scvibridge.io.scratch import behind_links

# Attribute of a model: paths of the files that it and its data were loaded from.
_SOURCES = "_scvibridge_sources"

_MODEL_FILE = "model.pt"

_DATA_FILES = ("adata.h5ad", "mdata.h5mu")

_MATRICES = ("layers", "obsm", "varm", "obsp", "varp")

_MOST_TASKS = 50


def remember_sources(model: Any, *sources: Any) -> None:
    """Record on a model which files it and its data were loaded from.

    The paths are absolute, since the working directory may change.
    """
    known = list(getattr(model, _SOURCES, ()))
    found = (path.absolute() for source in sources for path in files_of(source))
    object.__setattr__(model, _SOURCES, (*known, *found))


def check_not_source(out: Path | None, *sources: Any, argument: str = "out") -> None:
    """Raise an error for an output that would replace a file that is being read.

    Parameters
    ----------
    out
        The output, or None.
    sources
        What is read: paths, AnnData or MuData objects that may be on disk, models.
    argument
        The caller's argument with the output path.

    Raises
    ------
    ValueError
        If the output is one of these files (under any name), is in one of these folders, or is a
        folder that contains one of them.
    """
    if out is None:
        return
    target = behind_links(out)  # after `~`, which any path may begin with
    _check_not_model_data(target, argument)
    for source in (path for value in sources for path in files_of(value)):
        if not source.exists():
            continue
        if _is_same(target, source):
            raise ValueError(
                f"{argument}={str(out)!r} is a file that is being read ({source}): choose another "
                "name"
            )
        if source.is_dir() and _is_in(target, source):
            raise ValueError(
                f"{argument}={str(out)!r} is in the folder {source}, which is being read: choose "
                "a name outside it"
            )
        if target.is_dir() and _is_in(behind_links(source), target):
            raise ValueError(
                f"{argument}={str(out)!r} is the folder of {source}, which is being read: choose "
                "another name"
            )


def _check_not_model_data(target: Path, argument: str) -> None:
    """Raise an error for the file name of a saved model's data, which the result would replace."""
    if target.name.lower() in _DATA_FILES and (target.parent / _MODEL_FILE).is_file():
        raise ValueError(
            f"{argument}: {target} is the data file of the model in {target.parent}: choose "
            "another name"
        )


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def _is_in(path: Path, folder: Path) -> bool:
    return any(_is_same(parent, folder) for parent in path.parents)


# -- what is open ------------------------------------------------------------------------------


def files_of(value: Any) -> list[Path]:
    """Return the files that a value reads from.

    Parameters
    ----------
    value
        A path, a list of values, an AnnData or MuData, a matrix, or a trained model.
    """
    return list(dict.fromkeys(_paths(value)))


def _paths(value: Any) -> Iterator[Path]:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str | os.PathLike):
        yield Path(os.fsdecode(value)).expanduser()
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _paths(entry)
    elif hasattr(value, "module") or hasattr(value, "model"):
        yield from _paths_of_model(value)
    elif hasattr(value, "obs_names"):
        yield from _paths_of_data(value)
    else:
        yield from _paths_of_matrix(value)


def _paths_of_model(model: Any) -> Iterator[Path]:
    """Yield the files of a model, or of the model of an adapter or an extension."""
    within = (getattr(model, name, None) for name in ("_model", "model"))
    for one in (model, *(other for other in within if other is not None)):
        yield from getattr(one, _SOURCES, ())
        yield from _paths(getattr(one, "adata", None))


def _paths_of_data(data: Any) -> Iterator[Path]:
    if getattr(data, "filename", None) is not None:
        yield Path(data.filename)
    if hasattr(data, "mod"):
        for modality in data.mod.values():
            yield from _paths_of_data(modality)
        return
    matrices = [data.X, getattr(data.raw, "X", None)]
    for place in _MATRICES:
        held = getattr(data, place)
        matrices += [held[name] for name in held if name is not None]
    for matrix in matrices:
        yield from _paths_of_matrix(matrix)


def _paths_of_matrix(matrix: Any) -> Iterator[Path]:
    """Yield the files of an HDF5, zarr, numpy (memory-mapped) or dask matrix."""
    element = getattr(matrix, "group", matrix)
    if isinstance(element, h5py.Dataset | h5py.Group):
        yield Path(element.file.filename)
    elif isinstance(element, zarr.Array | zarr.Group):
        root = getattr(element.store, "root", getattr(element.store, "path", None))
        if root is not None:
            yield Path(os.fspath(root))
    elif isinstance(element, np.memmap) and element.filename is not None:
        yield Path(os.fspath(element.filename))
    elif hasattr(element, "__dask_graph__"):
        yield from _paths_of_tasks(element)


def _paths_of_tasks(matrix: Any) -> Iterator[Path]:
    """Yield files named by some tasks of a dask array; all tasks of a layer read the same file."""
    for layer in matrix.__dask_graph__().layers.values():
        for number, task in enumerate(layer.values()):
            if number >= _MOST_TASKS:
                break
            yield from _paths_in_task(task, 0)


def _paths_in_task(task: Any, depth: int) -> Iterator[Path]:
    if depth > 6:
        return
    if isinstance(task, str | os.PathLike):
        if os.sep in os.fspath(task) and Path(task).exists():
            yield Path(task)
        return
    parts = [getattr(task, name, None) for name in ("func", "args", "kwargs", "keywords", "value")]
    if isinstance(task, Mapping):
        parts = list(task.values())
    elif isinstance(task, list | tuple):
        parts = list(task)
    elif not any(part is not None for part in parts):
        yield from _paths_of_matrix(task) if not hasattr(task, "__dask_graph__") else ()
        return
    for part in parts:
        if part is not None and not isinstance(part, bool | int | float | np.ndarray):
            yield from _paths_in_task(part, depth + 1)
