"""List, or replace, the placeholders that a release has to replace once.

Usage: python dev/owner.py                          lists them
       python dev/owner.py --none-left              fails where there are any
       python dev/owner.py ACCOUNT ADDRESS          replaces them: the account on GitHub, and the
                                                    maintainer's mail address
"""

import os
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Assembled here, so that this file holds none itself.
ACCOUNT = "OWN" + "ER"
ADDRESS = "scvibridge@" + "example.org"

# Each format needs its own; everything else refers to one of these.
PLACES = {
    "CITATION.cff",
    "CONTRIBUTING.md",
    "DESCRIPTION",
    "README.md",
    "docs/install.md",
    "man/scvibridge-package.Rd",  # written from DESCRIPTION by `make document`
    "pyproject.toml",
    "recipe/recipe.yaml",
}


def source_files(root: Path = ROOT) -> list[str]:
    """Return the files that .gitignore does not exclude, relative to the checkout and sorted.

    It needs no git.
    """
    lines = (root / ".gitignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [
            name
            for name in folders
            if name != ".git" and not _is_ignored(here / name, patterns, is_folder=True)
        ]
        # A link to a folder counts as a file, as in git.
        links = [name for name in folders if (root / here / name).is_symlink()]
        names = [name for name in files if name != ".git"] + links
        found += [str(here / name) for name in names if not _is_ignored(here / name, patterns)]
    return sorted(found)


def _is_ignored(path: Path, patterns: list[str], *, is_folder: bool = False) -> bool:
    """Return whether a path matches a pattern: by its name or, with a leading slash, as a whole."""
    return any(
        fnmatch(str(path), pattern.strip("/"))
        if pattern.startswith("/")
        else fnmatch(path.name, pattern.rstrip("/"))
        for pattern in patterns
        if is_folder or not pattern.endswith("/")
    )


def found() -> dict[str, list[int]]:
    """Return the numbers of the lines with a placeholder, by file."""
    lines: dict[str, list[int]] = {}
    for name in source_files(ROOT):
        path = ROOT / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        for number, line in enumerate(content.split(b"\n"), start=1):
            if ACCOUNT.encode() in line or ADDRESS.encode() in line:
                lines.setdefault(name, []).append(number)
    return lines


def replace(account: str, address: str) -> None:
    """Write the account and the address into all files."""
    for name in found():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        text = text.replace(ADDRESS, address).replace(ACCOUNT, account)
        path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Run the command; the return value is its exit code."""
    if len(arguments) == 2:
        replace(*arguments)
        return 0
    if arguments not in ([], ["--none-left"]):
        print(__doc__)
        return 64
    lines = found()
    for name, numbers in lines.items():
        print(f"{name}: {', '.join(map(str, numbers))}")
    return int(bool(arguments and lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
