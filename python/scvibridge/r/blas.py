"""Resolve conflicts between torch's native code and the program that embeds Python."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from pathlib import Path

# BLAS functions in single and double precision, with the names that Fortran compilers use.
_BLAS = ("sgemm_", "dgemm_")


def keep_own_blas() -> bool:
    """Load torch so that it uses its own BLAS, if the program has loaded another one.

    R links BLAS into its whole process, and on Linux the first function with a name is used by all
    libraries: torch's products are then computed by R's BLAS, which has one thread and, if it is
    the reference implementation, takes about forty times as long. torch's library is therefore
    loaded before `import torch` does it, with its own functions first.

    Returns
    -------
    Whether this was needed and done; False if torch was already imported, when it is too late.
    """
    if "torch" in sys.modules or not hasattr(os, "RTLD_DEEPBIND"):
        return False
    program = ctypes.CDLL(None)
    if not any(hasattr(program, name) for name in _BLAS):
        return False
    library = _torch_library()
    if library is None:
        return False
    try:
        ctypes.CDLL(str(library), mode=os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND)
    except OSError:  # `import torch` searches further folders, or reports what is wrong
        return False
    return True


def _torch_library() -> Path | None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    library = Path(found.origin).parent / "lib" / "libtorch_cpu.so"
    return library if library.is_file() else None
