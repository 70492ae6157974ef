"""What a batch effect is estimated from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from scvibridge.correction.records import Reference, Request
    from scvibridge.correction.residual_plan import ResidualPlan
    from scvibridge.io.plan import Remember
    from scvibridge.models.encoder import Encoder


@dataclass(frozen=True)
class Basis:
    """What a batch effect is estimated from.

    Attributes
    ----------
    request
        The request, with its settings and its model.
    reference
        The cells to estimate from.
    encoder
        Reads and encodes these cells.
    untouched
        Genes without a batch effect in each batch, shape ``(n_batches, n_genes)``.
    residual_plan
        Effects missed by the decoder that can be estimated from the samples; None for none.
    remember
        Stores what depends on the decoder's floating-point arithmetic, so that a run that is
        resumed on another machine uses the same numbers.
    """

    request: Request
    reference: Reference
    encoder: Encoder
    untouched: np.ndarray
    residual_plan: ResidualPlan | None
    remember: Remember
