"""Checks that every way of drawing on a device has to pass: against numba, case by case."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from scvibridge.likelihood import gpu, on_cpu
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.likelihood.gpu.strips import Strip
from scvibridge.likelihood.parameters import CountParameters, GroupShift

CASES = (
    "nb",
    "zinb",
    "poisson",
    "theta of each batch",
    "theta of each cell",
    "double",
    "ratio",
    "ratio of a mixture",
    "large means",
)


@dataclass
class Block:
    """The same parameters for numba and for a device, source and target."""

    host: tuple[CountParameters, CountParameters]
    device: tuple[gpu.DeviceParameters, gpu.DeviceParameters]
    cells: np.ndarray
    genes: np.ndarray

    @property
    def hashes(self):
        return self.cells, self.genes


def names(n, prefix="cell"):
    return hash_names(f"{prefix} {index}" for index in range(n))


def tensor(values, dtype=torch.float64):
    return torch.as_tensor(np.asarray(values), dtype=dtype)


def columns(n_cells, mean, theta=None, logit=None):
    """The same parameters for every cell, one column for each gene."""
    return CountParameters(
        tensor(mean).expand(n_cells, -1),
        torch.ones(n_cells, dtype=torch.float64),
        None if theta is None else tensor(theta)[None, :],
        torch.zeros(n_cells, dtype=torch.int64),
        None if logit is None else tensor(logit).expand(n_cells, -1),
    )


def make_block(case, n_cells, n_genes, device="cpu", seed=1, largest=1.5):
    """A block of parameters; means reach from 1e-4 to some 10**largest."""
    rng = np.random.default_rng(seed)
    shape = (n_cells, n_genes)
    if case == "large means":
        largest = 3.2
    rate = 10 ** rng.uniform(-4, largest, (1, n_genes)) * rng.lognormal(0, 0.4, shape)
    rate[rng.random(shape) < 0.01] = 0.0
    rate = rate.astype(np.float64 if case == "double" else np.float32)
    factor = rng.lognormal(0, 0.3, n_cells)
    target_factor = np.where(rng.random(n_cells) < 0.3, factor, factor * 1.2)
    theta, rows, target_rows = _dispersions(case, rng, shape)
    logits = target_logits = ratio = shift = None
    shift_row = rng.integers(0, 3, n_cells)
    if case in ("zinb", "ratio of a mixture"):
        logits = target_logits = rng.normal(-1, 2, shape).astype(np.float32)
    if case.startswith("ratio"):
        ratio = np.exp(rng.normal(0, 0.5, (3, n_genes)))
        ratio[:, ::5] = 1.0
        ratio[0] = 1.0
    if case == "ratio of a mixture":
        shift = rng.normal(0, 0.3, (3, n_genes))
        shift[0] = 0.0
    mean = rate.astype(np.float64) * factor[:, None]
    target_mean = rate.astype(np.float64) * target_factor[:, None]
    if ratio is not None:
        target_mean *= ratio[shift_row]
    if shift is not None:
        target_logits = logits + shift[shift_row]

    ones = np.ones(n_cells)

    def on_device(values):
        return None if values is None else torch.as_tensor(values, device=device)

    return Block(
        (
            CountParameters(mean, ones, theta, rows, _double(logits)),
            CountParameters(target_mean, ones, theta, target_rows, _double(target_logits)),
        ),
        (
            CountParameters(*map(on_device, (rate, factor, theta, rows, logits))),
            CountParameters(
                *map(on_device, (rate, target_factor, theta, target_rows, logits)),
                None if ratio is None else GroupShift(*map(on_device, (ratio, shift, shift_row))),
            ),
        ),
        names(n_cells),
        names(n_genes, "gene"),
    )


def _double(values):
    return None if values is None else values.astype(np.float64)


def _dispersions(case, rng, shape):
    """Inverse dispersions, and the row of each cell in source and target."""
    none = np.zeros(shape[0], dtype=np.int64)
    if case == "poisson":
        return None, none, none
    if case == "theta of each cell":
        each = np.arange(shape[0])
        return 10 ** rng.uniform(-0.5, 3, shape), each, each
    theta = 10 ** rng.uniform(-0.5, 3, (2, shape[1]))
    theta[:, ::9] = np.inf
    if case == "theta of each batch":
        return theta, rng.integers(0, 2, shape[0]), none
    return theta, none, none


def to_scipy(counts, n_genes):
    indptr, indices, data = (tensor.cpu().numpy() for tensor in counts)
    return sparse.csr_matrix((data, indices, indptr), (len(indptr) - 1, n_genes))


def assert_layout(counts, shape):
    """CSR as promised: sorted, without zeros, of the right types."""
    assert counts.indptr.dtype == torch.int64
    assert counts.indices.dtype == counts.data.dtype == torch.int32
    assert len(counts.indptr) == shape[0] + 1
    assert int(counts.indptr[-1]) == len(counts.data) == len(counts.indices)
    matrix = to_scipy(counts, shape[1])
    assert matrix.shape == shape
    assert matrix.has_canonical_format
    assert matrix.nnz == 0 or matrix.data.min() > 0


def assert_counts(got, expected):
    """The same counts, but for at most one entry in 10**5, and there by 1."""
    assert_layout(got, expected.shape)
    difference = to_scipy(got, expected.shape[1]) - expected
    assert difference.count_nonzero() <= 1e-5 * np.prod(expected.shape)
    if difference.nnz:
        assert np.abs(difference.data).max() <= 1


def check_case(case, backend, n_cells, n_genes, device="cpu"):
    """Draw and map a block on the device and by numba."""
    block = make_block(case, n_cells, n_genes, device)
    source, target = block.host
    expected = on_cpu.sample_counts(target, *block.hashes, 3)
    drawn = gpu.sample_counts(block.device[1], *block.hashes, 3, backend=backend)
    assert 0.1 < expected.nnz / np.prod(expected.shape) < 0.9
    assert_counts(drawn, expected)
    observed = on_cpu.sample_counts(source, *block.hashes, 4)
    uploaded = gpu.upload_counts(observed, device)
    for keep in (True, False):
        mapped = gpu.quantile_counts(
            uploaded, *block.device, *block.hashes, 5, keep_unchanged=keep, backend=backend
        )
        expected = on_cpu.quantile_counts(
            observed, source, target, *block.hashes, 5, keep_unchanged=keep
        )
        assert (expected != observed).nnz > 0.01 * observed.nnz
        assert_counts(mapped, expected)


def check_outliers(backend, device="cpu"):
    """Counts far in the tails of their source, means beyond all walks, impossible counts."""
    means = [0.0, 1e-8, 0.3, 5.0, 400.0, 900.0, 3e4]
    counts = [0, 1, 3, 60, 700]
    source, target = (grid.ravel() for grid in np.meshgrid(means, means))
    n_genes = source.size
    theta = np.stack([np.full(n_genes, value) for value in (0.5, 50.0, np.inf)])
    rows = np.repeat(np.arange(3), len(counts))
    observed = sparse.csr_matrix(np.tile(np.repeat(counts, n_genes).reshape(-1, n_genes), (3, 1)))
    cells, genes = names(len(rows)), names(n_genes, "gene")
    host = [
        CountParameters(np.tile(m, (len(rows), 1)), np.ones(len(rows)), theta, rows, None)
        for m in (source, target)
    ]
    on_device = [
        CountParameters(
            torch.as_tensor(p.rate, device=device),
            torch.ones(len(rows), dtype=torch.float64, device=device),
            torch.as_tensor(theta, device=device),
            torch.as_tensor(rows, device=device),
            None,
        )
        for p in host
    ]
    expected = on_cpu.quantile_counts(observed, *host, cells, genes, 6)
    mapped = gpu.quantile_counts(
        gpu.upload_counts(observed, device), *on_device, cells, genes, 6, backend=backend
    )
    assert (expected != observed).nnz > 0.5 * observed.nnz
    assert_counts(mapped, expected)
    drawn = gpu.sample_counts(on_device[1], cells, genes, 7, backend=backend)
    assert_counts(drawn, on_cpu.sample_counts(host[1], cells, genes, 7))


def check_underflow(backend, device="cpu"):
    """Walks from exp(-900), which no double holds, with nothing left to the host."""
    n_genes, n_steps = 40, 1200
    means = np.linspace(800.0, 1000.0, n_genes)[None, :]
    block = names(1), names(n_genes, "gene")
    row = np.zeros(1, dtype=np.int64)
    one = np.ones(1)
    host = [CountParameters(mean, one, None, row, None) for mean in (means, means[:, ::-1].copy())]
    source, target = (
        CountParameters(
            torch.as_tensor(parameters.rate, device=device),
            torch.ones(1, dtype=torch.float64, device=device),
            None,
            torch.as_tensor(row, device=device),
            None,
        )
        for parameters in host
    )
    hashes = [gpu.hash_tensor(each, target.rate.device) for each in block]
    observed = on_cpu.sample_counts(host[0], *block, 1)
    assert observed.nnz == n_genes
    before = gpu.upload_counts(observed, device).data
    positions = torch.arange(n_genes, device=device)
    for first, some, expected in (
        (None, None, on_cpu.sample_counts(host[1], *block, 2)),
        (source, before, on_cpu.quantile_counts(observed, *host, *block, 2)),
    ):
        strip = Strip(first, target, *hashes, seed=2, keep_unchanged=True)
        walked = backend.solve(strip, positions, some, n_steps)
        np.testing.assert_array_equal(walked.cpu().numpy(), expected.data)


def pending_share(block, backend, monkeypatch):
    """Shares of all entries that the host had to solve, in a draw and in a mapping."""
    from scvibridge.likelihood.gpu import exact, strip_counts

    n_pending, solve = [0], exact.solve_on_host

    def counted(uniforms, *arguments):
        n_pending[0] += len(uniforms)
        return solve(uniforms, *arguments)

    shares = []
    device = block.device[0].rate.device
    observed = on_cpu.sample_counts(block.host[0], *block.hashes, 8)
    with monkeypatch.context() as patch:
        patch.setattr(strip_counts, "solve_on_host", counted)
        gpu.sample_counts(block.device[1], *block.hashes, 9, backend=backend)
        shares.append(n_pending[0])
        uploaded = gpu.upload_counts(observed, device)
        gpu.quantile_counts(uploaded, *block.device, *block.hashes, 9, backend=backend)
        shares.append(n_pending[0] - shares[0])
    return np.array(shares) / np.prod(observed.shape)
