"""Check precomputed results that are passed to a report."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scvibridge._utils.arguments import shown


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
