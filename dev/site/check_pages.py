"""Check built pages: links between them are valid, and no R example ended in an error.

Usage: python check_pages.py FOLDER. Prints a line for each fault, and exits with 1 if there are
any.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and anchors of a page, and whether it shows an R error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.shows_error = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the links and anchors of a tag."""
        given = dict(attrs)
        self.anchors.update(filter(None, (given.get("id"), given.get("name"))))
        target = given.get("href") if tag in {"a", "link"} else given.get("src")
        if target:
            self.links.append(target)
        self.shows_error |= (tag, given.get("class")) == ("span", "error")


@cache
def read(path: Path) -> Page:
    """Read a page, once."""
    return Page(path)


def has_anchor(path: Path, anchor: str) -> bool:
    """Return whether a page has an anchor; browsers know the top of each page."""
    return anchor in {"", "top"} or anchor in read(path).anchors


def faults(path: Path, folder: Path) -> list[str]:
    """List what is wrong with one page."""
    page = read(path)
    found = ["an example ended in an error"] if page.shows_error else []
    for link in dict.fromkeys(page.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        start = folder if parts.path.startswith("/") else path.parent
        target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            found.append(f"{link} does not exist")
        elif target.suffix == ".html" and not has_anchor(target, unquote(parts.fragment)):
            found.append(f"{link}: the page has no such anchor")
    return found


def main(folder: Path) -> int:
    """Check all pages of a folder, and report faults."""
    folder = folder.resolve()
    # Themes keep their templates among the static files.
    pages = sorted(page for page in folder.rglob("*.html") if "_static" not in page.parts)
    listed = [
        f"{page.relative_to(folder)}: {fault}" for page in pages for fault in faults(page, folder)
    ]
    print("\n".join([*listed, f"site: {len(pages)} pages, {len(listed)} faults"]))
    return 1 if listed or not pages else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
