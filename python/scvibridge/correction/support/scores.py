"""Score whether the target batch supports the cells of a request, and apply the outcome.

Neighbours are searched among reference cells, if possible from the model's own data. These are
chosen and encoded before any counts are computed; the requested cells are scored block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
import torch

from scvibridge._utils.pools import results_in_order
from scvibridge._utils.progress import track
from scvibridge.correction import matching
from scvibridge.correction.findings import Found, noted
from scvibridge.correction.support import tables
from scvibridge.correction.support.neighbours import TargetNeighbours, sample_cells
from scvibridge.io.blocks import blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.settings import CorrectionSettings
    from scvibridge.models.adapters import Adapter, Latent
    from scvibridge.models.cell_data import CellData
    from scvibridge.models.encoder import Encoder


COLUMN = "obs/support"

# The neighbours of this many cells take some ten megabytes.
_CELLS_AT_A_TIME = 10_000


def is_scored(request: Request, reference: Reference) -> bool:
    """Return whether there are cells outside the target, and target cells to compare them with.

    Raises
    ------
    ValueError
        If unsupported cells are to be masked or dropped, and the target has no cells.
    """
    if len(request.target.codes) == len(request.adapter.batches):
        return False
    has_target = bool(request.target.holds(reference.data.covariates.batch).any())
    if not has_target and request.settings.unsupported != "keep":
        raise ValueError(
            f"unsupported={request.settings.unsupported!r} needs cells of the target batch to "
            "compare with, but the data have none"
        )
    return has_target


def fit_neighbours(
    data: CellData,
    adapter: Adapter,
    encode: Callable[[np.ndarray], Latent],
) -> TargetNeighbours:
    """Choose reference cells and encode them.

    Parameters
    ----------
    data
        The cells to choose from.
    adapter
        The model, with its target. The cells of several target batches are pooled.
    encode
        Returns the latent variables of cells, given their sorted positions.
    """
    target = adapter.target.holds(data.covariates.batch)
    rows, weight = sample_cells(target.astype(np.int64), data.hashes)
    latent = adapter.transform_latent(encode(rows).location)
    # Of equally distant cells, such as those without counts, the first ones are neighbours.
    order = np.argsort(data.hashes[rows])
    rows, weight = rows[order], weight[order]
    return TargetNeighbours(latent[order], data.hashes[rows], weight, target[rows])


def score(
    neighbours: TargetNeighbours,
    adapter: Adapter,
    hashes: np.ndarray,
    location: np.ndarray,
    is_target: np.ndarray,
) -> np.ndarray:
    """Score cells, shape ``(n, 3)``: share, p-value and supported (0 or 1).

    `hashes` are those of their names. The target's own cells are supported by definition.
    """
    scores = neighbours.scores(hashes, adapter.transform_latent(location))
    supported = neighbours.supported(scores) | is_target
    return np.column_stack([scores.share, scores.p_value, supported])


def score_rows(
    request: Request, neighbours: TargetNeighbours, encoder: Encoder, rows: np.ndarray
) -> np.ndarray:
    """Score cells, given their positions in the requested data, all at once; see `score`."""
    latent = encoder.prepare(np.sort(rows))
    place = np.argsort(np.argsort(rows))
    is_target = request.target.holds(request.data.covariates.batch[rows])
    hashes = request.data.hashes[rows]
    task = _Scoring(neighbours, request.adapter, hashes, latent.location[place], is_target)
    cut = blocks(len(rows), 1, _CELLS_AT_A_TIME)
    running, device = request.running, torch.device("cpu")
    found = results_in_order(running.pool, task, cut, device, span=1)
    shown = track(cut, "Comparing cells", running.progress)
    return np.concatenate([scores for _, scores in zip(shown, found, strict=True)])


_Located = tuple[np.ndarray, np.ndarray, np.ndarray]

"""Hashed names and latent means of some cells, and whether they belong to the target."""


@dataclass(frozen=True)
class _Scoring:
    """Task: score cells."""

    neighbours: TargetNeighbours
    adapter: Adapter
    hashes: np.ndarray
    location: np.ndarray
    is_target: np.ndarray

    # A few numbers for each cell.
    reads_here = True

    def without_source(self) -> _Scoring:
        some = self.hashes[:0], self.location[:0], self.is_target[:0]
        return _Scoring(self.neighbours, self.adapter, *some)

    def read(self, block: slice, /) -> _Located:
        return self.hashes[block], self.location[block], self.is_target[block]

    def compute(self, loaded: _Located, /) -> np.ndarray:
        return score(self.neighbours, self.adapter, *loaded)


def judge(
    request: Request, reference: Reference, scores: np.ndarray, can_tell: bool
) -> tables.Judged:
    """Combine the scores of the requested cells with their batches and labels."""
    rows = request.rows
    target = request.target.holds(reference.data.covariates.batch)
    labels, n_target = None, np.array([target.sum()])
    names: list[Any] = []
    if request.settings.labels_key is not None:
        codes, names = matching.column_of(
            request.adapter, request.data.adata, request.settings.labels_key, "labels_key"
        )
        labels = codes[rows]
        n_target = _count_labels(reference, target, names)
    return tables.Judged(
        batch=request.data.covariates.batch[rows],
        in_target=request.target.holds(request.data.covariates.batch[rows]),
        label=labels,
        share=scores[:, 0],
        supported=scores[:, -1].astype(bool),
        can_tell=can_tell,
        batch_names=request.adapter.batches,
        label_names=names,
        n_target=n_target,
    )


def _count_labels(reference: Reference, target: np.ndarray, names: list[Any]) -> np.ndarray:
    """Count the target's cells of each label in the reference."""
    labels = reference.codes("labels_key")
    counted = tables.count_labels(target, labels, len(reference.label_names))
    place = matching.positions_of(names, reference.label_names)[:-1]
    return np.where(place >= 0, np.append(counted, 0)[place], 0)


def report(judged: tables.Judged, settings: CorrectionSettings) -> Found:
    """Return the outcome for the provenance, and warn if many cells are unsupported."""
    found = Found(values=tables.describe(judged))
    if not judged.can_tell:
        found += noted("support: the target has too few cells to determine which cells it supports")
    # Cells that are left out are always reported.
    shares_effects = settings.effect == "label" and settings.unsupported == "keep"
    warning = judged.warning(by_label=shares_effects)
    if warning is None:
        return found
    kept_in_vain = settings.unsupported == "keep" and judged.mixing_problem() is not None
    outcome = "" if kept_in_vain else f". {_OUTCOMES[settings.unsupported]}"
    return found + noted(f"{warning}{outcome}", warn=True)


_OUTCOMES = {
    "keep": "Their counts are kept and flagged; unsupported='mask' or 'drop' removes them",
    "mask": "Their counts were left out (unsupported='mask')",
    "drop": "They were left out (unsupported='drop')",
}


def supported_rows(
    request: Request, reference: Reference, neighbours: TargetNeighbours, encoder: Encoder
) -> tuple[np.ndarray, Found]:
    """Return the positions of the requested cells that are supported, and the outcome.

    Raises
    ------
    ValueError
        If no cell would be left.
    """
    scores = score_rows(request, neighbours, encoder, request.rows)
    judged = judge(request, reference, scores, neighbours.can_tell)
    found = report(judged, request.settings)
    if not judged.supported.any():
        raise ValueError("unsupported='drop' would leave no cells: none of them is supported")
    return request.rows[judged.supported], found


def masked(counts: sp.csr_matrix, keep: np.ndarray) -> sp.csr_matrix:
    """Empty the rows of a canonical CSR matrix where `keep` is False."""
    lengths = np.diff(counts.indptr)
    kept = np.repeat(keep, lengths)
    indptr = np.concatenate([[0], np.cumsum(np.where(keep, lengths, 0))])
    matrix = sp.csr_matrix(counts.shape, dtype=counts.dtype)
    matrix.data, matrix.indices = counts.data[kept], counts.indices[kept]
    matrix.indptr = indptr.astype(counts.indptr.dtype)
    matrix.has_canonical_format = True  # avoids scipy's check of all entries
    return matrix
