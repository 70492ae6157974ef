"""Compiles Triton's kernels to machine code for two architectures, without a GPU.

It prints the name of each kernel that the compiler and the assembler took; see test_gpu_triton.py.
"""

from __future__ import annotations

import itertools

import gpu_checks
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from scvibridge.likelihood.gpu import triton_backend
from scvibridge.likelihood.gpu.strips import Strip

COMPUTE_CAPABILITIES = (80, 90)
KINDS = ("nb", "poisson", "double", "ratio of a mixture")


class NamedDriver:
    """In place of CUDA's driver: it names the architecture and holds no GPU."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):  # noqa: ARG002
        return 0


class CompiledOnly:
    """A kernel that is compiled for its arguments where it would be launched."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def compiled(*arguments, **options):
            made = self.kernel.warmup(*arguments, grid=grid, **options)
            assert len(made.asm["cubin"]) > 1000
            print(made.metadata.name)  # noqa: T201 - what the test counts

        return compiled


def compile_kind(kind, n_genes):
    source, target = gpu_checks.make_block(kind, 3, n_genes).device
    cells, genes = torch.zeros(3, dtype=torch.int64), torch.zeros(n_genes, dtype=torch.int64)
    for first, observed in ((None, None), (source, torch.ones(7, dtype=torch.int32))):
        strip = Strip(first, target, cells, genes, seed=2**32 - 1, keep_unchanged=True)
        triton_backend.screen(strip)
        triton_backend.solve(strip, torch.arange(7), observed, 64)


def main():
    triton_backend.screen_kernel = CompiledOnly(triton_backend.screen_kernel)
    triton_backend.solve_kernel = CompiledOnly(triton_backend.solve_kernel)
    for capability, kind in itertools.product(COMPUTE_CAPABILITIES, KINDS):
        driver.set_active(NamedDriver(capability))
        compile_kind(kind, 5)
    # Triton makes an argument of 1 a constant.
    compile_kind("ratio of a mixture", 1)


if __name__ == "__main__":
    main()
