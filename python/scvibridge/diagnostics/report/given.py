"""Check precomputed results that are passed to a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from scvibridge._utils.arguments import shown
from scvibridge._utils.digests import digest_of_weights
from scvibridge.models.adapters import adapter_for

if TYPE_CHECKING:
    from scvibridge.diagnostics.report.reading import Result


def check_parts(support: Any, calibration: Any, damage: Any) -> None:
    """Check that each argument is a result of the function with its name.

    Raises
    ------
    TypeError
        If an argument is something else.
    """
    if support is not None:
        from scvibridge.diagnostics.batch_support import BatchSupport

        if not isinstance(support, BatchSupport):
            raise TypeError(f"support must be the result of batch_support(), got {shown(support)}")
    if calibration is not None and calibration is not False:
        from scvibridge.diagnostics.calibration.calibration import Calibration

        if not isinstance(calibration, Calibration):
            raise TypeError(
                "calibration must be the result of calibration(), or False, got "
                f"{shown(calibration)}"
            )
    if not isinstance(damage, pd.DataFrame | None):
        raise TypeError(f"damage must be the result of damage(), got {shown(damage)}")


def check_same_model(result: Result, model: Any, support: Any, calibration: Any) -> None:
    """Check that the result and each argument that was passed come from one model.

    Models are compared by the digests of their weights, which older versions did not record.

    Raises
    ------
    ValueError
        If the result was computed with another model.
    """
    recorded = result.provenance.get("model_digest")
    if recorded is None:
        return
    digests: dict[str, Any] = {}
    if model is not None:
        digests["model="] = digest_of_weights(adapter_for(model).own.module)
    for name, found in (("support=", support), ("calibration=", calibration)):
        if found:
            digests[f"that of {name}"] = found.settings.get("model")
    for other, found in digests.items():
        if found is not None and found != recorded:
            raise ValueError(
                f"the result was computed with another model than {other}: pass that model, and "
                "what was computed with it"
            )
