"""Compile kernels to machine code at first use, and cache them on disk for later sessions.

Compilation is what makes the first call on a machine slow. Two things keep it short:

- Kernels run on one thread, and several threads are given parts of the rows (`share_rows`). Numba
  would compile a loop that it shares among threads twice.
- Only an `entry` is optimised and made executable, together with the kernels that it calls. By
  default numba optimises and finishes each of these separately, and again in each of its callers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from threading import Timer
from typing import Any, TypeVar

import numba
from numba import config, njit
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from scvibridge._utils.progress import note

Function = TypeVar("Function", bound=Callable[..., Any])

_ANNOUNCED_AFTER = 2.0  # seconds

_ANNOUNCEMENT = (
    "compiling for this machine, once, which may take half a minute; "
    "'scvibridge warm-up' does it in advance"
)

# With numba's error model "python", every division would contain a branch that raises.
_OPTIONS = {"nogil": True, "error_model": "numpy"}


@cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):  # those of `likelihood`
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _shared_folder() -> str | None:
    """Return the folder in ``NUMBA_CACHE_DIR`` for these kernels, or None if it is not writable.

    Another user may have created it.
    """
    folder = Path(config.CACHE_DIR, f"scvibridge_{_digest_of_sources()}")
    try:
        folder.mkdir(exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError:
        return None
    return str(folder)


@cache
def _announce() -> None:
    """Say once in a process why the call takes long."""
    note(_ANNOUNCEMENT)


class _KernelCache(FunctionCache):
    """A cache on disk whose files are named by the content of all kernels and by numba's key.

    The key is the types, the processor, and the version of numba.

    A compiled kernel contains the kernels that it calls. Numba only checks the kernel's own file,
    and would keep using old code of the others (numba issue 1833). It also numbers the files of a
    kernel, and writes their index first: a process that ends in between, or starts at the same
    time, could leave an index that refers to the code of other types or of an older version.

    In the folder ``NUMBA_CACHE_DIR``, all installations with these kernels share their files.
    """

    _cache_path: str

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        if config.CACHE_DIR and Path(self._cache_path).parent == Path(config.CACHE_DIR):
            self._cache_path = _shared_folder() or self._cache_path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return compiled code; if it does not exist, announce that it will take a while."""
        self._cache_file = self._file_of(sig, target_context.codegen())
        found = super().load_overload(sig, target_context)
        if found is None:
            self._announcement = Timer(_ANNOUNCED_AFTER, _announce)
            self._announcement.daemon = True
            self._announcement.start()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store compiled code, and remove that of other versions of the kernels."""
        self._announcement.cancel()
        self._cache_file = self._file_of(sig, data.codegen)
        super().save_overload(sig, data)
        kernel, *rest = re.split(r"-\d+\.", self._impl.filename_base)
        for path in Path(self._cache_path).glob(f"{kernel}-*.{'.'.join(rest)}*"):
            if self._version() not in path.name:
                with suppress(OSError):
                    path.unlink()

    def _file_of(self, sig: Any, codegen: Any) -> IndexDataCacheFile:
        key = repr((numba.__version__, self._index_key(sig, codegen)))
        of_key = hashlib.sha256(key.encode()).hexdigest()[:16]
        name = f"{self._impl.filename_base}{self._version()}{of_key}"
        return IndexDataCacheFile(self._cache_path, name, _digest_of_sources())

    @staticmethod
    def _version() -> str:
        return f".{_digest_of_sources()[:16]}."


class _Part(JITCodeLibrary):
    """Code of a kernel and of those that it calls, to be included in that of an entry."""

    def finalize(self) -> None:
        """Include the code of called kernels, without optimising it or making it executable."""
        for library in self._linking_libraries:
            if hasattr(library, "_reload_init"):  # not in numba 0.60
                self._reload_init.update(library._reload_init)  # noqa: SLF001
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)  # noqa: SLF001
        self._finalized = True

    @property
    def codegen(self) -> Any:
        """Return this object, which numba informs of environments instead of the generator."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: code that is not executable has no environment."""


class _PartCompiler(Compiler):
    def __init__(self, typing: Any, target: Any, _library: Any, *rest: Any) -> None:
        super().__init__(typing, target, _Part(target.codegen(), "part"), *rest)


def entry(function: Function) -> Function:
    """Compile a function of numbers and arrays that Python calls; it releases the GIL."""
    dispatcher = njit(**_OPTIONS)(function)
    try:
        dispatcher._cache = _KernelCache(function)  # noqa: SLF001
    except RuntimeError:
        # There is no writable folder: neither that of the package nor the user's cache.
        return dispatcher
    return dispatcher


def kernel(function: Function) -> Function:
    """Compile a function of numbers and arrays that entries and other kernels call.

    It has no address, so that a call from Python would end the process.
    """
    options = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    return njit(pipeline_class=_PartCompiler, **options)(function)
