"""Read untrusted array files in no more memory than the size of the files."""

from __future__ import annotations

import io
import math
import zipfile
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from pathlib import Path


_ENDING = ".npy"

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_plain_npz(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file written by ``numpy.savez``, which does not compress.

    Raises
    ------
    ValueError
        If the file is of another type, an array contains Python objects, or the arrays claim to be
        larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as file:
            _check_sizes(file, path.stat().st_size)
            return {
                name.removesuffix(_ENDING): _array(file.read(name), name)
                for name in file.namelist()
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from error


def _check_sizes(file: zipfile.ZipFile, size: int) -> None:
    entries = file.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its arrays are compressed")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its arrays are larger than the file")


def _array(content: bytes, name: str) -> np.ndarray:
    stream = io.BytesIO(content)
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{name} has an unknown format version")
    shape, by_columns, dtype = _HEADERS[version](stream)
    rest = content[stream.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{name} does not contain the numbers or text that it claims")
    if dtype.itemsize == 0:
        raise ValueError(f"{name} has the empty type {dtype}")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if by_columns else "C").copy()
