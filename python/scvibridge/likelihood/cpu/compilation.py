"""How kernels are compiled: to machine code at first use, kept on disk for the next session."""

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
    """A cache on disk that is out of date when any source file of the kernels changed.

    A compiled kernel contains those that it calls. Numba looks at the time of the file of the
    kernel alone, and would go on using old code of the others (numba issue 1833).
    """

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(sig, codegen), _digest_of_sources())


def _compile(function: Function, **options: bool) -> Function:
    # With numba's error model "python" every division would be a branch that raises.
    dispatcher = njit(nogil=True, error_model="numpy", **options)(function)
    try:
        dispatcher._cache = _KernelCache(function)  # noqa: SLF001
    except RuntimeError:
        # No folder to write to: neither that of the package nor the user's own.
        return dispatcher
    return dispatcher


def kernel(function: Function) -> Function:
    """Compile a function of numbers and arrays, without the interpreter's lock."""
    return _compile(function)


def parallel_kernel(function: Function) -> Function:
    """Compile a function whose loops over `prange` are shared among threads.

    Several threads may call it at a time. Of numba's threading layers "workqueue", which it takes
    where there is neither OpenMP nor TBB, ends the process then: there they take turns.
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
    numba.get_num_threads()  # has numba choose the layer
    return numba.threading_layer() == "workqueue"
