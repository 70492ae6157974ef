"""Join data in several files, such as one per sample, into one AnnData."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from contextlib import ExitStack, closing
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem

from scvibridge._utils.arguments import check_unique
from scvibridge._utils.values_as_text import as_text
from scvibridge._utils.wording import list_names, shorten
from scvibridge.io.backed import as_data_frame, close_with_inputs, open_anndata
from scvibridge.io.closed_matrix import ClosedMatrix
from scvibridge.io.hdf5 import new_hdf5
from scvibridge.io.paths import SET_TMPDIR, explaining_space
from scvibridge.io.raw_counts import as_raw_data, matrix_of
from scvibridge.io.row_order import row_ordered
from scvibridge.io.row_reader import RowReader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    Files = Sequence[str | PathLike[str]]


# Entries, zeros included, that are read at a time.
_ENTRIES_PER_READ = 16_000_000

_MOST_SHOWN = 3

# Older scipy cannot select rows where pointers and column indices differ in type: pointers have 64
# bits only where they must.
_LARGEST_INT32 = np.iinfo(np.int32).max


def is_several(adata: Any) -> TypeGuard[Files]:
    """Return whether data were passed as a list of files."""
    return isinstance(adata, list | tuple)


def join_files(
    files: Files,
    layer: str | None,
    genes: Any = None,
    *,
    on_disk: bool = False,
    names: Mapping[str, str] | None = None,
) -> ad.AnnData:
    """Join the cells of several files, in the order of the files.

    Parameters
    ----------
    files
        Paths of h5ad files or zarr folders with counts in the same place.
    layer
        Location of the counts, as for `as_raw_data`.
    genes
        Names of genes that every file must have, or None.
    on_disk
        Whether to join the counts block by block in a temporary file, which is removed once the
        AnnData is no longer used. Otherwise they are joined in memory.
    names
        Key in ``uns`` with the names of the columns of an array, by its key in ``obsm``.

    Returns
    -------
    AnnData
        The counts in `layer` (CSR) of the genes that all files have, in the order of the first
        file; all columns of ``obs``; and the entries of ``obsm`` and ``uns`` that all files share.
        Columns in ``obsm`` that have names are in the order of the first file.

    Raises
    ------
    TypeError
        If the list contains anything but paths.
    FileNotFoundError, ValueError
        If a file does not exist or cannot be read, lacks genes, or has a cell with the name of a
        cell in another file; or if no file has any cells.
    """
    joined, ends = _joined(_checked(files), layer, genes, on_disk, names or {})
    for end in ends:
        close_with_inputs(end)
    return joined


def _joined(
    files: Files, layer: str | None, genes: Any, on_disk: bool, names: Mapping[str, str]
) -> tuple[ad.AnnData, tuple[Callable[[], object], ...]]:
    """Join files; return what removes and closes the temporary file as well, if there is one."""
    opened = [_open(file, layer) for file in files]
    parts, counts = [part.tables for part in opened], [part.counts for part in opened]
    paths = [str(file) for file in files]
    if not any(data.n_obs for data in parts):
        raise ValueError(f"there are no cells in {list_names(paths[:_MOST_SHOWN])}")
    _check_cells(parts, paths)
    kept = _common_genes(parts, paths, genes)
    for key, place in names.items():
        _align_columns(parts, paths, key, place)
    joined = _join_tables(parts, kept)
    if not on_disk:
        _put(joined, layer, sp.vstack(list(_blocks(opened, kept)), format="csr"))
        return joined, ()
    folder = tempfile.mkdtemp(prefix="scvibridge-")
    remove = weakref.finalize(joined, shutil.rmtree, folder, ignore_errors=True)
    try:
        with closing(_blocks(opened, kept)) as blocks:
            file = _written(blocks, _common_type(counts), Path(folder) / "counts.h5")
    except BaseException:
        remove()
        raise
    _put(joined, layer, sparse_dataset(file["X"]))
    return joined, (remove, file.close)


def _checked(files: Files) -> Files:
    if not files:
        raise ValueError("adata is an empty list: name at least one file")
    for file in files:
        if not isinstance(file, str | PathLike):
            raise TypeError(
                "a list passed as adata must hold paths of h5ad files or zarr folders, got "
                f"{type(file).__name__}: join objects in memory with anndata.concat()"
            )
    return files


class _Part(NamedTuple):
    """A file that is closed: its tables, as an AnnData without matrices, and its counts."""

    tables: ad.AnnData
    counts: ClosedMatrix


def _open(file: str | PathLike[str], layer: str | None) -> _Part:
    # Files are open one at a time, since systems limit how many are (macOS: 256).
    with ExitStack() as opened:
        data = as_raw_data(open_anndata(file, opened), layer)
        try:
            counts = ClosedMatrix(matrix_of(data, layer))
            check_unique(data.obs_names, "cell", "adata.obs_names_make_unique()")
            check_unique(data.var_names, "gene", "adata.var_names_make_unique()")
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
        tables = ad.AnnData(obs=data.obs, var=data.var, obsm=dict(data.obsm), uns=dict(data.uns))
    return _Part(tables, counts)


def _check_cells(parts: list[ad.AnnData], files: list[str]) -> None:
    """Check that no cell of one file has the name of a cell in another."""
    owner: dict[str, str] = {}
    for data, file in zip(parts, files, strict=True):
        cells = data.obs_names.astype(str)
        known = [name for name in cells if name in owner]
        if known:
            raise ValueError(
                f"{len(known)} cells of {file} have the same names as cells of {owner[known[0]]} "
                f"({list_names(known[:_MOST_SHOWN])}): make the cell names unique across files, as "
                "they were when the model was trained (for example with the sample as a prefix)"
            )
        owner.update(dict.fromkeys(cells, file))


def _common_genes(parts: list[ad.AnnData], files: list[str], genes: Any) -> pd.Index:
    needed = pd.Index([]) if genes is None else pd.Index(genes).astype(str)
    first = pd.Index(parts[0].var_names.astype(str))
    in_some = {name for data in parts for name in data.var_names.astype(str)}
    common = first
    for data, file in zip(parts, files, strict=True):
        own = pd.Index(data.var_names.astype(str))
        lacking = needed.difference(own, sort=False)
        # A gene that no file has is reported by later checks, with more detail.
        lacking = [name for name in lacking if name in in_some]
        if lacking:
            raise ValueError(
                f"{file} lacks {len(lacking)} of the model's {len(needed)} genes, which other "
                f"files have ({list_names(lacking[:_MOST_SHOWN])}): add them to that file, with "
                "counts of 0 if they were omitted because no cell has any"
            )
        common = common[common.isin(own)]
    if not len(common):
        raise ValueError(
            f"no gene is in all of the {len(parts)} files; the first genes of {files[0]} are "
            f"{list_names(list(first[:_MOST_SHOWN]))}"
        )
    return common


def _join_tables(parts: list[ad.AnnData], genes: pd.Index) -> ad.AnnData:
    """Join everything but the counts: the tables of cells, ``obsm`` and ``uns``."""
    var = as_data_frame(parts[0].var)
    var.index = var.index.astype(str)
    shared = [key for key in parts[0].obsm if _is_alike([data.obsm.get(key) for data in parts])]
    tables = _of_one_kind([as_data_frame(data.obs) for data in parts])
    bare = [
        ad.AnnData(
            obs=obs,
            var=pd.DataFrame(index=genes),
            obsm={key: _in_order_of(parts[0].obsm[key], data.obsm[key]) for key in shared},
            uns=dict(data.uns),
        )
        for data, obs in zip(parts, tables, strict=True)
    ]
    joined = ad.concat(bare, join="outer", uns_merge="same")
    joined.var = var.loc[genes]
    return joined


def _of_one_kind(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Convert columns with text in some files and numbers or booleans in others to text.

    Otherwise a batch 1 of one file and a batch "1" of another would be two batches.
    """
    names = dict.fromkeys(name for obs in tables for name in obs.columns)
    kinds = {name: {_kind(obs[name]) for obs in tables if name in obs} - {""} for name in names}
    mixed = [name for name, found in kinds.items() if len(found) > 1]
    return [
        obs.assign(**{name: _texts(obs[name]) for name in mixed if name in obs}) for obs in tables
    ]


def _kind(values: pd.Series) -> str:
    """Return what the values of a column are: text, booleans or other; "" without values."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = pd.Series(values.cat.categories)
    known = values.dropna()
    if known.empty:
        return ""
    kind = pd.api.types.infer_dtype(known)
    return kind if kind in ("string", "boolean") else "other"


def _texts(values: pd.Series) -> pd.Series:
    codes, distinct = pd.factorize(values)
    texts = np.array([*(as_text(value) for value in distinct), None], dtype=object)[codes]
    return pd.Series(texts, index=values.index, dtype=object)


def _align_columns(parts: list[ad.AnnData], files: list[str], key: str, place: str) -> None:
    """Bring the columns of an array in ``obsm`` to the order of the first file, by their names.

    Nothing is done if a file lacks the array, or if no file has names.
    """
    held = [(data.obsm.get(key), data.uns.get(place)) for data in parts]
    if any(values is None or isinstance(values, pd.DataFrame) for values, _ in held):
        return
    unnamed = [file for (_, names), file in zip(held, files, strict=True) if names is None]
    if len(unnamed) == len(files):
        return
    if unnamed:
        raise ValueError(
            f"{unnamed[0]} lacks {place!r}, the names of the columns in {key!r}, which other files "
            "have: add them"
        )
    first = pd.Index(np.asarray(held[0][1]).astype(str))
    for data, file, (values, names) in zip(parts, files, held, strict=True):
        own = pd.Index(np.asarray(names).astype(str))
        check_unique(own, f"{file}: protein", f"rename them in {place!r}")
        if len(own) != values.shape[1]:
            raise ValueError(
                f"{file}: {place!r} has {len(own)} names, but there are {values.shape[1]} columns "
                f"in {key!r}"
            )
        lacking = first.difference(own, sort=False)
        if len(lacking):
            raise ValueError(
                f"{file}: {place!r} lacks {len(lacking)} of the {len(first)} names that "
                f"{files[0]} has: {shorten(lacking)}. Add their counts, or leave them out there"
            )
        data.obsm[key] = values[:, own.get_indexer(first)]
        data.uns[place] = first.to_numpy(dtype=object)


def _is_alike(values: list[Any]) -> bool:
    """Return whether entries of ``obsm`` have the same columns, by name if they have names."""
    if any(value is None for value in values):
        return False
    if all(isinstance(value, pd.DataFrame) for value in values):
        return all(set(value.columns) == set(values[0].columns) for value in values)
    shapes = {np.shape(value)[1:] for value in values}
    return len(shapes) == 1 and not any(isinstance(value, pd.DataFrame) for value in values)


def _in_order_of(first: Any, values: Any) -> Any:
    """Return values with their columns in the order of others, if they have names."""
    return values[list(first.columns)] if isinstance(first, pd.DataFrame) else values


# -- counts ------------------------------------------------------------------------------------


def _blocks(parts: list[_Part], genes: pd.Index) -> Generator[sp.csr_matrix, None, None]:
    """Read the counts of the common genes from all files, block by block."""
    for tables, counts in parts:
        own = pd.Index(tables.var_names.astype(str))
        columns = None if own.equals(genes) else own.get_indexer(genes)
        # A matrix that is stored by column is first copied by row.
        with (
            counts.opened() as matrix,
            tempfile.TemporaryDirectory(prefix="scvibridge-") as scratch,
        ):
            reader = RowReader(row_ordered(matrix, Path(scratch)))
            n_cells, n_genes = reader.shape
            step = max(1, _ENTRIES_PER_READ // max(n_genes, 1))
            for start in range(0, n_cells, step):
                rows = reader.read(slice(start, min(start + step, n_cells)))
                yield rows if columns is None else rows[:, columns]


def _common_type(counts: list[ClosedMatrix]) -> np.dtype[Any]:
    """Return the type that holds the counts of all files: HDF5 would cut off what does not fit."""
    found = np.result_type(*(matrix.dtype for matrix in counts))
    return np.result_type(found, np.float32) if found == np.float16 else found


def _written(blocks: Iterator[sp.csr_matrix], dtype: np.dtype[Any], path: Path) -> h5py.File:
    """Append blocks of rows to the matrix ``X`` of a new file, and open the file."""
    space = explaining_space("the joined counts", path.parent, SET_TMPDIR)
    with space, new_hdf5(path) as file:
        for block in blocks:
            file.check()
            if "X" not in file:
                compression = {"compression": "lzf"}
                write_elem(file, "X", block.astype(dtype), dataset_kwargs=compression)
                # anndata does not append beyond the type of the pointers.
                _put_pointers(file["X"], np.int64)
            else:
                sparse_dataset(file["X"]).append(block.astype(dtype))
        if len(file["X/data"]) <= _LARGEST_INT32:
            _put_pointers(file["X"], np.int32)
    return h5py.File(path, "r")


def _put_pointers(matrix: h5py.Group, dtype: type) -> None:
    """Store the pointers to the rows with another type."""
    pointers = matrix["indptr"][...].astype(dtype)
    del matrix["indptr"]
    matrix.create_dataset("indptr", data=pointers, maxshape=(None,), chunks=True)


def _put(joined: ad.AnnData, layer: str | None, counts: Any) -> None:
    if layer is None:
        joined.X = counts
    else:
        joined.layers[layer] = counts
