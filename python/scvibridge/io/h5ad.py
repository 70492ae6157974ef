"""Read and write AnnData files, and determine what their tables can hold."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np

from scvibridge.io.hdf5 import NewFile, new_hdf5
from scvibridge.io.paths import check_input, check_output, explaining, is_zarr, replacing
from scvibridge.io.readback import check_readable
from scvibridge.io.sparse_files import check_file, check_matrices
from scvibridge.io.storage import check_content, named_layers, of_10x, storable_content

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from pathlib import Path

PROVENANCE_KEY = "scvibridge"


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
        If `path` is not a path.
    FileNotFoundError
        If the file does not exist; a similar name in the same folder is suggested.
    ValueError
        If the path has another extension, or the contents are not an AnnData.
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
    """Keep columns in the modalities that have them, as mudata does since version 0.4."""
    import mudata

    if not hasattr(mudata, "set_options"):
        return nullcontext()
    options: AbstractContextManager[Any] = mudata.set_options(pull_on_update=False)
    return options


# ---- h5ad ------------------------------------------------------------------------------------


def write_h5ad(adata: ad.AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write an AnnData to an h5ad file that is read back unchanged.

    Text columns stay text (anndata would convert them to categories, also in the caller's object);
    only those with missing values, which h5ad cannot store as text, become categories in the file.
    Dates and similar types become text, with a warning. ``uns["scvibridge"]`` is written as
    converted by `storable`. The file is renamed into place after it has been read back
    successfully.

    Parameters
    ----------
    adata
        The data to write; not changed.
    path
        Ends in ``.h5ad``; checked by `check_output`, whose errors are raised.
    overwrite
        Whether to replace an existing file.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ValueError
        If something cannot be stored in an h5ad file.
    """
    path = check_output(path, (".h5ad",), "path", overwrite=overwrite)
    check_content(adata)
    with replacing(path, overwrite=overwrite) as temporary:
        write_new_h5ad(adata, temporary)
    return path


def write_new_h5ad(adata: ad.AnnData, path: Path, compression: str | None = "gzip") -> None:
    """Write an AnnData to a new h5ad file, and check that it can be read."""
    with new_hdf5(path) as file:
        write_elements(file, writable(adata), compression=compression)
    check_readable(path)


def write_elements(file: NewFile, content: ad.AnnData, **how: Any) -> None:
    """Write an AnnData to a new HDF5 file, as its ``write_h5ad`` does to a path.

    Parameters
    ----------
    file
        A file without tables.
    content
        The data to write, with tables as returned by `writable`.
    how
        Settings of the arrays, such as ``compression="gzip"``.
    """
    write_parts(file, content, how, file.check)


def write_parts(
    root: Any,
    content: ad.AnnData,
    how: Mapping[str, Any],
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Write an AnnData to an HDF5 file or zarr group that has none of it yet.

    A mapping that exists, such as ``layers`` with a large matrix, is kept. Any version of anndata
    from 0.11 can read it, and R: text is plain text, and what is missing is left out. anndata
    itself writes ``raw`` to zarr as a null since version 0.12, and text that may be missing as
    another type since 0.13.
    """
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    parts = {name: getattr(content, name) for name in ("X", "raw", "obs", "var")}
    parts = {name: part for name, part in parts.items() if part is not None}
    parts |= {name: dict(getattr(content, name)) for name in ("obsm", "varm", "obsp", "varp")}
    parts |= {"layers": named_layers(content), "uns": dict(content.uns)}
    with ad.settings.override(allow_write_nullable_strings=False):
        for name, part in parts.items():
            # anndata would remove an existing group first.
            exists = isinstance(part, dict) and name in root
            for key, value in part.items() if exists else ((name, part),):
                ad.io.write_elem(root[name] if exists else root, key, value, dataset_kwargs=how)
            after_each()


def writable(adata: ad.AnnData, ending: str = ".h5ad") -> ad.AnnData:
    """Return the same matrices with tables and `uns` that a file type can hold.

    Raises
    ------
    ValueError
        As for `scvibridge.io.storage.check_tables`.
    """
    content = of_10x(adata) if ending == ".h5" else storable_content(adata, ending)
    if PROVENANCE_KEY in adata.uns:
        content.uns[PROVENANCE_KEY] = storable(adata.uns[PROVENANCE_KEY])
    return content


def storable(value: Any) -> Any:
    """Convert a provenance value to the form in which h5ad returns it.

    A setting that is None is left out of its dictionary (so ``.get()`` returns None again, and R's
    ``$`` gives NULL): files with a null cannot be read by older versions of anndata or by R. Lists
    and tuples become arrays (text: of object type), numpy scalars become Python's, keys become
    text.

    Raises
    ------
    TypeError
        If the value does not consist of dictionaries, lists, arrays, text, numbers and booleans, or
        a list contains None.
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
    raise TypeError(f"a list must contain only numbers or only text to be stored, not {values!r}")
