"""Read a pickle without running it: record what it requests instead of doing it.

A pickle is a program: it names functions and classes of any module, and has them called. Here each
name is replaced by a class (`Recorded`) that stores the arguments it is called with and does
nothing else. Nothing is imported or looked up, so the result consists of Python's plain containers,
strings and numbers, and of such records. The reader of the records decides which values to build
from them (:mod:`scvibridge.models.saved.allowed_values`).
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


# Python 3 names of the modules that pickles of Python 2 protocols, which torch writes, refer to.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_MOST_BITS = 64


class Recorded:
    """An object that a pickle requested, and the values to build it from.

    Attributes
    ----------
    wanted
        Module and name of the function or class to call.
    arguments
        Arguments of the call.
    state
        State to set on the result, or None.
    items
        Pairs of key and value to set in the result.
    members
        Values to append or add to the result.
    """

    __slots__ = ("arguments", "items", "keywords", "members", "state")
    wanted: ClassVar[tuple[str, str]] = ("", "")
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    state: Any
    items: list[tuple[Any, Any]]
    members: list[Any]

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:
        """Record the arguments of a call."""
        record = object.__new__(cls)
        record.arguments = arguments
        record.keywords = keywords
        record.state = None
        record.items = []
        record.members = []
        return record

    def __call__(self, *arguments: Any, **keywords: Any) -> Recorded:
        """Record that a result would be called in turn."""
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
    """Read a pickle, with a `Recorded` in place of each object that it requests.

    Parameters
    ----------
    pickled
        The pickle.

    Returns
    -------
    Plain containers, strings, numbers and `Recorded`. A function or class that occurs as a value is
    a class derived from `Recorded`.

    Raises
    ------
    pickle.UnpicklingError
        If it is not a pickle, or not one that a program would write.
    """
    try:
        _check_opcodes(pickled)
        return _Reader(io.BytesIO(pickled)).load()
    except Exception as error:
        # Truncated or forged pickles fail in many ways.
        message = f"{type(error).__name__}: {error}"
        raise pickle.UnpicklingError(message) from error


def _check_opcodes(pickled: bytes) -> None:
    """Raise an error for opcodes that take memory or time out of proportion to the pickle's size.

    These are memo positions beyond the pickle's size, and numbers of many bits, which are slow as
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
    """Python's pure-Python unpickler: the C one hashes keys before they can be checked.

    A tuple used as a key is hashed with everything it contains, once per occurrence: about
    forty nested tuples, each twice in the next, take years.
    """

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)  # noqa: SLF001

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._classes: dict[tuple[str, str], type[Recorded]] = {}

    def find_class(self, module: str, name: str) -> type[Recorded]:
        """Return a recording class for any name, instead of what it refers to."""
        # One class per name, so memory use is limited by the size of the pickle.
        return self._classes.setdefault((module, name), _class_for(module, name))

    def persistent_load(self, pid: Any) -> Stored:
        """Record a reference to data stored next to the pickle."""
        return Stored(*pid) if isinstance(pid, tuple) else Stored(pid)


def _checking_keys(
    load: Callable[[Any], None], keys: Callable[[_Reader], Sequence[Any]]
) -> Callable[[Any], None]:
    """Wrap the handler of an opcode that creates keys, checking the keys first."""

    def checked(reader: _Reader) -> None:
        if any(isinstance(key, tuple | frozenset) for key in keys(reader)):
            raise pickle.UnpicklingError("a key is a tuple or a set")
        load(reader)

    return checked


# Keys are on the reader's stack: every second entry of the last ones, or all of them.
_KEYS: dict[bytes, Callable[[Any], Sequence[Any]]] = {
    pickle.DICT: lambda reader: reader.stack[::2],
    pickle.SETITEM: lambda reader: reader.stack[-2:-1],
    pickle.SETITEMS: lambda reader: reader.stack[::2],
    pickle.ADDITEMS: lambda reader: reader.stack,
    pickle.FROZENSET: lambda reader: reader.stack,
}

for _opcode, _keys in _KEYS.items():
    _Reader.dispatch[_opcode[0]] = _checking_keys(_Reader.dispatch[_opcode[0]], _keys)
