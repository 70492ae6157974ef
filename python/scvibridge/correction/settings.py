"""Settings that corrected counts depend on, resolved once from the arguments.

Fields have the names of the arguments. Fingerprint and provenance are derived from them, and tests
check that the command line and R support each one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from scvibridge._utils import arguments
from scvibridge._utils.arguments import LARGEST_WHOLE
from scvibridge.correction import batch_effects
from scvibridge.expression.depth import Depth
from scvibridge.expression.records import UNDESCRIBED
from scvibridge.likelihood.cpu.philox import check_seed

METHODS = ("quantile", "sample")

UNSUPPORTED = ("keep", "mask", "drop")

RESIDUAL = ("never", "auto", "always")


@dataclass(frozen=True)
class CorrectionSettings:
    """Settings of a correction; see :func:`corrected_counts` for its fields."""

    labels_key: str | None
    condition_key: str | None
    sample_key: str | None
    method: str
    effect: str | None
    library_size: Depth
    seed: int
    zero_inflation: bool
    normalized: bool
    unsupported: str
    # The provenance describes it together with the shrunk effects.
    shrinkage: str | float = field(metadata=UNDESCRIBED)
    # The provenance describes it together with the estimates from the samples.
    residual: str = field(metadata=UNDESCRIBED)

    @staticmethod
    def of(
        *,
        method: str = "quantile",
        effect: str | None = None,
        labels_key: str | None = None,
        condition_key: str | None = None,
        sample_key: str | None = None,
        library_size: float | str | None = None,
        zero_inflation: bool = True,
        normalized: bool = False,
        unsupported: str = "keep",
        shrinkage: float | str | None = None,
        residual: str = "never",
        seed: int = 0,
    ) -> CorrectionSettings:
        """Check the arguments and resolve defaults."""
        method = arguments.check_choice(method, METHODS, "method")
        effect = resolve_effect(method, effect, labels_key)
        shrinkage = check_shrinkage(shrinkage, effect)
        if library_size is None:
            library_size = "scaled" if method == "quantile" else "median"
        return CorrectionSettings(
            labels_key=labels_key,
            condition_key=condition_key,
            sample_key=sample_key,
            method=method,
            effect=effect,
            library_size=Depth.of(library_size),
            seed=int(check_seed(seed)),
            zero_inflation=bool(zero_inflation) or method == "quantile",
            normalized=bool(normalized),
            unsupported=arguments.check_choice(unsupported, UNSUPPORTED, "unsupported"),
            shrinkage=shrinkage,
            residual=check_residual(residual, effect, sample_key),
        )

    @property
    def is_quantile(self) -> bool:
        """Whether observed counts are mapped."""
        return self.method == "quantile"

    @property
    def has_groups(self) -> bool:
        """Whether the removed batch effect is estimated on the reference cells."""
        return self.effect in batch_effects.ESTIMATED

    def column(self, argument: str) -> str | None:
        """Return the column of ``obs`` that an argument of :meth:`columns` names."""
        return self.columns()[argument]

    def require_column(self, argument: str) -> str:
        """Return the column that an argument names.

        Raises
        ------
        ValueError
            If the argument was not passed.
        """
        key = self.column(argument)
        if key is None:
            raise ValueError(f"{argument} was not passed")
        return key

    @property
    def columns_of_cells(self) -> tuple[str, ...]:
        """Arguments whose columns the cells to correct need, not only the reference cells."""
        if self.sample_key is not None:
            return tuple(self.columns())
        # Where a cell is among the landmarks of the latent space depends on its condition.
        return ("labels_key", "condition_key") if self.effect == "local" else ("labels_key",)

    def columns(self) -> dict[str, str | None]:
        """Return the columns of ``obs`` by the argument that names them."""
        return {
            "labels_key": self.labels_key,
            "condition_key": self.condition_key,
            "sample_key": self.sample_key,
        }


def resolve_effect(method: str, effect: str | None, labels_key: str | None) -> str | None:
    """Choose the batch effect to remove; None for samples.

    Raises
    ------
    ValueError
        If there is no such effect, labels are missing, or `method` is "sample".
    """
    if effect is not None:
        arguments.check_choice(effect, batch_effects.EFFECTS, "effect")
    if method == "sample":
        if effect is not None:
            raise ValueError(
                "effect requires method='quantile'; method='sample' decodes each cell in the target"
            )
        return None
    if effect == "label" and labels_key is None:
        raise ValueError("effect='label' needs labels_key=, the column of obs with cell types")
    return effect or ("label" if labels_key is not None else "global")


def check_shrinkage(shrinkage: Any, effect: str | None) -> str | float:
    """Check the shrinkage of the effects; it is 0 if there are no group effects.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a number of counts, or there are no effects to shrink.
    """
    applies = effect in batch_effects.ESTIMATED
    if shrinkage is None:
        return batch_effects.AUTO if applies else 0.0
    if not applies and shrinkage != 0:
        raise ValueError(
            "shrinkage requires method='quantile' with effect='label', 'global' or 'local'; other "
            "effects are not shrunk"
        )
    if isinstance(shrinkage, str):
        return arguments.check_choice(shrinkage, (batch_effects.AUTO,), "shrinkage")
    number = isinstance(shrinkage, Real) and not isinstance(shrinkage, bool | np.bool_)
    if not number or not 0 <= shrinkage <= LARGEST_WHOLE:
        raise ValueError(
            f"shrinkage must be 'auto' or a number of counts, 0 or more, got {shrinkage!r}"
        )
    return float(shrinkage)


def check_residual(residual: Any, effect: str | None, sample_key: str | None) -> str:
    """Check when to estimate the effects that the decoder misses from samples.

    Raises
    ------
    ValueError
        If it is not in :data:`RESIDUAL`, or group effects or samples are missing.
    """
    residual = arguments.check_choice(residual, RESIDUAL, "residual")
    if residual == "never":
        return residual
    if effect not in batch_effects.ESTIMATED:
        raise ValueError(
            f"residual={residual!r} requires method='quantile' with effect='label', 'global' or "
            "'local'"
        )
    if sample_key is None:
        raise ValueError(
            f"residual={residual!r} estimates the effects that the decoder misses from samples: "
            "pass their column, sample_key="
        )
    return residual
