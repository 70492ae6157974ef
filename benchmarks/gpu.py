"""Time corrected counts on a GPU: ``python -m benchmarks.gpu``, on a machine that has one.

Two cases, each timed once after a first run that compiles what has to be compiled:

- *simulated*: 1,000,000 cells x 20,000 genes. Latents are sampled on the device and decoded there
  block by block through a decoder of scVI's shape with random weights (10 latent dimensions, 128
  hidden units); counts are sampled, converted to CSR and copied to the host, where they are kept if
  they fit in half of the free memory. Then a few more blocks run under torch's profiler.
- *model*: 200,000 cells x 20,000 genes on disk through ``scvibridge.corrected_counts``, with a
  trained model, by both methods.

``--device cpu --cells 200 --genes 300 --model-cells 200`` tests the code without a GPU, and
measures nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

import scvibridge
from benchmarks.inputs import Inputs, Training, working_folder
from benchmarks.simulation import Simulation
from scvibridge.likelihood import gpu
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.likelihood.parameters import CountParameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scvibridge.likelihood.parameters import DeviceParameters

_N_LATENT, _N_HIDDEN = 10, 128
_MEAN_TOTAL = 5000.0
# Spread of the log frequencies of genes: about a tenth of all counts are then above 0.
_GENE_SD = 2.0
_PROFILED_BLOCKS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both cases and print their times."""
    given = _parse(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch finds no CUDA device here, so nothing can be measured")
    warnings.simplefilter("ignore")
    device = torch.device(given.device)
    print(f"{_name_of(device)}; torch {torch.__version__}; backend {given.backend}")
    if given.cells:
        _simulated(given, device)
    if given.model_cells:
        _model(given)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", type=int, default=1_000_000, help="of the simulated case")
    parser.add_argument("--model-cells", type=int, default=200_000, help="of the model's case")
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=16_384, help="cells decoded at a time")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="auto", choices=["auto", "triton", "torch"])
    return parser.parse_args(arguments)


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"


def _timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return the seconds that a call takes until the device has finished, and its result."""
    started = time.perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


# -- simulated latents ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoder:
    """A decoder of scVI's shape with random weights, and dispersions."""

    hidden: torch.nn.Linear
    output: torch.nn.Linear
    theta: torch.Tensor

    @classmethod
    def random(cls, n_genes: int, device: torch.device) -> _Decoder:
        torch.manual_seed(1)
        hidden = torch.nn.Linear(_N_LATENT, _N_HIDDEN).to(device)
        output = torch.nn.Linear(_N_HIDDEN, n_genes).to(device)
        torch.nn.init.normal_(output.bias, std=_GENE_SD)
        theta = torch.exp(torch.randn((1, n_genes), dtype=torch.float64) + np.log(4.0))
        return cls(hidden, output, theta.to(device))

    def parameters(self, n_cells: int) -> DeviceParameters:
        """Decode random latents."""
        device = self.theta.device
        z = torch.randn((n_cells, _N_LATENT), device=device)
        library = _MEAN_TOTAL * torch.exp(0.4 * torch.randn(n_cells, device=device))
        rate = torch.softmax(self.output(torch.relu(self.hidden(z))), dim=-1)
        row = torch.zeros(n_cells, dtype=torch.int64, device=device)
        return CountParameters(rate, library.double(), self.theta, row, None)


@torch.inference_mode()
def _draw_all(given: argparse.Namespace, device: torch.device, n_cells: int) -> _Totals:
    """Decode, sample and copy to the host."""
    decoder = _Decoder.random(given.genes, device)
    genes = gpu.hash_tensor(hash_names(f"gene {gene}" for gene in range(given.genes)), device)
    totals = _Totals(n_cells)

    def blocks() -> Iterator[gpu.DeviceCounts]:
        for start in range(0, n_cells, given.block):
            stop = min(start + given.block, n_cells)
            cells = hash_names(f"cell {cell}" for cell in range(start, stop))
            parameters = decoder.parameters(stop - start)
            yield gpu.sample_counts(parameters, cells, genes, 0, given.backend)

    with gpu.HostCopies(given.genes, device) as copies:
        for matrix in copies.stream(blocks()):
            totals.add(matrix)
    return totals


class _Totals:
    """Totals of the matrices, and the matrices themselves if they fit into memory."""

    def __init__(self, n_cells: int) -> None:
        self._n_cells = n_cells
        self.kept: list[Any] | None = []
        self.nonzeros = 0
        self.total = 0

    def add(self, matrix: Any) -> None:
        """Add a block."""
        self.nonzeros += matrix.nnz
        self.total += int(matrix.data.sum(dtype=np.int64))
        if self.kept is None:
            return
        self.kept.append(matrix)
        n_bytes = matrix.data.nbytes + matrix.indices.nbytes
        if len(self.kept) == 1 and n_bytes / matrix.shape[0] * self._n_cells > _free_memory() / 2:
            self.kept = None


def _free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _simulated(given: argparse.Namespace, device: torch.device) -> None:
    draw = partial(_draw_all, given, device)
    draw(min(given.cells, given.block))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds, totals = _timed(lambda: draw(given.cells), device)
    entries = given.cells * given.genes
    print(
        f"simulated: {given.cells:,} cells x {given.genes:,} genes in {seconds:.1f} s; "
        f"{totals.nonzeros:,} counts above 0 ({totals.nonzeros / entries:.1%}), mean total "
        f"{totals.total / given.cells:.0f}; CSR on the host "
        f"{'dropped, for want of memory' if totals.kept is None else 'kept'}"
    )
    if device.type == "cuda":
        print(f"peak memory of the device: {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
    _profiled(lambda: draw(min(given.cells, _PROFILED_BLOCKS * given.block)), device)


def _profiled(function: Callable[[], Any], device: torch.device) -> None:
    activities = [ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        order = "self_device_time_total"
    with profile(activities=activities) as profiler:
        _timed(function, device)
    print(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


# -- a trained model ------------------------------------------------------------------------------


def _model(given: argparse.Namespace) -> None:
    device = torch.device(given.device)
    cells = Simulation(given.model_cells, given.genes, _MEAN_TOTAL, _GENE_SD)
    training = Training(
        Simulation(min(given.model_cells, 4000), given.genes, _MEAN_TOTAL, _GENE_SD), epochs=3
    )
    with working_folder(None, keep=False) as folder:
        inputs = Inputs(folder)
        path, model = inputs.cells(cells), scvibridge.load(inputs.model(training), adata=False)
        for method in ("sample", "quantile"):

            def correct(indices: slice | None, method: str = method) -> Any:
                return scvibridge.corrected_counts(
                    model,
                    path,
                    transform_batch="V2",
                    method=method,
                    indices=indices,
                    device=given.device,
                    progress=False,
                )

            correct(slice(0, min(given.model_cells, 1000)))
            seconds, corrected = _timed(lambda call=correct: call(None), device)
            print(
                f"model, {method}: {given.model_cells:,} cells x {given.genes:,} genes in "
                f"{seconds:.1f} s; {corrected.X.nnz:,} counts above 0"
            )


if __name__ == "__main__":
    main()
