"""Checks of the parts that are given to a report ready-made."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scvibridge._utils.arguments import shown


def check_parts(support: Any, calibration: Any, damage: Any) -> None:
    """Refuse parts that are not what the function of that name returns.

    Raises
    ------
    TypeError
        If a part is something else.
    """
    if support is not None:
        from scvibridge.diagnostics.batch_support import BatchSupport

        if not isinstance(support, BatchSupport):
            raise TypeError(f"support must be what batch_support() returns, got {shown(support)}")
    if calibration is not None and calibration is not False:
        from scvibridge.diagnostics.calibration.calibration import Calibration

        if not isinstance(calibration, Calibration):
            raise TypeError(
                "calibration must be what calibration() returns, or False, got "
                f"{shown(calibration)}"
            )
    if not isinstance(damage, pd.DataFrame | None):
        raise TypeError(f"damage must be what damage() returns, got {shown(damage)}")
