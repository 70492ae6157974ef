"""The units that are corrected: batches, values of other covariates, or combinations of both.

A stratum is a combination of the values that are changed: the batch if there is a target batch, and
each categorical covariate that has a target value. Strata replace batches in all later steps
(effects, depth, detection), which therefore need not handle covariates. A continuous covariate has
no strata: it is set to a value when the target is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils.spelling import join, spelled

if TYPE_CHECKING:
    from scvibridge.models.adapters.arrays import Covariates


@dataclass(frozen=True)
class Strata:
    """Combinations of covariate values, each treated as a batch.

    Attributes
    ----------
    names
        Name of each stratum, shape ``(n_strata,)``: the batch's name if only the batch is changed.
    by_batch
        Whether strata include the batch.
    n_batches
        Number of the model's batches.
    columns
        Categorical covariates that strata include.
    sizes
        Number of values of each of these.
    continuous
        Values that continuous covariates are set to, by column; results are averaged over them.
    """

    names: list[Any]
    by_batch: bool
    n_batches: int
    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    continuous: dict[int, tuple[float, ...]]

    @staticmethod
    def of(
        batches: list[Any],
        by_batch: bool,
        categorical: dict[int, tuple[str, list[Any]]],
        continuous: dict[int, tuple[float, ...]],
    ) -> Strata:
        """Build the strata from the values to combine.

        Parameters
        ----------
        batches
            Names of the model's batches.
        by_batch
            Whether the batch is changed.
        categorical
            Name and values of each categorical covariate that is changed, by column.
        continuous
            Values that continuous covariates are set to, by column.
        """
        parts = [spelled(batches)] if by_batch else []
        parts += [
            [f"{key}={value}" for value in spelled(values)] for key, values in categorical.values()
        ]
        names: list[Any] = [join(combined, ", ") for combined in product(*parts)]
        if not parts:
            names = ["all cells"]
        elif by_batch and not categorical:
            names = list(batches)
        return Strata(
            names,
            by_batch,
            len(batches),
            tuple(categorical),
            tuple(len(values) for _, values in categorical.values()),
            continuous,
        )

    @property
    def _shape(self) -> tuple[int, ...]:
        return ((self.n_batches,) if self.by_batch else ()) + self.sizes

    @property
    def batch_of(self) -> np.ndarray:
        """Return the batch of each stratum, if strata include the batch."""
        return np.unravel_index(np.arange(len(self.names)), self._shape)[0]

    def code(self, parts: tuple[int, ...]) -> int:
        """Return the code of a combination of the batch's code, if included, and covariates'."""
        return int(np.ravel_multi_index(parts, self._shape)) if parts else 0

    def codes(self, own: Covariates) -> np.ndarray:
        """Return the stratum of each cell."""
        parts = [own.batch] if self.by_batch else []
        if self.columns:
            categorical = own.require("categorical")
            parts += [categorical[:, column] for column in self.columns]
        if not parts:
            return np.zeros(len(own.batch), dtype=np.int64)
        return np.ravel_multi_index(tuple(parts), self._shape).astype(np.int64)

    def as_if(self, own: Covariates, code: int) -> list[Covariates]:
        """Return covariates as if cells came from a stratum, one set per continuous value."""
        parts = [int(part) for part in np.unravel_index(code, self._shape)] if self._shape else []
        changed = own
        if self.by_batch:
            changed = replace(changed, batch=np.full_like(own.batch, parts.pop(0)))
        if self.columns:
            categorical = own.require("categorical").copy()
            categorical[:, list(self.columns)] = parts
            changed = replace(changed, categorical=categorical)
        return [self._set(changed, values) for values in product(*self.continuous.values())]

    def _set(self, covariates: Covariates, values: tuple[float, ...]) -> Covariates:
        if not values:
            return covariates
        continuous = covariates.require("continuous").copy()
        continuous[:, list(self.continuous)] = values
        return replace(covariates, continuous=continuous)
