"""Compute counts from the parameters of a block, on the device of the model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from scvibridge.likelihood import gpu, on_cpu

if TYPE_CHECKING:
    from collections.abc import Callable

    import scipy.sparse as sp

    from scvibridge.likelihood.parameters import BlockParameters, DeviceParameters

    Collect = Callable[[], sp.csr_matrix]


# Tables of dispersions, ratios and logit differences that are cached, for source and target.
_MOST_TABLES = 8


class Drawing(Protocol):
    """Sample and map the counts of blocks.

    Counts are returned as a function that waits for them, so that the counts of one block can be
    transferred from the device while the next block is computed. Call it once per block, in order.
    """

    def sums(self, parameters: BlockParameters) -> np.ndarray:
        """Sum rates over all genes, with shifts but without factors, shape ``(n,)``."""
        ...

    def sample(
        self, parameters: BlockParameters, cells: np.ndarray, genes: np.ndarray, seed: int
    ) -> Collect:
        """Sample counts; see :func:`scvibridge.likelihood.on_cpu.sample_counts`."""
        ...

    def map(
        self,
        counts: sp.csr_matrix,
        source: BlockParameters,
        target: BlockParameters,
        cells: np.ndarray,
        genes: np.ndarray,
        seed: int,
        keep_unchanged: bool,
    ) -> Collect:
        """Map counts; see :func:`scvibridge.likelihood.on_cpu.quantile_counts`."""
        ...


def drawing_on(device: torch.device) -> Drawing:
    """Choose how counts are computed, by the device of the model."""
    return HostDrawing() if device.type == "cpu" else DeviceDrawing(device)


class HostDrawing:
    """Sample and map counts on the host, with compiled, multithreaded kernels."""

    def sums(self, parameters: BlockParameters) -> np.ndarray:
        """Sum rates over all genes."""
        return on_cpu.mean_sums(_without_factor(parameters).numpy())

    def sample(
        self, parameters: BlockParameters, cells: np.ndarray, genes: np.ndarray, seed: int
    ) -> Collect:
        """Sample counts."""
        counts = on_cpu.sample_counts(parameters.numpy(), cells, genes, seed)
        return lambda: counts

    def map(
        self,
        counts: sp.csr_matrix,
        source: BlockParameters,
        target: BlockParameters,
        cells: np.ndarray,
        genes: np.ndarray,
        seed: int,
        keep_unchanged: bool,
    ) -> Collect:
        """Map counts."""
        mapped = on_cpu.quantile_counts(
            counts, source.numpy(), target.numpy(), cells, genes, seed, keep_unchanged
        )
        return lambda: mapped


def _without_factor(parameters: BlockParameters) -> BlockParameters:
    return replace(parameters, factor=np.ones(len(parameters.factor)))


class DeviceDrawing:
    """Sample and map counts on the device of the model, with Triton or plain torch.

    Parameters
    ----------
    device
        The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: gpu.HostCopies | None = None
        # Tables that all blocks use are copied to the device once. They are referenced here, so
        # that their ids are not reused.
        self._tables: dict[int, tuple[np.ndarray, torch.Tensor]] = {}

    def __del__(self) -> None:
        """End the copying thread."""
        if self._copies is not None:
            self._copies.close()

    def __getstate__(self) -> dict[str, Any]:
        """Drop what belongs to this process."""
        return {**self.__dict__, "_copies": None, "_tables": {}}

    def sums(self, parameters: BlockParameters) -> np.ndarray:
        """Sum rates over all genes."""
        rates = self._on_device(_without_factor(parameters))
        return gpu.row_sums(rates).cpu().numpy()

    def sample(
        self, parameters: BlockParameters, cells: np.ndarray, genes: np.ndarray, seed: int
    ) -> Collect:
        """Sample counts."""
        drawn = gpu.sample_counts(self._on_device(parameters), cells, genes, seed)
        return self._collect(drawn, len(genes))

    def map(
        self,
        counts: sp.csr_matrix,
        source: BlockParameters,
        target: BlockParameters,
        cells: np.ndarray,
        genes: np.ndarray,
        seed: int,
        keep_unchanged: bool,
    ) -> Collect:
        """Map counts."""
        mapped = gpu.quantile_counts(
            gpu.upload_counts(counts, self._device),
            self._on_device(source),
            self._on_device(target),
            cells,
            genes,
            seed,
            keep_unchanged,
        )
        return self._collect(mapped, len(genes))

    def _collect(self, counts: gpu.DeviceCounts, n_genes: int) -> Collect:
        if self._copies is None:
            self._copies = gpu.HostCopies(n_genes, self._device)
        self._copies.submit(counts)
        return self._copies.collect

    def _on_device(self, parameters: BlockParameters) -> DeviceParameters:
        return parameters.to(self._device, self._table)

    def _table(self, values: np.ndarray) -> torch.Tensor:
        kept = self._tables.get(id(values))
        if kept is None:
            # With a selection of genes, each minibatch builds its own tables.
            if len(self._tables) >= _MOST_TABLES:
                self._tables.clear()
            kept = self._tables[id(values)] = (values, torch.as_tensor(values, device=self._device))
        return kept[1]
