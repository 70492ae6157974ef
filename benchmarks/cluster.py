"""A Dask cluster on this machine whose workers have one thread each, and what it does in a run."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)

# Seconds between two readings of the client's CPU time.
_INTERVAL = 0.01


def start_cluster(workers: int, *, processes: bool = True) -> tuple[Any, Any]:
    """Start a LocalCluster and a client; this process is limited to one thread as well.

    Without `processes`, workers are threads of this one, which start at once but measure nothing.
    """
    import torch
    from distributed import Client, LocalCluster

    os.environ.update(_ONE_THREAD)  # for the workers, which inherit it
    _use_one_thread()
    torch.set_num_interop_threads(1)
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=processes, dashboard_address=None
    )
    client = Client(cluster)
    client.wait_for_workers(workers)
    client.run(_use_one_thread)
    return cluster, client


def _use_one_thread() -> None:
    import numba
    import torch

    torch.set_num_threads(1)
    numba.set_num_threads(1)


# -- what client and workers do ------------------------------------------------------------------


@dataclass
class Observation:
    """Observes client and workers during a run (a context manager).

    CPU times are those of processes, so that they also hold on a machine on which the workers share
    cores with each other or with other programs.

    Parameters
    ----------
    client
        The ``dask.distributed.Client``. Its scheduler runs in this process, too.
    """

    client: Any
    _readings: list[tuple[float, float]] = field(default_factory=list)

    def __enter__(self) -> Self:
        from distributed import get_task_stream

        self._readings.clear()
        self._before = self.client.run(time.process_time)
        self._stream = get_task_stream(self.client)
        self._stream.__enter__()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._stream.__exit__(kind, error, traceback)
        self._after = self.client.run(time.process_time)

    def _read(self) -> None:
        while True:
            self._readings.append((time.time(), time.process_time()))
            if self._stop.wait(_INTERVAL):
                self._readings.append((time.time(), time.process_time()))
                return

    def facts(self) -> dict[str, Any]:
        """Return what client and workers did.

        Returns
        -------
        ``worker_cpu`` (CPU seconds of each worker, the least and the most), ``client_cpu`` (of the
        client and the scheduler), ``serial_cpu`` (of these, while no worker had a task),
        ``serial_share`` (of ``serial_cpu`` in the CPU time of client and workers), and
        ``idle_share`` (the largest share of the run in which a worker had no task).
        """
        of_workers = sorted(self._after[name] - cpu for name, cpu in self._before.items())
        when, cpu = np.array(self._readings).T
        tasks = {name: self._intervals(name) for name in self._before}
        gaps = _gaps([span for spans in tasks.values() for span in spans], when[0], when[-1])
        serial = sum(float(np.diff(np.interp(gap, when, cpu))[0]) for gap in gaps)
        seconds = when[-1] - when[0]
        busy = [sum(stop - start for start, stop in spans) for spans in tasks.values()]
        client_cpu = float(cpu[-1] - cpu[0])
        return {
            "worker_cpu_least": of_workers[0],
            "worker_cpu_most": of_workers[-1],
            "client_cpu": client_cpu,
            "serial_cpu": serial,
            "serial_share": serial / (client_cpu + sum(of_workers)),
            "idle_share": float(1.0 - min(busy) / seconds),
        }

    def _intervals(self, worker: str) -> list[tuple[float, float]]:
        """Return when a worker computed tasks."""
        return [
            (span["start"], span["stop"])
            for done in self._stream.data
            if done["worker"] == worker
            for span in done["startstops"]
            if span["action"] == "compute"
        ]


def _gaps(spans: list[tuple[float, float]], begin: float, end: float) -> list[tuple[float, float]]:
    """Return the times between `begin` and `end` that are in none of the spans."""
    gaps, reached = [], begin
    for start, stop in sorted(spans):
        if start > reached:
            gaps.append((reached, min(start, end)))
        reached = max(reached, stop)
    if end > reached:
        gaps.append((reached, end))
    return gaps
