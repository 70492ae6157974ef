"""Compute statistics of a result's counts, before and after, in one pass over all cells.

Cells whose rows were emptied on purpose are left out: their values are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from scvibridge._utils.progress import track
from scvibridge.likelihood.cpu.philox import SHUFFLE_STREAM, hash_names, standard_normals
from scvibridge.models.cell_data import reads_of

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.reading import Result


@dataclass(frozen=True)
class CellTally:
    """Total counts and number of genes with counts of each cell, shape ``(n_cells,)``."""

    totals: np.ndarray
    detected: np.ndarray


@dataclass(frozen=True)
class Changes:
    """Differences between raw and corrected counts of each cell, shape ``(n_cells,)``.

    Attributes
    ----------
    changed
        Number of entries that differ between raw and corrected counts.
    seen
        Number of entries above zero in either.
    moved
        Sum of the absolute differences.
    """

    changed: np.ndarray
    seen: np.ndarray
    moved: np.ndarray


@dataclass(frozen=True)
class Sums:
    """Sums over the cells of groups.

    Attributes
    ----------
    counts
        By batch, type and gene, shape ``(n_batches, n_types, n_genes)``.
    squares
        Sums of squared counts by batch and gene, shape ``(n_batches, n_genes)``.
    """

    counts: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True)
class Tallies:
    """Statistics from one pass over all cells.

    Attributes
    ----------
    cells, sums
        For raw and for corrected counts.
    changes
        Between raw and corrected counts.
    sizes
        Number of the compared cells of each batch and type, shape ``(n_batches, n_types)``.
    shuffled
        Sums of the corrected counts after shuffling batches among the cells of each type, so that
        differences between batches are due to chance.
    seen
        Number of these cells of each batch with raw counts of each gene, ``(n_batches, n_genes)``.
    """

    cells: tuple[CellTally, CellTally]
    sums: tuple[Sums, Sums]
    changes: Changes
    sizes: np.ndarray
    shuffled: np.ndarray
    seen: np.ndarray


def tally(result: Result, seed: int, progress: bool) -> Tallies:
    """Compute the statistics in one pass over all cells, block by block."""
    batch, types = result.batch.codes, result.types.codes
    n_batches, n_types = len(result.batch.names), len(result.types.names)
    n_cells, n_genes = result.raw.shape
    groups = np.where(result.kept, types, -1)
    shuffled = shuffle_within(batch, groups, hash_names(result.adata.obs_names), seed)
    cells = tuple(CellTally(np.zeros(n_cells), np.zeros(n_cells)) for _ in range(2))
    sums = tuple(
        Sums(np.zeros((n_batches, n_types, n_genes)), np.zeros((n_batches, n_genes)))
        for _ in range(2)
    )
    chance = np.zeros((n_batches, n_types, n_genes))
    seen = np.zeros((n_batches, n_genes))
    changes = Changes(np.zeros(n_cells), np.zeros(n_cells), np.zeros(n_cells))
    for read in track(reads_of(n_cells, n_genes), "Reading the result", progress):
        kept = result.kept[read]
        rows = read.start + np.flatnonzero(kept)
        blocks = [_counts(reader.read(read)[kept]) for reader in (result.raw, result.corrected)]
        for block, of_cells, of_groups in zip(blocks, cells, sums, strict=True):
            of_cells.totals[rows] = np.asarray(block.sum(axis=1)).ravel()
            of_cells.detected[rows] = np.diff(block.indptr)
            _add(of_groups.counts, block, batch[rows], types[rows])
            squares = block.multiply(block)
            _add(of_groups.squares[:, None], squares, batch[rows], np.zeros_like(batch[rows]))
        _add(seen[:, None], blocks[0] > 0, batch[rows], np.zeros_like(batch[rows]))
        _add(chance, blocks[1], shuffled[rows], types[rows])
        _compare(changes, rows, *blocks)
    sizes = np.zeros((n_batches, n_types), dtype=np.int64)
    np.add.at(sizes, (batch[result.kept], types[result.kept]), 1)
    return Tallies((cells[0], cells[1]), (sums[0], sums[1]), changes, sizes, chance, seen)


def shuffle_within(
    batch: np.ndarray, types: np.ndarray, hashes: np.ndarray, seed: int
) -> np.ndarray:
    """Return the batches of the cells, shuffled among the cells of each type.

    Parameters
    ----------
    batch, types
        Codes of the cells, shape ``(n_cells,)`` each.
    hashes
        Hashed names of the cells: a cell's new batch does not depend on the order of the cells.
    seed
        Seed of the shuffle.
    """
    drawn = standard_normals(hashes, 1, seed, SHUFFLE_STREAM)[:, 0]
    shuffled = np.empty_like(batch)
    shuffled[np.lexsort((hashes, types))] = batch[np.lexsort((drawn, types))]
    return shuffled


def _counts(block: sp.csr_matrix) -> sp.csr_matrix:
    """Return the block as float64 without stored zeros; matrices in memory are not modified."""
    block = sp.csr_matrix(block, dtype=np.float64, copy=True)
    block.sum_duplicates()
    block.eliminate_zeros()
    return block


def _add(sums: np.ndarray, block: sp.csr_matrix, batch: np.ndarray, types: np.ndarray) -> None:
    """Add rows to the sums of their batches and types, shape ``(n_batches, n_types, n_genes)``."""
    if not len(batch):
        return
    n_types = sums.shape[1]
    present, place = np.unique(batch * n_types + types, return_inverse=True)
    ones = np.ones(len(batch))
    members = sp.csr_matrix((ones, (place.ravel(), np.arange(len(batch)))))
    sums[present // n_types, present % n_types] += (members @ block).toarray()


def _compare(
    changes: Changes, rows: np.ndarray, raw: sp.csr_matrix, corrected: sp.csr_matrix
) -> None:
    difference = (corrected - raw).tocsr()
    difference.eliminate_zeros()
    changes.changed[rows] = np.diff(difference.indptr)
    changes.moved[rows] = np.asarray(abs(difference).sum(axis=1)).ravel()
    changes.seen[rows] = np.diff((raw + corrected).tocsr().indptr)
