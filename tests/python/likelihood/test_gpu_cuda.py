"""Drawing on a CUDA device: the checks of the other test_gpu files, at sizes that fill it."""

from __future__ import annotations

from importlib.util import find_spec

import gpu_checks
import numpy as np
import pytest
import torch
from gpu_checks import make_block, to_scipy

import scvibridge
from scvibridge.likelihood import gpu, on_cpu
from scvibridge.likelihood.gpu import drawing

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA device here", allow_module_level=True)

DEVICE = torch.device("cuda", 0)
BACKENDS = ["torch", "triton"] if find_spec("triton") else ["torch"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.mark.parametrize("case", gpu_checks.CASES)
def test_counts_are_those_of_numba(case, backend):
    gpu_checks.check_case(case, backend, 700, 3000, DEVICE)


def test_outliers_are_those_of_numba(backend):
    gpu_checks.check_outliers(backend, DEVICE)


def test_walks_outlive_a_first_mass_that_underflows(backend):
    gpu_checks.check_underflow(drawing._backend_module(backend, DEVICE), DEVICE)


def test_few_entries_of_usual_data_are_left_to_the_host(backend, monkeypatch):
    block = make_block("ratio of a mixture", 1000, 3000, DEVICE, largest=1.0)
    assert gpu_checks.pending_share(block, backend, monkeypatch).max() <= 1e-5


def test_triton_is_what_is_used_by_itself():
    if "triton" not in BACKENDS:
        pytest.skip("Triton is not installed")
    assert drawing._backend_module("auto", DEVICE).__name__.endswith("triton_backend")


def test_strips_bound_the_memory(backend, monkeypatch):
    block = make_block("ratio", 2000, 3000, DEVICE)
    module = drawing._backend_module(backend, DEVICE)
    whole = gpu.sample_counts(block.device[1], *block.hashes, 1, backend)
    monkeypatch.setattr(module, "strip_entries", lambda _: 100_000)
    torch.cuda.reset_peak_memory_stats(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    parts = gpu.sample_counts(block.device[1], *block.hashes, 1, backend)
    assert all(torch.equal(one, other) for one, other in zip(parts, whole, strict=True))
    # The result twice, while its parts are joined, and what the strip needs.
    result = sum(tensor.numel() * tensor.element_size() for tensor in whole)
    assert torch.cuda.max_memory_allocated(DEVICE) - before < 2 * result + 500 * 100_000


def test_sums_are_those_of_the_means():
    block = make_block("ratio of a mixture", 500, 2000, DEVICE)
    for host, device in zip(block.host, block.device, strict=True):
        sums = gpu.row_sums(device)
        assert sums.device == DEVICE
        np.testing.assert_allclose(sums.cpu().numpy(), host.rate.sum(axis=1), rtol=1e-13)


def test_copies_of_blocks_of_all_sizes_arrive_whole(backend):
    heights = [300, 5, 2000, 1, 900, 0, 1500, 40]
    blocks = [make_block("nb", height, 1000, DEVICE, seed=height) for height in heights]

    def drawn():
        for block in blocks:
            yield gpu.sample_counts(block.device[0], *block.hashes, 1, backend)

    with gpu.HostCopies(1000, DEVICE) as copies:
        matrices = list(copies.stream(drawn()))
    assert len(matrices) == len(heights)
    for matrix, counts in zip(matrices, drawn(), strict=True):
        assert (matrix != to_scipy(counts, 1000)).nnz == 0
    # The buffers were used again, and what came out of them is left alone.
    assert matrices[0].nnz > 0
    expected = on_cpu.sample_counts(blocks[0].host[0], *blocks[0].hashes, 1)
    assert (matrices[0] != expected).nnz <= 1e-5 * 300 * 1000


@pytest.mark.filterwarnings("ignore::UserWarning:scvibridge")  # of depth and confounding
@pytest.mark.parametrize("method", ["sample", "quantile"])
def test_corrected_counts_are_those_of_the_cpu(trained_model, method):
    on_device, on_cpu = (
        scvibridge.corrected_counts(
            trained_model, transform_batch="V2", method=method, device=device, progress=False
        ).X
        for device in (str(DEVICE), "cpu")
    )
    difference = (on_device - on_cpu).tocoo()
    assert difference.count_nonzero() <= 1e-3 * np.prod(on_cpu.shape)
    assert difference.nnz == 0 or np.abs(difference.data).max() <= 1
