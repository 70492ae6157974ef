"""Compute counts of a block of cells on a device: sampled, or mapped from source to target.

A strip of rows is screened for entries that may be above 0, which are compacted to a list. Their
counts are found by walks upwards from 0. Apart from a flag for each entry of a strip, nothing dense
is held in memory.

Entries that a walk cannot decide are solved on the host by the functions of `likelihood.cpu`: a
count or a mean beyond the longest walk (16384 with Triton, 256 with plain torch), a uniform within
some 1e-13 of 1 or below 2**-465, and one that is as close to a step of the distribution function as
the rounding error. For droplet data (means up to 1,500), these are less than 1e-8 of the samples
and some 1e-6 of the mapped counts with Triton, and up to 1e-4 of either with plain torch.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils import user_warnings
from scvibridge.likelihood.cpu.philox import check_seed
from scvibridge.likelihood.gpu import torch_backend
from scvibridge.likelihood.gpu.parameters import (
    DeviceCounts,
    check,
    contiguous,
    dense_mean,
    hash_tensor,
)
from scvibridge.likelihood.gpu.strip_counts import counts_of_strip, stacked_rows
from scvibridge.likelihood.gpu.strips import Strip
from scvibridge.likelihood.parameters import CountParameters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import numpy.typing as npt
    from torch import Tensor

    from scvibridge.likelihood.parameters import DeviceParameters

    Hashes = npt.NDArray[np.uint64] | Tensor


BACKENDS = ("auto", "triton", "torch")

# The first Triton whose kernels take tuples as arguments.
_FIRST_TRITON = (3, 2)


@torch.no_grad()
def sample_counts(
    parameters: DeviceParameters,
    cell_hashes: Hashes,
    gene_hashes: Hashes,
    seed: int,
    backend: str = "auto",
) -> DeviceCounts:
    """Sample counts: the quantile function at new uniforms.

    The counts are those of `scvibridge.likelihood.on_cpu.sample_counts`.

    Parameters
    ----------
    parameters
        Parameters of n cells and G genes.
    cell_hashes, gene_hashes
        Hashed names (`likelihood.cpu.philox.hash_names`), shapes (n,) and (G,), or tensors of
        `likelihood.gpu.hash_tensor`.
    seed
        Seed in [0, 2**32).
    backend
        ``"triton"``, ``"torch"``, or ``"auto"``: Triton if it runs on a CUDA device, else torch.

    Returns
    -------
    DeviceCounts
        On the device of the parameters.

    Raises
    ------
    ImportError
        If Triton is requested but missing or too old.
    OverflowError
        If a count is above 2**31 - 1.
    ValueError
        If shapes do not match, a mean is negative or not finite, a dispersion not above 0, the
        seed is out of range, or the backend is unknown or does not run on the device.
    """
    block = _Block(None, parameters, None, cell_hashes, gene_hashes, seed, False, backend)
    return block.compute()


@torch.no_grad()
def quantile_counts(
    counts: DeviceCounts,
    source: DeviceParameters,
    target: DeviceParameters,
    cell_hashes: Hashes,
    gene_hashes: Hashes,
    seed: int,
    keep_unchanged: bool = True,
    backend: str = "auto",
) -> DeviceCounts:
    """Map observed counts from their source to a target distribution at the same quantile.

    The counts are those of `scvibridge.likelihood.on_cpu.quantile_counts`.

    Parameters
    ----------
    counts
        Observed counts of n cells and G genes, e.g. from `scvibridge.likelihood.gpu.upload_counts`.
    source, target
        Parameters of the observed counts and of those to compute.
    cell_hashes, gene_hashes
        Hashed names (`likelihood.cpu.philox.hash_names`), shapes (n,) and (G,), or tensors of
        `likelihood.gpu.hash_tensor`.
    seed
        Seed in [0, 2**32).
    keep_unchanged
        Whether to keep counts whose parameters are bitwise identical, without computing them.
    backend
        ``"triton"``, ``"torch"``, or ``"auto"``: Triton if it runs on a CUDA device, else torch.

    Returns
    -------
    DeviceCounts
        On the device of the parameters.

    Raises
    ------
    ImportError
        If Triton is requested but missing or too old.
    OverflowError
        If a count is above 2**31 - 1.
    ValueError
        If shapes or devices do not match, a mean is negative or not finite, a dispersion not above
        0, the seed is out of range, or the backend is unknown or does not run on the device.
    """
    block = _Block(source, target, counts, cell_hashes, gene_hashes, seed, keep_unchanged, backend)
    return block.compute()


@torch.no_grad()
def row_sums(parameters: DeviceParameters) -> Tensor:
    """Sum the means of each cell over the genes, for renormalisation.

    Returns
    -------
    Tensor of float64, shape (n,)
        Bitwise identical if the means are.
    """
    sums = [
        dense_mean(parameters.of_rows(rows)).sum(dim=1)
        for rows in _strips(parameters.shape, torch_backend.strip_entries(parameters.rate.device))
    ]
    return torch.cat(sums) if sums else parameters.factor.new_zeros(0)


class _Block:
    """A block of cells whose counts are to be computed."""

    def __init__(
        self,
        source: DeviceParameters | None,
        target: DeviceParameters,
        observed: DeviceCounts | None,
        cell_hashes: Hashes,
        gene_hashes: Hashes,
        seed: int,
        keep_unchanged: bool,
        backend: str,
    ) -> None:
        self.seed = int(check_seed(seed))
        self.keep_unchanged = bool(keep_unchanged)
        for parameters in (target, *(() if source is None else (source,))):
            check(parameters)
        self.target = contiguous(target)
        self.source = None if source is None else contiguous(source)
        self.observed = observed
        device = target.rate.device
        self.cells = hash_tensor(cell_hashes, device)
        self.genes = hash_tensor(gene_hashes, device)
        self._check()
        self.backend = _backend_module(backend, device)

    def _check(self) -> None:
        shape = self.target.shape
        if self.cells.shape != shape[:1] or self.genes.shape != shape[1:]:
            raise ValueError(
                f"there must be one hash for each of the {shape[0]} cells and {shape[1]} genes, "
                f"got shapes {tuple(self.cells.shape)} and {tuple(self.genes.shape)}"
            )
        if self.source is None or self.observed is None:
            return
        if self.source.shape != shape:
            raise ValueError(
                f"source and target must have the same shape, got {self.source.shape} and {shape}"
            )
        if len(self.observed.indptr) != shape[0] + 1:
            raise ValueError(
                f"counts must be those of {shape[0]} cells, got {len(self.observed.indptr) - 1}"
            )
        devices = {tensor.device for tensor in (self.source.rate, self.target.rate, *self.observed)}
        if len(devices) > 1:
            names = ", ".join(sorted(map(str, devices)))
            raise ValueError(f"counts, source and target must be on one device, got {names}")

    def compute(self) -> DeviceCounts:
        """Compute the counts, strip by strip."""
        n_cells, n_genes = self.target.shape
        entries = self.backend.strip_entries(self.target.rate.device)
        strips = list(_strips((n_cells, n_genes), entries))
        # Triton launches on the current device, regardless of the tensors' device.
        with torch.cuda.device_of(self.cells):  # type: ignore[no-untyped-call]
            parts = [
                counts_of_strip(self.backend, self._strip(rows), known, rows.start)
                for rows, known in zip(strips, self._known(strips), strict=True)
            ]
        return stacked_rows(parts, n_cells, self.target.rate.device)

    def _strip(self, rows: slice) -> Strip:
        return Strip(
            None if self.source is None else self.source.of_rows(rows),
            self.target.of_rows(rows),
            self.cells[rows],
            self.genes,
            self.seed,
            self.keep_unchanged,
        )

    def _known(self, strips: list[slice]) -> Iterator[DeviceCounts | None]:
        """Yield the observed counts of each strip."""
        if self.observed is None:
            yield from [None] * len(strips)
            return
        indptr, indices, data = self.observed
        edges = torch.tensor([0] + [rows.stop for rows in strips], device=indptr.device)
        ends = indptr[edges].tolist()
        for rows, start, stop in zip(strips, ends[:-1], ends[1:], strict=True):
            own = indptr[rows.start : rows.stop + 1] - start
            yield DeviceCounts(own, indices[start:stop], data[start:stop])


def _strips(shape: tuple[int, int], entries: int) -> Iterator[slice]:
    n_cells, n_genes = shape
    height = max(1, entries // max(n_genes, 1))
    for start in range(0, n_cells, height):
        yield slice(start, min(start + height, n_cells))


# -- the backend ----------------------------------------------------------------------------------


def _backend_module(backend: str, device: torch.device) -> ModuleType:
    """Choose the module that computes counts.

    Raises
    ------
    ImportError
        If Triton is requested but missing or too old.
    ValueError
        If the name is unknown, or Triton does not run on the device.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "torch":
        return torch_backend
    if backend == "auto":
        if device.type != "cuda" or find_spec("triton") is None or not _triton_runs(str(device)):
            return torch_backend
    elif device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"backend='triton' requires a CUDA device, got {device}; use 'torch'")
    elif find_spec("triton") is None:
        raise ImportError("backend='triton' requires Triton: pip install triton, or use 'torch'")
    elif _triton_version() < _FIRST_TRITON:
        needed, found = (".".join(map(str, v)) for v in (_FIRST_TRITON, _triton_version()))
        raise ImportError(
            f"backend='triton' requires Triton {needed} or later, got {found}: pip install "
            f"'triton>={needed}' (torch may require another version), or use 'torch'"
        )
    from scvibridge.likelihood.gpu import triton_backend

    return triton_backend


def _triton_version() -> tuple[int, ...]:
    return tuple(map(int, metadata.version("triton").split(".")[:2]))


@cache
def _triton_runs(device: str) -> bool:
    """Return whether Triton compiles and runs there: it needs a C compiler and a recent GPU."""
    one = torch.ones((1, 1), dtype=torch.float64, device=device)
    parameters = CountParameters(one, one[0], None, torch.zeros_like(one[0]).long(), None)
    hashes: Any = np.zeros(1, dtype=np.uint64)
    try:
        sample_counts(parameters, hashes, hashes, 0, backend="triton")
    except Exception as error:  # noqa: BLE001 - anything that the compiler or the driver raises
        user_warnings.warn(
            f"Triton does not run on {device} ({error}); counts are computed with plain torch, "
            "which is slower",
            RuntimeWarning,
        )
        return False
    return True
