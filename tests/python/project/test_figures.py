"""``make figures`` makes the pictures that the pages show."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")
pytest.importorskip("scanpy", reason="needs scanpy")

ROOT = Path(__file__).resolve().parents[3]
IMAGES = ROOT / "docs" / "images"

if not IMAGES.is_dir():
    pytest.skip("the pages are not part of the installed package", allow_module_level=True)

from examples import figures  # noqa: E402

PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
NAMES = {path.name for path in IMAGES.glob("*.png")}


def size_of(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", header[16:24])


@pytest.mark.slow
def test_all_pictures_are_made(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.shutil, "which", lambda _: None)  # the report is tested by itself
    settings = figures.Settings(epochs=2, layout="tsne", n_references=5)
    made = figures.make(tmp_path, settings)
    assert {path.name for path in made} == NAMES - {"report.png"}
    for path in made:
        width, height = size_of(path)
        assert width > 300
        assert height > 150


def test_pages_show_each_picture_and_say_what_it_shows():
    shown = set()
    for page in PAGES:
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8")):
            if target.startswith("https://img.shields.io/"):  # a badge
                continue
            assert len(text) > 20, (page.name, target)
            assert (page.parent / target).is_file(), (page.name, target)
            shown.add(Path(target).name)
    assert shown == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_pictures_are_small(name):
    assert (IMAGES / name).stat().st_size < figures.MOST_BYTES
