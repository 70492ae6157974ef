"""Find phrases in the project's texts that dev/phrases.txt rejects, and suggest others.

Usage: python phrases.py [FILE...]. Without files it checks the documentation, and the comments,
docstrings and messages of the code in Python and R. Exit code 1 if any phrase is found.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PHRASES = ROOT / "dev" / "phrases.txt"
CHECKED = (
    "*.md",
    "DESCRIPTION",
    "llms.txt",
    "docs/**/*.md",
    "docs/**/*.rst",
    "docs/notebooks/*.ipynb",
    "vignettes/*.Rmd",
    "pkgdown/*",
    "python/scvibridge/**/*.py",
    "R/*.R",
    "dev/**/*.py",
    "benchmarks/**/*.md",
    "benchmarks/**/*.py",
    "examples/**/*.py",
)
# Between the words of a phrase: white space, the joints of strings, the marks of comments.
_BETWEEN = r"""(?:\s|[fr]?["']|\\n|\#'?|>)+"""
# Comments and strings of R.
_TEXT_OF_R = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'""", re.DOTALL)
_TOKENS = {"COMMENT", "STRING", "FSTRING_MIDDLE"}


def read_phrases() -> list[tuple[re.Pattern[str], str]]:
    """Read the rejected phrases, as patterns, and their replacements."""
    lines = PHRASES.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("|") for line in lines if line.strip() and not line.startswith("#")]
    return [(as_pattern(phrase.strip()), instead.strip()) for phrase, instead in pairs]


def as_pattern(phrase: str) -> re.Pattern[str]:
    """Match a phrase as whole words and across line breaks; `*` is any word.

    The first letter may be a capital; the others match as written, so a phrase with "none" does not
    match "None".
    """
    words = [r"[\w-]+" if word == "*" else re.escape(word) for word in phrase.split()]
    words[0] = re.sub(r"^[a-z]", lambda letter: f"[{letter[0]}{letter[0].upper()}]", words[0])
    return re.compile(rf"(?<![\w.-]){_BETWEEN.join(words)}(?![\w(=])")


def prose(path: Path) -> str:
    """Return the text of a file with all code replaced by blanks; positions stay the same."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        spans = _spans_in_python(source)
    elif path.suffix == ".R":
        spans = (found.span() for found in _TEXT_OF_R.finditer(source))
    else:
        return source
    kept = re.sub(r"[^\n]", " ", source)
    for start, stop in spans:
        kept = kept[:start] + source[start:stop] + kept[stop:]
    return kept


def _spans_in_python(source: str) -> Iterator[tuple[int, int]]:
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if tokenize.tok_name[token.type] in _TOKENS:
            (first, left), (last, right) = token.start, token.end
            yield starts[first - 1] + left, starts[last - 1] + right


def check(path: Path, phrases: list[tuple[re.Pattern[str], str]]) -> list[str]:
    """List the phrases in a file, with their lines."""
    text = prose(path)
    found = []
    for pattern, instead in phrases:
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            phrase = " ".join(match[0].split())
            found.append((line, f"{path}:{line}: {phrase!r}: write {instead}"))
    return [message for _, message in sorted(found)]


def main(arguments: list[str]) -> int:
    """Check files, and print what was found."""
    paths = [Path(name) for name in arguments]
    paths = paths or sorted({path for pattern in CHECKED for path in ROOT.glob(pattern)})
    phrases = read_phrases()
    found = [message for path in paths for message in check(path, phrases)]
    print("\n".join([*found, f"phrases: {len(paths)} files, {len(found)} found"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
