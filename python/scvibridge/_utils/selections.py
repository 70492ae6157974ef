"""Selections of cells and genes: masks, positions and names, handled by one set of rules.

Selections with names (a pandas Series or a one-column DataFrame indexed by names of cells or genes)
are aligned by name, because their order may differ from the data. All others select by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.arguments import check_unique, is_flag, is_whole, shown
from scvibridge._utils.wording import shorten, suggest

if TYPE_CHECKING:
    from anndata import AnnData


UNKNOWN_TO_MODEL = "the model does not have"

_UNIQUE_CELLS = "adata.obs_names_make_unique()"

# Maximum number of names compared with an unknown one to suggest the nearest.
_MOST_COMPARED = 10_000


def resolve_indices(indices: Any, adata: AnnData, argument: str = "indices") -> np.ndarray:
    """Return the row positions selected by a mask, positions, a slice or names, without repeats.

    `argument` is the name of the argument in messages.

    Raises
    ------
    TypeError
        If `indices` is not a selection.
    ValueError
        If the selection is empty, out of range, has missing values, selects a cell twice, has names
        that are not those of the cells, or has positions and names that select different cells.
    """
    if adata.n_obs == 0:
        raise ValueError("the data have no cells")
    if indices is None:
        return np.arange(adata.n_obs)
    if isinstance(indices, slice):
        return _checked(np.arange(adata.n_obs)[_of_numbers(indices)], argument)
    selection = _Selection.of(indices, argument, "cell")
    if selection.kind == "mask":
        return _checked(_of_mask(selection, adata.obs_names), argument)
    if selection.kind == "positions" and selection.labels is None:
        return _checked(_of_positions(selection.entries, adata.n_obs), argument)
    if selection.kind == "positions":
        return _checked(_of_named_positions(selection, adata.obs_names), argument)
    return _checked(_of_names(pd.Index(selection.entries), adata.obs_names, argument), argument)


def goes_by_position(given: Any, argument: str) -> bool:
    """Whether a mask of cells carries no names.

    Raises
    ------
    TypeError, ValueError
        If `given` is not a selection, or holds positions.
    """
    if isinstance(given, slice):
        raise TypeError(f"{argument} takes names of cells or a mask, not positions, got {given!r}")
    selection = _Selection.of(given, argument, "cell")
    if selection.kind == "positions":
        raise TypeError(
            f"{argument} takes names of cells or a mask, not positions, got {shown(given)}"
        )
    return selection.kind == "mask" and (selection.labels is None or selection.only_counts)


def resolve_genes(
    gene_list: Any,
    genes: pd.Index,
    whose: str = UNKNOWN_TO_MODEL,
    argument: str = "gene_list",
) -> np.ndarray | None:
    """Return positions of the requested genes, see :func:`positions_of_genes`; None for all."""
    return None if gene_list is None else positions_of_genes(gene_list, genes, whose, argument)


def positions_of_genes(
    gene_list: Any,
    genes: pd.Index,
    whose: str = UNKNOWN_TO_MODEL,
    argument: str = "gene_list",
) -> np.ndarray:
    """Return positions of the requested genes among the known genes, in the requested order.

    Parameters
    ----------
    gene_list
        Names, or a mask indexed by gene names.
    genes
        Names of the known genes.
    whose
        The owner of the genes, for the error message.
    argument
        Name of the argument.

    Raises
    ------
    TypeError
        If `gene_list` is neither names nor a mask with names. Positions and masks without names
        would depend on the order of genes.
    ValueError
        If it is empty, contains a gene twice, has missing values or contains an unknown gene.
    """
    selection = _Selection.of(gene_list, argument, "gene")
    if selection.kind == "mask":
        wanted = _true_genes(selection, genes)
    elif selection.kind == "positions":
        raise TypeError(
            f"{argument} must be names of genes, not numbers, got {shown(gene_list)}: the order "
            "of genes may differ between model and data"
        )
    else:
        wanted = pd.Index(selection.entries)
    if len(wanted) == 0:
        raise ValueError(f"{argument} selects no genes")
    check_unique(wanted, argument, "drop the repeats")
    positions = genes.get_indexer(wanted)
    unknown = wanted[positions < 0]
    if len(unknown):
        remedy = ". extend_genes() adds genes to a model" if whose == UNKNOWN_TO_MODEL else ""
        raise ValueError(
            f"{whose} {len(unknown)} of the {len(wanted)} genes in {argument}: "
            f"{shorten(unknown)}{suggest(unknown[0], genes)}{remedy}"
        )
    return np.asarray(positions)


# -- selections as passed ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Selection:
    """Values of one kind, and their names, if any.

    Attributes
    ----------
    kind
        ``"mask"``, ``"positions"`` or ``"names"``.
    entries
        Booleans, integers or strings, shape ``(n,)``.
    labels
        Name of each value, for masks and positions with names; else None.
    only_counts
        Whether the names are pandas' default ones: 0, 1, ....
    argument, what
        Name of the argument, and what is selected: ``"cell"`` or ``"gene"``.
    """

    kind: str
    entries: np.ndarray
    labels: pd.Index | None
    only_counts: bool
    argument: str
    what: str

    @staticmethod
    def of(given: Any, argument: str, what: str) -> _Selection:
        """Read a selection.

        Raises
        ------
        TypeError, ValueError
            If it is not one-dimensional, or its values are missing or of other or mixed kinds.
        """
        given = _one_dimensional(given, argument, what)
        index = given.index if isinstance(given, pd.Series) else None
        values = _plain_values(given)
        if values.ndim != 1:
            raise ValueError(f"{argument} must have one dimension, got shape {values.shape}")
        _check_complete(values, index, argument, what)
        kind, values = _kind_of(values, argument, what)
        if index is None or kind == "names":
            return _Selection(kind, values, None, False, argument, what)
        # Integers together with positions come from a filtered table, and are not cell names.
        if kind == "positions" and index.dtype.kind in "iu":
            return _Selection(kind, values, None, False, argument, what)
        labels = pd.Index([str(name) for name in index], dtype=object)
        return _Selection(kind, values, labels, _only_counts(index), argument, what)


def _one_dimensional(given: Any, argument: str, what: str) -> Any:
    """Raise an error for unordered or single values; return the column of a one-column table."""
    expected = f"{argument} must be a list of {what} names"
    if what == "cell":
        expected += ", positions or a mask"
    if isinstance(given, str | bytes):
        raise TypeError(f"{expected}, got the single name {given!r}")
    if isinstance(given, AbstractSet):
        raise TypeError(f"{expected}: a set has no order, use sorted(...)")
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"{expected}, got {shown(given)}")
    if isinstance(given, pd.DataFrame):
        if given.shape[1] != 1:
            raise ValueError(f"{argument} is a table with {given.shape[1]} columns: choose one")
        return given.iloc[:, 0]
    if isinstance(given, np.ma.MaskedArray) and np.ma.getmaskarray(given).any():
        raise ValueError(f"{argument} is a masked array with missing values")
    if isinstance(given, np.ndarray) and given.ndim == 0:
        raise TypeError(f"{expected}, got {shown(given)}")
    return given


def _plain_values(given: Any) -> np.ndarray:
    """Return the values as a numpy array; lists are not converted, so that mixed kinds show."""
    if isinstance(given, pd.MultiIndex):
        return np.empty((len(given), given.nlevels))
    if isinstance(given, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        is_numpy = isinstance(given.dtype, np.dtype)
        return np.asarray(given if is_numpy else given.astype(object))
    if hasattr(given, "__array__"):
        return np.asarray(given)
    values = list(given)
    return np.fromiter(values, dtype=object, count=len(values))


def _check_complete(values: np.ndarray, index: pd.Index | None, argument: str, what: str) -> None:
    missing = np.flatnonzero(pd.isna(values))
    if len(missing) == 0:
        return
    names = missing if index is None else index[missing]
    raise ValueError(
        f"{argument} is missing (NA) for {len(missing)} of {len(values)} {what}s: "
        f"{shorten(names)}. Fill it in, or leave it out"
    )


def _kind_of(values: np.ndarray, argument: str, what: str) -> tuple[str, np.ndarray]:
    """Return the kind of a selection (mask, positions or names) and its values."""
    if len(values) == 0 or values.dtype.kind == "U":
        return "names", values.astype(object)
    if values.dtype.kind == "b":
        return "mask", values
    if values.dtype.kind in "iu":
        return "positions", values
    if values.dtype.kind == "O":
        if all(is_flag(value) for value in values):
            return "mask", values.astype(bool)
        if all(is_whole(value) for value in values):
            return "positions", np.array([int(value) for value in values])
        if all(isinstance(value, str) for value in values):
            return "names", values
        kinds = sorted({type(value).__name__ for value in values})
        if len(kinds) > 1:
            raise ValueError(f"{argument} mixes values of the types {', '.join(kinds)}")
    kind = type(values[0]).__name__ if values.dtype.kind == "O" else str(values.dtype)
    raise ValueError(f"{argument} must be positions, a mask or {what} names, got {kind}")


def _only_counts(index: pd.Index) -> bool:
    """Return whether an index is pandas' default one, without names."""
    return (
        index.nlevels == 1 and index.dtype.kind in "iu" and index.equals(pd.RangeIndex(len(index)))
    )


# -- cells ---------------------------------------------------------------------------------------


def _of_mask(selection: _Selection, names: pd.Index) -> np.ndarray:
    mask, labels = selection.entries, selection.labels
    if labels is None:
        if len(mask) != len(names):
            raise ValueError(
                f"{selection.argument} is a mask of {len(mask)} values for {len(names)} cells"
            )
        return np.flatnonzero(mask)
    if not selection.only_counts:
        return _aligned(selection, labels, names)
    # The default index may be positions or, if cells are called "0", "1", ..., names.
    if not names.isin(labels).all():
        return _of_mask(replace(selection, labels=None), names)
    by_name = _aligned(selection, labels, names)
    if len(mask) == len(names) and not np.array_equal(by_name, np.flatnonzero(mask)):
        raise ValueError(
            f"{selection.argument} is a mask with the index 0, 1, ..., which may be names of the "
            "cells or their positions, and the two select different cells: give it "
            f"adata.obs_names as its index, or pass {selection.argument}.to_numpy() to select by "
            "position"
        )
    return by_name


def _aligned(selection: _Selection, labels: pd.Index, names: pd.Index) -> np.ndarray:
    """Return positions of the cells or genes for which a mask with names is true."""
    what, argument = selection.what, selection.argument
    check_unique(labels, argument, "give each one value")
    check_unique(names, what, _UNIQUE_CELLS)
    place = labels.get_indexer(names)
    lacking = names[place < 0]
    if len(lacking):
        raise ValueError(
            f"{argument} is a mask with names, and lacks {len(lacking)} of the {len(names)} "
            f"{what}s: {shorten(lacking)}; its names are {shorten(labels)}. A mask with names is "
            f"aligned by name and must contain every {what}"
            + ("; without names it selects by position" if what == "cell" else "")
        )
    unknown = labels[selection.entries & ~labels.isin(names)]
    if len(unknown):
        raise ValueError(
            f"{argument} selects {len(unknown)} {what}s that the data lack: {shorten(unknown)}"
        )
    return np.flatnonzero(selection.entries[place])


def _of_positions(positions: np.ndarray, n_cells: int) -> np.ndarray:
    outside = positions[(positions < -n_cells) | (positions >= n_cells)]
    if len(outside):
        raise ValueError(f"indices must be within the {n_cells} cells, got {outside[0]}")
    return np.asarray(positions.astype(np.int64) % n_cells)


def _of_named_positions(selection: _Selection, names: pd.Index) -> np.ndarray:
    """Return the positions of the cells that named numbers select.

    Numbers that remain of ``arange`` or R's ``which`` after filtering increase, and their names are
    those of the cells, perhaps of data in another order: these are selected by name. In
    ``column.argsort()[:20]`` the numbers select cells, and the names are of the first 20 cells.
    """
    _check_distinct(selection)
    labels, argument = selection.labels, selection.argument
    rows, positions = _of_names(pd.Index(labels), names, argument), selection.entries
    in_a_run = len(rows) < len(names) and (np.diff(rows) == 1).all()
    if np.array_equal(positions, rows) or ((np.diff(positions) > 0).all() and not in_a_run):
        return rows
    raise ValueError(
        f"{argument} holds numbers that are named by cells, and the numbers and the names select "
        f"different cells: pass {argument}.to_numpy() to select by position, or {argument}.index "
        "to select by name"
    )


def _of_names(wanted: pd.Index, names: pd.Index, argument: str) -> np.ndarray:
    check_unique(names, "cell", _UNIQUE_CELLS)
    rows = names.get_indexer(wanted)
    unknown = wanted[rows < 0]
    if len(unknown):
        raise ValueError(
            f"{argument} contains {len(unknown)} cells that the data lack: "
            f"{shorten(unknown)}{suggest(unknown[0], names[:_MOST_COMPARED])}"
        )
    return np.asarray(rows)


def _check_distinct(selection: _Selection) -> None:
    """Raise an error for numbers indexed by cell names that are no positions, e.g. clusters."""
    if len(np.unique(selection.entries)) != len(selection.entries):
        raise ValueError(
            "indices contains repeated numbers, indexed by cell names: to select cells by a "
            "column, compare it with a value, e.g. indices=adata.obs['cluster'] == 3"
        )


def _of_numbers(selected: slice) -> slice:
    parts = (selected.start, selected.stop, selected.step)
    if not all(part is None or is_whole(part) for part in parts):
        raise TypeError(f"indices: a slice selects by position, got {selected!r}")
    return selected


def _checked(rows: np.ndarray, argument: str) -> np.ndarray:
    if len(rows) == 0:
        raise ValueError(f"{argument} selects no cells")
    if len(np.unique(rows)) != len(rows):
        raise ValueError(
            f"{argument} contains some cells more than once (a mask must contain True and False, "
            "not 1 and 0)"
        )
    return rows


# -- genes ---------------------------------------------------------------------------------------


def _true_genes(selection: _Selection, genes: pd.Index) -> pd.Index:
    """Return genes for which a mask is true, in the known order, followed by unknown ones."""
    argument, labels = selection.argument, selection.labels
    if labels is None or selection.only_counts:
        raise TypeError(
            f"{argument} is a mask without names, and the order of genes may differ between model "
            "and data: pass the names, adata.var_names[mask], or a Series with them as its index"
        )
    unknown = labels[selection.entries & ~labels.isin(genes)]
    if len(unknown):
        return labels[selection.entries]
    return genes[_aligned(selection, labels, genes)]
