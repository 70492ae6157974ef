"""Rank batches as targets of a correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scvibridge._utils import user_warnings
from scvibridge._utils.arguments import check_types
from scvibridge._utils.progress import track
from scvibridge._utils.spelling import join, spelled
from scvibridge.correction import matching
from scvibridge.correction.batch_effects import MIN_GROUP_CELLS
from scvibridge.correction.request import check_request
from scvibridge.correction.support import tables
from scvibridge.correction.support.neighbours import sample_cells
from scvibridge.correction.support.scores import fit_neighbours, score
from scvibridge.diagnostics.batch_support import latents_alone
from scvibridge.expression.records import Running
from scvibridge.models.adapters import Target, adapter_for
from scvibridge.models.detection import MIN_DETECTED_CELLS
from scvibridge.models.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from anndata import AnnData

    from scvibridge.correction.records import Request


def choose_batch(
    model: Any,
    adata: AnnData | str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    labels_key: str | None = None,
    condition_key: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Rank the batches as targets of a correction by how many cells of the others they support.

    Parameters
    ----------
    model
        A trained scvi-tools model of a supported class.
    adata
        Cells to rank by: an AnnData, a path (h5ad, zarr) or a list of paths. The model's data if
        None.
    labels_key
        Column of ``obs`` with cell types, to count those that each batch supports.
    condition_key
        Column of ``obs`` with the condition of interest, to list the conditions that each batch
        lacks.
    batch_size
        Number of cells in a minibatch.
    device
        Device to run the model on: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    progress
        Whether to show progress on standard error.

    Returns
    -------
    pandas.DataFrame
        One row per batch, the best target first. ``supported``: share of the cells of other batches
        that it supports (NaN if it has too few cells; such batches come last); with labels,
        ``labels_supported``, ``labels_missing``, ``worst_label`` and ``worst_supported``; with
        conditions, ``conditions_missing``; ``n_cells``, ``median_depth`` (of its cells) and
        ``genes_detected`` (in 5 cells or more), NaN without counts.

    Raises
    ------
    ValueError
        If the model has only one batch, the data do not match it, or an argument is out of range.
    TypeError
        If the model's class is not supported, or an argument has the wrong type.

    Warns
    -----
    UserWarning
        If no batch is a good target because the model has not mixed the batches.

    Notes
    -----
    Batches are ranked by the share of supported cells in per cent, then by the number of supported
    labels, then by the number of cells times their median depth. Support is computed as in
    :func:`batch_support`; with more than 20,000 cells, about that many are used.

    Examples
    --------
    >>> scvibridge.choose_batch(model, labels_key="cell_type")  # doctest: +SKIP
    """
    check_types(choose_batch, locals())
    adapter = adapter_for(model)
    if len(adapter.batches) < 2:
        raise ValueError("the model has a single batch: there is nothing to choose")
    request = check_request(
        adapter,
        latents_alone(labels_key, condition_key),
        Running.of(adapter, batch_size, device, progress),
        adata=adata,
        transform_batch=list(adapter.batches),
    )
    return _Candidates(request).ranked()


class _Candidates:
    """The batches as targets, compared on one encoding of the cells."""

    def __init__(self, request: Request) -> None:
        self._request, self._data = request, request.data
        self._batches = request.adapter.batches
        self._labels, self._label_names = _codes(request, "labels_key")
        self._condition = _codes(request, "condition_key")
        # The cells to compare on: each batch is represented in proportion to its size.
        strata = np.zeros(self._data.n_cells, dtype=np.int64)
        self._rows, _ = sample_cells(strata, self._data.hashes)
        self._problems: list[str | None] = []

    def ranked(self) -> pd.DataFrame:
        """Compute the support of each batch, and sort by it, best first."""
        request = self._request
        codes = np.unique(self._data.covariates.batch)
        if len(codes) < 2:
            raise ValueError("the data have cells of a single batch: there is nothing to choose")
        with request.adapter.on_device(request.running.device):
            encoder = Encoder(
                request.adapter, self._data, request.running.batch_size, request.running.progress
            )
            encoder.prepare(np.arange(self._data.n_cells))
            rows = [
                self._row(code, encoder)
                for code in track(list(codes), "Comparing batches", request.running.progress)
            ]
        names = pd.Index([self._batches[code] for code in codes], name="batch")
        table = pd.DataFrame(rows, index=names)
        order = _order(table)
        self._warn_where_unmixed(order[0])
        return table.iloc[order]

    def _row(self, code: int, encoder: Encoder) -> dict[str, Any]:
        judged = self._judge(code, encoder)
        self._problems.append(judged.mixing_problem())
        n_unsupported, n_others = judged.unsupported()
        supported = 1 - n_unsupported / max(n_others, 1)
        row: dict[str, Any] = {"supported": supported if judged.can_tell else np.nan}
        if self._labels is not None:
            row |= self._row_of_labels(self._labels, code, judged)
        own = self._data.covariates.batch == code
        conditions, names = self._condition
        if conditions is not None:
            row["conditions_missing"] = _missing(conditions, names, own)
        return {**row, **self._size(code, own)}

    def _warn_where_unmixed(self, first: int) -> None:
        """Warn if the model has not mixed the batches for any target; show the `first` one's."""
        if None not in self._problems:
            user_warnings.warn(
                f"no batch is a good target. For the first one: {self._problems[first]}"
            )

    def _judge(self, code: int, encoder: Encoder) -> tables.Judged:
        data, rows = self._data, self._rows
        adapter = self._request.adapter.with_target(Target([code]))
        neighbours = fit_neighbours(data, adapter, encoder.prepare)
        is_target = adapter.target.holds(data.covariates.batch)
        scores = score(
            neighbours,
            adapter,
            data.hashes[rows],
            encoder.prepare(rows).location,
            is_target[rows],
        )
        n_labels = len(self._label_names)
        return tables.Judged(
            batch=data.covariates.batch[rows],
            in_target=is_target[rows],
            label=None if self._labels is None else self._labels[rows],
            share=scores[:, 0],
            supported=scores[:, -1] > 0,
            can_tell=neighbours.can_tell,
            batch_names=self._batches,
            label_names=self._label_names,
            n_target=tables.count_labels(is_target, self._labels, n_labels),
        )

    def _row_of_labels(
        self, labels: np.ndarray, code: int, judged: tables.Judged
    ) -> dict[str, Any]:
        table = judged.by_label
        table = table[(table["label"] != judged.unlabelled) & (table["n_cells"] > 0)]
        told = table[table["verdict"] != tables.TOO_FEW]
        worst = told.sort_values("unsupported", ascending=False, kind="stable").head(1)
        own = self._data.covariates.batch == code
        return {
            "labels_supported": int((told["verdict"] == tables.SUPPORTED).sum()),
            "labels_missing": _missing(labels, self._label_names, own),
            "worst_label": str(worst["label"].iloc[0]) if len(worst) else "",
            "worst_supported": 1 - float(worst["unsupported"].iloc[0]) if len(worst) else np.nan,
        }

    def _size(self, code: int, own: np.ndarray) -> dict[str, Any]:
        if self._data.counts is None:
            return {"n_cells": int(own.sum()), "median_depth": np.nan, "genes_detected": np.nan}
        summary = self._data.summary
        return {
            "n_cells": int(own.sum()),
            "median_depth": float(np.median(summary.totals[own])),
            "genes_detected": int((summary.detected[code] >= MIN_DETECTED_CELLS).sum()),
        }


def _codes(request: Request, name: str) -> tuple[np.ndarray | None, list[Any]]:
    codes, names = matching.codes_of(request, request.data, name)
    if codes is not None and not names:
        raise ValueError(matching.empty_column(request, name, "the data"))
    return codes, names


def _missing(codes: np.ndarray, names: list[Any], own: np.ndarray) -> str:
    """Return the names of large enough groups of which a batch has no cells."""
    elsewhere = tables.count_labels(~own, codes, len(names))
    here = tables.count_labels(own, codes, len(names))
    lacking = np.flatnonzero((here == 0) & (elsewhere >= MIN_GROUP_CELLS))
    texts = spelled(names)
    return join([texts[code] for code in lacking], ", ")


def _order(table: pd.DataFrame) -> np.ndarray:
    """Return the order of the candidates, best first."""
    keys = [
        -(table["n_cells"] * table["median_depth"].fillna(1.0)).to_numpy(),
        -table.get("labels_supported", pd.Series(0, index=table.index)).to_numpy(),
        -table["supported"].fillna(-1.0).round(2).to_numpy(),
    ]
    return np.lexsort(keys)
