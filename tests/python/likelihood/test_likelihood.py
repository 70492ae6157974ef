"""Drawing and mapping of counts: laws, counterfactuals, identity, independence of the machine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kernels import callable_from_python
from laws import assert_holm, chi_square, simulate
from scipy import sparse, stats

from scvibridge.likelihood.cpu.philox import COUNTS_STREAM, hash_names
from scvibridge.likelihood.cpu.philox import fill_words as fill_words_kernel
from scvibridge.likelihood.on_cpu import quantile_counts, randomised_pit, sample_counts
from scvibridge.likelihood.parameters import CountParameters

fill_words = callable_from_python(fill_words_kernel)

MEANS = (1e-3, 0.01, 0.1, 1.0, 10.0, 100.0, 1e4)
THETAS = (0.01, 0.1, 1.0, 10.0, 1e3, np.inf)
LOGITS = (-4.0, -1.0, 0.5, 2.0)


def names(n, prefix="cell"):
    return hash_names(f"{prefix} {index}" for index in range(n))


def parameters_of(mean, theta, logits=None, theta_row=None):
    mean = np.asarray(mean)
    rows = np.zeros(mean.shape[0], dtype=np.intp) if theta_row is None else theta_row
    theta = None if theta is None else np.atleast_2d(np.asarray(theta, dtype=np.float64))
    return CountParameters(mean, np.ones(len(mean)), theta, rows, logits)


def columns(n_cells, mean, theta, logit=None):
    """The same parameters for every cell, one column for each gene."""
    mean = np.tile(np.asarray(mean, dtype=np.float64), (n_cells, 1))
    logits = None if logit is None else np.tile(np.asarray(logit, dtype=np.float64), (n_cells, 1))
    return parameters_of(mean, theta, logits)


def test_draws_follow_their_distribution():
    grid = [(mean, theta) for mean in MEANS for theta in THETAS]
    n_cells = 20_000
    mean, theta = np.array(grid).T
    drawn = sample_counts(
        columns(n_cells, mean, theta), names(n_cells), names(len(grid), "gene"), seed=1
    ).toarray()
    pvalues = [
        chi_square(drawn[:, gene], *arguments)
        for gene, arguments in enumerate(grid)
        if not (arguments[1] <= 0.01 and arguments[0] <= 0.001)  # too few counts for a test
    ]
    assert sum(p is not None for p in pvalues) >= 35
    assert_holm(pvalues)


def test_draws_of_the_mixture_follow_it():
    grid = [
        (mean, theta, logit)
        for mean in (0.1, 3.0, 100.0)
        for theta in (0.3, 5.0, np.inf)
        for logit in LOGITS
    ]
    n_cells = 20_000
    mean, theta, logit = np.array(grid).T
    drawn = sample_counts(
        columns(n_cells, mean, theta, logit), names(n_cells), names(len(grid), "gene"), seed=2
    ).toarray()
    assert_holm(
        chi_square(drawn[:, gene], mean, theta, 1 / (1 + np.exp(-logit)))
        for gene, (mean, theta, logit) in enumerate(grid)
    )


def test_each_cell_uses_its_own_row_of_theta():
    n_cells = 20_000
    theta_row = np.arange(n_cells) % 2
    theta = np.array([[0.2, 5.0], [50.0, np.inf]])
    parameters = parameters_of(np.full((n_cells, 2), 4.0), theta, theta_row=theta_row)
    drawn = sample_counts(parameters, names(n_cells), names(2, "gene"), seed=3).toarray()
    assert_holm(
        chi_square(drawn[theta_row == row, gene], 4.0, theta[row, gene])
        for row in range(2)
        for gene in range(2)
    )


def test_without_theta_the_draws_are_poisson():
    parameters = columns(20_000, [0.2, 3.0, 50.0], None)
    drawn = sample_counts(parameters, names(20_000), names(3, "gene"), seed=4).toarray()
    assert_holm(chi_square(drawn[:, gene], m, np.inf) for gene, m in enumerate((0.2, 3.0, 50.0)))


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_transform_of_simulated_counts_is_uniform(zero_inflated):
    rng = np.random.default_rng(5)
    grid = [(mean, theta) for mean in (0.01, 0.3, 3.0, 40.0, 1e3) for theta in (0.1, 3.0, np.inf)]
    logit = rng.choice(LOGITS, len(grid)) if zero_inflated else None
    dropped = 1 / (1 + np.exp(-logit)) if zero_inflated else np.zeros(len(grid))
    counts = np.column_stack(
        [simulate(rng, *arguments, d) for arguments, d in zip(grid, dropped, strict=True)]
    )
    mean, theta = np.array(grid).T
    uniforms = randomised_pit(
        sparse.csr_matrix(counts),
        columns(4000, mean, theta, logit),
        names(4000),
        names(len(grid), "gene"),
        seed=6,
    )
    assert uniforms.min() >= 0
    assert uniforms.max() <= 1
    assert_holm(stats.kstest(column, "uniform").pvalue for column in uniforms.T)


def uniforms_of(cells, genes, seed):
    """The uniforms v of all entries."""
    words = np.empty((cells.size, genes.size), dtype=np.uint64)
    for row, cell in enumerate(cells):
        fill_words(cell, genes, np.uint64(seed), COUNTS_STREAM, True, words[row])
    return ((words >> np.uint64(11)) | np.uint64(1)).astype(np.float64) * 2.0**-53


def moderate_block(rng, n_cells=300, n_genes=200):
    """Means, dispersions and counts for which scipy's functions can be trusted."""
    source_mean = 10 ** rng.uniform(-1.5, 2, (n_cells, n_genes))
    target_mean = source_mean * np.exp(rng.normal(0, 0.6, (n_cells, n_genes)))
    source_theta, target_theta = 10 ** rng.uniform(-0.7, 2, (2, 1, n_genes))
    return source_mean, source_theta, target_mean, target_theta


def test_mapped_counts_equal_those_of_scipy():
    rng = np.random.default_rng(7)
    source_mean, source_theta, target_mean, target_theta = moderate_block(rng)
    cells, genes = names(300), names(200, "gene")
    counts = rng.negative_binomial(
        np.broadcast_to(source_theta, source_mean.shape),
        source_theta / (source_theta + source_mean),
    )
    mapped = quantile_counts(
        sparse.csr_matrix(counts),
        parameters_of(source_mean, source_theta),
        parameters_of(target_mean, target_theta),
        cells,
        genes,
        seed=8,
    ).toarray()
    law = stats.nbinom(source_theta, source_theta / (source_theta + source_mean))
    uniform = law.cdf(counts - 1) + uniforms_of(cells, genes, 8) * law.pmf(counts)
    expected = stats.nbinom.ppf(uniform, target_theta, target_theta / (target_theta + target_mean))
    # Nearer to 1 than this the double u itself is too coarse.
    sure = uniform < 1 - 1e-7
    assert sure.mean() > 0.999
    np.testing.assert_array_equal(mapped[sure], expected[sure])


def test_mapped_counts_are_the_counterfactual_of_shared_uniforms():
    rng = np.random.default_rng(9)
    source_mean, source_theta, target_mean, target_theta = moderate_block(rng)
    uniform = rng.uniform(1e-6, 1 - 1e-6, source_mean.shape)
    source_law = stats.nbinom(source_theta, source_theta / (source_theta + source_mean))
    target_law = stats.nbinom(target_theta, target_theta / (target_theta + target_mean))
    counts, truth = source_law.ppf(uniform).astype(int), target_law.ppf(uniform).astype(int)
    mapped = quantile_counts(
        sparse.csr_matrix(counts),
        parameters_of(source_mean, source_theta),
        parameters_of(target_mean, target_theta),
        names(300),
        names(200, "gene"),
        seed=10,
    ).toarray()
    # All that the count tells of its uniform is the step F(x - 1) < u <= F(x).
    step = np.clip([source_law.cdf(counts - 1), source_law.cdf(counts)], 1e-300, 1 - 1e-9)
    lowest, highest = target_law.ppf(step)
    assert np.all((mapped >= lowest) & (mapped <= highest))
    determined = lowest == highest
    assert 0.1 < determined.mean() < 0.9
    np.testing.assert_array_equal(mapped[determined], truth[determined])
    # The others follow the target given that step: all together their law is the target's.
    back = randomised_pit(
        sparse.csr_matrix(mapped),
        parameters_of(target_mean, target_theta),
        names(300),
        names(200, "gene"),
        seed=11,
    )
    assert stats.kstest(back.ravel(), "uniform").pvalue > 1e-3


def wide_block(rng, dtype, family):
    """2,000 cells x 600 genes from mean 1e-6 to 1e3, two batches with their own theta."""
    mean = (10 ** rng.uniform(-6, 3, (1, 600)) * rng.lognormal(0, 0.5, (2000, 600))).astype(dtype)
    theta = 10 ** rng.uniform(-2, 4, (2, 600))
    logits = rng.normal(-1, 3, (2000, 600)).astype(dtype) if family == "zinb" else None
    theta_row = rng.integers(0, 2, 2000)
    return parameters_of(mean, None if family == "poisson" else theta, logits, theta_row)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("nb", np.float32), ("nb", np.float64), ("zinb", np.float32), ("poisson", np.float32)],
)
def test_a_target_equal_to_the_source_changes_nothing(family, dtype):
    rng = np.random.default_rng(12)
    parameters = wide_block(rng, dtype, family)
    cells, genes = names(2000), names(600, "gene")
    counts = sample_counts(parameters, cells, genes, seed=13)
    # Every hundredth count is far from what the parameters would give, upwards or downwards.
    odd = rng.random(counts.nnz) < 0.01
    counts.data[odd] = np.maximum(counts.data[odd] * 10 ** rng.uniform(-2, 2, odd.sum()), 1)
    mapped = quantile_counts(
        counts, parameters, parameters, cells, genes, seed=14, keep_unchanged=False
    )
    entries = 2000 * 600
    assert counts.nnz > 0.15 * entries
    assert (mapped != counts).nnz <= entries / 1e6


def test_the_short_cut_only_saves_time():
    rng = np.random.default_rng(15)
    source = wide_block(rng, np.float32, "zinb")
    same = rng.random(600) < 0.5
    mean = np.where(same, source.rate, source.rate * np.float32(1.7))
    target = parameters_of(mean, source.theta, source.zi_logits, source.theta_row)
    cells, genes = names(2000), names(600, "gene")
    counts = sample_counts(source, cells, genes, seed=16)
    with_it, without_it = (
        quantile_counts(counts, source, target, cells, genes, 17, keep_unchanged=keep)
        for keep in (True, False)
    )
    assert (with_it != without_it).nnz <= 1
    assert (with_it[:, same] != counts[:, same]).nnz == 0
    assert (with_it[:, ~same] != counts[:, ~same]).nnz > 0


def test_a_higher_mean_never_gives_a_lower_count():
    rng = np.random.default_rng(18)
    source = wide_block(rng, np.float64, "nb")
    target = parameters_of(
        source.rate * rng.uniform(1, 3, source.shape), source.theta, None, source.theta_row
    )
    cells, genes = names(2000), names(600, "gene")
    counts = sample_counts(source, cells, genes, seed=19)
    mapped = quantile_counts(counts, source, target, cells, genes, seed=20)
    assert (mapped - counts).min() >= 0
    assert mapped.sum() > counts.sum()
    # Two draws with one seed share their uniforms.
    assert (sample_counts(target, cells, genes, seed=19) - counts).min() >= 0


@pytest.fixture(scope="module")
def block():
    """Counts, source, target, cells and genes of a zero-inflated block."""
    rng = np.random.default_rng(21)
    source = wide_block(rng, np.float32, "zinb")
    mean = (source.rate * rng.lognormal(0, 0.5, source.shape)).astype(np.float32)
    logits = source.zi_logits + rng.normal(0, 0.3, source.shape).astype(np.float32)
    target = parameters_of(mean, source.theta, logits, 1 - source.theta_row)
    cells, genes = names(2000), names(600, "gene")
    return sample_counts(source, cells, genes, 22), source, target, cells, genes


def both_methods(block, seed=23):
    counts, source, target, cells, genes = block
    return (
        sample_counts(target, cells, genes, seed),
        quantile_counts(counts, source, target, cells, genes, seed),
    )


def assert_identical(got, expected):
    for attribute in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(got, attribute), getattr(expected, attribute))


def taken(block, rows, genes):
    """The block of some cells and genes, in the order asked for."""

    def of(parameters):
        return CountParameters(
            np.ascontiguousarray(parameters.rate[rows][:, genes]),
            parameters.factor[rows],
            parameters.theta[:, genes],
            parameters.theta_row[rows],
            np.ascontiguousarray(parameters.zi_logits[rows][:, genes]),
        )

    counts, source, target, cell_hashes, gene_hashes = block
    chosen = counts[rows][:, genes]
    return chosen, of(source), of(target), cell_hashes[rows], gene_hashes[genes]


def test_results_do_not_depend_on_the_number_of_threads(block):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        single = both_methods(block)
        torch.set_num_threads(2)
        double = both_methods(block)
    finally:
        torch.set_num_threads(before)
    for one, two in zip(single, double, strict=True):
        assert_identical(two, one)


@pytest.mark.parametrize("size", [7, 128, 1000])
def test_results_do_not_depend_on_blocks(block, size):
    whole = both_methods(block)
    everything = np.arange(600)
    for method in range(2):
        pieces = [
            both_methods(taken(block, np.arange(start, min(start + size, 400)), everything))[method]
            for start in range(0, 400, size)
        ]
        assert_identical(sparse.vstack(pieces, format="csr"), whole[method][:400])


def test_results_do_not_depend_on_order_or_subset(block):
    rng = np.random.default_rng(24)
    rows, genes = rng.permutation(2000)[:500], rng.permutation(600)[:250]
    part = both_methods(taken(block, rows, genes))
    for got, whole in zip(part, both_methods(block), strict=True):
        assert (got != whole[rows][:, genes]).nnz == 0


def test_seeds_give_other_counts(block):
    for one, other in zip(both_methods(block, 0), both_methods(block, 1), strict=True):
        assert (one != other).nnz > 1000


def test_results_are_int32_sorted_and_without_stored_zeros(block):
    for counts in both_methods(block):
        assert sparse.isspmatrix_csr(counts)
        assert counts.dtype == np.int32
        assert counts.indices.dtype == np.int32
        assert counts.data.min() > 0
        assert counts.shape == (2000, 600)
        copy = sparse.csr_matrix((counts.data, counts.indices, counts.indptr), counts.shape)
        assert copy.has_canonical_format


def test_single_and_double_precision_of_the_same_numbers_agree(block):
    counts, source, target, cells, genes = block

    def doubled(parameters):
        return CountParameters(
            parameters.rate.astype(np.float64),
            parameters.factor,
            parameters.theta,
            parameters.theta_row,
            parameters.zi_logits.astype(np.float64),
        )

    single = quantile_counts(counts, source, target, cells, genes, 25)
    # Mixed, the single ones are widened.
    for other in (doubled(target), target):
        double = quantile_counts(counts, doubled(source), other, cells, genes, 25)
        assert_identical(double, single)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_counts_of_any_integer_dtype_and_order_are_taken(dtype):
    unsorted = sparse.csr_matrix(
        (np.array([3, 1, 2, 2, 0], dtype), np.array([2, 0, 1, 1, 2]), np.array([0, 2, 5])), (2, 3)
    )
    before = unsorted.data.copy(), unsorted.indices.copy()
    source = columns(2, [1.0, 1.0, 1.0], 4.0 * np.ones(3))
    target = columns(2, [2.0, 2.0, 2.0], 4.0 * np.ones(3))
    cells, genes = names(2), names(3, "gene")
    mapped = quantile_counts(unsorted, source, target, cells, genes, 0)
    plain = sparse.csr_matrix(np.array([[1, 0, 3], [0, 4, 0]]))
    assert_identical(mapped, quantile_counts(plain, source, target, cells, genes, 0))
    np.testing.assert_array_equal(unsorted.data, before[0])
    np.testing.assert_array_equal(unsorted.indices, before[1])


def test_no_cells_and_no_genes_give_empty_matrices():
    for shape in ((0, 3), (3, 0)):
        parameters = parameters_of(np.zeros(shape), np.ones((1, shape[1])))
        drawn = sample_counts(parameters, names(shape[0]), names(shape[1], "gene"), 0)
        assert drawn.shape == shape
        assert drawn.nnz == 0


def test_means_of_zero():
    counts = sparse.csr_matrix(np.array([[0, 7, 7, 0]]))
    source = columns(1, [0.0, 0.0, 5.0, 5.0], 4.0 * np.ones(4))
    target = columns(1, [0.0, 3.0, 0.0, 0.0], 4.0 * np.ones(4))
    mapped = quantile_counts(counts, source, target, names(1), names(4, "gene"), 0)
    # A count that the source holds impossible has no probability to carry over.
    np.testing.assert_array_equal(mapped.toarray(), [[0, 7, 0, 0]])
    drawn = sample_counts(columns(1, np.zeros(4), None), names(1), names(4, "gene"), 0)
    assert drawn.nnz == 0
    transformed = randomised_pit(counts, source, names(1), names(4, "gene"), 0)
    assert np.all(np.isfinite(transformed))


def test_a_count_beyond_int32_is_an_overflow():
    genes = names(1, "gene")
    with pytest.raises(OverflowError, match=r"above 2\*\*31 - 1"):
        sample_counts(columns(3, [1e11], [4.0]), names(3), genes, 0)
    outlier = sparse.csr_matrix(np.array([[0], [100_000]]))
    source, target = columns(2, [1e-8], [4.0]), columns(2, [1e6], [0.01])
    with pytest.raises(OverflowError, match=r"row 1 .*library_size"):
        quantile_counts(outlier, source, target, names(2), genes, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_means_are_refused(bad):
    good, wrong = columns(2, [1.0, 1.0], [4.0, 4.0]), columns(2, [1.0, bad], [4.0, 4.0])
    counts = sparse.csr_matrix((2, 2), dtype=np.int32)
    rest = (names(2), names(2, "gene"), 0)
    for call in (
        lambda: sample_counts(wrong, *rest),
        lambda: randomised_pit(counts, wrong, *rest),
        lambda: quantile_counts(counts, wrong, good, *rest),
        lambda: quantile_counts(counts, good, wrong, *rest),
    ):
        with pytest.raises(ValueError, match="means must be finite and not negative"):
            call()


def test_logits_that_are_not_numbers_are_refused():
    parameters = columns(2, [1.0, 1.0], [4.0, 4.0], [0.0, np.nan])
    with pytest.raises(ValueError, match="logits must not be NaN"):
        sample_counts(parameters, names(2), names(2, "gene"), 0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rate": np.ones((2, 3), int)}, TypeError, "rate must be .* float32 or float64, got int"),
        ({"rate": np.ones(3)}, ValueError, "rate must have two axes"),
        ({"factor": np.ones(3)}, ValueError, "factor must have one entry for each of the 2 cells"),
        ({"theta": np.ones((1, 2))}, ValueError, r"theta must have shape \(K, 3\), got \(1, 2\)"),
        ({"theta": np.zeros((1, 3))}, ValueError, "theta must be above 0, got 0.0"),
        ({"theta": np.full((1, 3), np.nan)}, ValueError, "theta must be above 0, got nan"),
        ({"theta_row": np.zeros(3, int)}, ValueError, "theta_row must have one entry for each"),
        ({"theta_row": np.array([0, 1])}, ValueError, r"theta_row must be in \[0, 1\)"),
        ({"zi_logits": np.ones((2, 2))}, ValueError, "zi_logits must have the shape of rate"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes, error, message):
    good = {
        "rate": np.ones((2, 3)),
        "factor": np.ones(2),
        "theta": np.ones((1, 3)),
        "theta_row": np.zeros(2, int),
        "zi_logits": None,
    }
    hashes = names(2), names(3, "gene")
    counts = sparse.csr_matrix((2, 3), dtype=int)
    fine, wrong = CountParameters(**good), CountParameters(**good | changes)
    for call in (
        lambda: sample_counts(wrong, *hashes, 0),
        lambda: quantile_counts(counts, wrong, fine, *hashes, 0),
        lambda: quantile_counts(counts, fine, wrong, *hashes, 0),
        lambda: randomised_pit(counts, wrong, *hashes, 0),
    ):
        with pytest.raises(error, match=message):
            call()
    sample_counts(fine, *hashes, 0)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (np.ones((2, 2), int), TypeError, "counts must be a CSR matrix, got ndarray"),
        (sparse.csc_matrix((2, 2), dtype=int), TypeError, "counts must be a CSR matrix"),
        (sparse.csr_matrix((2, 2)), TypeError, "integer dtype, got float64"),
        (sparse.csr_matrix((3, 2), dtype=int), ValueError, r"shape of the means, \(2, 2\)"),
        (sparse.csr_matrix([[0, -3], [0, 0]]), ValueError, "not be negative, got -3"),
    ],
)
def test_counts_that_are_none_are_refused(counts, error, message):
    parameters = columns(2, [1.0, 1.0], [4.0, 4.0])
    rest = (names(2), names(2, "gene"), 0)
    with pytest.raises(error, match=message):
        quantile_counts(counts, parameters, parameters, *rest)
    with pytest.raises(error, match=message):
        randomised_pit(counts, parameters, *rest)


def test_blocks_that_do_not_fit_each_other_are_refused():
    two, three = columns(2, [1.0, 1.0], [4.0, 4.0]), columns(3, [1.0, 1.0], [4.0, 4.0])
    counts = sparse.csr_matrix((2, 2), dtype=int)
    with pytest.raises(ValueError, match="one hash for each of the 3 cells and 2 genes"):
        sample_counts(three, names(2), names(2, "gene"), 0)
    with pytest.raises(ValueError, match="source and target must have the same shape"):
        quantile_counts(counts, two, three, names(2), names(2, "gene"), 0)
    with pytest.raises(ValueError, match="seed must be at least 0"):
        sample_counts(two, names(2), names(2, "gene"), -1)
