"""Determine what can be stored of an AnnData, in one place for all tables and file types.

Values with one obvious form are converted (dates become text); anything else raises an error that
names it, and `check_tables` does so before any work is spent on a result.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scvibridge._utils import user_warnings
from scvibridge.io.storable_columns import UnstorableError, check_text, storable_column

if TYPE_CHECKING:
    from collections.abc import Iterator


_KINDS = {
    ".h5ad": "an h5ad file",
    ".h5": "a 10x HDF5 file",
    ".zarr": "a zarr folder",
    ".rds": "an .rds file",
}

# Names reserved by anndata or zarr.
_INDEX = "_index"

_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")

_LONGEST_FILE_NAME = 255

# Columns of obs or var in a 10x file.
_OF_10X = ("gene_ids", "feature_types", "genome")


def check_tables(adata: ad.AnnData, ending: str = ".h5ad") -> None:
    """Check that the tables of a result can be stored, before any work is spent on it.

    Parameters
    ----------
    adata
        Its ``obs`` and ``var`` are checked, where results contain them.
    ending
        The file type: ``".h5ad"``, ``".zarr"``, ``".h5"`` or ``".rds"``.

    Raises
    ------
    ValueError
        If something cannot be stored; the message names it and the remedy.

    Warns
    -----
    UserWarning
        If something is stored in another form.
    """
    target = _Target(ending)
    for place, table in (("obs", adata.obs), ("var", adata.var)):
        if ending == ".h5":
            _check_10x(target, table, place)
        elif ending == ".rds":
            _check_for_r(target, table, place)
        else:
            target.table(table, place)
    target.warn()


def check_content(adata: ad.AnnData, ending: str = ".h5ad") -> None:
    """Check everything but the matrices of an AnnData, as `check_tables` does for its tables."""
    target = _Target(ending)
    target.content(adata)
    target.warn()


def storable_content(adata: ad.AnnData, ending: str = ".h5ad") -> ad.AnnData:
    """Return an AnnData with the same matrices and tables that can be stored.

    Raises
    ------
    ValueError
        As for `check_tables`, for all tables.
    """
    return _Target(ending).content(adata)


def of_10x(adata: ad.AnnData) -> ad.AnnData:
    """Return what a 10x file holds of the tables: names, and some columns of genes."""
    columns = [name for name in _OF_10X if name in adata.var]
    return ad.AnnData(obs=adata.obs[[]], var=adata.var[columns])


def named_layers(adata: ad.AnnData) -> dict[str, Any]:
    """Return layers of an AnnData; since anndata 0.13, they include ``X`` under the name None."""
    return {name: values for name, values in adata.layers.items() if name is not None}


@dataclass
class _Target:
    """A file type, and notes of what is stored there in another form."""

    ending: str
    notes: list[str] = field(default_factory=list)

    def warn(self) -> None:
        """Warn about what is stored in another form."""
        for note in self.notes:
            user_warnings.warn(note)

    def refuse(self, place: str, reason: object, fix: str) -> ValueError:
        """Return the error for something that cannot be stored."""
        return ValueError(f"{place} cannot be written to {_KINDS[self.ending]} ({reason}): {fix}")

    # -- the whole -----------------------------------------------------------------------------

    def content(self, adata: ad.AnnData) -> ad.AnnData:
        """Convert everything but the matrices."""
        axes = {place: self.table(getattr(adata, place), place) for place in ("obs", "var")}
        parts = {
            place: self.container(dict(getattr(adata, place)), place)
            for place in ("obsm", "varm", "obsp", "varp")
        }
        return ad.AnnData(
            X=adata.X,
            **axes,
            **parts,
            layers=self.container(named_layers(adata), "layers"),
            uns=self.container(dict(adata.uns), "uns"),
            raw=None if adata.raw is None else self._raw(adata.raw),
        )

    def _raw(self, raw: ad.Raw) -> dict[str, Any]:
        varm = self.container(dict(raw.varm), "raw.varm")
        return {"X": raw.X, "var": self.table(raw.var, "raw.var"), "varm": varm}

    def container(self, entries: Mapping[Any, Any], place: str) -> dict[str, Any]:
        """Convert the entries of a dictionary of an AnnData."""
        names = self._unique_names(entries, place, "key")
        return {
            name: self._entry(value, f"{place}[{name!r}]")
            for name, value in zip(names, entries.values(), strict=True)
        }

    def _entry(self, value: Any, place: str) -> Any:
        if isinstance(value, pd.DataFrame):
            return self.table(value, place)
        if isinstance(value, Mapping):
            return self.container(value, place)
        if isinstance(value, pd.Series | pd.Index):
            return self._column(pd.Series(value), place).to_numpy()
        if isinstance(value, np.ndarray) and value.dtype.kind in "OMmUS":
            return self._texts(value, place)
        is_matrix = hasattr(value, "shape") and not isinstance(value, pd.Categorical)
        if not is_matrix and value is not None:
            value = list(value) if isinstance(value, tuple) else value
            self._try(value, place)
        return value

    def _texts(self, values: np.ndarray, place: str) -> np.ndarray:
        flat = self._column(pd.Series(values.ravel()), place)
        if isinstance(flat.dtype, pd.CategoricalDtype):
            flat = flat.astype(object)
        made: np.ndarray = flat.to_numpy().reshape(values.shape)
        self._try(made, place)
        return made

    def _try(self, value: Any, place: str) -> None:
        """Write a value to memory, and read it back."""
        name = f"check-{uuid.uuid4().hex}"
        try:
            if isinstance(value, str):
                check_text([value])
            with h5py.File(name, "w", driver="core", backing_store=False) as memory:
                ad.io.write_elem(memory, "value", value)
                ad.io.read_elem(memory["value"])
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise self.refuse(
                place, reason[0], "remove it, or convert it to text or numbers"
            ) from error

    # -- tables --------------------------------------------------------------------------------

    def table(self, table: pd.DataFrame, place: str) -> pd.DataFrame:
        """Convert a table."""
        table = self._without_index_column(table, place)
        names = self._unique_names(table.columns, place, "column")
        self._check_slashes(names, place)
        index = self._index(table.index, place)
        columns = {}
        for position, name in enumerate(names):
            values = self._column(table.iloc[:, position], f"{place}[{name!r}]")
            # Of the type that they have: pandas 3 would choose its own for text.
            columns[name] = pd.Series(values.array, index=index, dtype=values.dtype)
        made = pd.DataFrame(columns, index=index, copy=False)
        made.columns = pd.Index(names, dtype=object)
        made.index.name = self._index_name(table.index.name, names)
        self._check_number_of_columns(names, place)
        return made

    def _column(self, values: pd.Series, place: str) -> pd.Series:
        try:
            stored, note = storable_column(values)
        except UnstorableError as error:
            fix = f"make it text, adata.{place} = adata.{place}.astype(str), or drop it"
            raise self.refuse(place, error, fix) from error
        if note is not None:
            self.notes.append(f"{place} holds {note}")
        return stored

    def _index(self, index: pd.Index, place: str) -> pd.Index:
        if isinstance(index, pd.MultiIndex):
            fix = f"adata.{place} = adata.{place}.reset_index()"
            raise self.refuse(f"the index of {place}", "it has several levels", fix)
        if isinstance(index, pd.RangeIndex):
            return index
        names = self._column(index.to_series(), f"{place}.index").to_numpy()
        return pd.Index(names, dtype=names.dtype)

    def _index_name(self, name: Any, columns: list[str]) -> str | None:
        """Return the name of an index; None if it is the name of a column, or not plain text."""
        if not isinstance(name, str) or name in columns or "/" in name:
            return None
        with suppress(UnstorableError):
            _check_name(name)
            return name
        return None

    def _without_index_column(self, table: pd.DataFrame, place: str) -> pd.DataFrame:
        """Leave out a column with anndata's reserved index name, if it repeats the index."""
        positions = np.flatnonzero([name == _INDEX for name in table.columns])
        if len(positions) == 0:
            return table
        same = [
            np.array_equal(table.iloc[:, at].astype(str), table.index.astype(str))
            for at in positions
        ]
        if not all(same):
            fix = f"rename it, adata.{place}.rename(columns={{'_index': 'name'}}), or drop it"
            raise self.refuse(f"{place}['_index']", "anndata reserves this name", fix)
        self.notes.append(f"{place}['_index'] repeats the names of the rows, and is left out")
        return table.iloc[:, np.setdiff1d(np.arange(table.shape[1]), positions)]

    def _check_slashes(self, names: list[str], place: str) -> None:
        """Raise an error for names that a file would interpret as nested: ``CD4/CD8``.

        anndata reads some of them back, and announces that it will refuse all.
        """
        for name in names:
            if "/" in name:
                other = name.replace("/", "_")
                fix = (
                    f"rename it, adata.{place} = "
                    f"adata.{place}.rename(columns={{{name!r}: {other!r}}})"
                )
                raise self.refuse(f"{place}[{name!r}]", "of the '/' in its name", fix)

    def _check_number_of_columns(self, names: list[str], place: str) -> None:
        if self.ending == ".h5ad" and names:
            fix = "make it a matrix in adata.obsm, or drop columns"
            with h5py.File(uuid.uuid4().hex, "w", driver="core", backing_store=False) as memory:
                try:
                    memory.attrs["column-order"] = np.array(names, dtype=object)
                except OSError as error:
                    raise self.refuse(place, f"{len(names)} columns are too many", fix) from error

    # -- names ---------------------------------------------------------------------------------

    def _unique_names(self, given: Any, place: str, what: str) -> list[str]:
        names = [self._name(name, place, what) for name in given]
        twice = pd.Index(names, dtype=object)
        if twice.has_duplicates:
            name = twice[twice.duplicated()][0]
            raise self.refuse(f"{place}[{name!r}]", f"there is more than one {what} {name!r}",
                              "rename one, or drop it")  # fmt: skip
        return names

    def check_unique_names(self, given: Any, place: str) -> None:
        """Raise an error for names of columns that occur twice."""
        self._unique_names(given, place, "column")

    def _name(self, name: Any, place: str, what: str) -> str:
        where = f"{place}[{name!r}]"
        if isinstance(name, int | float | np.number) and not isinstance(name, bool):
            self.notes.append(f"{where} gets the name {str(name)!r}: names are stored as text")
            return str(name)
        if not isinstance(name, str):
            kind = type(name).__name__
            raise self.refuse(where, f"its name is of type {kind}, not text", "rename it")
        try:
            _check_name(name)
        except UnstorableError as error:
            raise self.refuse(where, error, "rename it") from error
        if what == "key" and "/" in name:
            raise self.refuse(where, "of the '/' in its name", "rename it")
        if self.ending == ".zarr" and not _is_file_name(name):
            raise self.refuse(where, "it cannot be the name of a file", "rename it")
        return str(name)  # h5py cannot store numpy strings


def _check_name(name: str) -> None:
    check_text([name])
    if name in ("", ".", ".."):
        raise UnstorableError(f"{name!r} cannot be a name there")


def _is_file_name(name: str) -> bool:
    return name not in _ZARR_FILES and len(name.encode("utf-8")) <= _LONGEST_FILE_NAME


# -- other formats -----------------------------------------------------------------------------


def _check_10x(target: _Target, table: pd.DataFrame, place: str) -> None:
    """Check the table contents of a 10x file: names, and some columns of genes."""
    texts = {f"{place}_names": table.index}
    if place == "var":
        known = [name for name in table.columns if name in _OF_10X]
        target.check_unique_names(known, place)
        texts |= {f"{place}[{name!r}]": table[name] for name in known}
    for where, values in texts.items():
        _check_texts(target, values, where)


def _check_for_r(target: _Target, table: pd.DataFrame, place: str) -> None:
    """Check what R cannot hold: R has dates, but no NUL, and levels are text."""
    target.notes = []
    names = pd.Index([str(name) for name in table.columns], dtype=object)
    if names.has_duplicates:
        name = names[names.duplicated()][0]
        raise target.refuse(
            f"{place}[{name!r}]", f"there is more than one column {name!r}", "rename one"
        )
    _check_texts(target, names, f"a column of {place}")
    _check_texts(target, table.index, f"{place}_names")
    for position, name in enumerate(names):
        for texts in _texts_of(table.iloc[:, position]):
            _check_texts(target, texts, f"{place}[{name!r}]")
            if isinstance(texts, pd.Index) and texts.astype(str).has_duplicates:
                reason = "some of its categories have the same text"
                raise target.refuse(f"{place}[{name!r}]", reason, "rename or merge them")


def _texts_of(values: pd.Series) -> Iterator[Any]:
    """Yield the texts of a column: categories as an index, others as an array."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        yield values.cat.categories
    elif values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        with suppress(TypeError):  # not hashable: R gets its text
            yield np.asarray(values.dropna().unique())


def _check_texts(target: _Target, texts: Any, where: str) -> None:
    try:
        check_text(text for text in texts if isinstance(text, str))
    except UnstorableError as error:
        raise target.refuse(where, error, "replace the text") from error
