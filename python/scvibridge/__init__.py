"""Turn a trained scVI model into batch-corrected counts and expression matrices."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scvibridge._utils import forked as _forked  # noqa: F401  (registers the handlers of forks)
from scvibridge._version import __version__

if TYPE_CHECKING:
    from scvibridge import r
    from scvibridge.correction.corrected_counts import corrected_counts
    from scvibridge.diagnostics import plots as pl
    from scvibridge.diagnostics.batch_support import batch_support
    from scvibridge.diagnostics.calibration.calibration import calibration
    from scvibridge.diagnostics.choose_batch import choose_batch
    from scvibridge.diagnostics.damage import damage
    from scvibridge.diagnostics.report import report
    from scvibridge.expression.normalized import denoised_expression, normalized_expression
    from scvibridge.models.extension.extend_genes import extend_genes
    from scvibridge.models.load import load
    from scvibridge.models.training.train_scvi import train_scvi

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
    "pl",
    "r",
    "report",
    "train_scvi",
]

# The module of each public name: importing torch and anndata takes seconds, and is not needed for
# `--help` or the version.
_MODULES = {
    "batch_support": "diagnostics.batch_support",
    "calibration": "diagnostics.calibration.calibration",
    "choose_batch": "diagnostics.choose_batch",
    "corrected_counts": "correction.corrected_counts",
    "damage": "diagnostics.damage",
    "denoised_expression": "expression.normalized",
    "extend_genes": "models.extension.extend_genes",
    "load": "models.load",
    "normalized_expression": "expression.normalized",
    "report": "diagnostics.report",
    "train_scvi": "models.training.train_scvi",
}
_SUBMODULES = {"pl": "scvibridge.diagnostics.plots", "r": "scvibridge.r"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    if name not in _MODULES:
        raise AttributeError(f"module 'scvibridge' has no attribute {name!r}")
    return getattr(importlib.import_module(f"scvibridge.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
