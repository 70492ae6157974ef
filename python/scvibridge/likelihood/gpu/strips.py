"""Input of the backends: a strip of rows, the uniforms of its entries, and error bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from scvibridge.likelihood.parameters import DeviceParameters


PENDING = -1

"""A count that the walk could not decide."""

# A walk multiplies a mass and sums it. Each step adds at most six roundings of 2**-53, and the log
# of the first mass as many times its size. This bounds both, for two walks together.
ROUNDING = 2.0**-50

FEWEST_ROUNDINGS = 16.0

# The mass of 0 may underflow for large means. It is then stored as a multiple of a power of
# 2**-600, which is dropped as the sum grows. Below 2**-465 nothing is compared.
SHRINKAGE = 2.0**-600

LOG_SHRINKAGE = 600.0 * math.log(2.0)

LARGEST_SUM = 2.0**100

SMALLEST_UNIFORM = 2.0**-465


@dataclass(frozen=True)
class Strip:
    """Some consecutive cells of a block, and how to compute their counts.

    Attributes
    ----------
    source
        Parameters of the observed counts; None to sample counts.
    target
        Parameters of the counts to compute.
    cells, genes
        Hashes of their names, int64, shapes (h,) and (G,).
    seed
        Seed in [0, 2**32).
    keep_unchanged
        Whether counts above 0 are kept if source and target have the same parameters.
    """

    source: DeviceParameters | None
    target: DeviceParameters
    cells: Tensor
    genes: Tensor
    seed: int
    keep_unchanged: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of cells and genes."""
        return self.target.shape
