"""Copy finished blocks from a device to the host while the device continues."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scipy import sparse

from scvibridge.likelihood.gpu.parameters import DeviceCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from torch import Tensor


_N_BUFFERS = 2

# A pinned buffer that has become too small is replaced by one with this much room to spare.
_HEADROOM = 1.25


class HostCopies:
    """Copy counts from a device to the host, as CSR matrices of int32.

    On CUDA, a block is copied to one of two pinned buffers in a separate stream while the next
    block is computed; a thread then moves it to memory that the caller owns. On the CPU, it is only
    converted. Use it as a context manager, or call `close`.

    Parameters
    ----------
    n_genes
        Number G of columns.
    device
        Device of the counts.

    Examples
    --------
    >>> with HostCopies(n_genes, device) as copies:  # doctest: +SKIP
    ...     for matrix in copies.stream(draw(block) for block in blocks):
    ...         write(matrix)
    """

    def __init__(self, n_genes: int, device: torch.device | str) -> None:
        self._n_genes = n_genes
        self._waiting: deque[Future[sparse.csr_matrix]] = deque()
        self._device = torch.device(device)
        self._stream: Any = None
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._thread = ThreadPoolExecutor(max_workers=1)
            self._buffers = cycle([_PinnedBuffers() for _ in range(_N_BUFFERS)])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of blocks submitted but not yet collected."""
        return len(self._waiting)

    def close(self) -> None:
        """End the thread; blocks that were not collected are discarded."""
        self._waiting.clear()
        if self._stream is not None:
            self._thread.shutdown()

    def submit(self, counts: DeviceCounts) -> None:
        """Start copying a block, which the device need not have finished.

        Raises
        ------
        RuntimeError
            If two blocks are already waiting to be collected.
        """
        if len(self) == _N_BUFFERS:
            raise RuntimeError(f"{_N_BUFFERS} blocks are already waiting: collect one first")
        if self._stream is None:
            done: Future[sparse.csr_matrix] = Future()
            done.set_result(self._matrix(counts))
            self._waiting.append(done)
            return
        pinned, event = next(self._buffers).copy(counts, self._stream)
        self._waiting.append(self._thread.submit(self._finish, pinned, event))

    def collect(self) -> sparse.csr_matrix:
        """Return the block that was submitted first, waiting for it if necessary.

        Raises
        ------
        RuntimeError
            If no block is waiting.
        """
        if not self._waiting:
            raise RuntimeError("there is no submitted block to collect")
        return self._waiting.popleft().result()

    def stream(self, blocks: Iterable[DeviceCounts]) -> Iterator[sparse.csr_matrix]:
        """Yield the matrix of each block once the next block has been computed."""
        for counts in blocks:
            self.submit(counts)
            if len(self) == _N_BUFFERS:
                yield self.collect()
        while len(self):
            yield self.collect()

    def _finish(self, pinned: DeviceCounts, event: Any) -> sparse.csr_matrix:
        event.synchronize()
        return self._matrix(pinned)

    def _matrix(self, counts: DeviceCounts) -> sparse.csr_matrix:
        """Return a CSR matrix that owns its memory."""
        indptr, indices, data = (np.array(tensor.numpy()) for tensor in counts)
        shape = (len(indptr) - 1, self._n_genes)
        matrix = sparse.csr_matrix((data, indices, indptr), shape=shape)
        matrix.has_sorted_indices = True
        matrix.has_canonical_format = True
        return matrix


class _PinnedBuffers:
    """Page-locked memory for one block, which grows with the blocks."""

    def __init__(self) -> None:
        self._tensors: list[Tensor | None] = [None] * len(DeviceCounts._fields)

    def copy(self, counts: DeviceCounts, stream: Any) -> tuple[DeviceCounts, Any]:
        """Start copying; return the destination, and the event that ends the copy."""
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        views = []
        with torch.cuda.stream(stream):
            for place, tensor in enumerate(counts):
                view = self._reserve(place, tensor)
                view.copy_(tensor, non_blocking=True)
                # The device must not reuse this memory before it has been copied.
                tensor.record_stream(stream)
                views.append(view)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(stream)
        return DeviceCounts(*views), event

    def _reserve(self, place: int, tensor: Tensor) -> Tensor:
        held = self._tensors[place]
        if held is None or held.numel() < tensor.numel():
            size = int(tensor.numel() * _HEADROOM)
            held = torch.empty(size, dtype=tensor.dtype, pin_memory=True)
            self._tensors[place] = held
        return held[: tensor.numel()]
