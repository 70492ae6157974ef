"""Plan which effects missed by the decoder can be estimated, and from which samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scvibridge.correction.residual_statistics import Design

if TYPE_CHECKING:
    from scvibridge.correction.residual_statistics import Contrast


@dataclass(frozen=True)
class ResidualEffect:
    """A residual effect that can be estimated, for a batch or a label in a batch.

    Attributes
    ----------
    batch, label
        Codes; the label is -1 for the batch itself.
    contrast
        How it is estimated from the samples.
    """

    batch: int
    label: int
    contrast: Contrast


@dataclass(frozen=True)
class ResidualPlan:
    """The effects of batches and labels that can be estimated from samples.

    Attributes
    ----------
    targets
        Codes of the target batches.
    unit
        Unit (a label of a sample in a batch) of each group of cells, shape ``(n_groups,)``; -1 for
        groups that are left out. The conditions of a sample are averaged.
    label, sample
        Label of each unit, and the row of its sample in the common design, shape ``(n_units,)``.
    common
        The design of the samples of all batches.
    of_labels
        For each label, the positions of its units and their design.
    effects
        Effects of batches, followed by those of labels.
    """

    targets: list[int]
    unit: np.ndarray
    label: np.ndarray
    sample: np.ndarray
    common: Design
    of_labels: dict[int, tuple[np.ndarray, Design]]
    effects: tuple[ResidualEffect, ...]

    @staticmethod
    def of(
        keys: np.ndarray,
        targets: list[int],
        *,
        has_labels: bool,
        by_label: bool,
        most_correlated: float,
    ) -> ResidualPlan:
        """Determine which effects can be estimated.

        Parameters
        ----------
        keys
            Codes of batch, label, condition and sample of the groups of cells, ``(4, n_groups)``.
        targets
            Codes of the target batches.
        has_labels
            Whether labels are used. Cells without a label are then left out.
        by_label
            Whether to estimate effects of labels, in addition to those of batches.
        most_correlated
            Largest allowed correlation of a batch with the conditions among the samples.
        """
        used = (keys[2] >= 0) | ~(keys[2] >= 0).any()
        if has_labels:
            used &= keys[1] >= 0
        units, place = np.unique(keys[[0, 1, 3]][:, used], axis=1, return_inverse=True)
        place = place.ravel()
        unit = np.full(keys.shape[1], -1)
        unit[used] = place
        conditions = np.unique(keys[2, used])
        shares = average_rows(keys[2, used, None] == conditions, place, units.shape[1])
        adjusted = np.concatenate([shares[:, 1:], _blocks(units)], axis=1)
        samples, sample = np.unique(units[[0, 2]], axis=1, return_inverse=True)
        sample = sample.ravel()
        common = Design.of(samples[0], average_rows(adjusted, sample, samples.shape[1]))
        of_labels = {}
        for label in np.unique(units[1]).tolist() if by_label else []:
            members = np.flatnonzero(units[1] == label)
            of_labels[label] = (members, Design.of(units[0, members], adjusted[members]))
        designs = [(-1, common), *((label, design) for label, (_, design) in of_labels.items())]
        effects = tuple(
            ResidualEffect(batch, label, contrast)
            for label, design in designs
            for batch in np.unique(design.batch).tolist()
            if targets != [batch]
            and (contrast := design.contrast(batch, targets)) is not None
            and contrast.correlation <= most_correlated
        )
        return ResidualPlan(targets, unit, units[1], sample, common, of_labels, effects)

    @property
    def batches(self) -> list[int]:
        """Codes of the batches that have a residual effect."""
        return [effect.batch for effect in self.effects if effect.label < 0]

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.common.batch)


def _blocks(units: np.ndarray) -> np.ndarray:
    """Return indicators of the samples if each occurs in several batches, otherwise no columns.

    With the indicators, batches are compared within samples.
    """
    pairs = np.unique(units[[0, 2]], axis=1)
    samples, n_batches = np.unique(pairs[1], return_counts=True)
    if n_batches.min(initial=2) < 2:
        samples = samples[:0]
    return (units[2][:, None] == samples).astype(float)


def average_rows(values: np.ndarray, place: np.ndarray, n_places: int) -> np.ndarray:
    """Average the rows that have the same place."""
    sums = np.zeros((n_places, values.shape[1]))
    np.add.at(sums, place, values)
    return np.asarray(sums / np.bincount(place, minlength=n_places)[:, None])
