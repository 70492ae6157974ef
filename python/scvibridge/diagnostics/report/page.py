"""Write the page: one HTML file that loads no other resources and runs no script."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import TYPE_CHECKING

from scvibridge.diagnostics.report.palette import OTHER
from scvibridge.io.paths import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scvibridge.diagnostics.report.blocks import Section
    from scvibridge.diagnostics.report.palette import Colours
    from scvibridge.diagnostics.report.verdict import Verdict


_PACKAGE = "scvibridge.diagnostics.report"


def render(
    title: str,
    subtitle: str,
    verdict: Verdict,
    sections: Sequence[Section],
    colours: Sequence[Colours],
    version: str,
) -> str:
    """Fill the template, which escapes all inserted text."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = f"{_read('style.css')}{_swatches(colours)}"
    return environment.get_template("template.html.j2").render(
        title=title,
        subtitle=subtitle,
        verdict=verdict,
        sections=sections,
        swatch_of=_classes(colours),
        style=Markup(style),  # noqa: S704 - contains only our rules and hexadecimal colours
        policy=_policy(style),
        version=version,
    )


def write(html: str, path: Path, *, overwrite: bool = False) -> None:
    """Write a page under a temporary name, and rename it once complete."""
    with replacing(path, overwrite=overwrite) as temporary:
        # A name may contain an unpaired surrogate, which UTF-8 cannot encode.
        temporary.write_text(html, encoding="utf-8", errors="replace", newline="\n")


def _read(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str) -> str:
    """Return a Content-Security-Policy that allows only this style and embedded images."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _used(colours: Sequence[Colours]) -> list[str]:
    return sorted({OTHER, *(colour for some in colours for colour in some.named.values())})


def _classes(colours: Sequence[Colours]) -> dict[str, str]:
    """Return the CSS class of each colour's swatch; the policy forbids styles on elements."""
    return {colour: f"c{number}" for number, colour in enumerate(_used(colours))}


def _swatches(colours: Sequence[Colours]) -> str:
    rules = [f".{name} {{ background: {colour} }}" for colour, name in _classes(colours).items()]
    return "\n".join(rules) + "\n"
