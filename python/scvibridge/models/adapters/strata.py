"""What is corrected for: the batch, other covariates, or both.

A stratum is a combination of the values that are exchanged: of the batch where a target batch is
given, and of each categorical covariate that is given a value. Strata take the place of batches in
everything that follows (effects, depth, detection), which so need not know of covariates. A
continuous covariate has no strata: it is set to a value while the target is decoded.
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
    """Combinations of values, and what they stand for.

    Attributes
    ----------
    names
        A name of each, shape ``(n_strata,)``: the batch's own name where it stands alone.
    by_batch
        Whether the batch is part of them.
    n_batches
        Number of the model's batches.
    columns
        Which categorical covariates are part of them.
    sizes
        Number of values of each of those.
    continuous
        Values that continuous covariates are set to, by their column; averaged over.
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
        """Combine the values.

        Parameters
        ----------
        batches
            Names of the model's batches.
        by_batch
            Whether the batch is exchanged.
        categorical
            Name and values of each categorical covariate that is exchanged, by its column.
        continuous
            Values that continuous covariates are set to, by their column.
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
        """Batch of each stratum, where the batch is part of them."""
        return np.unravel_index(np.arange(len(self.names)), self._shape)[0]

    def code(self, parts: tuple[int, ...]) -> int:
        """Code of a combination: of the batch's code, if it is part, and the covariates'."""
        return int(np.ravel_multi_index(parts, self._shape)) if parts else 0

    def codes(self, own: Covariates) -> np.ndarray:
        """Stratum of each cell."""
        parts = [own.batch] if self.by_batch else []
        if self.columns:
            assert own.categorical is not None  # noqa: S101 - the model has such
            parts += [own.categorical[:, column] for column in self.columns]
        if not parts:
            return np.zeros(len(own.batch), dtype=np.int64)
        return np.ravel_multi_index(tuple(parts), self._shape).astype(np.int64)

    def as_if(self, own: Covariates, code: int) -> list[Covariates]:
        """Covariates of cells as if they came from a stratum; one for each continuous value."""
        parts = [int(part) for part in np.unravel_index(code, self._shape)] if self._shape else []
        changed = own
        if self.by_batch:
            changed = replace(changed, batch=np.full_like(own.batch, parts.pop(0)))
        if self.columns:
            assert own.categorical is not None  # noqa: S101 - the model has such
            categorical = own.categorical.copy()
            categorical[:, list(self.columns)] = parts
            changed = replace(changed, categorical=categorical)
        return [self._set(changed, values) for values in product(*self.continuous.values())]

    def _set(self, covariates: Covariates, values: tuple[float, ...]) -> Covariates:
        if not values:
            return covariates
        assert covariates.continuous is not None  # noqa: S101 - the model has such
        continuous = covariates.continuous.copy()
        continuous[:, list(self.continuous)] = values
        return replace(covariates, continuous=continuous)
