"""Pass values from one Python process to another: JSON and arrays as files, without pickle.

A JSON file describes the value; arrays are stored next to it in numpy files. Data are passed as
h5ad or h5mu, a result in the form from which R builds an object (:mod:`scvibridge.r.to_r`), so that
no bit of it depends on the process that created it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from scvibridge.io import h5ad, paths
from scvibridge.io.hdf5 import new_hdf5
from scvibridge.r import to_r

if TYPE_CHECKING:
    from collections.abc import Callable


# Classes passed field by field, and their modules, which import torch.
RECORDS = {
    "BatchSupport": "scvibridge.diagnostics.batch_support",
    "Calibration": "scvibridge.diagnostics.calibration.calibration",
}

# Where names cannot contain a "/" in an h5ad file: columns, and keys of matrices.
_TABLES, _MATRICES = ("obs", "var"), ("obsm", "varm")

# Larger arrays (in bytes) are memory-mapped.
_MAPPED_FROM = 2**20


class Held:
    """A value that R keeps and passes back; a bare table would be converted on the way."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class Record:
    """The content of a value of `RECORDS`, in a process without its class."""

    name: str
    fields: dict[str, Any]

    def revived(self) -> Any:
        """Return an instance of the class itself, and of the classes of its parts."""
        parts = {
            name: value.revived() if isinstance(value, Record) else value
            for name, value in self.fields.items()
        }
        return getattr(import_module(RECORDS[self.name]), self.name)(**parts)


@dataclass(frozen=True)
class StoredData:
    """Data in an h5ad file that has other names for some columns, such as ``CD4/CD8``.

    Attributes
    ----------
    path
        The file.
    renamed
        For each part of an AnnData, the names by those in the file.
    """

    path: str
    renamed: dict[str, dict[str, str]]

    def read(self) -> ad.AnnData:
        """Read the data into memory, under their names."""
        return _with_names(ad.read_h5ad(self.path), self.renamed)


@dataclass(frozen=True)
class ModelSource:
    """Where to load a model from: the arguments of :func:`scvibridge.load`.

    The process of a call receives data in memory in place of :class:`StoredData`.
    """

    model_dir: str
    adata: str | list[str] | StoredData | ad.AnnData | None
    device: str
    trust: bool
    prefix: str | None = None


@dataclass(frozen=True)
class TakenApart:
    """A result in the form from which R builds an object.

    Attributes
    ----------
    frame
        The return value of :func:`scvibridge.r.to_r.frame`.
    assays
        The return value of :func:`scvibridge.r.to_r.genes_by_cells` for each matrix, by its name
        in R.
    """

    frame: dict[str, Any]
    assays: dict[str, dict[str, Any]]


def take_result_apart(value: Any) -> Any:
    """Split a result into parts for R; return any other value unchanged."""
    if not isinstance(value, ad.AnnData):
        return value
    matrices = to_r.assays(value)
    parts = {name: to_r.genes_by_cells(matrix) for name, matrix in matrices.items()}
    return TakenApart(to_r.frame(value), parts)


def write(value: Any, path: Path) -> None:
    """Write a value to a file, and the arrays and data in it to other files next to it.

    Raises
    ------
    TypeError
        If the value, or a part of it, is of a type that cannot be passed.
    """
    tree = _Writer(path).tree(value)
    with paths.replacing(path) as temporary:
        temporary.write_text(json.dumps(tree), encoding="utf-8")


def read(path: Path) -> Any:
    """Read what `write` wrote; the files may be removed afterwards."""
    return _Reader(path.parent).value(json.loads(path.read_text(encoding="utf-8")))


# -- writing -----------------------------------------------------------------------------------
#
# JSON's own kinds stand for themselves; all else is a dictionary with one key, its kind.


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path, self._n_files = path, 0
        self._of_classes: list[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = [
            (np.generic, lambda value: self.tree(value.item())),
            (Path, str),
            (list, lambda value: [self.tree(entry) for entry in value]),
            (tuple, lambda value: {"tuple": [self.tree(entry) for entry in value]}),
            (Mapping, self._mapping),
            (np.ndarray, self._array),
            (pd.DataFrame, self._table),
            (pd.Series, self._series),
            (Held, lambda value: {"held": self.tree(value.value)}),
            (Record, lambda value: {"record": [value.name, self.tree(value.fields)]}),
            (ModelSource, lambda value: {"model": self.tree(vars(value))}),
            (StoredData, lambda value: {"adata": [value.path, value.renamed]}),
            (TakenApart, lambda value: {"result": self.tree(vars(value))}),
            (ad.AnnData, self._adata),
        ]

    def tree(self, value: Any) -> Any:
        if value is None or isinstance(value, str | int | float):
            return value if value is None else _plain(value)
        for kind, write_one in self._of_classes:
            if isinstance(value, kind):
                return write_one(value)
        name = type(value).__name__
        if name in RECORDS:
            parts = {field.name: getattr(value, field.name) for field in fields(value)}
            return {"record": [name, self.tree(parts)]}
        if name == "MuData":
            path = self._new_file(".h5mu")
            value.write_h5mu(path)
            return {"mudata": path.name}
        raise TypeError(f"a {name} cannot be passed to a separate Python process")

    def _new_file(self, ending: str) -> Path:
        self._n_files += 1
        return self._path.with_name(f"{self._path.stem}-{self._n_files}{ending}")

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        return {"dict": [[self.tree(key), self.tree(entry)] for key, entry in value.items()]}

    def _array(self, value: np.ndarray) -> dict[str, Any]:
        if value.dtype.kind in "OUS":
            return {"objects": [self.tree(value.ravel().tolist()), list(value.shape)]}
        path = self._new_file(".npy")
        np.save(path, value, allow_pickle=False)
        return {"array": path.name}

    def _table(self, value: pd.DataFrame) -> dict[str, Any]:
        columns = [[self.tree(name), self._column(column)] for name, column in value.items()]
        return {"table": [columns, self._index(value.index), self.tree(value.attrs)]}

    def _series(self, value: pd.Series) -> dict[str, Any]:
        return {"series": [self.tree(value.name), self._column(value), self._index(value.index)]}

    def _index(self, index: pd.Index) -> dict[str, Any]:
        if isinstance(index, pd.RangeIndex):
            return {"range": [index.start, index.stop, index.step]}
        return {"index": [self.tree(index.name), self._column(index.to_series())]}

    def _column(self, column: pd.Series) -> dict[str, Any]:
        dtype = column.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            levels = self._column(dtype.categories.to_series())
            codes = self._array(column.cat.codes.to_numpy())
            return {"categorical": [levels, codes, bool(dtype.ordered)]}
        if isinstance(dtype, np.dtype):
            return self._array(column.to_numpy())
        entries = [
            None if missing else entry for entry, missing in zip(column, column.isna(), strict=True)
        ]
        return {"extension": [str(dtype), self.tree(entries)]}

    def _adata(self, value: ad.AnnData) -> dict[str, Any]:
        path = self._new_file(".h5ad")
        value, renamed = without_slashes(value)
        content = h5ad.writable(value)
        with paths.replacing(path) as temporary, new_hdf5(temporary) as file:
            h5ad.write_elements(file, content)
        return {"adata": [path.name, renamed]}


def without_slashes(adata: ad.AnnData) -> tuple[ad.AnnData, dict[str, dict[str, str]]]:
    """Rename columns such as ``CD4/CD8``, which h5ad files cannot store; return their names.

    Returns
    -------
    adata
        `adata` itself, or a copy with other names.
    renamed
        For each part with such columns or matrices, their names by the new ones.
    """
    renamed: dict[str, dict[str, str]] = {}
    for place in (*_TABLES, *_MATRICES):
        names = list(getattr(adata, place))
        slashed = [name for name in names if isinstance(name, str) and "/" in name]
        free = (name for number in count() if (name := f"column {number}") not in names)
        if slashed:
            renamed[place] = dict(zip(free, slashed, strict=False))
    if not renamed:
        return adata, {}
    new_names = {
        place: {old: new for new, old in names.items()} for place, names in renamed.items()
    }
    return _with_names(adata.copy(), new_names), renamed


def _with_names(adata: ad.AnnData, names: Mapping[str, Mapping[str, str]]) -> ad.AnnData:
    """Rename columns and matrices of `adata` itself, by their present names; return it."""
    for place, new_names in names.items():
        part = getattr(adata, place)
        if place in _TABLES:
            setattr(adata, place, part.rename(columns=new_names))
        else:
            setattr(adata, place, {new_names.get(key, key): part[key] for key in part})
    return adata


def _plain(value: Any) -> Any:
    """Convert a number or text to Python's own class: numpy's doubles are instances of float."""
    return value.item() if isinstance(value, np.generic) else value


# -- reading -----------------------------------------------------------------------------------


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._of_kinds: dict[str, Callable[[Any], Any]] = {
            "tuple": lambda tree: tuple(self.value(tree)),
            "dict": lambda tree: {self.value(key): self.value(entry) for key, entry in tree},
            "array": self._array,
            "objects": self._objects,
            "table": self._table,
            "series": self._series,
            "held": lambda tree: Held(self.value(tree)),
            "record": lambda tree: Record(tree[0], self.value(tree[1])),
            "model": lambda tree: ModelSource(**self.value(tree)),
            "result": lambda tree: TakenApart(**self.value(tree)),
            "adata": self._adata,
            "mudata": lambda tree: h5ad.read_mudata(self._folder / tree),
            "range": lambda tree: pd.RangeIndex(*tree),
            "index": lambda tree: pd.Index(self.value(tree[1]), name=self.value(tree[0])),
            "categorical": self._categorical,
            "extension": lambda tree: pd.array(self.value(tree[1]), dtype=tree[0]),
        }

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.value(entry) for entry in tree]
        if not isinstance(tree, dict):
            return tree
        ((kind, content),) = tree.items()
        return self._of_kinds[kind](content)

    def _array(self, name: str) -> np.ndarray:
        path = self._folder / name
        mapped = path.stat().st_size > _MAPPED_FROM
        values = np.load(path, mmap_mode="c" if mapped else None, allow_pickle=False)
        return np.asarray(values)

    def _adata(self, tree: Any) -> ad.AnnData:
        path, renamed = tree
        return StoredData(str(self._folder / path), renamed).read()

    def _objects(self, tree: Any) -> np.ndarray:
        entries, shape = tree
        values = np.empty(len(entries), dtype=object)
        values[:] = [self.value(entry) for entry in entries]
        return values.reshape(shape)

    def _table(self, tree: Any) -> pd.DataFrame:
        columns, index, attrs = tree
        names = [self.value(name) for name, _ in columns]
        values = dict(enumerate(self.value(column) for _, column in columns))
        table = pd.DataFrame(values, index=self.value(index))
        table.columns = pd.Index(names)
        table.attrs = self.value(attrs)
        return table

    def _series(self, tree: Any) -> pd.Series:
        name, column, index = tree
        return pd.Series(self.value(column), index=self.value(index), name=self.value(name))

    def _categorical(self, tree: Any) -> pd.Categorical:
        levels, codes, ordered = tree
        return pd.Categorical.from_codes(
            self.value(codes), categories=pd.Index(self.value(levels)), ordered=ordered
        )
