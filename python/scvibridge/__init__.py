"""From a trained scVI model to count and expression matrices that R's count-based tools can use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scvibridge import forked as _forked  # noqa: F401  (registers the handlers of forks)

__version__ = "0.1.0"

if TYPE_CHECKING:
    from scvibridge import r
    from scvibridge.choosing import choose_batch
    from scvibridge.counts import corrected_counts
    from scvibridge.expression import denoised_expression, normalized_expression
    from scvibridge.extending import extend_genes
    from scvibridge.fit import calibration
    from scvibridge.loading import load
    from scvibridge.null_batches import damage
    from scvibridge.reporting import report
    from scvibridge.support import batch_support
    from scvibridge.train import train_scvi

__all__ = [
    "__version__",
    "batch_support",
    "calibration",
    "choose_batch",
    "corrected_counts",
    "damage",
    "denoised_expression",
    "extend_genes",
    "load",
    "normalized_expression",
    "r",
    "report",
    "train_scvi",
]

# Where each public name stands: torch and anndata take seconds to import, which `--help`, and
# whoever asks for the version alone, should not wait for.
_MODULES = {
    "batch_support": "support",
    "calibration": "fit",
    "choose_batch": "choosing",
    "corrected_counts": "counts",
    "damage": "null_batches",
    "denoised_expression": "expression",
    "extend_genes": "extending",
    "load": "loading",
    "normalized_expression": "expression",
    "report": "reporting",
    "train_scvi": "train",
}


def __getattr__(name: str) -> Any:
    if name == "r":
        return importlib.import_module("scvibridge.r")
    if name not in _MODULES:
        raise AttributeError(f"module 'scvibridge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scvibridge.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
