"""Check whether cells with the same names as cells of the model's data are the same cells.

Another matrix of the same cells (an ambient-corrected layer, counts that are already corrected), or
other labels in a column of the same name, lead to wrong results that show no other sign of it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from scvibridge._utils import user_warnings
from scvibridge._utils.sparse_structure import in_native_type
from scvibridge.io.raw_counts import fault_of, matrix_of
from scvibridge.io.row_reader import RowReader, with_rows
from scvibridge.models.cell_data import canonical_counts
from scvibridge.models.obs_columns import codes_of

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


# Warn if a larger fraction of the cells differs.
MOST_DIFFERING = 0.05

# Maximum number of cells whose counts are compared.
_MOST_COMPARED = 200


def shared_cells(given: Any, own: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of the names that both have, in `given` and in `own`."""
    place = pd.Index(own).get_indexer(pd.Index(given))
    rows = np.flatnonzero(place >= 0)
    return rows, place[rows]


def check(adapter: Adapter, data: CellData) -> None:
    """Warn if cells have names of the model's cells but other counts or batches.

    Warns
    -----
    UserWarning
        If they do. Counts are compared for a subset of cells.
    """
    own = adapter.adata
    if own is None or own is data.adata or not own.obs_names.is_unique:
        return
    given, kept = shared_cells(data.names, own.obs_names.astype(str))
    if not len(given):
        return
    by_hash = np.argsort(data.hashes[given], kind="stable")
    some = np.sort(by_hash[:_MOST_COMPARED])  # the same cells in any order of the data
    n_other = 0
    with suppress(ValueError):  # Model data that are not counts are reported where they are used.
        n_other = _n_other_counts(adapter, data, own, given[some], kept[some])
    if n_other > MOST_DIFFERING * len(some):
        _warn(
            f"{n_other} of {len(some)} compared cells have the same name as a cell of the model's "
            "data, but other counts. If they are the same cells, the counts are from another "
            "matrix than the model's: check the layer. If they are not, rename them: held-out "
            "cells are identified by name"
        )
    if adapter.batch_key is not None:
        with suppress(ValueError):  # likewise for batches
            _check_batches(adapter, data.covariates.own().batch[given], own, kept)


def n_other_groups(
    names: tuple[Any, Any], codes: tuple[np.ndarray, np.ndarray], same: np.ndarray
) -> tuple[int, int]:
    """Count shared cells that belong to another group in the other data.

    Parameters
    ----------
    names
        Names of the cells of both data.
    codes
        Their groups, -1 where missing.
    same
        For each group of the first data, the matching group of the second, followed by -1.

    Returns
    -------
    The number of cells that differ, and the number that have a group in both.
    """
    rows, others = shared_cells(*names)
    one, other = same[codes[0]][rows], codes[1][others]
    known = (codes[0][rows] >= 0) & (other >= 0)
    return int((one != other)[known].sum()), int(known.sum())


def _n_other_counts(
    adapter: Adapter, data: CellData, own: AnnData, given: np.ndarray, kept: np.ndarray
) -> int:
    """Count cells whose counts differ, over the genes that both have."""
    if adapter.minified or data.counts is None:
        return 0
    place = pd.Index(own.var_names.astype(str)).get_indexer(adapter.genes)
    in_both = place >= 0
    matrix = matrix_of(own, adapter.layer)
    in_memory = isinstance(matrix, np.ndarray) or sp.issparse(matrix)
    order = np.argsort(kept)
    rows = kept[order]
    found = sp.csr_matrix(
        in_native_type(matrix[rows]) if in_memory else RowReader(with_rows(matrix)).read(rows)
    )
    if fault_of(found.data) is not None:
        return 0
    theirs = canonical_counts(found, place[in_both])
    ours = canonical_counts(data.counts.rows(given[order])[:, in_both], None)
    return int(np.count_nonzero(np.asarray((theirs != ours).sum(axis=1)).ravel()))


def _check_batches(adapter: Adapter, batch: np.ndarray, own: AnnData, kept: np.ndarray) -> None:
    codes = codes_of(own.obs, str(adapter.batch_key), adapter.model_batches)
    n_other = int((codes[kept] != batch).sum())
    if n_other > MOST_DIFFERING * len(batch):
        _warn(
            f"{n_other} of {len(batch)} cells with the same name as a cell of the model's data "
            f"belong to another batch there: check obs[{adapter.batch_key!r}]"
        )


def _warn(message: str) -> None:
    user_warnings.warn(message)
