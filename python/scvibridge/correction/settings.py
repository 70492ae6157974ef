"""Settings that corrected counts depend on, resolved once from the arguments.

The names of the fields are those of the arguments. What identifies a run and what its provenance
shows are derived from them, and tests check that the command line and R know each.
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
    normalized: bool = field(metadata=UNDESCRIBED)
    unsupported: str
    # Described with the effects that are shrunk.
    shrinkage: str | float = field(metadata=UNDESCRIBED)
    # Described with what the samples show.
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
        """Check the arguments of these names, and choose what is left to the defaults."""
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
        """Whether the cells' own counts are mapped."""
        return self.method == "quantile"

    @property
    def has_groups(self) -> bool:
        """Whether the batch effect that is removed is that of groups of cells."""
        return self.effect in ("label", "global")

    def column(self, argument: str) -> str | None:
        """Return the column of ``obs`` that an argument names, of those in :meth:`columns`."""
        return self.columns()[argument]

    def columns(self) -> dict[str, str | None]:
        """Return the columns of ``obs`` by the arguments that name them."""
        return {
            "labels_key": self.labels_key,
            "condition_key": self.condition_key,
            "sample_key": self.sample_key,
        }


def resolve_effect(method: str, effect: str | None, labels_key: str | None) -> str | None:
    """Choose the batch effect that is removed; None for samples.

    Raises
    ------
    ValueError
        If there is no such effect, it needs labels, or it is asked of samples.
    """
    if effect is not None:
        arguments.check_choice(effect, batch_effects.EFFECTS, "effect")
    if method == "sample":
        if effect is not None:
            raise ValueError(
                "effect belongs to method='quantile'; a sample takes the cell's own likeness"
            )
        return None
    if effect == "label" and labels_key is None:
        raise ValueError("effect='label' needs labels_key=, the column of obs with cell types")
    return effect or ("label" if labels_key is not None else "global")


def check_shrinkage(shrinkage: Any, effect: str | None) -> str | float:
    """Check the shrinkage of the effects; 0 if there are no group effects.

    Raises
    ------
    ValueError
        If it is neither "auto" nor a number of counts, or there is nothing to shrink.
    """
    applies = effect in ("label", "global")
    if shrinkage is None:
        return batch_effects.AUTO if applies else 0.0
    if not applies and shrinkage != 0:
        raise ValueError(
            "shrinkage belongs to method='quantile' with effect='label' or 'global': a cell's own "
            "effect is taken as it is"
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
    """Check when effects that the decoder misses are estimated from samples.

    Raises
    ------
    ValueError
        If it is none of :data:`RESIDUAL`, or asks for estimates without group effects or samples.
    """
    residual = arguments.check_choice(residual, RESIDUAL, "residual")
    if residual == "never":
        return residual
    if effect not in ("label", "global"):
        raise ValueError(
            f"residual={residual!r} belongs to method='quantile' with effect='label' or 'global'"
        )
    if sample_key is None:
        raise ValueError(
            f"residual={residual!r} estimates what the decoder misses from samples: name their "
            "column, sample_key="
        )
    return residual
