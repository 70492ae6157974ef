"""Values as text, and several of them joined, so that different values stay different.

``f"{batch} / {label}"`` gives one name to batch ``a`` with label ``b / c`` and to batch ``a / b``
with label ``c``; and 1 and ``"1"`` are the same text.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from scvibridge._utils.values_as_text import as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_QUOTES = ("'", '"')


def spelled(values: Iterable[Any]) -> list[str]:
    """Spell out different values as different texts.

    A value is its own text, but for strings that look like another value of those given, such as
    ``"1"`` along with 1: they are quoted.
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
    """Join texts so that different parts give different texts.

    Parts that could be mistaken for more than one, since they hold the separator, are quoted.
    """
    quoted = [repr(part) if _is_mistakable(part, separator) else part for part in parts]
    return separator.join(quoted)


def _is_mistakable(part: str, separator: str) -> bool:
    if part.startswith(_QUOTES) or separator in part:
        return True
    # Together with a separator next to it, "a /" has an earlier " / " than the one that joins.
    return (part + separator).find(separator) < len(part) or (separator + part).rfind(separator) > 0
