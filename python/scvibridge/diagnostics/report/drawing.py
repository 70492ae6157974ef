"""Render figures as PNG data URIs, without a display or global state, showing names literally."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from scvibridge._utils.process_state import lock, warnings_ignored
from scvibridge.diagnostics.report.blocks import Picture

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure


_one_picture = lock()

# Pixels of the image per pixel on the page.
_SHARPNESS = 2

_PIXELS_PER_INCH = 96

_STYLE = {
    "font.family": "DejaVu Sans",  # included in matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5B6470",
    "axes.labelcolor": "#1D2733",
    "xtick.color": "#3A4450",
    "ytick.color": "#3A4450",
    "axes.titlesize": 10,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a gene named "$x$" is not a formula
    "axes.unicode_minus": True,
}


def picture(
    title: str,
    alt: str,
    size: tuple[float, float],
    draw: Callable[[Figure], Any],
    *,
    is_wide: bool = False,
) -> Picture:
    """Render a figure.

    Parameters
    ----------
    title, alt
        Title above the figure, and text for readers who cannot see it.
    size
        Width and height on the page, in inches.
    draw
        Function that plots into an empty figure.
    is_wide
        Whether it is scrolled rather than shrunk on a narrow page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    content = io.BytesIO()
    # matplotlib's settings are global to the process. Characters missing from the font are ignored.
    with _one_picture, mpl.rc_context(), warnings_ignored():
        mpl.rcdefaults()  # ignore the user's own style
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        dpi = _PIXELS_PER_INCH * _SHARPNESS
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    width, height = (round(side * _PIXELS_PER_INCH) for side in size)
    source = f"data:image/png;base64,{encoded}"
    return Picture(title, source, alt, width, height, is_wide)
