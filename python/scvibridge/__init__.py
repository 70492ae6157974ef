"""From a trained scVI model to count and expression matrices that R's count-based tools can use."""

__version__ = "0.1.0"

from scvibridge import r
from scvibridge.counts import corrected_counts
from scvibridge.expression import denoised_expression, normalized_expression
from scvibridge.loading import load

__all__ = [
    "__version__",
    "corrected_counts",
    "denoised_expression",
    "load",
    "normalized_expression",
    "r",
]
