"""What a drawing backend is given: a strip of rows, the uniforms of its entries, how sure to be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from scvibridge.likelihood.gpu.parameters import DeviceParameters


PENDING = -1

"""A count that the walk has not decided."""

# A walk multiplies a mass and adds it up. Each step errs by at most six roundings of 2**-53, the
# logarithm of the first mass by as many times its size: this bounds both, for two walks together.
ROUNDING = 2.0**-50

FEWEST_ROUNDINGS = 16.0

# The mass of 0 may underflow where the mean is large. It is then held as multiple of a power of
# 2**-600, which is dropped as the sum grows; below 2**-465 nothing is compared.
SHRINKAGE = 2.0**-600

LOG_SHRINKAGE = 600.0 * math.log(2.0)

LARGEST_SUM = 2.0**100

SMALLEST_UNIFORM = 2.0**-465


@dataclass(frozen=True)
class Strip:
    """Some consecutive cells of a block, and what is to be done with them.

    Attributes
    ----------
    source
        Parameters of the observed counts; None where counts are drawn.
    target
        Parameters of the counts to make.
    cells, genes
        Hashes of their names, int64, shapes (h,) and (G,).
    seed
        Seed in [0, 2**32).
    keep_unchanged
        Whether counts above 0 whose parameters are the same in both are kept as they are.
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
