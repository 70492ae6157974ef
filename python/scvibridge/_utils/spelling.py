"""Convert values to text, and join them, so that different values stay different.

``f"{batch} / {label}"`` gives the same name to batch ``a`` with label ``b / c`` and to batch
``a / b`` with label ``c``; and 1 and ``"1"`` are the same text.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from scvibridge._utils.values_as_text import as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_QUOTES = ("'", '"')


def spelled(values: Iterable[Any]) -> list[str]:
    """Convert different values to different strings.

    Each value becomes its text, except that strings that look like another of the values, such as
    ``"1"`` together with 1, are quoted.
    """
    known = list(values)
    texts = [as_text(value) for value in known]
    count = Counter(texts)
    return _numbered(
        [
            repr(str(value)) if count[text] > 1 and isinstance(value, str) else text
            for value, text in zip(known, texts, strict=True)
        ]
    )


def _numbered(texts: list[str]) -> list[str]:
    """Number the texts that still occur more than once."""
    taken, found = set(texts), []
    seen: set[str] = set()
    for text in texts:
        number, name = 1, text
        while name in seen or (number > 1 and name in taken):
            number += 1
            name = f"{text} ({number})"
        seen.add(name)
        found.append(name)
    return found


def join(parts: Sequence[str], separator: str) -> str:
    """Join strings so that different parts give different results.

    Parts that contain the separator, and could be mistaken for several, are quoted.
    """
    quoted = [repr(part) if _is_mistakable(part, separator) else part for part in parts]
    return separator.join(quoted)


def _is_mistakable(part: str, separator: str) -> bool:
    if part.startswith(_QUOTES) or separator in part:
        return True
    # With a separator next to it, "a /" has an earlier " / " than the one that joins.
    return (part + separator).find(separator) < len(part) or (separator + part).rfind(separator) > 0
