"""The pages for developers name files, modules and functions that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "python" / "scvibridge"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TOP_LEVEL = r"(?:python/scvibridge|R|benchmarks|dev|docs|examples|pkgdown|tests|vignettes|\.ci)/"

if not CONTRIBUTING.is_file():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

SUBPACKAGES = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
PAGES = [CONTRIBUTING, *sorted((ROOT / "docs" / "developer").glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def quoted(page: Path) -> list[str]:
    """Everything in backticks; of commands, each word."""
    texts = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    return [word for text in texts for word in re.split(r'[\s"=]+', text)]


def missing_paths(words: list[str]) -> list[str]:
    """Paths that do not exist, below the top folder or, by sub-package, below the package."""
    in_package = rf"(?:{'|'.join(SUBPACKAGES)})/"
    return [
        word
        for word in words
        if (re.match(TOP_LEVEL, word) and not any(ROOT.glob(word.rstrip("/"))))
        or (re.match(in_package, word) and not (PACKAGE / word).exists())
    ]


def missing_modules(words: list[str]) -> list[str]:
    """Dotted names whose module does not exist; the last part may be a name in a module."""
    found = []
    for word in words:
        match = re.match(r"(?:scvibridge\.)?((?:\w+\.)+\w+)", word)
        if match is None or match[1].split(".")[0] not in SUBPACKAGES or "/" in word:
            continue
        *parents, name = match[1].split(".")
        module = PACKAGE.joinpath(*parents)
        exists = (
            (module / f"{name}.py").is_file()
            or (module / name).is_dir()
            or (module.with_suffix(".py").is_file() and defines(module.with_suffix(".py"), name))
        )
        if not exists:
            found.append(word)
    return found


def defines(module: Path, name: str) -> bool:
    """Whether a module defines each part of a dotted name."""
    source = module.read_text(encoding="utf-8")
    return all(
        re.search(rf"^\s*(?:(?:async )?def|class) {part}\b|^{part}\b.*=", source, re.MULTILINE)
        for part in name.split(".")
    )


@by_page
def test_paths_exist(page):
    words = quoted(page)
    assert any("/" in word for word in words)
    assert missing_paths(words) == []


@by_page
def test_modules_exist(page):
    participants = re.findall(r"participant \w+ as ([\w.]+)", page.read_text(encoding="utf-8"))
    assert missing_modules([*quoted(page), *participants]) == []


@by_page
def test_functions_of_files_exist(page):
    source = page.read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", source)
    for path, names in named:
        for name in re.findall(r"`([\w.]+)`", names):
            assert defines(PACKAGE / path, name), f"{page.name}: {path} has no {name}"
    assert named or page.name != "statistics.md"


@by_page
def test_links_point_somewhere(page):
    targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).is_file()] == []


def test_all_subpackages_are_described():
    described = (ROOT / "docs" / "developer" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in SUBPACKAGES if f"| `{name}` |" not in described] == []


@pytest.mark.parametrize(
    ("check", "absent"),
    [
        (missing_paths, "python/scvibridge/absent.py"),
        (missing_paths, "correction/absent.py"),
        (missing_modules, "scvibridge.correction.absent"),
        (missing_modules, "correction.request.absent"),
    ],
)
def test_the_checks_notice_what_is_missing(check, absent):
    present = ["python/scvibridge/io/jobs.py", "io/jobs.py", "scvibridge.io.jobs", "io.jobs.run"]
    assert check([*present, absent]) == [absent]
