"""Files: reading AnnData from a path, and writing h5ad so that no half file is left.

Whatever is written goes to a temporary name in the folder of the output first and is renamed when
it is complete, so that a failure (or Ctrl-C) leaves an older file as it was and nothing else.
"""

from __future__ import annotations

import difflib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scvibridge.file_boundary import check_boundary
from scvibridge.hdf5 import NewFile, new_hdf5
from scvibridge.sparse_structure import check_file, check_matrices
from scvibridge.wording import printable

READABLE_ENDINGS = (".h5ad", ".zarr")
# With those of several modalities, which some models take.
DATA_ENDINGS = (*READABLE_ENDINGS, ".h5mu")
PROVENANCE_KEY = "scvibridge"

_KINDS = {
    ".h5ad": "an h5ad file",
    ".h5mu": "an h5mu file",
    ".zarr": "a zarr folder",
    ".h5": "a 10x HDF5 file",
    ".rds": "an .rds file",
}
_CONTENTS = {".h5ad": " that holds an AnnData", ".zarr": " that holds an AnnData"}
_DATA_ARGUMENTS = ("adata", "result", "--adata", "DATA")
# What lies at the top of a zarr folder, in the formats 2 and 3.
_ZARR_FILES = (".zgroup", "zarr.json")
_OUT_OF_SPACE = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file is larger than is allowed there",
}


# ---- reading ---------------------------------------------------------------------------------


def read_anndata(path: str | os.PathLike[str]) -> ad.AnnData:
    """Read an AnnData from an h5ad file or a zarr folder.

    Parameters
    ----------
    path
        Path that ends in ``.h5ad`` or ``.zarr``.

    Returns
    -------
    AnnData, in memory.

    Raises
    ------
    TypeError
        `path` is not a path.
    FileNotFoundError
        There is no such file; a similar name in the same folder is suggested.
    ValueError
        The ending is another one, or the contents are not an AnnData.
    """
    path = check_input(path)
    with explaining(path):
        check_file(path)
        adata = ad.read_zarr(path) if is_zarr(path) else ad.read_h5ad(path)
        check_matrices(adata, "")
        return adata


def read_mudata(path: str | os.PathLike[str]) -> Any:
    """Read a MuData from an h5mu file.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        As for `read_anndata`.
    """
    import mudata

    path = check_input(path, endings=(".h5mu",))
    with explaining(path), columns_in_modalities():
        check_file(path)
        data = mudata.read_h5mu(path)
        for name, modality in data.mod.items():
            check_matrices(modality, f"mod[{name!r}].")
        return data


def columns_in_modalities() -> AbstractContextManager[Any]:
    """Leave columns to the modalities that have them, as mudata does since its version 0.4."""
    import mudata

    if not hasattr(mudata, "set_options"):
        return nullcontext()
    options: AbstractContextManager[Any] = mudata.set_options(pull_on_update=False)
    return options


def is_zarr(path: Path) -> bool:
    """Whether a path is named as a zarr folder."""
    return path.suffix.lower() == ".zarr"


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Say of an error what could not be read: a file that is cut off, or holds something else.

    Raises
    ------
    ValueError
        From whatever error came up.
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
    """Check that there is a file of the right kind to be read, without reading it.

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
        raise IsADirectoryError(f"{path} is a folder, {kind} was expected")
    check_boundary(path)
    return path


def _as_path(path: object, argument: str) -> Path:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"{argument} must be the path of a file, not {path!r}")
    return Path(os.fsdecode(path)).expanduser()


def _check_ending(path: Path, endings: Sequence[str], argument: str) -> None:
    if path.suffix.lower() in endings:
        return
    expected = " or ".join(endings)
    found = f"ends in {path.suffix}" if path.suffix else "has no ending"
    hint = ""
    if path.suffix.lower() == ".rds" and argument in _DATA_ARGUMENTS:
        hint = (
            f"; objects of R are read by scvibridge.r.read_rds({str(path)!r}), whose AnnData can "
            "be passed as it is (write_h5ad() makes a file of it, for the command line)"
        )
    if endings in (READABLE_ENDINGS, DATA_ENDINGS) and path.suffix.lower() in (".h5", ".hdf5"):
        hint = "; a 10x file is read by scanpy.read_10x_h5(), whose result can be passed as it is"
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
    path: str | os.PathLike[str], endings: Sequence[str], argument: str = "out"
) -> Path:
    """Check that a file can be written, before any work is spent on its contents.

    Parameters
    ----------
    path
        The file to be written, or the folder where it ends in ``.zarr``. One that is there already
        is no error: it will be replaced.
    endings
        The endings that are allowed, lower case with the dot, such as ``(".h5ad",)``.
    argument
        The name of the caller's argument, for the messages.

    Returns
    -------
    Path, with ``~`` expanded.

    Raises
    ------
    TypeError
        `path` is not a path.
    ValueError
        The ending is none of `endings`.
    FileNotFoundError, NotADirectoryError, PermissionError, IsADirectoryError
        The folder does not exist, is not a folder or cannot be written to; `path` is a folder
        (other than a zarr folder, where that is what will be written).
    """
    path = _as_path(path, argument)
    _check_ending(path, endings, argument)
    folder = path.parent
    _check_replaceable(path, argument)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{argument}: {folder} is a file, not a folder to write to")
    if not folder.exists():
        raise FileNotFoundError(f"{argument}: the folder {folder} does not exist; create it first")
    check_writable(folder, argument)
    return path


def _check_replaceable(path: Path, argument: str) -> None:
    if not is_zarr(path):
        if path.is_dir():
            raise IsADirectoryError(f"{argument}: {path} is a folder, expected the name of a file")
        return
    if path.is_file():
        raise NotADirectoryError(f"{argument}: {path} is a file, expected a zarr folder")
    if path.is_dir() and any(path.iterdir()) and not any((path / f).exists() for f in _ZARR_FILES):
        raise IsADirectoryError(
            f"{argument}: {path} is a folder that holds something else than zarr; it would be "
            "replaced, so choose another name or remove it first"
        )


def check_writable(folder: Path, argument: str) -> None:
    """Check that files can be made in a folder.

    Raises
    ------
    PermissionError
        They cannot.
    """
    # Only an attempt tells: permission bits say nothing to root, nor on a read-only file system.
    probe = folder / f".scvibridge-{secrets.token_hex(4)}"
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"{argument}: the folder {folder} is not writable ({error.strerror})"
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` at the end, removed on any failure.

    Raises
    ------
    OSError
        There is no room for the file; what else is raised is left as it is.

    Examples
    --------
    >>> with replacing("table.csv") as temporary:  # doctest: +SKIP
    ...     table.to_csv(temporary)
    """
    target = behind_links(path)
    temporary = target.with_name(f".{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        replace(temporary, target)
    except Exception as error:
        code = out_of_space(error)
        if code is None:
            raise
        reason = _OUT_OF_SPACE[code]
        raise OSError(code, f"{reason}: {target} could not be written") from error
    finally:
        remove(temporary)


def behind_links(path: str | os.PathLike[str]) -> Path:
    """Where a file is written: a link keeps pointing to where it does."""
    return Path(os.path.realpath(path))


def replace(temporary: Path, target: Path) -> None:
    """Give a complete file or folder its name, in place of what has that name.

    Both lie in one file system. A file is replaced at once; of two folders, the older one is moved
    aside first, moved back should the other not get its place, and removed at the end.
    """
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


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def out_of_space(error: BaseException | None) -> int | None:
    """Code of the error below an error, if it is that there is no room to write to; else None."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        if code in _OUT_OF_SPACE:
            return code
        error = error.__cause__ or error.__context__
    return None


def space_message(code: int) -> str:
    """What a code of `out_of_space` means."""
    return _OUT_OF_SPACE[code]


# ---- h5ad ------------------------------------------------------------------------------------


def write_h5ad(adata: ad.AnnData, path: str | os.PathLike[str]) -> Path:
    """Write an AnnData to an h5ad file; read back, it is unchanged.

    Text columns stay text (anndata would turn them into categories, in the caller's object too);
    only those with missing values, which h5ad cannot hold as text, become categories in the file.
    ``uns["scvibridge"]`` is written as `storable` gives it.

    Parameters
    ----------
    adata
        What to write; it is not changed.
    path
        Ends in ``.h5ad``; checked by `check_output`, whose errors are raised.

    Returns
    -------
    Path of the file.
    """
    path = check_output(path, (".h5ad",))
    content = writable(adata)
    with replacing(path) as temporary, new_hdf5(temporary) as file:
        write_elements(file, content, compression="gzip")
    return path


def write_elements(file: NewFile, content: ad.AnnData, **how: Any) -> None:
    """Write an AnnData to a new HDF5 file, as its own ``write_h5ad`` does to a path.

    Parameters
    ----------
    file
        An empty file.
    content
        What to write, with tables as `writable` gives them.
    how
        Settings of the arrays, such as ``compression="gzip"``.
    """
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    parts = {name: getattr(content, name) for name in ("X", "raw", "obs", "var")}
    parts = {name: part for name, part in parts.items() if part is not None}
    parts |= {name: dict(getattr(content, name)) for name in ("obsm", "varm", "obsp", "varp")}
    parts |= {"layers": _named_layers(content), "uns": dict(content.uns)}
    # Names as plain text, which R and every version of anndata read.
    with ad.settings.override(allow_write_nullable_strings=False):
        for name, part in parts.items():
            ad.io.write_elem(file, name, part, dataset_kwargs=how)
            file.check()


def _named_layers(adata: ad.AnnData) -> dict[str, Any]:
    # Since anndata 0.13, `X` is among the layers, under the name None.
    return {name: values for name, values in adata.layers.items() if name is not None}


def writable(adata: ad.AnnData) -> ad.AnnData:
    """The same AnnData around tables and `uns` that h5ad can hold; the matrices are shared."""
    uns = {key: value for key, value in adata.uns.items() if key != PROVENANCE_KEY}
    if PROVENANCE_KEY in adata.uns:
        uns[PROVENANCE_KEY] = storable(adata.uns[PROVENANCE_KEY])
    return ad.AnnData(
        X=adata.X,
        obs=_without_missing_text(adata.obs),
        var=_without_missing_text(adata.var),
        uns=uns,
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        layers=_named_layers(adata),
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
        raw=None if adata.raw is None else _parts_of_raw(adata.raw),
    )


def check_tables(adata: ad.AnnData) -> None:
    """Check that ``obs`` and ``var`` can be written to h5ad, before any work is spent.

    Raises
    ------
    ValueError
        A column holds what h5ad cannot, such as a mixture of text and numbers.
    """
    with h5py.File("check_tables", "w", driver="core", backing_store=False) as memory:
        for place, table in (("obs", adata.obs), ("var", adata.var)):
            for name, column in _without_missing_text(table).items():
                if column.dtype != object and not isinstance(column.dtype, pd.CategoricalDtype):
                    continue
                try:
                    ad.io.write_elem(memory, "column", np.asarray(column.dropna().unique()))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{place}[{name!r}] cannot be written to an h5ad file "
                        f"({_first_line(error)}): make it text, .astype(str), or drop it"
                    ) from error


def _parts_of_raw(raw: ad.Raw) -> dict[str, Any]:
    return {"X": raw.X, "var": _without_missing_text(raw.var), "varm": dict(raw.varm)}


def _without_missing_text(table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for name, column in table.items():
        if pd.api.types.is_string_dtype(column.dtype) and column.isna().any():
            table[name] = column.astype("category")
    return table


def storable(value: Any) -> Any:
    """A provenance value in the form in which h5ad gives it back.

    A setting that is None is left out of its dictionary (so ``.get()`` gives None again, and R's
    ``$`` gives NULL): files with a null cannot be read by older versions of anndata nor by R.
    Lists and tuples become arrays (text: of object type), numpy scalars become Python's, keys
    become text.

    Raises
    ------
    TypeError
        The value is not made of dictionaries, lists, arrays, text, numbers and booleans, or a
        list holds None.
    """
    if isinstance(value, Mapping):
        kept = {str(key): storable(entry) for key, entry in value.items() if entry is not None}
        return dict(sorted(kept.items()))
    if isinstance(value, list | tuple | np.ndarray):
        return _storable_array(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be stored in an h5ad file: {value!r}")


def _storable_array(values: list[Any] | tuple[Any, ...] | np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    if array.size == 0 or array.dtype.kind in "biuf":
        return array if array.size else np.array([], dtype=object)
    if all(isinstance(entry, str) for entry in array.ravel()):
        return array.astype(object)
    raise TypeError(f"a list must hold numbers only or text only to be stored, not {values!r}")
