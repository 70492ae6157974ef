"""A request for corrected counts, and the cells that it is estimated from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scvibridge._utils.wording import printable
from scvibridge.correction import batch_effects

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from scvibridge.correction.given_dispersion import GivenTheta
    from scvibridge.correction.residual_plan import ResidualPlan
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.cell_data import CellData


@dataclass
class Request:
    """A checked request for corrected counts; see :func:`corrected_counts` for its fields."""

    adapter: Adapter
    data: CellData
    rows: np.ndarray
    genes: np.ndarray | None
    targets: list[int]
    method: str
    effect: str | None
    labels_key: str | None
    condition_key: str | None
    library_size: str | float
    zero_inflation: bool
    normalized: bool
    seed: int
    batch_size: int | None
    device: str
    out: Path | None
    resume: bool
    progress: bool
    overwrite: bool = False
    sample_key: str | None = None
    dispersion: GivenTheta | None = None
    # Of genes that were added to the model.
    added_dispersion: GivenTheta | None = None
    # What was asked for where other covariates than the batch are changed; empty where none is.
    transformed: dict[str, Any] = field(default_factory=dict)
    # Counts at which half of a batch effect is believed, or "auto".
    shrinkage: str | float | np.ndarray = batch_effects.AUTO
    # What the provenance says of it, once the effects are estimated.
    shrunk: dict[str, Any] = field(default_factory=dict)
    # Whether effects that the decoder misses are estimated from samples: True, False or "auto".
    residual: str | bool = False
    # Which of them the samples allow to estimate; None for none.
    residual_plan: ResidualPlan | None = None
    # What the provenance says of them.
    residual_found: dict[str, Any] = field(default_factory=dict)
    unsupported: str = "keep"
    # What the provenance says of support, once the cells are scored.
    support: dict[str, Any] = field(default_factory=dict)
    confounding: str = "not checked"
    # What the provenance says of conditions and batches, once they are checked.
    design: dict[str, Any] = field(default_factory=dict)
    # What the provenance says of what could be corrected.
    corrected: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    # Entries whose parameters do not change keep their count without being computed. The
    # computation gives the same; a test switches the short-cut off to prove it.
    keep_unchanged: bool = True

    def note(self, message: str, *, warn: bool = False) -> None:
        """Keep a message for the provenance, and warn where it matters."""
        message = printable(message)
        self.notes.append(message)
        if warn:
            warnings.warn(message, UserWarning, stacklevel=4)


@dataclass(frozen=True)
class Reference:
    """The cells from which effects and depth are estimated: the model's own where it has them."""

    data: CellData
    is_model_data: bool
    labels: np.ndarray | None
    label_names: list[Any]
    condition: np.ndarray | None
    condition_names: list[Any]
    samples: np.ndarray | None = None
    sample_names: list[Any] = field(default_factory=list)
