"""A Dask cluster on this machine whose workers have one thread each."""

from __future__ import annotations

import os
from typing import Any

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


def start_cluster(workers: int) -> tuple[Any, Any]:
    """Start a LocalCluster and a client; this process is limited to one thread as well."""
    import torch
    from distributed import Client, LocalCluster

    os.environ.update(_ONE_THREAD)  # for the workers, which inherit it
    _use_one_thread()
    torch.set_num_interop_threads(1)
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
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
