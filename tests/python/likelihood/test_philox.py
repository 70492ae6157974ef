"""The random numbers: published vectors, an own big-integer reference, layout of the counter."""

from __future__ import annotations

import hashlib
from statistics import NormalDist

import numpy as np
import pytest
from kernels import callable_from_python
from philox_answers import KNOWN_ANSWERS
from scipy import stats

from scvibridge.likelihood.cpu import philox
from scvibridge.likelihood.cpu.philox import (
    COUNTS_STREAM,
    LATENT_STREAM,
    LIBRARY_STREAM,
    check_seed,
    hash_names,
    standard_normals,
)

fill_words = callable_from_python(philox.fill_words)
open_uniform = callable_from_python(philox.open_uniform)
philox4x32 = callable_from_python(philox.philox4x32)


def reference_philox(counter, key):
    """Philox4x32-10 in Python's unbounded integers, from section 3.3 of the paper."""
    left, right = [counter[0], counter[2]], [counter[1], counter[3]]
    for round_number in range(10):
        first, second = 0xD2511F53 * left[0], 0xCD9E8D57 * left[1]
        keys = [
            (word + round_number * weyl) % 2**32
            for word, weyl in zip(key, (0x9E3779B9, 0xBB67AE85), strict=True)
        ]
        left = [second // 2**32 ^ right[0] ^ keys[0], first // 2**32 ^ right[1] ^ keys[1]]
        right = [second % 2**32, first % 2**32]
    return left[0], right[0], left[1], right[1]


def reference_hash(name):
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def reference_uniforms(cell, gene, seed, stream):
    """u and v of an entry as exact numerators over 2**53."""
    cell_hash, gene_hash = reference_hash(cell), reference_hash(gene)
    words = reference_philox(
        (cell_hash % 2**32, cell_hash >> 32, gene_hash % 2**32, gene_hash >> 32), (seed, stream)
    )
    return tuple((high << 32 | low) >> 11 | 1 for high, low in (words[:2], words[2:]))


def words_of(values):
    return [np.uint64(value) for value in values]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_known_answers(counter, key, output):
    assert philox4x32(*words_of(counter), *words_of(key)) == output
    assert reference_philox(counter, key) == output


def test_random_counters_equal_the_reference():
    rng = np.random.default_rng(1)
    for words in rng.integers(0, 2**32, size=(300, 6)).tolist():
        output = philox4x32(*words_of(words))
        assert tuple(map(int, output)) == reference_philox(words[:4], words[4:])


@pytest.mark.parametrize("second", [False, True])
def test_words_of_cells_and_genes_equal_the_reference(second):
    # More genes than any vector holds, and a remainder: vectors and single entries must agree.
    genes = [f"gene {index}" for index in range(77)]
    words = np.empty(len(genes), dtype=np.uint64)
    for cell, seed, stream in (("AAAC-1", 0, 0), ("Zürich_3", 2**32 - 1, 2)):
        cell_hash = hash_names([cell])[0]
        fill_words(cell_hash, hash_names(genes), np.uint64(seed), np.uint64(stream), second, words)
        for gene, word in zip(genes, words, strict=True):
            numerator = reference_uniforms(cell, gene, seed, stream)[second]
            assert open_uniform(word) * 2.0**53 == numerator


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (0, 2.0**-53),
        (2**11 - 1, 2.0**-53),
        (2**12, 3 * 2.0**-53),
        (2**63, 0.5 + 2.0**-53),
        (2**64 - 1, 1 - 2.0**-53),
    ],
)
def test_uniforms_are_in_the_open_interval(bits, expected):
    uniform = open_uniform(np.uint64(bits))
    assert uniform == expected
    assert 0.0 < uniform < 1.0
    # 1 - u is exact: what was taken away is what comes back.
    assert 1.0 - (1.0 - uniform) == uniform
    assert (1.0 - uniform) * 2.0**53 == 2**53 - int(uniform * 2**53)


def test_hash_names_is_little_endian_blake2b():
    names = ["AAACCTGAGAAACCAT-1", "γδ T", "", 17]
    hashes = hash_names(names)
    assert hashes.dtype == np.uint64
    assert [int(value) for value in hashes] == [reference_hash(str(name)) for name in names]
    assert hash_names([]).shape == (0,)


def test_standard_normals_equal_the_reference():
    cells = ["c1", "c2", "c3"]
    for sample, text in ((0, "{}"), (3, "{}/3")):
        normals = standard_normals(hash_names(cells), 4, 5, LATENT_STREAM, sample=sample)
        for row, cell in enumerate(cells):
            for dimension in range(4):
                numerator, _ = reference_uniforms(cell, text.format(dimension), 5, 1)
                expected = NormalDist().inv_cdf(numerator / 2**53)
                assert normals[row, dimension] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_standard_normals_do_not_depend_on_order_subset_or_dimensions():
    cells = hash_names(range(50))
    normals = standard_normals(cells, 10, 0, LATENT_STREAM)
    chosen = np.random.default_rng(0).permutation(50)[:20]
    np.testing.assert_array_equal(
        standard_normals(cells[chosen], 6, 0, LATENT_STREAM), normals[chosen, :6]
    )


def test_standard_normals_are_normal_and_independent():
    cells = hash_names(range(5000))
    draws = [
        standard_normals(cells, 6, 0, LATENT_STREAM),
        standard_normals(cells, 6, 0, LATENT_STREAM, sample=1),
        standard_normals(cells, 6, 0, LIBRARY_STREAM),
        standard_normals(cells, 6, 1, LATENT_STREAM),
    ]
    together = np.concatenate(draws, axis=1)
    assert stats.kstest(together.ravel(), "norm").pvalue > 1e-3
    correlations = np.corrcoef(together, rowvar=False)[np.triu_indices(24, 1)]
    # 276 correlations of standard error 1 / sqrt(5000); 4.5 of them is p = 7e-6.
    assert np.abs(correlations).max() < 4.5 / np.sqrt(5000)


def test_uniforms_of_counts_are_uniform_and_independent():
    genes = hash_names(range(2000))
    words = np.empty((2, 300, 2000), dtype=np.uint64)
    for row, cell in enumerate(hash_names(range(300))):
        for second in (False, True):
            fill_words(cell, genes, np.uint64(0), COUNTS_STREAM, second, words[int(second), row])
    uniforms = ((words >> np.uint64(11)) | np.uint64(1)).astype(np.float64) * 2.0**-53
    # A test for each block of 10 cells: their p-values must be uniform in turn.
    blocks = uniforms.reshape(60, -1)
    pvalues = [stats.kstest(block, "uniform").pvalue for block in blocks]
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-3
    assert min(pvalues) > 1e-3 / 60
    u, v = (values.ravel() for values in uniforms)
    limit = 4.5 / np.sqrt(u.size)
    assert abs(np.corrcoef(u, v)[0, 1]) < limit
    # Neighbouring genes and neighbouring cells.
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < limit
    assert abs(np.corrcoef(u[:-2000], u[2000:])[0, 1]) < limit


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=r"at least 0 and less than 2\*\*32"):
        standard_normals(hash_names(["a"]), 1, seed, LATENT_STREAM)


@pytest.mark.parametrize("seed", [0.5, "0", None, True])
def test_seed_of_another_type_is_refused(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        check_seed(seed)


def test_seeds_at_the_ends_are_taken():
    assert check_seed(0) == 0
    assert check_seed(np.int64(2**32 - 1)) == 2**32 - 1
