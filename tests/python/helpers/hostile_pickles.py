"""Models whose files run code, if they are unpickled as pickle does."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import scvibridge as sb


class Call:
    """Pickles as the call of a function, whose result it is once it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Callable, so that pickle takes the result of one call as the function of another."""


def pickled_touch(marker: Path) -> bytes:
    return pickle.dumps(Call(os.system, f"touch {marker}"))


def array_file(marker: Path) -> str:
    path = marker.with_suffix(".npy")
    np.save(path, np.array([Call(os.system, f"touch {marker}")], dtype=object), allow_pickle=True)
    return str(path)


def tensor_file(marker: Path) -> io.BytesIO:
    content = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), content)
    content.seek(0)
    return content


PAYLOADS = {
    "os.system": lambda m: Call(os.system, f"touch {m}"),
    "subprocess": lambda m: Call(subprocess.call, ["touch", str(m)]),
    "eval": lambda m: Call(eval, f"__import__('pathlib').Path({str(m)!r}).touch()"),
    "exec": lambda m: Call(exec, f"open({str(m)!r}, 'w').close()"),
    "open": lambda m: Call(open, str(m), "w"),
    "Path.touch": lambda m: Call(Path.touch, m),
    "getattr": lambda m: Call(Call(getattr, m, "touch")),
    "methodcaller": lambda m: Call(operator.methodcaller("touch"), m),
    "attrgetter": lambda m: Call(Call(operator.attrgetter("touch"), m)),
    "partial": lambda m: Call(functools.partial(Path.touch, m)),
    "partial's state": lambda m: Call(
        Call(functools.partial, print, state=(Path.touch, (m,), {}, None))
    ),
    "map": lambda m: Call(list, Call(map, Path.touch, [m])),
    "importlib": lambda m: Call(
        Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch {m}"
    ),
    "pickle.loads": lambda m: Call(pickle.loads, pickled_touch(m)),
    "numpy.load": lambda m: Call(np.load, array_file(m), None, True),
    "torch.load": lambda m: Call(functools.partial(torch.load, weights_only=False), tensor_file(m)),
    "torch's bytes": lambda m: Call(torch.storage._load_from_bytes, tensor_file(m).getvalue()),
}


def copied(folder: Path, into: Path) -> Path:
    new = into / "copied"
    shutil.copytree(folder, new)
    return new


def rewrite(folder: Path, change, **how) -> None:
    """Change what the file of a model holds, and save it as torch does."""
    path = folder / "model.pt"
    contents = torch.load(path, weights_only=False)
    change(contents)
    torch.save(contents, path, **how)


def change_pickle(folder: Path, change, compression=zipfile.ZIP_STORED) -> None:
    """Change the pickle in the file of a model, byte by byte."""
    path = folder / "model.pt"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, change(content) if name.endswith("data.pkl") else content)


def text(value: str) -> bytes:
    """A text as protocol 2 has it."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def refusal_of(folder: Path) -> str:
    with pytest.raises(ValueError, match="trust=True") as refused:
        sb.load(folder, adata=False)
    assert type(refused.value) is ValueError
    return str(refused.value)


def load_trusting(folder: Path) -> None:
    """Whatever becomes of it: what the code gives in place of data is of no use."""
    with contextlib.suppress(Exception):
        sb.load(folder, adata=False, trust=True)


def in_protocol_4(opcodes: bytes) -> bytes:
    """Opcodes amid a pickle of protocol 2 that are read as protocol 4."""
    return b"\x80\x04" + opcodes + b"\x80\x02"
