"""Checks of what the user hands in, made before any work starts."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvibridge import same_cells, trained_on
from scvibridge.arguments import LARGEST_WHOLE, is_number, is_whole, listed, shown
from scvibridge.files import check_output, read_anndata, read_mudata
from scvibridge.grouping_columns import check_groups
from scvibridge.models import COUNT_LIKELIHOODS, is_minified
from scvibridge.models.multimodal import is_mudata
from scvibridge.on_disk import RowReader, as_data_frame, open_anndata
from scvibridge.raw_counts import (
    as_raw_data,
    fault_of,
    hint_of_counts,
    matrix_of,
    name_of_place,
)
from scvibridge.readback import result_of
from scvibridge.sources import CellData, CountsInMemory, CountsOnDisk, canonical_counts
from scvibridge.sparse_structure import check_given
from scvibridge.streaming import check_leftover
from scvibridge.values_as_text import as_text, position_of, quoted

if TYPE_CHECKING:
    from scvibridge.models import Adapter


# Depths beyond these give counts that 32 bits cannot hold, or expression of 0 or infinity.
LEAST_DEPTH, MOST_DEPTH = 1e-6, 2**31 - 1
WITHOUT_BATCH = (
    "the model was set up without batch_key=, so it knows no batches and there is no batch effect "
    "to remove. Name the column with the batch when the model is set up, "
    "setup_anndata(adata, batch_key=...) or train_scvi(adata, batch_key=...), and train it again"
)


# -- data --------------------------------------------------------------------------------------


def resolve_adata(
    adapter: Adapter, adata: AnnData | str | PathLike[str] | None, stream: bool = False
) -> AnnData:
    """Return the AnnData to work on: the model's own, the given one, or that at a path.

    Its counts are where the model reads them (:func:`scvibridge.raw_counts.as_raw_data`). With
    `stream` the matrices of a file stay on disk.
    """
    if adata is None:
        if adapter.adata is None:
            raise ValueError("the model was loaded without data: pass adata=")
        return adapter.adata
    if isinstance(adata, str | PathLike):
        if Path(adata).suffix.lower() == ".h5mu":
            return adapter.as_anndata(read_mudata(adata))
        opened = open_anndata(adata) if stream else read_anndata(adata)
        return as_raw_data(opened, adapter.layer)
    if is_mudata(adata):
        return adapter.as_anndata(adata)
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData or a path, got {type(adata).__name__}")
    check_given(adata)
    if adapter.is_own(adata):
        assert adapter.adata is not None  # noqa: S101 - it is that
        return adapter.adata
    return as_raw_data(_with_tables_in_memory(adata), adapter.layer)


def _with_tables_in_memory(adata: AnnData) -> AnnData:
    """The same data with ``obs`` and ``var`` as pandas has them, where they were read lazily."""
    if isinstance(adata.obs, pd.DataFrame):
        return adata
    layers = {name: values for name, values in adata.layers.items() if name is not None}
    tables = {"obs": as_data_frame(adata.obs), "var": as_data_frame(adata.var)}
    raw = None if adata.raw is None else {"X": adata.raw.X, "var": as_data_frame(adata.raw.var)}
    return AnnData(adata.X, layers=layers, uns=dict(adata.uns), raw=raw, **tables)


def align(
    adapter: Adapter, adata: AnnData, out: Path | None = None, progress: bool = False
) -> CellData:
    """Align data to the model's genes by name, and check counts, names and covariates.

    Parameters
    ----------
    adapter, adata
        The model and the data.
    out
        Output file, if any. With it, counts on disk stay there and are read once, to check them (if
        they are stored by gene, from a copy by cell in the folder of that file); without it they
        are loaded.
    progress
        Whether to show progress when counts are read from disk.

    Raises
    ------
    ValueError
        If genes of the model are missing, names are duplicated, or the values are not counts.
    ValueError
        If the layer or a column that the model was set up with is missing.
    """
    check_unique(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    genes = gene_positions(adapter.genes, adata.var_names, adata.raw)
    covariates = adapter.covariates(_with_columns(adapter, adata))
    n_batches = len(adapter.batches)
    if adapter.minified and adata is adapter.adata:
        return CellData(adata, None, covariates, n_batches)
    if is_minified(adata):
        raise ValueError("adata was minified to latents: pass data with counts")
    trained_on.check(adapter, adata)
    matrix = matrix_of(adata, adapter.layer)
    in_memory = isinstance(matrix, np.ndarray) or sp.issparse(matrix)
    if out is None or in_memory:
        if not in_memory:
            matrix = RowReader(matrix).read(slice(0, adata.n_obs))
        check_counts(matrix, adata, adapter.layer)
        counts = CountsInMemory(canonical_counts(matrix, genes))
        data = CellData(adata, counts, covariates, n_batches)
        same_cells.check(adapter, data)
        return data
    on_disk = CountsOnDisk(
        matrix, genes, lambda rows: check_counts(rows, adata, adapter.layer), out
    )
    data = CellData(adata, on_disk, covariates, n_batches, progress)
    data.summary  # noqa: B018 - reads, and so checks, all counts
    same_cells.check(adapter, data)
    return data


def _with_columns(adapter: Adapter, adata: AnnData) -> AnnData:
    """Take columns missing from counts passed in with minified data from those data, by cell."""
    own = adapter.adata
    if not adapter.minified or own is None or adata is own:
        return adata
    missing = [key for key in adapter.registry.columns if key in own.obs and key not in adata.obs]
    if not missing:
        return adata
    unknown = adata.obs_names[~adata.obs_names.isin(own.obs_names)]
    if len(unknown):
        raise ValueError(
            f"the data lack obs[{missing[0]!r}], and {len(unknown)} of their cells are not among "
            f"the model's, which could have told: {shorten(unknown)}"
        )
    obs = adata.obs.copy()
    for key in missing:
        obs[key] = own.obs.loc[adata.obs_names, key].to_numpy()
    return AnnData(obs=obs, obsm=dict(adata.obsm))


def reference_data(adapter: Adapter, data: CellData) -> CellData:
    """Return the model's own data where they hold counts, else the data given."""
    own = adapter.adata
    if own is None or own is data.adata or adapter.minified:
        return data
    return align(adapter, own)


def gene_positions(genes: pd.Index, var_names: pd.Index, raw: Any = None) -> np.ndarray | None:
    """Position of each gene of the model among `var_names`; None where they agree as they lie.

    `raw` is the data's ``adata.raw``, which the error names where it has all of the genes.
    """
    names = pd.Index(var_names.astype(str))
    check_unique(names, "gene", "adata.var_names_make_unique()")
    if names.equals(genes):
        return None
    positions = names.get_indexer(genes)
    missing = genes[positions < 0]
    if len(missing):
        named_otherwise = len(missing) == len(genes) and len(names) > 0
        in_raw = raw is not None and genes.isin(raw.var_names.astype(str)).all()
        raise ValueError(
            f"the data lack {len(missing)} of the model's {len(genes)} genes: "
            f"{shorten(missing)}. Counts are decoded over all of them"
            + (f"; the data's names are {shorten(names)}" if named_otherwise else "")
            + ("; adata.raw has all of them: pass adata.raw.to_adata()" if in_raw else "")
        )
    return np.asarray(positions)


def check_unique(names: pd.Index, what: str, fix: str) -> None:
    """Refuse duplicated cell or gene names, which random numbers and joins are keyed by."""
    duplicated = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(duplicated):
        raise ValueError(
            f"{len(duplicated)} {what} names occur more than once: {shorten(duplicated)}. "
            f"Make them unique first: {fix}"
        )


def check_counts(
    matrix: Any, adata: AnnData, layer: str | None, *, layer_argument: bool = False
) -> None:
    """Refuse values that are no counts: negative, missing, infinite or not whole numbers.

    With `layer_argument` the message names the caller's argument `layer`.
    """
    fault = fault_of(matrix.data if sp.issparse(matrix) else np.asarray(matrix))
    if fault is not None:
        raise ValueError(
            f"{name_of_place(adata, layer)} must hold raw counts, but holds {fault}"
            f"{hint_of_counts(adata, layer, layer_argument=layer_argument)}"
        )


def check_likelihood(adapter: Adapter) -> None:
    """Refuse a model whose likelihood has no counts.

    Raises
    ------
    ValueError
        If it has none.
    """
    if adapter.gene_likelihood not in COUNT_LIKELIHOODS:
        raise ValueError(
            f"a model with gene_likelihood={adapter.gene_likelihood!r} has no counts; "
            f"supported: {list_names(COUNT_LIKELIHOODS)}"
        )


def check_out(
    out: Any, resume: bool, endings: Sequence[str], *, overwrite: bool = False
) -> Path | None:
    """Check the path of a result, and files of an interrupted run next to it.

    Raises
    ------
    ValueError
        If the ending is another, or `resume` is asked for without `out`.
    FileExistsError
        If the file exists and `overwrite` is False, unless it may be what `resume` asks for; or an
        interrupted run is left and `resume` is False.
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder does not exist, is not a folder or is not writable.
    """
    if out is None:
        if resume:
            raise ValueError("resume=True goes on with a file: it needs out=")
        return None
    # Whether a streamed result is the one asked for is known when its data have been read.
    may_be_own = resume and isinstance(out, str | PathLike) and result_of(Path(out)) is not None
    path = check_output(out, tuple(endings), overwrite=overwrite or may_be_own)
    check_leftover(path, resume)
    return path


# -- selections --------------------------------------------------------------------------------


def resolve_targets(
    transform_batch: Any, batches: Sequence[Any], *, required: bool, known: bool = True
) -> list[int] | None:
    """Turn names of target batches into the model's codes; None where none is asked for.

    `known` is whether the model was set up with batches.

    Raises
    ------
    ValueError
        If a batch is unknown, named twice, or `required` and not given; or any is named and the
        model knows none.
    """
    if transform_batch is not None and not known:
        raise ValueError(f"transform_batch={transform_batch!r}: {WITHOUT_BATCH}")
    if transform_batch is None:
        if required and len(batches) > 1:
            raise ValueError(
                "transform_batch is required: whose likeness should the counts take? "
                f"The model's batches: {list_names(batches)}"
            )
        return [0] if required else None
    names = listed(transform_batch, "transform_batch")
    if not names:
        raise ValueError("transform_batch is empty")
    codes = [code_of(name, batches, "batch") for name in names]
    if len(set(codes)) != len(codes):
        raise ValueError(f"transform_batch names a batch twice: {list_names(names)}")
    return codes


def code_of(name: Any, batches: Sequence[Any], what: str) -> int:
    """Code of a value among those that the model knows.

    Raises
    ------
    ValueError
        If it is not among them.
    """
    for code, batch in enumerate(batches):
        # True == 1 in Python: a truth value must not stand for the batch 1.
        if batch == name and isinstance(batch, bool | np.bool_) == isinstance(
            name, bool | np.bool_
        ):
            return code
    alike = None if isinstance(name, PathLike | bytes) else position_of(as_text(name), batches)
    if alike is not None and not isinstance(name, numbers.Number | np.bool_):
        return alike  # a command line, and R, can only spell numbers; a model has dates as text
    known = f"{what} {name!r} is not among {list_names(batches)}"
    if alike is not None:
        raise ValueError(f"{known}: did you mean {quoted(batches[alike])}?")
    if isinstance(name, numbers.Integral) and 0 <= int(name) < len(batches):
        raise ValueError(
            f"{known}: name the {what} itself, not scvi-tools' internal code "
            f"({int(name)} is the code of {batches[int(name)]!r})"
        )
    raise ValueError(f"{known}{suggest(as_text(name), [as_text(b) for b in batches])}")


# -- scalars -----------------------------------------------------------------------------------


def check_batch_size(batch_size: Any, batches: Sequence[Any]) -> None:
    """Refuse a batch name passed as `batch_size`, which counts the cells of a minibatch."""
    if batch_size is None:
        return
    if not is_whole(batch_size):
        known = ""
        is_value = pd.api.types.is_scalar(batch_size) and not pd.isna(batch_size)
        if is_value and batch_size in list(batches):
            known = f": to choose the batch, use transform_batch={batch_size!r}"
        raise ValueError(
            f"batch_size is the number of cells in a minibatch, got {batch_size!r}{known}"
        )
    if not 1 <= batch_size <= LARGEST_WHOLE:
        raise ValueError(f"batch_size must be at least 1, got {shown(batch_size)}")


def check_library_size(library_size: Any) -> str | float:
    """Return a depth: a number between `LEAST_DEPTH` and `MOST_DEPTH`, or one of the four names."""
    names = ("observed", "latent", "median", "scaled")
    if isinstance(library_size, str):
        if library_size not in names:
            raise ValueError(
                f"library_size {library_size!r} is not among {list_names(names)} or a number"
                f"{suggest(library_size, names)}"
            )
        return library_size
    if not is_number(library_size):
        raise TypeError(f"library_size must be a number or a name, got {library_size!r}")
    if not 0 < library_size < np.inf:
        raise ValueError(f"library_size must be positive and finite, got {library_size!r}")
    if not LEAST_DEPTH <= library_size <= MOST_DEPTH:
        raise ValueError(
            f"library_size must lie between {LEAST_DEPTH:g} and {MOST_DEPTH}, got "
            f"{shown(library_size)}: counts have 32 bits, and expression is of single precision"
        )
    return float(library_size)


def check_choice(value: Any, choices: Sequence[str], what: str) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{what} {value!r} is not among {list_names(choices)}{suggest(str(value), choices)}"
        )
    return str(value)


def check_n_samples(n_samples: Any) -> int | None:
    """Return the number of posterior samples, None for the posterior mean."""
    if n_samples is None:
        return None
    if not is_whole(n_samples) or n_samples < 1:
        raise ValueError(f"n_samples must be None or at least 1, got {n_samples!r}")
    return int(n_samples)


def column_codes(adata: AnnData, key: str, argument: str) -> tuple[np.ndarray, list[Any]]:
    """Codes of a column of ``obs`` (-1 where missing) and its categories.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, or it holds measurements rather than groups of cells.
    """
    if key not in adata.obs:
        columns = [c for c in adata.obs.columns if not str(c).startswith("_scvi_")]
        raise ValueError(
            f"{argument}={key!r} is not a column of obs, which has {list_names(columns)}"
            f"{suggest(key, [str(c) for c in columns])}"
        )
    if list(adata.obs.columns).count(key) > 1:
        raise ValueError(f"{argument}={key!r}: obs has more than one column of that name")
    values = adata.obs[key]
    column = pd.Categorical(values)
    column = column.remove_unused_categories()
    check_groups(column, values.dtype, key, argument)
    return np.asarray(column.codes, dtype=np.int64), list(column.categories)


# -- wording -----------------------------------------------------------------------------------


def list_names(names: Iterable[Any], most: int = 20) -> str:
    """Spell out names, quoted, the first `most` of them."""
    listed = [quoted(name) for name in names]
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def shorten(names: Iterable[Any], most: int = 5) -> str:
    """Spell out the first few of many names."""
    return list_names((str(name) for name in names), most)


def suggest(name: Any, known: Iterable[Any]) -> str:
    """Return ": did you mean ...?" for the nearest known name, or nothing."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1)
    if not near:
        folded = {k.casefold(): k for k in names}
        near = [folded[str(name).casefold()]] if str(name).casefold() in folded else []
    return f": did you mean {near[0]!r}?" if near else ""
