"""Assess held-out cells batch by batch, and refit theta on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scvibridge._utils.progress import track
from scvibridge.correction.own_parameters import own_parameters
from scvibridge.diagnostics.calibration import dispersion_fit
from scvibridge.diagnostics.calibration.advice import Gain
from scvibridge.io.blocks import blocks
from scvibridge.models.cell_sampling import choose_cells
from scvibridge.models.held_out import halves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scvibridge.diagnostics.calibration.dispersion_fit import CountBlock, Refitted
    from scvibridge.diagnostics.calibration.goodness_of_fit import BatchFit, GoodnessOfFit
    from scvibridge.models.encoder import Cells, Encoder


# Number of cells, and of entries (cells by genes), whose u are held in memory at once.
_MOST_TOGETHER, _MOST_ENTRIES = 4000, 40_000_000


def rows_by_batch(encoder: Encoder, rows: np.ndarray, most: int) -> list[np.ndarray]:
    """Return the positions of the cells used from each batch."""
    data = encoder.data
    batch = data.covariates.batch[rows]
    return [
        choose_cells(data.names, rows[batch == code], most)
        for code in range(len(encoder.adapter.batches))
    ]


class JudgedCells:
    """The held-out cells that are used, batch by batch, split into two halves."""

    def __init__(
        self, encoder: Encoder, rows: list[np.ndarray], batch_size: int | None, seed: int
    ) -> None:
        self.adapter = encoder.adapter
        self.rows = np.concatenate(rows)
        self.sizes = np.array([len(part) for part in rows])
        self._encoder, self._batch_size = encoder, batch_size
        encoder.prepare(np.sort(self.rows))
        names = encoder.data.names
        self._half = np.concatenate([halves(names[part], seed) for part in rows])

    def together(self) -> list[slice]:
        """Groups of whole batches that are assessed at once, as slices of the cells."""
        most = min(_MOST_TOGETHER, _MOST_ENTRIES // len(self.adapter.genes))
        ends = np.cumsum(self.sizes)
        found, start = [], 0
        for stop, following in zip(ends, [*ends[1:], np.inf], strict=True):
            if following - start > most and stop > start:
                found.append(slice(start, int(stop)))
                start = int(stop)
        return found

    def pieces(self, place: slice) -> list[Cells]:
        """Return encoded cells in blocks."""
        rows = self.rows[place]
        return [self._encoder.cells(rows[block]) for block in self._cut(len(rows))]

    def _cut(self, n_cells: int) -> list[slice]:
        return blocks(n_cells, len(self.adapter.genes), self._batch_size)

    def counted(self) -> Iterator[CountBlock]:
        """Yield counts and means of all cells in blocks; the group is 2 * batch + half."""
        for block in self._cut(len(self.rows)):
            cells = self._encoder.cells(self.rows[block])
            with torch.inference_mode():
                given = own_parameters(self.adapter, cells).numpy()
            logits = given.zi_logits
            yield dispersion_fit.CountBlock(
                cells.require_counts(None),
                given.rate.astype(float) * given.factor[:, None],
                None if logits is None else logits.astype(float),
                2 * cells.covariates.batch + self._half[block],
                self.adapter.theta_rows(cells.covariates),
            )


def judge_batches(
    cells: JudgedCells, judge: GoodnessOfFit, progress: bool
) -> list[BatchFit | None]:
    """Assess each batch; None for a batch without cells."""
    places = cells.together()
    work = [place for place in places for _ in range(judge.n_references)]
    steps = track(work, "Comparing with reference data", progress)
    fits: dict[int, BatchFit] = {}
    for place in places:
        fits |= judge.of_batches(cells.pieces(place), steps)
    for _ in steps:  # exhausts the steps, which ends the progress
        pass
    return [fits.get(code) for code in range(len(cells.sizes))]


# -- theta -------------------------------------------------------------------------------------


def refit_theta(cells: JudgedCells) -> tuple[Refitted | None, list[Gain]]:
    """Refit theta on all cells, and compare it by cross-validation; nothing if it has no theta."""
    adapter = cells.adapter
    own = adapter.theta()
    if own is None:
        return None, []
    n_batches, n_genes = len(adapter.batches), len(adapter.genes)
    curves = dispersion_fit.curves(cells.counted(), 2 * n_batches, n_genes)
    curves = curves.reshape(n_batches, 2, n_genes, -1)
    by_batch = adapter.dispersion == "gene-batch"
    log_own = np.log(own)
    # Each half is assessed with the theta of the other half.
    crossed = [dispersion_fit.refit_levels(curves[:, 1 - h], log_own, by_batch) for h in (0, 1)]
    refitted = dispersion_fit.refit_levels(curves.sum(axis=1), log_own, by_batch)
    return refitted, _gains(cells, own, crossed)


def _gains(cells: JudgedCells, own: np.ndarray, crossed: list[Refitted]) -> list[Gain]:
    """Compute the gains in held-out likelihood between the model's theta and refitted ones."""
    n_batches, n_genes = crossed[0].batch.shape
    gene = np.exp(np.stack([crossed[half].gene for half in (0, 1)] * n_batches))
    batch = np.exp(np.stack([crossed[h].batch[b] for b in range(n_batches) for h in (0, 1)]))
    likelihood = dispersion_fit.cell_log_likelihood
    found = [
        [
            likelihood(block, own, block.own_row),
            likelihood(block, gene, block.group),
            likelihood(block, batch, block.group),
        ]
        for block in cells.counted()
    ]
    of_own, of_gene, of_batch = np.concatenate(found, axis=1)
    gains = [Gain.of("gene", "the model's own", of_gene - of_own, n_genes)]
    if n_batches > 1:
        gains.append(Gain.of("gene-batch", "gene", of_batch - of_gene, n_genes))
        gains.append(Gain.of("gene-batch", "the model's own", of_batch - of_own, n_genes))
    return gains
