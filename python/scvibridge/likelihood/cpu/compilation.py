"""Compile kernels to machine code at first use, and cache them on disk for later sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba import njit
from numba.core.caching import FunctionCache

from scvibridge._utils.process_state import lock

_one_run = lock()

Function = TypeVar("Function", bound=Callable[..., Any])


@cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _KernelCache(FunctionCache):
    """A cache on disk that is invalidated when any source file of the kernels changes.

    A compiled kernel contains the kernels that it calls. Numba only checks the modification time of
    the kernel's own file, and would keep using old code of the others (numba issue 1833).
    """

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _digest_of_sources())


def _compile(function: Function, **options: bool) -> Function:
    # With numba's error model "python", every division would contain a branch that raises.
    dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
    try:
        dispatcher._cache = _KernelCache(function)  # noqa: SLF001
    except RuntimeError:
        # There is no writable folder: neither that of the package nor the user's cache.
        return dispatcher
    return dispatcher


def kernel(function: Function) -> Function:
    """Compile a function of numbers and arrays that releases the GIL."""
    return _compile(function)


def parallel_kernel(function: Function) -> Function:
    """Compile a function whose loops over `prange` are shared among threads.

    It is safe to call from several threads. Numba's threading layer "workqueue", which it uses if
    neither OpenMP nor TBB is available, would then end the process: with it, threads take turns.
    """
    compiled = _compile(function, parallel=True)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        if _takes_turns():
            with _one_run:
                return compiled(*arguments)
        return compiled(*arguments)

    return cast("Function", call)


@cache
def _takes_turns() -> bool:
    numba.get_num_threads()  # makes numba choose the layer
    return numba.threading_layer() == "workqueue"
