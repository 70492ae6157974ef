"""List, or replace, the placeholders that a release has to replace once.

Usage: python dev/owner.py                          lists them
       python dev/owner.py --none-left              fails where there are any
       python dev/owner.py ACCOUNT ADDRESS          replaces them: the account on GitHub, and the
                                                    maintainer's mail address
"""

import subprocess
import sys
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


def found() -> dict[str, list[int]]:
    """Return the numbers of the lines with a placeholder, by file."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    lines: dict[str, list[int]] = {}
    for name in filter(None, listed.split("\0")):
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
