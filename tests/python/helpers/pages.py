"""Read the pages of the documentation: their blocks of code, links and headings.

Fenced blocks of python, r and console are run, in a folder with `model_dir` and `data.h5ad`, except
those after a line `<!-- not run: reason -->`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block of code, and the line where its code begins."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page that name a language, in order."""
    pattern = re.compile(
        r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    source = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            source.count("\n", 0, found.start("text")) + 1,
            found["language"],
            found["text"],
            found["reason"],
        )
        for found in pattern.finditer(source)
    ]


def run_blocks(page: Path, language: str) -> list[Block]:
    """Return the blocks of a language that are run."""
    return [b for b in blocks_of(page) if b.language == language and b.not_run is None]


def run_python(page: Path) -> dict:
    """Run the Python blocks of a page in order, and return what they define."""
    names: dict = {"__name__": "__main__"}
    for block in run_blocks(page, "python"):
        # Line numbers of errors are those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        exec(code, names)
    return names


def r_code(page: Path) -> str:
    """Return the R blocks of a page as a script that stops where what is said to be TRUE is not."""
    lines = []
    for block in run_blocks(page, "r"):
        lines.append(f'message("{page.name}:{block.line}")')  # where an error is
        lines.append(re.sub(r"^(.+?) +# TRUE$", r"stopifnot(\1)", block.text, flags=re.MULTILINE))
    return "\n".join(lines)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
