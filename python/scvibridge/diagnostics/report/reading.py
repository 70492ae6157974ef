"""Open and check a corrected-counts result for a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvibridge._utils.arguments import column_codes
from scvibridge._utils.spelling import spelled
from scvibridge._utils.values_as_text import as_missing
from scvibridge._utils.wording import printable
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.confounding import check_confounding
from scvibridge.correction.findings import UNCHECKED
from scvibridge.expression.results import LATENT_KEY
from scvibridge.io.backed import as_data_frame, open_anndata
from scvibridge.io.h5ad import PROVENANCE_KEY
from scvibridge.io.paths import check_input
from scvibridge.io.raw_counts import RAW_LAYER
from scvibridge.io.row_reader import RowReader, with_rows
from scvibridge.io.sparse_files import check_given
from scvibridge.io.unchanged import check_unchanged, kind_of_result, stored_normalized
from scvibridge.models import cell_sampling
from scvibridge.models.detection import MIN_DETECTED_CELLS

if TYPE_CHECKING:
    from pathlib import Path

    from scipy.sparse import csr_matrix


MOST_CELLS = 3000  # for layouts and distances; all other figures use all cells

MISSING = "(missing)"

ALL_CELLS = "(all cells)"

NORMALIZED_LAYER = "normalized"

# Name of the column that scvi-tools adds if no batch column was passed.
_MADE_BY_SCVI = "_scvi_"


@dataclass(frozen=True)
class Groups:
    """A column of ``obs``: names of groups and the group of each cell.

    Attributes
    ----------
    key
        Name of the column; None if there is no column and all cells are one group.
    names
        Names of the groups, as text, in the order in which they are shown.
    codes
        Position of each cell's group among the names, shape ``(n_cells,)``.
    """

    key: str | None
    names: list[str]
    codes: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of cells of each group."""
        return np.bincount(self.codes, minlength=len(self.names))

    @property
    def is_known(self) -> np.ndarray:
        """Whether each name is that of a group, not of missing values."""
        return np.array([name != MISSING for name in self.names])

    def of(self, rows: np.ndarray) -> pd.Series:
        """Return the names of some cells' groups."""
        return pd.Series(np.array(self.names, dtype=object)[self.codes[rows]])


@dataclass(frozen=True)
class Result:
    """A result of corrected counts.

    Attributes
    ----------
    adata
        The AnnData that was passed or opened from `path`. Its matrices may be on disk.
    path
        The file, or None.
    provenance
        ``uns["scvibridge"]``.
    raw, corrected
        The counts, read by rows.
    batch
        Batches, the targets first.
    labels, condition
        Cell types, the largest first, and conditions; None without such a column.
    targets
        Names of the target batches.
    kept
        Whether each cell is compared, shape ``(n_cells,)``: all except those whose rows were
        emptied because they have no support.
    chosen
        Positions of the cells used for layouts, at most `MOST_CELLS` of the compared ones.
    """

    adata: AnnData
    path: Path | None
    provenance: dict[str, Any]
    raw: RowReader
    corrected: RowReader
    batch: Groups
    labels: Groups | None
    condition: Groups | None
    targets: list[str]
    kept: np.ndarray
    chosen: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.adata.n_obs)

    @property
    def genes(self) -> list[str]:
        """Names of the genes, as text."""
        return [str(name) for name in self.adata.var_names]

    @property
    def types(self) -> Groups:
        """Labels, or all cells as one group."""
        return self.labels or Groups(None, [ALL_CELLS], np.zeros(self.n_cells, dtype=np.int64))

    def flag(self, name: str) -> np.ndarray | None:
        """Return one of scvibridge's columns of ``obs``, or None."""
        return _flag(self.adata, name)

    @property
    def has_normalized(self) -> bool:
        """Whether the call that computed the counts also stored normalized expression.

        A result that R merged from several calls records the others under ``others``: their
        normalized expression may have another target. A layer of that name that the call did not
        store is the user's own.
        """
        if not stored_normalized(self.provenance):
            return False
        others = self.provenance.get("others")
        is_of_other = isinstance(others, Mapping) and NORMALIZED_LAYER in others
        return NORMALIZED_LAYER in self.adata.layers and not is_of_other

    @property
    def left_alone(self) -> np.ndarray:
        """Genes without enough cells in some batch, shape ``(n_genes,)``."""
        column = "scvibridge_low_detection"
        if column not in self.adata.var:
            return np.zeros(self.adata.n_vars, dtype=bool)
        return np.asarray(self.adata.var[column], dtype=bool)

    def depth_only(self, batch: str) -> np.ndarray:
        """Genes of which only depth was corrected in a batch, shape ``(n_genes,)``.

        They are detected in too few cells of the batch or of the target; if the result does not
        say in how many, of some batch.
        """
        names = [str(name) for name in np.atleast_1d(self.provenance.get("batches", []))]
        detected = self.adata.varm.get("scvibridge_detection")
        if detected is None or batch not in names or np.shape(detected)[1] != len(names):
            return self.left_alone
        counts = np.asarray(detected)
        in_target = counts[:, np.isin(names, self.targets)].sum(axis=1)
        least = np.minimum(counts[:, names.index(batch)], in_target)
        return np.asarray(least < MIN_DETECTED_CELLS)

    @property
    def confounding(self) -> str:
        """Whether batch and condition can be separated, as checked for the result.

        If this was not checked, it is checked on these cells, provided there are conditions now.
        """
        known = str(self.provenance.get("confounding", UNCHECKED))
        if known != UNCHECKED or self.condition is None or len(self.batch.names) < 2:
            return known
        is_known = self.condition.is_known[self.condition.codes]
        condition = np.where(is_known, self.condition.codes, -1)
        labels = None
        if self.labels is not None:
            labels = np.where(self.labels.is_known[self.labels.codes], self.labels.codes, -1)
        names = {
            "batch": self.batch.names,
            "condition": self.condition.names,
            "label": [] if self.labels is None else self.labels.names,
        }
        return check_confounding(self.batch.codes, condition, labels, names, MIN_GROUP_CELLS).status

    @cached_property
    def counts_of_chosen(self) -> tuple[csr_matrix, csr_matrix]:
        """Raw and corrected counts of the chosen cells; not to be changed."""
        return self.raw.read(self.chosen), self.corrected.read(self.chosen)

    def latent_of_chosen(self) -> np.ndarray | None:
        """Return latent means of the chosen cells, or None."""
        if LATENT_KEY not in self.adata.obsm:
            return None
        return np.asarray(self.adata.obsm[LATENT_KEY])[self.chosen]


def open_result(
    result: Any, labels_key: str | None = None, condition_key: str | None = None
) -> Result:
    """Open a corrected-counts result and check it.

    Parameters
    ----------
    result
        AnnData, or the path of an h5ad file or a zarr folder, whose matrices stay on disk.
    labels_key, condition_key
        Columns of ``obs``; by default those used to compute the result, if it still has them.

    Raises
    ------
    TypeError
        If it is neither an AnnData nor a path.
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If it is not a corrected-counts result, lacks the raw counts, or has no such column.
    """
    adata, path = _open(result)
    provenance = _provenance(adata)
    if RAW_LAYER not in adata.layers or adata.X is None:
        raise ValueError(
            f"the result lacks {'layers[' + repr(RAW_LAYER) + ']' if adata.X is not None else 'X'}:"
            " a report compares the raw counts with the corrected ones"
        )
    if 0 in adata.shape:
        raise ValueError(f"the result has {adata.n_obs} cells and {adata.n_vars} genes")
    check_unchanged(adata)
    targets = [
        str(name)
        for name in np.atleast_1d(provenance.get("targets", provenance.get("transform_batch", [])))
    ]
    kept, batch = _kept(adata, provenance), _batches(adata, provenance, targets)
    labels = _column(adata, labels_key, provenance, "labels_key")
    if labels is not None and labels.key == batch.key:
        raise ValueError(f"labels_key={labels.key!r} is the batch: pass the column with cell types")
    return Result(
        adata=adata,
        path=path,
        provenance=provenance,
        raw=RowReader(with_rows(adata.layers[RAW_LAYER])),
        corrected=RowReader(with_rows(adata.X)),
        batch=batch,
        labels=labels,
        condition=_column(adata, condition_key, provenance, "condition_key"),
        targets=targets,
        kept=kept,
        chosen=np.flatnonzero(kept)[choose_cells(adata.obs_names[kept])],
    )


def choose_cells(names: pd.Index, most: int | None = None) -> np.ndarray:
    """Return the sorted positions of at most `most` cells: those with the smallest name hashes.

    The choice does not depend on the order of the cells.
    """
    most = MOST_CELLS if most is None else most
    return cell_sampling.choose_cells(names, np.arange(len(names)), most)


def _flag(adata: AnnData, name: str) -> np.ndarray | None:
    column = f"scvibridge_{name}"
    return np.asarray(adata.obs[column]) if column in adata.obs else None


def _kept(adata: AnnData, provenance: dict[str, Any]) -> np.ndarray:
    supported = _flag(adata, "supported")
    if provenance.get("unsupported") != "mask" or supported is None:
        return np.ones(adata.n_obs, dtype=bool)
    return supported.astype(bool)


def _open(result: Any) -> tuple[AnnData, Path | None]:
    if isinstance(result, AnnData):
        check_given(result)
        if isinstance(result.obs, pd.DataFrame):
            return result, None
        layers = {name: values for name, values in result.layers.items() if name is not None}
        tables = {"obs": as_data_frame(result.obs), "var": as_data_frame(result.var)}
        return AnnData(result.X, layers=layers, uns=dict(result.uns), **tables), None
    if not isinstance(result, str | PathLike):
        raise TypeError(
            f"result must be an AnnData from corrected_counts or its path, not {result!r:.60}"
        )
    if str(result).lower().endswith(".h5"):
        raise ValueError(
            f"result={str(result)!r}: a 10x .h5 file has only the corrected counts and no raw "
            "counts to compare them with; use a result in .h5ad or .zarr"
        )
    path = check_input(result, "result")
    return open_anndata(path), path


def _provenance(adata: AnnData) -> dict[str, Any]:
    kind = kind_of_result(adata)
    if kind != "corrected_counts":
        raise ValueError(
            f"a report needs a result of corrected_counts; this is a result of {printable(kind)}"
        )
    return dict(adata.uns[PROVENANCE_KEY])


def _batches(adata: AnnData, provenance: dict[str, Any], targets: list[str]) -> Groups:
    key = provenance.get("strata_key", provenance.get("batch_key"))
    known = [str(name) for name in np.atleast_1d(provenance.get("batches", []))]
    if key is None or (str(key).startswith(_MADE_BY_SCVI) and key not in adata.obs):
        names = known[:1] or [ALL_CELLS]
        return Groups(None, names, np.zeros(adata.n_obs, dtype=np.int64))
    found = _read_column(adata, str(key), "batch_key")
    first = [name for name in (*targets, *known) if name in found.names]
    return _reordered(found, list(dict.fromkeys([*first, *found.names])))


def _column(
    adata: AnnData, given: str | None, provenance: dict[str, Any], argument: str
) -> Groups | None:
    key = given if given is not None else provenance.get(argument)
    if key is None or (given is None and key not in adata.obs):
        return None
    unlabelled = provenance.get("unlabeled_category") if argument == "labels_key" else None
    found = _read_column(adata, str(key), argument, unlabelled)
    by_size = np.argsort(-found.sizes, kind="stable")
    order = [found.names[i] for i in by_size if found.names[i] != MISSING]
    return _reordered(found, order + [MISSING] * (MISSING in found.names))


def _read_column(adata: AnnData, key: str, argument: str, missing: Any = None) -> Groups:
    """Read a column; cells with the value `missing` have none."""
    codes, categories = column_codes(adata, key, argument)
    if missing is not None:
        codes, categories = as_missing(codes, categories, missing)
    names = [repr(name) if name == MISSING else name for name in spelled(categories)]
    texts = sorted(names)
    place = {name: position for position, name in enumerate(texts)}
    codes = np.array([*(place[name] for name in names), -1])[codes]
    if (codes < 0).any():
        if MISSING not in texts:
            texts.append(MISSING)
        codes = np.where(codes < 0, texts.index(MISSING), codes)
    return Groups(key, texts, codes)


def _reordered(groups: Groups, order: list[str]) -> Groups:
    """Return groups with their names in another order; targets without cells are left out."""
    place = {name: number for number, name in enumerate(order)}
    translated = np.array([place[name] for name in groups.names])
    return Groups(groups.key, order, translated[groups.codes])
