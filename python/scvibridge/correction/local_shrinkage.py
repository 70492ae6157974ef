"""Shrink the deviations of local batch effects by as much as held-out cells show them to be noise.

The method is that of :mod:`shrinkage`. A gene has one share for all its deviations in a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scvibridge.correction.shrinkage import (
    PRIOR_LOG_KAPPA,
    Compared,
    HeldOut,
    KappaTally,
    Source,
    believed,
    held_out_difference,
    sum_held_out,
)

if TYPE_CHECKING:
    from scvibridge.correction.batch_effects import Grouping
    from scvibridge.expression.records import Running
    from scvibridge.models.encoder import Encoder


def estimate_kappa(
    encoder: Encoder,
    grouping: Grouping,
    places: Grouping,
    held_out: np.ndarray,
    shares: np.ndarray,
    log_ratio: np.ndarray,
    running: Running,
) -> float:
    """Estimate kappa, the number of counts at which half of the deviations is kept.

    Parameters
    ----------
    encoder
        Reads the cells.
    grouping
        The groups of all cells by batch and condition.
    places
        The held-out cells by batch and, as labels, the landmark nearest to them; other cells have
        no label.
    held_out
        Positions of cells that the model was not trained on, sorted. May be empty.
    shares
        Their centred memberships, shape ``(n_held_out, n_landmarks)``.
    log_ratio
        Deviations by batch and landmark, ``(n_batches, n_landmarks, n_genes)``.
    running
        Size of minibatches, and progress.

    Notes
    -----
    The held-out cells of a batch near a landmark are compared with those of the target near it. The
    difference of the whole batch is subtracted: it belongs to the effect of the batch.
    """
    if not len(held_out):
        return float(10.0**PRIOR_LOG_KAPPA)
    target = encoder.adapter.target
    sums = sum_held_out(encoder, places, held_out, running)
    batch, place = places.keys[0], places.keys[1]
    is_held_out, in_target = place >= 0, target.holds(places.keys[0])
    information = _information(encoder, grouping, running)
    tally = KappaTally()
    for code in np.unique(batch[is_held_out & target.changes(batch)]):
        own = np.flatnonzero(is_held_out & (batch == code))
        columns = [np.flatnonzero(is_held_out & in_target & (place == p)) for p in place[own]]
        everything = np.flatnonzero(is_held_out & in_target)
        rows = [own, *own[:, None]], [everything, *columns]
        compared = _compared(sums, *rows)
        delta, precision = held_out_difference(compared, compared.over_genes())
        members = [places.group[held_out] == index for index in own]
        means = np.stack([shares[cells].mean(axis=0) for cells in members])
        effect = means @ log_ratio[code]
        told = np.broadcast_to(information[code], effect.shape)
        tally.add(effect, delta[1:] - delta[0], precision[1:], told)
    return tally.kappa()


def share_kept(encoder: Encoder, grouping: Grouping, kappa: float, running: Running) -> np.ndarray:
    """Return the share of the deviations that is kept, shape ``(n_batches, n_genes)``."""
    return believed(_information(encoder, grouping, running), kappa)


def _information(encoder: Encoder, grouping: Grouping, running: Running) -> np.ndarray:
    """Return the information of each gene's counts in a batch and in the target."""
    none = np.empty(0, dtype=np.int64)
    source = Source(encoder, grouping, none, running.batch_size, running.progress)
    parts = [source.seen(genes).information() for genes in source.blocks]
    return np.concatenate(parts, axis=1)


def _compared(
    sums: tuple[np.ndarray, np.ndarray], own: list[np.ndarray], target: list[np.ndarray]
) -> HeldOut:
    """Add up the sums of groups to those of rows and of the target cells they are compared with."""

    def compared(table: np.ndarray) -> Compared:
        return Compared(
            np.stack([table[rows].sum(axis=0) for rows in own]),
            np.stack([table[rows].sum(axis=0) for rows in target]),
        )

    observed, expected = (compared(table) for table in sums)
    return HeldOut(observed, expected)
