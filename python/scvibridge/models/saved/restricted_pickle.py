"""Reading a pickle without running it: what it asks for is written down, none of it is done.

A pickle is a program: it names functions and classes of any module, and has them called. Here each
name becomes a class of our own (`Recorded`), which keeps what it was called with and does nothing.
Nothing is imported and nothing is looked up, so that what comes out is made of Python's plain
containers, texts and numbers, and of such records. What may be made of a record is decided by
whoever reads them (:mod:`scvibridge.models.saved.allowed_values`).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# What pickles of Python 2's protocols, which torch writes, call modules of Python 3.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_MOST_BITS = 64


class Recorded:
    """Something that a pickle wanted to be made, and what it was to be made of.

    Attributes
    ----------
    wanted
        Module and name of the function or the class that was to be called.
    arguments
        What it was to be called with.
    state
        What was to be set on the result; None where nothing was.
    items
        What was to be put into the result, as pairs of key and value.
    members
        What was to be appended or added to the result.
    """

    __slots__ = ("arguments", "items", "keywords", "members", "state")
    wanted: ClassVar[tuple[str, str]] = ("", "")
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    state: Any
    items: list[tuple[Any, Any]]
    members: list[Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Record what it was called with."""
        record = object.__new__(cls)
        record.arguments = arguments
        record.keywords = keywords
        record.state = None
        record.items = []
        record.members = []
        return record

    def __call__(self, *arguments: Any, **keywords: Any) -> Recorded:
        """Record that a result was to be called in turn."""
        module, name = self.wanted
        return _class_for(module, f"{name}()")(*arguments, **keywords)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        """Record a member of a list."""
        self.members.append(value)

    def extend(self, values: Any) -> None:
        """Record members of a list."""
        self.members.extend(values)

    def add(self, value: Any) -> None:
        """Record a member of a set."""
        self.members.append(value)


class Stored(Recorded):
    """An array stored next to the pickle (in torch: a storage), identified by its arguments."""

    __slots__ = ()


def read_inert(pickled: bytes) -> Any:
    """Read a pickle, with a `Recorded` in place of each thing that it wants to be made.

    Parameters
    ----------
    pickled
        The pickle.

    Returns
    -------
    Plain containers, texts, numbers and `Recorded`. A function or class that is there as a value
    is a class derived from `Recorded`.

    Raises
    ------
    pickle.UnpicklingError
        If it is no pickle, or is one that no program would have written.
    """
    try:
        _check_opcodes(pickled)
        return _Reader(io.BytesIO(pickled)).load()
    except Exception as error:
        # Pickles that are cut off or made up fail in many ways.
        message = f"{type(error).__name__}: {error}"
        raise pickle.UnpicklingError(message) from error


def _check_opcodes(pickled: bytes) -> None:
    """Refuse what would take memory or time out of proportion to the size of the pickle.

    That is places of the memo beyond its own size, and numbers of many bits, which are slow as
    keys.
    """
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name.endswith("PUT") and (argument or 0) > len(pickled):
            raise pickle.UnpicklingError(f"{opcode.name} {argument} in {len(pickled)} bytes")
        if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
            raise pickle.UnpicklingError(f"a number of {argument.bit_length()} bits")


def _class_for(module: str, name: str) -> type[Recorded]:
    wanted = (_RENAMED.get(module, module), name)
    return type("Recorded", (Recorded,), {"__slots__": (), "wanted": wanted})


class _Reader(pickle._Unpickler):  # noqa: SLF001 - see below
    """Python's own reader in Python: that in C hashes keys before anybody could look at them.

    A tuple as a key is hashed with all that it contains, as often as it contains it: some forty
    tuples within each other, each twice in the next, take years.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._classes: dict[tuple[str, str], type[Recorded]] = {}

    def find_class(self, module: str, name: str) -> type[Recorded]:
        """Return a class of ours for any name, in place of what it stands for."""
        # Of one name one class, so that its size stays that of the pickle.
        return self._classes.setdefault((module, name), _class_for(module, name))

    def persistent_load(self, pid: Any) -> Stored:
        """Record a reference to what is stored next to the pickle."""
        return Stored(*pid) if isinstance(pid, tuple) else Stored(pid)


def _checking_keys(
    load: Callable[[Any], None], keys: Callable[[_Reader], Sequence[Any]]
) -> Callable[[Any], None]:
    """The handler of an opcode that makes keys, with a look at these before."""

    def checked(reader: _Reader) -> None:
        if any(isinstance(key, tuple | frozenset) for key in keys(reader)):
            raise pickle.UnpicklingError("a key is a tuple or a set")
        load(reader)

    return checked


# What becomes a key lies on the stack of the reader: every second of the last, or all of them.
_KEYS: dict[bytes, Callable[[Any], Sequence[Any]]] = {
    pickle.DICT: lambda reader: reader.stack[::2],
    pickle.SETITEM: lambda reader: reader.stack[-2:-1],
    pickle.SETITEMS: lambda reader: reader.stack[::2],
    pickle.ADDITEMS: lambda reader: reader.stack,
    pickle.FROZENSET: lambda reader: reader.stack,
}

for _opcode, _keys in _KEYS.items():
    _Reader.dispatch[_opcode[0]] = _checking_keys(_Reader.dispatch[_opcode[0]], _keys)
