"""Build plain data from the records of a pickle, and nothing else.

`_MAKERS` lists, by exact name, all functions and classes that a pickle may refer to. None of them
is called as the pickle requests: each has a function here that checks the recorded arguments and
builds the value. Any other name is refused.
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge.models.saved.restricted_pickle import Recorded, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    ReadStorage = Callable[[str], torch.UntypedStorage]


# Number types of torch's storages, by class name.
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}

# Classes and constants that may occur as values, without being called.
_FACTORIES: dict[tuple[str, str], Any] = {
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("builtins", "int"): int,
    ("builtins", "float"): float,
    ("builtins", "str"): str,
    ("collections", "OrderedDict"): OrderedDict,
}

_DTYPES = {("torch", str(dtype).removeprefix("torch.")): dtype for dtype in set(_STORAGES.values())}

# Booleans, numbers, strings and bytes of fixed width, and object references. Models contain no
# structured or datetime types.
_NUMPY_TYPE = re.compile(r"b1|[iu][1248]|f(2|4|8|16)|c(8|16|32)|[SU][0-9]{1,6}|O8?|[?]")

_PLAIN = (type(None), bool, int, float, complex, str, bytes)

_SHOWN = 80

# What scvi-tools saves is about ten levels deep.
_MOST_DEEP = 100

_LONGEST_EMPTY = 2**20


class NotPlainError(ValueError):
    """A value that is not plain data."""


class TooLargeError(NotPlainError):
    """A value that would take memory or time out of proportion to the file."""


class PlainData:
    """Build values from the records of a pickle.

    Parameters
    ----------
    read_storage
        Function that returns the bytes of a tensor by their key in the pickle.
    most_values
        Maximum number of values, each counted once per occurrence: a list that
        contains another twice, and so on, is small in the file but endless when traversed.

    Attributes
    ----------
    n_values
        Number of values built so far.
    """

    def __init__(self, read_storage: ReadStorage, most_values: int) -> None:
        self._read_storage = read_storage
        self._most_values = most_values
        self.n_values = 0
        self._depth = 0
        self._counts: dict[int, int] = {}
        # A value that occurs twice is built once, so references are shared as when it was saved.
        self._made: dict[int, Any] = {}
        self._in_work: set[int] = set()

    def make(self, node: Any, where: str) -> Any:
        """Build the value.

        Parameters
        ----------
        node
            What was read.
        where
            Its location, for error messages.

        Raises
        ------
        NotPlainError
            If it is not plain data, or contains something that is not.
        """
        before = self.n_values
        self._count(self._counts.get(id(node), 1), where)
        if type(node) in _PLAIN:
            return node
        if id(node) in self._made:
            return self._made[id(node)]
        if id(node) in self._in_work:
            raise NotPlainError(f"{where} contains itself")
        if self._depth == _MOST_DEEP:
            raise NotPlainError(f"{shorten(where)} is nested too deeply")
        self._in_work.add(id(node))
        self._depth += 1
        made = self._make(node, where)
        self._depth -= 1
        self._in_work.remove(id(node))
        self._made[id(node)] = made
        self._counts[id(node)] = self.n_values - before
        return made

    def _count(self, n_values: int, where: str) -> None:
        self.n_values += n_values
        if self.n_values > self._most_values:
            raise TooLargeError(
                f"{shorten(where)} contains other values more often than the size of the file "
                "allows"
            )

    def _make(self, node: Any, where: str) -> Any:
        if isinstance(node, dict):
            return {
                self._key(key, where): self.make(value, f"{where}[{name_of(key)}]")
                for key, value in node.items()
            }
        if isinstance(node, list | tuple | set | frozenset):
            return type(node)(self._key_or_value(node, where))
        if isinstance(node, type) and issubclass(node, Recorded):
            if node.wanted not in _DTYPES:
                raise _unknown(node.wanted, where)
            return _DTYPES[node.wanted]
        if isinstance(node, Recorded):
            return self._make_recorded(node, where)
        raise NotPlainError(f"{where} is of class {type(node).__name__}")

    def _key_or_value(self, node: Any, where: str) -> list[Any]:
        if isinstance(node, set | frozenset):
            return [self._key(member, where) for member in node]
        return [self.make(member, where) for member in node]

    def _key(self, key: Any, where: str) -> Any:
        made = self.make(key, f"a key of {where}")
        try:
            hash(made)
        except TypeError as error:
            raise NotPlainError(f"{where} has an invalid key: {error}") from error
        return made

    def _make_recorded(self, record: Recorded, where: str) -> Any:
        maker = _MAKERS.get(record.wanted)
        if maker is None:
            raise _unknown(record.wanted, where)
        if record.keywords or record.members:
            raise _ill_formed(record, where)
        try:
            return maker(self, record, where)
        except NotPlainError:
            raise
        except Exception as error:
            # Too few or wrong arguments, or arrays whose size is not the stated one.
            raise _ill_formed(record, where) from error

    # ---- containers --------------------------------------------------------------------------

    def ordered(self, record: Recorded, where: str) -> OrderedDict[Any, Any]:
        """Build an OrderedDict, with the versions that torch stores in a state dict."""
        pairs = record.arguments[0] if record.arguments else []
        made = OrderedDict(self._pairs([*pairs, *record.items], where))
        if record.state is not None:
            state = self.make(record.state, where)
            _expect(set(state) <= {"_metadata"})
            made.__dict__.update(state)
        return made

    def defaulting(self, record: Recorded, where: str) -> defaultdict[Any, Any]:
        """Build a defaultdict, whose missing values are empty containers or zeros."""
        _expect(record.state is None and len(record.arguments) <= 1)
        factory = record.arguments[0] if record.arguments else None
        if isinstance(factory, Recorded):
            raise _unknown(factory.wanted, f"the default of {where}")
        if factory is not None:
            if factory.wanted not in _FACTORIES:
                raise _unknown(factory.wanted, f"the default of {where}")
            factory = _FACTORIES[factory.wanted]
        return defaultdict(factory, self._pairs(record.items, where))

    def _pairs(self, pairs: Sequence[Any], where: str) -> list[tuple[Any, Any]]:
        return [
            (self._key(key, where), self.make(value, f"{where}[{name_of(key)}]"))
            for key, value in pairs
        ]

    def collected(self, record: Recorded, where: str) -> set[Any] | frozenset[Any]:
        """Build a set from its members, as stored by older protocols."""
        _expect(not record.items and record.state is None)
        (members,) = record.arguments or ([],)
        kind = set if record.wanted[1] == "set" else frozenset
        _expect(type(members) is list)
        return kind(self._key(member, where) for member in members)

    def encoded(self, record: Recorded, where: str) -> bytes:
        """Build bytes, which older protocols store as Latin 1 text; or empty bytes."""
        _expect(not record.items and record.state is None)
        if record.wanted == ("builtins", "bytes"):
            _expect(not record.arguments)
            return b""
        text, encoding = self.make(record.arguments, where)
        _expect(type(text) is str and encoding == "latin1")
        return bytes(text.encode("latin1"))

    def complex_number(self, record: Recorded, where: str) -> complex:
        """Build a complex number from its real and imaginary parts."""
        real, imaginary = self.make(record.arguments, where)
        _expect(record.state is None and not record.items)
        _expect(type(real) is type(imaginary) is float)
        return complex(real, imaginary)

    # ---- numpy -------------------------------------------------------------------------------

    def dtype(self, record: Recorded, where: str) -> np.dtype[Any]:
        """Build a dtype of numbers, strings or objects, only from its name and byte order.

        numpy itself reads more from a pickle, such as flags that would make it treat the bytes of
        an array as addresses of objects.
        """
        name, *_ = self.make(record.arguments, where)
        if type(name) is not str or not _NUMPY_TYPE.fullmatch(name):
            raise NotPlainError(
                f"{where} contains an array of {name_of(name)}, not of numbers, strings or objects"
            )
        made = np.dtype(name)
        if record.state is not None:
            _, order, subtype, names, fields, *_ = self.make(record.state, where)
            _expect(order in ("<", ">", "|", "=") and subtype is names is fields is None)
            made = made.newbyteorder(order)
        return made

    def array(self, record: Recorded, where: str) -> np.ndarray:
        """Build an array from its shape, its dtype and its bytes or objects."""
        kind, *_ = record.arguments
        _expect(getattr(kind, "wanted", None) == ("numpy", "ndarray"))
        _, shape, dtype, by_columns, values = self.make(record.state, where)
        made = _array(dtype, shape, values, "F" if by_columns else "C")
        self._count(0 if dtype.hasobject else made.size, where)
        return made

    def scalar(self, record: Recorded, where: str) -> Any:
        """Build a numpy scalar."""
        dtype, value = self.make(record.arguments, where)
        _expect(not dtype.hasobject)
        return _array(dtype, (), value, "C")[()]

    # ---- torch -------------------------------------------------------------------------------

    def tensor(self, record: Recorded, where: str) -> torch.Tensor:
        """Build a tensor from the stored numbers, on the CPU."""
        stored, offset, size, stride, requires_grad, hooks, *metadata = record.arguments
        _expect(type(stored) is Stored and not any(metadata) and record.state is None)
        _expect(not self.make(hooks, where))
        label, storage_type, key, _, _ = stored.arguments
        module, name = storage_type.wanted
        _expect(label == "storage" and type(key) is str)
        if module not in ("torch", "torch.storage") or name not in _STORAGES:
            raise _unknown(storage_type.wanted, where)
        flat = torch.tensor([], dtype=_STORAGES[name])
        flat.set_(self._read_storage(key))
        # Unlike set_(), it rejects positions outside of the storage.
        made = flat.as_strided(self.make(size, where), self.make(stride, where), offset)
        # Otherwise one number could be expanded to any size.
        _expect(made.nbytes <= flat.untyped_storage().nbytes())
        return made.requires_grad_(requires_grad is True)

    def parameter(self, record: Recorded, where: str) -> torch.nn.Parameter:
        """Build a parameter from a tensor."""
        data, requires_grad, hooks = self.make(record.arguments, where)
        _expect(isinstance(data, torch.Tensor) and not hooks and record.state is None)
        return torch.nn.Parameter(data, requires_grad is True)

    def device(self, record: Recorded, where: str) -> torch.device:
        """Build a torch device from its name."""
        kind, *index = self.make(record.arguments, where)
        return torch.device(kind, *index)


_MAKERS: dict[tuple[str, str], Callable[[PlainData, Recorded, str], Any]] = {
    ("collections", "OrderedDict"): PlainData.ordered,
    ("collections", "defaultdict"): PlainData.defaulting,
    ("builtins", "set"): PlainData.collected,
    ("builtins", "frozenset"): PlainData.collected,
    ("builtins", "bytes"): PlainData.encoded,
    ("builtins", "complex"): PlainData.complex_number,
    ("_codecs", "encode"): PlainData.encoded,
    ("numpy", "dtype"): PlainData.dtype,
    # numpy 1 and numpy 2.
    ("numpy.core.multiarray", "_reconstruct"): PlainData.array,
    ("numpy._core.multiarray", "_reconstruct"): PlainData.array,
    ("numpy.core.multiarray", "scalar"): PlainData.scalar,
    ("numpy._core.multiarray", "scalar"): PlainData.scalar,
    ("torch._utils", "_rebuild_tensor_v2"): PlainData.tensor,
    ("torch._utils", "_rebuild_parameter"): PlainData.parameter,
    ("torch", "device"): PlainData.device,
}


def _array(dtype: Any, shape: Any, values: Any, order: Any) -> np.ndarray:
    _expect(type(dtype) is not str and isinstance(dtype, np.dtype))
    _expect(type(shape) is tuple and all(type(length) is int and length >= 0 for length in shape))
    if dtype.hasobject:
        _expect(type(values) is list)
        # Not by assignment, which would interpret a list in it as a row.
        flat = np.fromiter(values, dtype=object, count=len(values))
    else:
        _expect(type(values) is bytes)
        flat = np.frombuffer(values, dtype=dtype).copy()
    _expect(flat.size > 0 or all(length <= _LONGEST_EMPTY for length in shape))
    return flat.reshape(shape, order=order)


def name_of(key: Any) -> str:
    """Format a key for a message."""
    return _cut(ascii(key)) if type(key) in _PLAIN else "..."


def shorten(text: str) -> str:
    """Shorten text from an untrusted file for a message."""
    return _cut(ascii(text)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError


def _unknown(wanted: tuple[str, str], where: str) -> NotPlainError:
    return NotPlainError(f"{where} refers to {shorten('.'.join(wanted))}")


def _ill_formed(record: Recorded, where: str) -> NotPlainError:
    return NotPlainError(
        f"{where} refers to {shorten('.'.join(record.wanted))} in a way that scvi-tools does not "
        "use"
    )
