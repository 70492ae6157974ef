"""Inverse dispersions that replace the model's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils.arguments import check_unique
from scvibridge._utils.digests import digest_of_weights
from scvibridge._utils.spelling import spelled
from scvibridge._utils.wording import from_csv_cell, list_names, shorten, suggest

if TYPE_CHECKING:
    from os import PathLike

    from scvibridge.models.adapters import Adapter


OWN = "the model"

# Far below what counts can show. Counts are computed correctly down to a thousandth of this.
LEAST_THETA = 1e-6


@dataclass(frozen=True)
class GivenTheta:
    """Inverse dispersions of the model's genes, in the model's order.

    Attributes
    ----------
    table
        One row for all cells or one for each batch of the model, ``(n_rows, n_genes)``; None if a
        calibration found the model's own values to be as good.
    source
        Where they come from, for the provenance.
    """

    table: np.ndarray | None
    source: str

    @property
    def by(self) -> str | None:
        """What they vary by, in scvi-tools' terms; None for the model's own."""
        if self.table is None:
            return None
        return "gene" if len(self.table) == 1 else "gene-batch"


@dataclass(frozen=True)
class GivenThetas:
    """Inverse dispersions of a model's genes and of added genes; None if not given."""

    own: GivenTheta | None
    added: GivenTheta | None = None


def check_dispersion(dispersion: Any, adapter: Adapter) -> GivenThetas:
    """Align inverse dispersions to the model's genes and batches.

    Parameters
    ----------
    dispersion
        None, a :class:`Calibration`, a Series by gene, or a DataFrame of genes by batches. For an
        extended model a table may also include some or all of the added genes, or only these.
    adapter
        The model.

    Raises
    ------
    ValueError
        If the model has no dispersions to replace, genes or batches are missing, or values are not
        finite, or below `LEAST_THETA`.
    TypeError
        If `dispersion` has another type.
    """
    if dispersion is None:
        return GivenThetas(None)
    if isinstance(dispersion, pd.Series | pd.DataFrame):
        return _of_table(dispersion, adapter)
    if hasattr(dispersion, "advice"):
        return _of_calibration(dispersion, adapter)
    raise TypeError(
        "dispersion must be the result of calibration(), a Series of theta by gene or a "
        f"DataFrame of genes by batches, got {type(dispersion).__name__}"
    )


def _of_table(theta: pd.Series | pd.DataFrame, adapter: Adapter) -> GivenThetas:
    table = _as_table(theta)
    added = _of_added(table, adapter, "given")
    if added is not None and not table.index.isin(adapter.own.genes).any():
        return GivenThetas(None, added)
    _replaceable(adapter.own)
    return GivenThetas(GivenTheta(_aligned(table, adapter.own), "given"), added)


def _of_calibration(found: Any, adapter: Adapter) -> GivenThetas:
    model = found.settings.get("model")
    if model is not None and model != digest_of_weights(adapter.own.module):
        raise ValueError(
            "dispersion is the calibration of another model: pass calibration(model) of this model"
        )
    if adapter.added is None:
        _replaceable(adapter)
    own = GivenTheta(None, f"{OWN} (as recommended by the calibration)")
    if found.theta is not None:
        own = GivenTheta(_aligned(_as_table(found.theta), adapter.own), "calibration")
    if found.added is None or found.added.theta is None:
        return GivenThetas(own)
    return GivenThetas(own, _of_added(_as_table(found.added.theta), adapter, "calibration"))


def _as_table(theta: pd.Series | pd.DataFrame) -> pd.DataFrame:
    table = theta
    if isinstance(theta, pd.Series):
        table = theta.to_frame("theta") if theta.name is None else theta.to_frame()
    table = table.set_axis(table.index.astype(str), axis=0)
    check_unique(table.index, "gene", "remove the duplicates from the index of dispersion")
    return table


def advised(found: Any) -> pd.Series | pd.DataFrame | None:
    """Return the inverse dispersions that a calibration recommends, in one table, or None."""
    parts = [found.theta, None if found.added is None else found.added.theta]
    given = [theta for theta in parts if theta is not None]
    columns = next((theta.columns for theta in given if isinstance(theta, pd.DataFrame)), None)
    if columns is not None:
        given = [
            pd.DataFrame(dict.fromkeys(columns, theta)) if isinstance(theta, pd.Series) else theta
            for theta in given
        ]
    return pd.concat(given) if given else None


def _replaceable(adapter: Adapter) -> np.ndarray:
    """Return the model's own dispersions; raise an error if it has none that can be replaced."""
    if adapter.gene_likelihood == "poisson":
        raise ValueError("dispersion: a Poisson model has no dispersions")
    fitted = adapter.fitted_theta()
    if adapter.dispersion == "gene-cell" or fitted is None:
        raise ValueError(
            "dispersion: this model was trained with dispersion='gene-cell', where the decoder "
            "computes a value for each cell and gene; these cannot be replaced by values for genes"
        )
    return fitted


def _aligned(theta: pd.DataFrame, adapter: Adapter) -> np.ndarray:
    rows = theta.index.get_indexer(adapter.genes)
    missing = adapter.genes[rows < 0]
    if len(missing):
        raise ValueError(
            f"dispersion lacks {len(missing)} of the model's {len(adapter.genes)} genes: "
            f"{shorten(missing)}. Its index must contain the names of the genes"
        )
    return _values(theta.iloc[rows], adapter)


def _of_added(theta: pd.DataFrame, adapter: Adapter, source: str) -> GivenTheta | None:
    """Return the dispersions of added genes; genes that the table does not name keep theirs."""
    if adapter.added is None:
        return None
    head = adapter.added.adapter
    rows = theta.index.get_indexer(head.genes)
    named = rows >= 0
    if not named.any():
        return None
    fitted = _replaceable(head)
    values = _values(theta.iloc[rows[named]], head)
    table = np.repeat(fitted, len(values), axis=0) if len(fitted) == 1 else fitted
    table[:, named] = values
    return GivenTheta(table, source)


def _values(theta: pd.DataFrame, adapter: Adapter) -> np.ndarray:
    """Return the values of some genes, one row for all cells or one for each batch."""
    columns = _columns(theta, adapter)
    given = theta.iloc[:, columns]
    if any(pd.api.types.is_bool_dtype(dtype) for dtype in given.dtypes):
        raise ValueError("dispersion contains True and False instead of numbers")
    values = given.apply(pd.to_numeric, errors="coerce")
    table = np.ascontiguousarray(values.to_numpy(dtype=float).T)
    wrong = ~(np.isfinite(table) & (table > 0)).all(axis=0)
    if wrong.any():
        raise ValueError(
            "dispersion must contain inverse dispersions (theta), which are positive and finite; "
            f"the values for {shorten(theta.index[wrong])} are not"
        )
    tiny = (table < LEAST_THETA).any(axis=0)
    if tiny.any():
        raise ValueError(
            f"dispersion has inverse dispersions (theta) below {LEAST_THETA:g}, for "
            f"{shorten(theta.index[tiny])}: the variance is mean + mean^2 / theta. If these are "
            "dispersions, pass their reciprocals"
        )
    return table


def _columns(theta: pd.DataFrame, adapter: Adapter) -> list[int]:
    """Return the positions of the columns: the only one, or one for each batch of the model."""
    names = pd.Index(spelled(theta.columns))
    batches = spelled(adapter.model_batches)
    if len(names) == 1 and (names[0] not in batches or len(batches) == 1):
        return [0]
    check_unique(names, "batch", "remove the duplicates from the columns of dispersion")
    unknown = [name for name in names if name not in batches]
    if unknown:
        raise ValueError(
            f"dispersion has a column {unknown[0]!r}, which is not a batch of the model "
            f"({list_names(batches)}){suggest(unknown[0], batches)}"
        )
    missing = [batch for batch in batches if batch not in names]
    if missing:
        raise ValueError(
            f"dispersion has no column for {list_names(missing)}: pass one column for each batch "
            "of the model, or a single column for all that is not named after a batch"
        )
    return [int(position) for position in names.get_indexer(pd.Index(batches))]


def read_dispersion(path: str | PathLike[str]) -> pd.DataFrame:
    """Read dispersions from a CSV file: names of genes, and one column for all or one per batch.

    Raises
    ------
    ValueError
        If the file cannot be read as such a table.
    """
    try:
        # Mark names, so that "NA" and "007" are not read as a missing value and a number. Without
        # the mark, pandas 3.1 finds missing values in converted text as well.
        table = pd.read_csv(path, converters={0: "={}".format})
        if isinstance(table.index, pd.RangeIndex):  # otherwise the names have no header
            table = table.set_index(table.columns[0])
    except (OSError, ValueError) as error:
        raise ValueError(f"dispersion: {path} could not be read as a CSV table: {error}") from error
    if table.shape[1] == 0:
        raise ValueError(f"dispersion: {path} has no column besides the names of the genes")
    table.index = table.index.astype(str).str.removeprefix("=").map(from_csv_cell)
    table.columns = table.columns.map(from_csv_cell)
    return table
