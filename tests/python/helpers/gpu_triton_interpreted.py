"""What Triton's kernels draw, by its interpreter; see test_gpu_triton.py, which runs this file."""

from __future__ import annotations

import gpu_checks
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from gpu_checks import columns
from philox_answers import KNOWN_ANSWERS
from scipy import sparse

from scvibridge.likelihood import gpu
from scvibridge.likelihood.gpu import drawing, triton_backend, triton_kernels
from scvibridge.likelihood.gpu.random_numbers import open_uniforms
from scvibridge.likelihood.parameters import CountParameters


@pytest.fixture(autouse=True)
def short_walks(monkeypatch):
    """Leave more to the host: an interpreted step takes as long as a million compiled ones."""
    monkeypatch.setattr(triton_backend, "WALKS", (12, 60))


@triton.jit
def philox_kernel(seed, counter, out):
    word_0, word_1, word_2, word_3 = tl.philox(
        tl.load(seed),
        tl.load(counter).to(tl.uint32),
        tl.load(counter + 1).to(tl.uint32),
        tl.load(counter + 2).to(tl.uint32),
        tl.load(counter + 3).to(tl.uint32),
    )
    tl.store(out, word_0.to(tl.int64))
    tl.store(out + 1, word_1.to(tl.int64))
    tl.store(out + 2, word_2.to(tl.int64))
    tl.store(out + 3, word_3.to(tl.int64))


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, output):
    seed = np.array([key[1] << 32 | key[0]], dtype=np.uint64).view(np.int64)
    out = torch.zeros(4, dtype=torch.int64)
    philox_kernel[(1,)](torch.as_tensor(seed), torch.tensor(counter), out)
    assert tuple(out.tolist()) == output


@triton.jit
def uniforms_kernel(cell, genes, seed, out, second: tl.constexpr, block: tl.constexpr):
    index = tl.arange(0, block)
    drawn = triton_kernels.open_uniforms(tl.load(cell), tl.load(genes + index), seed, second)
    tl.store(out + index, drawn)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("second", [False, True])
def test_uniforms_are_those_of_torch(seed, second):
    cell = gpu.hash_tensor(gpu_checks.names(1), "cpu")
    genes = gpu.hash_tensor(gpu_checks.names(64, "gene"), "cpu")
    out = torch.zeros(64, dtype=torch.float64)
    uniforms_kernel[(1,)](cell, genes, seed, out, second=second, block=64)
    assert torch.equal(out, open_uniforms(cell, genes, seed, second))


@pytest.mark.parametrize("case", [case for case in gpu_checks.CASES if case != "large means"])
def test_counts_are_those_of_numba(case):
    gpu_checks.check_case(case, "triton", 2, 260)


def test_outliers_are_those_of_numba():
    gpu_checks.check_outliers("triton")


@pytest.mark.parametrize("case", ["nb", "ratio of a mixture"])
def test_few_entries_of_usual_data_are_left_to_the_host(case, monkeypatch):
    block = gpu_checks.make_block(case, 2, 200, largest=0.5)
    assert gpu_checks.pending_share(block, "triton", monkeypatch).max() == 0


def test_walks_outlive_a_first_mass_that_underflows():
    gpu_checks.check_underflow(triton_backend)


def test_errors_name_the_row():
    wrong = columns(4, [1.0, 1.0])
    rate = wrong.rate.clone()
    rate[3, 1] = -1.0
    wrong = CountParameters(rate, wrong.factor, None, wrong.theta_row, None)
    hashes = gpu_checks.names(4), gpu_checks.names(2, "gene")
    with pytest.raises(ValueError, match=r"means must be finite and not negative.* row 3 "):
        gpu.sample_counts(wrong, *hashes, 0, backend="triton")
    with pytest.raises(OverflowError, match=r"row 0 .* above 2\*\*31 - 1"):
        gpu.sample_counts(columns(4, [1e11, 1e11]), *hashes, 0, backend="triton")


def test_blocks_without_counts():
    hashes = gpu_checks.names(3), gpu_checks.names(2, "gene")
    nothing = gpu.upload_counts(sparse.csr_matrix((3, 2), dtype=int), "cpu")
    rare = columns(3, [1e-12, 1e-12])
    for counts in (
        gpu.sample_counts(rare, *hashes, 0, backend="triton"),
        gpu.quantile_counts(nothing, rare, rare, *hashes, 0, backend="triton"),
    ):
        gpu_checks.assert_layout(counts, (3, 2))
        assert len(counts.data) == 0


def test_the_trial_of_triton_succeeds():
    assert drawing._triton_runs("cpu")
