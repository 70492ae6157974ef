"""Drawing on a device by plain torch, run on the CPU: against numba, scipy and known answers."""

from __future__ import annotations

import gpu_checks
import numpy as np
import oracle
import pytest
import torch
from gpu_checks import assert_counts, assert_layout, columns, make_block, names, to_scipy
from kernels import callable_from_python
from laws import assert_holm, chi_square, simulate
from philox_answers import KNOWN_ANSWERS
from scipy import sparse, stats

from scvibridge.likelihood import gpu, on_cpu
from scvibridge.likelihood.cpu.philox import philox4x32 as philox_kernel
from scvibridge.likelihood.gpu import drawing, torch_backend
from scvibridge.likelihood.gpu.random_numbers import open_uniforms, philox4x32
from scvibridge.likelihood.parameters import CountParameters, GroupShift

# -- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter, key, output):
    words = philox4x32(tuple(torch.tensor(word) for word in counter), key)
    assert tuple(map(int, words)) == output


def test_philox_equals_numba_for_random_counters():
    philox_of_cpu = callable_from_python(philox_kernel)
    rng = np.random.default_rng(1)
    counters, (seed, stream) = rng.integers(0, 2**32, (4, 200)), (2**32 - 1, 2**31)
    words = torch.stack(philox4x32(tuple(torch.as_tensor(counters)), (seed, stream)))
    for index, counter in enumerate(counters.T):
        expected = philox_of_cpu(*map(np.uint64, (*counter, seed, stream)))
        assert tuple(words[:, index].tolist()) == expected


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_uniforms_are_those_of_the_names(seed):
    cells, genes = [f"cell {i}" for i in range(20)], [f"gene {i}" for i in range(30)]
    hashes = (gpu.hash_tensor(names(n, kind), "cpu") for n, kind in ((20, "cell"), (30, "gene")))
    cell, gene = hashes
    for second, expected in enumerate(oracle.uniforms(cells, genes, seed)):
        got = open_uniforms(cell[:, None], gene[None, :], seed, second=bool(second))
        np.testing.assert_array_equal(got.numpy(), expected)


# -- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", gpu_checks.CASES)
def test_counts_are_those_of_numba(case):
    gpu_checks.check_case(case, "torch", 150, 250)


def test_outliers_are_those_of_numba():
    gpu_checks.check_outliers("torch")


def test_walks_outlive_a_first_mass_that_underflows():
    gpu_checks.check_underflow(torch_backend)


def test_draws_follow_their_distribution():
    grid = [
        (mean, theta, logit)
        for mean in (0.01, 0.3, 3.0, 40.0, 1000.0)
        for theta in (0.3, 5.0, np.inf)
        for logit in (-np.inf, -1.0, 1.5)
    ]
    mean, theta, logit = np.array(grid).T
    hashes = names(20_000), names(len(grid), "gene")
    drawn = gpu.sample_counts(columns(20_000, mean, theta, logit), *hashes, 2, backend="torch")
    drawn = to_scipy(drawn, len(grid)).toarray()
    assert_holm(
        chi_square(drawn[:, gene], mean, theta, 1 / (1 + np.exp(-logit)))
        for gene, (mean, theta, logit) in enumerate(grid)
    )


def test_mapped_counts_follow_the_target():
    rng = np.random.default_rng(3)
    grid = [(mean, theta) for mean in (0.3, 3.0, 40.0) for theta in (0.5, 5.0, np.inf)]
    mean, theta = np.array(grid).T
    counts = sparse.csr_matrix(np.column_stack([simulate(rng, *each) for each in grid]))
    new_mean, new_theta, new_logit = 1.7 * mean, 3.0 * theta, np.full(len(grid), -1.0)
    mapped = gpu.quantile_counts(
        gpu.upload_counts(counts, "cpu"),
        columns(4000, mean, theta),
        columns(4000, new_mean, new_theta, new_logit),
        names(4000),
        names(len(grid), "gene"),
        4,
    )
    mapped = to_scipy(mapped, len(grid)).toarray()
    assert_holm(
        chi_square(mapped[:, gene], *each, 1 / (1 + np.e))
        for gene, each in enumerate(zip(new_mean, new_theta, strict=True))
    )
    # Each keeps its rank among the counts of its gene.
    for gene in range(len(grid)):
        kept = mapped[:, gene] > 0
        counted = counts[:, gene].toarray().ravel()
        assert stats.spearmanr(counted[kept], mapped[kept, gene]).statistic > 0.5


def test_few_entries_of_usual_data_are_left_to_the_host(monkeypatch):
    for case in ("nb", "ratio of a mixture"):
        block = make_block(case, 300, 300, largest=1.0)
        assert block.host[1].rate.max() > 30
        assert gpu_checks.pending_share(block, "torch", monkeypatch).max() <= 1e-4
    # It is there, and counted: none of these means is within the walk.
    block = make_block("large means", 30, 30)
    assert gpu_checks.pending_share(block, "torch", monkeypatch).min() > 0.01


def test_strips_bound_the_memory_and_change_nothing(monkeypatch):
    block = make_block("ratio of a mixture", 50, 40)
    observed = gpu.upload_counts(on_cpu.sample_counts(block.host[0], *block.hashes, 1), "cpu")
    heights, screen = [], torch_backend.screen

    def watched(strip):
        heights.append(strip.shape[0])
        return screen(strip)

    def both():
        return (
            *gpu.sample_counts(block.device[1], *block.hashes, 2),
            *gpu.quantile_counts(observed, *block.device, *block.hashes, 2),
            gpu.row_sums(block.device[1]),
        )

    whole = both()
    monkeypatch.setattr(torch_backend, "screen", watched)
    for entries, height in ((7 * 40 + 3, 7), (1, 1)):
        monkeypatch.setattr(torch_backend, "strip_entries", lambda _, entries=entries: entries)
        heights.clear()
        assert all(torch.equal(one, other) for one, other in zip(both(), whole, strict=True))
        assert max(heights) == height
        assert sum(heights) == 2 * 50


def test_empty_blocks():
    for n_cells, n_genes in ((0, 3), (3, 0), (0, 0)):
        parameters = columns(n_cells, np.ones(n_genes), np.ones(n_genes))
        hashes = names(n_cells), names(n_genes, "gene")
        nothing = gpu.upload_counts(sparse.csr_matrix((n_cells, n_genes), dtype=int), "cpu")
        drawn = gpu.sample_counts(parameters, *hashes, 0)
        mapped = gpu.quantile_counts(nothing, parameters, parameters, *hashes, 0)
        for counts in (drawn, mapped):
            assert_layout(counts, (n_cells, n_genes))
            assert len(counts.data) == 0
        assert gpu.row_sums(parameters).shape == (n_cells,)


def test_blocks_without_counts():
    hashes = names(4), names(3, "gene")
    nothing = gpu.upload_counts(sparse.csr_matrix((4, 3), dtype=int), "cpu")
    rare = columns(4, np.full(3, 1e-12), np.ones(3))
    for counts in (
        gpu.sample_counts(rare, *hashes, 0),
        gpu.quantile_counts(nothing, rare, rare, *hashes, 0),
    ):
        assert_layout(counts, (4, 3))
        assert len(counts.data) == 0
    # Zeros become counts where the target has more.
    more = gpu.quantile_counts(nothing, rare, columns(4, np.full(3, 9.0), None), *hashes, 0)
    assert len(more.data) == 12


def test_means_of_zero():
    counts = gpu.upload_counts(sparse.csr_matrix(np.array([[0, 7, 7, 0, 0]])), "cpu")
    source = columns(1, [0.0, 0.0, 5.0, 5.0, 1e4], 4.0 * np.ones(5))
    target = columns(1, [0.0, 3.0, 0.0, 0.0, 0.0], 4.0 * np.ones(5))
    hashes = names(1), names(5, "gene")
    mapped = gpu.quantile_counts(counts, source, target, *hashes, 0)
    # A count that the source holds impossible has no probability to carry over.
    np.testing.assert_array_equal(to_scipy(mapped, 5).toarray(), [[0, 7, 0, 0, 0]])
    assert len(gpu.sample_counts(columns(1, np.zeros(5)), *hashes, 0).data) == 0


def test_row_sums_are_those_of_the_means():
    for case in ("nb", "double", "ratio of a mixture"):
        block = make_block(case, 40, 30)
        for host, device in zip(block.host, block.device, strict=True):
            np.testing.assert_allclose(
                gpu.row_sums(device).numpy(), host.rate.sum(axis=1), rtol=1e-14
            )


def test_a_ratio_of_one_leaves_sums_and_counts_as_they_are():
    block = make_block("ratio", 30, 500)
    source = block.device[0]
    same = CountParameters(
        source.rate,
        source.factor,
        source.theta,
        source.theta_row,
        None,
        GroupShift(
            torch.ones((1, 500), dtype=torch.float64), None, torch.zeros(30, dtype=torch.int64)
        ),
    )
    assert torch.equal(gpu.row_sums(same), gpu.row_sums(source))
    # Ten times as many as the parameters say: far from what would come out if it were computed.
    counts = on_cpu.sample_counts(block.host[0], *block.hashes, 1) * 10
    mapped = gpu.quantile_counts(
        gpu.upload_counts(counts, "cpu"), source, same, *block.hashes, 1, keep_unchanged=True
    )
    assert (to_scipy(mapped, 500) != counts).nnz == 0


def test_parameters_in_any_layout_give_the_same_counts():
    block = make_block("zinb", 30, 40)
    target = block.device[1]
    turned = CountParameters(
        target.rate.t().contiguous().t(),
        target.factor,
        target.theta,
        target.theta_row,
        target.zi_logits.t().contiguous().t(),
    )
    expected = on_cpu.sample_counts(block.host[1], *block.hashes, 1)
    hashes = (gpu.hash_tensor(h, "cpu") for h in block.hashes)
    turned.rate.requires_grad_()  # as what a decoder gives outside of inference
    drawn = gpu.sample_counts(turned, *hashes, 1)
    assert_counts(drawn, expected)
    assert not gpu.row_sums(turned).requires_grad


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_means_are_refused(bad, monkeypatch):
    monkeypatch.setattr(torch_backend, "strip_entries", lambda _: 4)
    good, wrong = columns(4, [1.0, 1.0]), columns(4, [1.0, 1.0])
    rate = wrong.rate.clone()
    rate[3, 1] = bad
    wrong = CountParameters(rate, wrong.factor, None, wrong.theta_row, None)
    hashes = names(4), names(2, "gene")
    counts = gpu.upload_counts(sparse.csr_matrix((4, 2), dtype=int), "cpu")
    for call in (
        lambda: gpu.sample_counts(wrong, *hashes, 0),
        lambda: gpu.quantile_counts(counts, wrong, good, *hashes, 0),
        lambda: gpu.quantile_counts(counts, good, wrong, *hashes, 0),
    ):
        with pytest.raises(ValueError, match=r"means must be finite and not negative.* row 3 "):
            call()


def test_logits_that_are_not_numbers_are_refused():
    parameters = columns(2, [1.0, 1.0], [4.0, 4.0], [0.0, np.nan])
    with pytest.raises(ValueError, match="logits must not be NaN"):
        gpu.sample_counts(parameters, names(2), names(2, "gene"), 0)


def test_a_count_beyond_int32_is_an_overflow():
    genes = names(1, "gene")
    with pytest.raises(OverflowError, match=r"row 0 .* above 2\*\*31 - 1"):
        gpu.sample_counts(columns(3, [1e11], [4.0]), names(3), genes, 0)
    outlier = gpu.upload_counts(sparse.csr_matrix(np.array([[0], [100_000]])), "cpu")
    source, target = columns(2, [1e-8], [4.0]), columns(2, [1e6], [0.01])
    with pytest.raises(OverflowError, match=r"row 1 .*library_size"):
        gpu.quantile_counts(outlier, source, target, names(2), genes, 0)


def test_values_that_do_not_fit_are_refused():
    good = {
        "rate": torch.ones((2, 3)),
        "factor": torch.ones(2, dtype=torch.float64),
        "theta": torch.ones((1, 3), dtype=torch.float64),
        "theta_row": torch.zeros(2, dtype=torch.int64),
        "zi_logits": None,
    }
    table = torch.ones((1, 3), dtype=torch.float64)
    rows = torch.zeros(2, dtype=torch.int64)
    hashes = names(2), names(3, "gene")

    def shifted(*tensors):
        return {"shift": GroupShift(*tensors)}

    gpu.sample_counts(CountParameters(**good), *hashes, 0)
    for changes, error, message in (
        ({"rate": torch.ones((2, 3), dtype=torch.int64)}, TypeError, "rate .* float32 or float64"),
        ({"rate": np.ones((2, 3))}, TypeError, "rate must be a tensor .* got ndarray"),
        ({"rate": torch.ones(3)}, ValueError, "rate must have two axes"),
        ({"factor": torch.ones(2)}, TypeError, "factor must be a tensor of float64, .* float32"),
        ({"factor": table[0]}, ValueError, r"factor must have shape \(2,\), got \(3,\)"),
        ({"theta": table[:, :2]}, ValueError, r"theta must have shape \('any', 3\), got \(1, 2\)"),
        ({"theta": 0 * table}, ValueError, "theta must be above 0, got 0.0"),
        ({"theta": np.nan * table}, ValueError, "theta must be above 0, got nan"),
        ({"theta_row": rows + 1}, ValueError, r"theta_row must be in \[0, 1\), the rows of theta"),
        (shifted(table, None, rows - 1), ValueError, "shift_row must be in .* of ratio"),
        (shifted(table.float(), None, rows), TypeError, "ratio must be a tensor of float64"),
        (shifted(table, table[:, :2], rows), ValueError, "zi_shift must have shape"),
        ({"factor": good["factor"].to("meta")}, ValueError, "one device, got cpu, meta"),
    ):
        with pytest.raises(error, match=message):
            gpu.sample_counts(CountParameters(**good | changes), *hashes, 0)


def test_blocks_that_do_not_fit_each_other_are_refused():
    two, three = columns(2, [1.0, 1.0]), columns(3, [1.0, 1.0])
    genes = names(2, "gene")
    counts = gpu.upload_counts(sparse.csr_matrix((2, 2), dtype=int), "cpu")
    with pytest.raises(ValueError, match="one hash for each of the 3 cells and 2 genes"):
        gpu.sample_counts(three, names(2), genes, 0)
    with pytest.raises(ValueError, match="source and target must have the same shape"):
        gpu.quantile_counts(counts, two, three, names(3), genes, 0)
    with pytest.raises(ValueError, match="counts must be those of 3 cells, got 2"):
        gpu.quantile_counts(counts, three, three, names(3), genes, 0)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        gpu.sample_counts(two, names(2), genes, -1)


def test_counts_that_are_none_are_not_uploaded():
    for counts, error, message in (
        (np.ones((2, 2)), TypeError, "counts must be a CSR matrix, got ndarray"),
        (sparse.csc_matrix((2, 2)), TypeError, "counts must be a CSR matrix, got csc_matrix"),
        (sparse.csr_matrix([[0, -3]]), ValueError, "not be negative, got -3"),
        (sparse.csr_matrix([[0, 2**31]]), OverflowError, "below 2\\*\\*31, got 2147483648"),
        (sparse.csr_matrix([[0, 2.0**31]], dtype=np.float32), OverflowError, "below 2\\*\\*31"),
    ):
        with pytest.raises(error, match=message):
            gpu.upload_counts(counts, "cpu")


def test_uploaded_counts_are_sorted_and_without_zeros():
    before = (np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([2, 0, 1, 1, 2]), np.array([0, 2, 5]))
    counts = sparse.csr_matrix(tuple(part.copy() for part in before), (2, 3))
    uploaded = gpu.upload_counts(counts, "cpu")
    assert_layout(uploaded, (2, 3))
    np.testing.assert_array_equal(to_scipy(uploaded, 3).toarray(), [[1, 0, 3], [0, 4, 0]])
    for part, kept in zip(before, (counts.data, counts.indices, counts.indptr), strict=True):
        np.testing.assert_array_equal(kept, part)


def test_backends_are_chosen_by_name():
    parameters, hashes = columns(1, [1.0]), (names(1), names(1, "gene"))
    assert drawing._backend_module("auto", torch.device("cpu")) is torch_backend
    with pytest.raises(ValueError, match="auto, triton, torch, got 'cuda'"):
        gpu.sample_counts(parameters, *hashes, 0, backend="cuda")
    with pytest.raises(ValueError, match="backend='triton' requires a CUDA device, got cpu"):
        gpu.sample_counts(parameters, *hashes, 0, backend="triton")


def test_torch_draws_where_triton_does_not_run():
    drawing._triton_runs.cache_clear()
    with pytest.warns(RuntimeWarning, match=r"Triton does not run on cpu \(.*plain torch"):
        assert not drawing._triton_runs("cpu")


# -- copies to the host ---------------------------------------------------------------------------


def some_blocks(n, made):
    for index in range(n):
        made.append(index)
        matrix = sparse.random(5, 8, 0.4, "csr", None, np.random.default_rng(index)) * 100
        yield gpu.upload_counts(matrix.ceil().astype(int), "cpu")


def test_copies_come_in_order_and_a_block_late():
    made, came = [], []
    with gpu.HostCopies(8, "cpu") as copies:
        for index, matrix in enumerate(copies.stream(some_blocks(5, made))):
            assert len(made) == min(index + 2, 5)
            came.append(matrix)
    expected = [to_scipy(counts, 8) for counts in some_blocks(5, [])]
    assert len(came) == 5
    for got, wanted in zip(came, expected, strict=True):
        assert got.dtype == np.int32
        assert got.has_canonical_format
        assert (got != wanted).nnz == 0


def test_copies_are_of_their_own_memory():
    (block,) = some_blocks(1, [])
    with gpu.HostCopies(8, "cpu") as copies:
        copies.submit(block)
        matrix = copies.collect()
    before = matrix.data.copy()
    block.data.zero_()
    np.testing.assert_array_equal(matrix.data, before)


def test_copies_wait_for_two_blocks_at_most():
    one, two, three = some_blocks(3, [])
    with gpu.HostCopies(8, "cpu") as copies:
        with pytest.raises(RuntimeError, match="no submitted block"):
            copies.collect()
        copies.submit(one)
        copies.submit(two)
        with pytest.raises(RuntimeError, match="2 blocks are already waiting"):
            copies.submit(three)
        assert len(copies) == 2
        assert (copies.collect() != to_scipy(one, 8)).nnz == 0


def test_copies_of_no_blocks():
    with gpu.HostCopies(8, "cpu") as copies:
        assert list(copies.stream([])) == []
