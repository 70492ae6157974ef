"""The references of both sites have every public name; that the sites build is `make site`'s."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import scvibridge as sb
from scvibridge.r import objects

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = ROOT / "docs" / "reference"
PKGDOWN = ROOT / "pkgdown" / "_pkgdown.yml"

if not PKGDOWN.is_file():
    pytest.skip("the sites are not part of the installed package", allow_module_level=True)


def documented_in_python() -> list[str]:
    """Names of the functions and classes that the reference of Python shows, one for each time."""
    names = []
    for page in sorted(REFERENCE.glob("*.rst")):
        module = ""
        for kind, name in re.findall(
            r"^\.\. (currentmodule|auto\w+):: (\S+)$",
            page.read_text(encoding="utf-8"),
            re.MULTILINE,
        ):
            if kind in {"currentmodule", "automodule"}:
                module = name
            if kind != "currentmodule":
                names.append(name if name.startswith("scvibridge.") else f"{module}.{name}")
    return names


def test_reference_of_python_has_each_public_name_once():
    public = {f"scvibridge.{name}" for name in sb.__all__ if name not in ("__version__", "pl")}
    public |= {f"scvibridge.pl.{name}" for name in sb.pl.__all__}
    public |= {f"scvibridge.r.{name}" for name in objects.__all__}
    found = documented_in_python()
    assert len(found) == len(set(found))
    assert public <= set(found)


@pytest.mark.parametrize("name", documented_in_python())
def test_reference_of_python_names_what_is_there(name):
    assert pkgutil.resolve_name(name).__doc__


def test_reference_of_r_has_each_exported_function_once():
    namespace = (ROOT / "NAMESPACE").read_text(encoding="utf-8")
    exported = re.findall(r"^export\((\w+)\)$", namespace, re.MULTILINE)
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load(PKGDOWN.read_text(encoding="utf-8"))
    shown = [
        name
        for section in settings["reference"]
        if section["title"] != "internal"
        for name in section["contents"]
    ]
    assert len(shown) == len(set(shown))
    assert set(exported) <= set(shown)
    # Besides functions there are pages on a subject.
    assert set(shown) - set(exported) <= {page.stem for page in (ROOT / "man").glob("*.Rd")}


def test_site_of_r_lists_each_vignette_once():
    yaml = pytest.importorskip("yaml")
    settings = yaml.safe_load(PKGDOWN.read_text(encoding="utf-8"))
    shown = [name for section in settings["articles"] for name in section["contents"]]
    assert sorted(shown) == sorted(page.stem for page in (ROOT / "vignettes").glob("*.Rmd"))
