"""The process of one contender: loads, warms up, then runs on request.

Messages to the parent are dictionaries of plain values: ``{"loaded_bytes", "threads"}`` once it is
ready, then one ``{"seconds", "cpu_seconds", "start_bytes", "peak_bytes", "facts"}`` for each run,
or ``{"error", "available"}`` in place of any of them.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Any

from benchmarks import memory
from benchmarks.task import NotAvailableError, Task

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def serve(connection: Connection, function: str, arguments: dict[str, Any]) -> None:
    """Run the contender `function`, "module:name", on each request of the parent."""
    warnings.simplefilter("ignore")
    os.dup2(2, 1)  # what packages print is not a result
    task = None
    try:
        task = load(function, arguments)
        loaded = memory.resident(task.process)
        task.before()
        (task.warm_up or task.run)()
        connection.send({"loaded_bytes": loaded, "threads": _threads()})
        while connection.recv() == "run":
            connection.send(run_once(task))
    except EOFError:
        pass  # the parent has exited
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent reports it
        connection.send(_describe(error))
    finally:
        if task is not None:
            task.close()


def load(function: str, arguments: dict[str, Any]) -> Task:
    """Let the contender load what it needs.

    Raises
    ------
    NotAvailableError
        If there is no such contender (yet).
    """
    module, _, name = function.partition(":")
    try:
        contender = getattr(importlib.import_module(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise NotAvailableError(f"there is no {function}: {error}") from error
    task: Task = contender(**arguments)
    return task


def run_once(task: Task) -> dict[str, Any]:
    """Time one run."""
    task.before()
    gc.collect()
    os.sync()  # earlier writes must not be waited for in this run
    memory.forget_peak(task.process)
    start_bytes = memory.resident(task.process)
    cpu, start = time.process_time(), time.perf_counter()
    result = task.run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "seconds": seconds if task.seconds is None else task.seconds(result),
        "cpu_seconds": cpu,
        "start_bytes": start_bytes,
        "peak_bytes": memory.peak(task.process),
        "facts": task.facts(result),
    }


def _threads() -> dict[str, int]:
    """Return the threads of the packages that the contender has loaded."""
    return {
        name: sys.modules[name].get_num_threads()
        for name in ("torch", "numba")
        if name in sys.modules
    }


def _describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, NotAvailableError):
        return {"error": str(error), "available": False}
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {error}", "available": True}
