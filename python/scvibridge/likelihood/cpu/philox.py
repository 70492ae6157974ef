"""Counter-based random numbers: one value for each cell, gene, seed and stream, in any order.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
2011) is a keyed bijection of 128-bit counters. The counter of an entry is made from the names of
its cell and gene, so that a value does not depend on minibatches, threads, order or subsets.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from scvibridge.likelihood.cpu.compilation import entry, kernel

if TYPE_CHECKING:
    from collections.abc import Iterable


COUNTS_STREAM = np.uint64(0)

"""Stream of the uniforms u and v of the counts."""

LATENT_STREAM = np.uint64(1)

"""Stream of the normals of the latent representation z."""

LIBRARY_STREAM = np.uint64(2)

"""Stream of the normals of the library l."""

SHUFFLE_STREAM = np.uint64(3)

"""Stream of the normals by which cells are shuffled."""

_MASK = np.uint64(0xFFFFFFFF)

_WORD = np.uint64(32)

_MULTIPLIER_0 = np.uint64(0xD2511F53)

_MULTIPLIER_1 = np.uint64(0xCD9E8D57)

_WEYL_0 = np.uint64(0x9E3779B9)

_WEYL_1 = np.uint64(0xBB67AE85)

_SPARE_BITS = np.uint64(11)

_ONE = np.uint64(1)


@kernel
def philox4x32(
    counter_0: np.uint64,
    counter_1: np.uint64,
    counter_2: np.uint64,
    counter_3: np.uint64,
    key_0: np.uint64,
    key_1: np.uint64,
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Apply Philox4x32-10 to a counter of four words with a key of two words.

    Parameters
    ----------
    counter_0, counter_1, counter_2, counter_3, key_0, key_1
        32-bit words, each held in a uint64.

    Returns
    -------
    tuple of four uint64
        The 32-bit words of the output.
    """
    for _ in range(10):
        product_0 = _MULTIPLIER_0 * counter_0
        product_1 = _MULTIPLIER_1 * counter_2
        counter_0 = (product_1 >> _WORD) ^ counter_1 ^ key_0
        counter_2 = (product_0 >> _WORD) ^ counter_3 ^ key_1
        counter_1 = product_1 & _MASK
        counter_3 = product_0 & _MASK
        key_0 = (key_0 + _WEYL_0) & _MASK
        key_1 = (key_1 + _WEYL_1) & _MASK
    return counter_0, counter_1, counter_2, counter_3


@kernel
def fill_words(
    cell_hash: np.uint64,
    gene_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    stream: np.uint64,
    second: bool,
    out: npt.NDArray[np.uint64],
) -> None:
    """Fill `out` (G,) with 64 random bits for each gene of a cell.

    Words 0 and 1 of Philox form the first 64 bits of an entry, words 2 and 3 the `second`. The loop
    contains only integers, so that the compiler vectorises it.
    """
    for gene in range(gene_hashes.shape[0]):
        word_0, word_1, word_2, word_3 = philox4x32(
            cell_hash & _MASK,
            cell_hash >> _WORD,
            gene_hashes[gene] & _MASK,
            gene_hashes[gene] >> _WORD,
            seed,
            stream,
        )
        if second:
            word_0, word_1 = word_2, word_3
        out[gene] = (word_0 << _WORD) | word_1


@kernel
def open_uniform(bits: np.uint64) -> float:
    """Return a uniform in the open interval (0, 1) from 64 random bits.

    With k the upper 53 bits, it is (k | 1) / 2**53. The last bit is set, instead of adding a half,
    because k + 1/2 needs 54 bits: (2**53 - 1/2) / 2**53 would round to 1. In this way neither 0 nor
    1 can occur, and 1 - u is exact.
    """
    # Through int64: converting signed integers is a single instruction, and 53 bits fit.
    return np.int64((bits >> _SPARE_BITS) | _ONE) * 2.0**-53


@entry
def _fill_uniforms(
    cell_hashes: npt.NDArray[np.uint64],
    column_hashes: npt.NDArray[np.uint64],
    seed: np.uint64,
    stream: np.uint64,
    out: npt.NDArray[np.float64],
) -> None:
    for row in range(cell_hashes.shape[0]):
        words = np.empty(column_hashes.shape[0], dtype=np.uint64)
        fill_words(cell_hashes[row], column_hashes, seed, stream, False, words)
        for column in range(column_hashes.shape[0]):
            out[row, column] = open_uniform(words[column])


def hash_names(names: Iterable[Any]) -> npt.NDArray[np.uint64]:
    """Hash names of cells, genes or latent dimensions to 64 bits.

    Parameters
    ----------
    names
        n names; each is hashed as the UTF-8 text of ``str(name)``.

    Returns
    -------
    ndarray of uint64, shape (n,)
        BLAKE2b with a digest of 8 bytes, read as a little-endian integer.
    """
    digests = b"".join(
        hashlib.blake2b(str(name).encode("utf-8"), digest_size=8).digest() for name in names
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def hash_genes(genes: Iterable[Any]) -> npt.NDArray[np.uint64]:
    """Hash names of genes as `hash_names`; those of the last models are kept for further calls."""
    return _kept_hashes(tuple(map(str, genes))).copy()


@lru_cache(maxsize=4)
def _kept_hashes(names: tuple[str, ...]) -> npt.NDArray[np.uint64]:
    return hash_names(names)


def check_seed(seed: int) -> np.uint64:
    """Return a seed as the first word of a Philox key.

    Raises
    ------
    TypeError
        If `seed` is not an integer.
    ValueError
        If `seed` is not in [0, 2**32).
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer, got {seed!r} ({type(seed).__name__})")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be at least 0 and less than 2**32 = {2**32}, got {seed}")
    return np.uint64(seed)


def standard_normals(
    cell_hashes: npt.NDArray[np.uint64],
    n_dimensions: int,
    seed: int,
    stream: int | np.uint64,
    sample: int = 0,
) -> npt.NDArray[np.float64]:
    """Sample standard normals for the latent dimensions of cells.

    The second half of the counter is the hash of the dimension's index as text, "0" for the first
    sample of dimension 0 and "0/3" for its fourth. Adding a dimension or a sample therefore does
    not change the others.

    Parameters
    ----------
    cell_hashes
        Hashed names of n cells, shape (n,).
    n_dimensions
        Number d of dimensions.
    seed
        Seed in [0, 2**32).
    stream
        `LATENT_STREAM`, `LIBRARY_STREAM` or `SHUFFLE_STREAM`.
    sample
        Index of the sample, from 0.

    Returns
    -------
    ndarray of float64, shape (n, d)

    Raises
    ------
    ValueError
        If `seed` is out of range.
    """
    suffix = f"/{sample}" if sample else ""
    columns = hash_names(f"{dimension}{suffix}" for dimension in range(n_dimensions))
    cells = np.ascontiguousarray(cell_hashes, dtype=np.uint64)
    uniforms = np.empty((cells.size, n_dimensions), dtype=np.float64)
    _fill_uniforms(cells, columns, check_seed(seed), np.uint64(stream), uniforms)
    return np.asarray(ndtri(uniforms), dtype=np.float64)
