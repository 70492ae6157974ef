"""The counter-based random numbers of `likelihood.cpu.philox`, in torch on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scvibridge.likelihood.cpu.philox import COUNTS_STREAM

if TYPE_CHECKING:
    from torch import Tensor


_MASK = 0xFFFFFFFF

# The multipliers minus 2**32, so that products with a 32-bit word fit a signed 64-bit integer. The
# low word of the product is unchanged, and the high word is too small by the word itself.
_MULTIPLIER_0 = 0xD2511F53 - 2**32

_MULTIPLIER_1 = 0xCD9E8D57 - 2**32

_WEYL_0 = 0x9E3779B9

_WEYL_1 = 0xBB67AE85

Words = tuple["Tensor", "Tensor", "Tensor", "Tensor"]


def _product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of the 64-bit product with multiplier + 2**32."""
    product = word * multiplier
    return (product >> 32) + word, product & _MASK


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Apply Philox4x32-10 to counters of four words, which broadcast, with a key of two words.

    Parameters
    ----------
    counter
        32-bit words, each held in an int64.
    key
        Two 32-bit words.

    Returns
    -------
    tuple of four tensors of int64
        The 32-bit words of the output.
    """
    counter_0, counter_1, counter_2, counter_3 = counter
    key_0, key_1 = key
    for _ in range(10):
        high_0, low_0 = _product(counter_0, _MULTIPLIER_0)
        high_1, low_1 = _product(counter_2, _MULTIPLIER_1)
        counter_0, counter_1 = high_1 ^ counter_1 ^ key_0, low_1
        counter_2, counter_3 = high_0 ^ counter_3 ^ key_1, low_0
        key_0, key_1 = (key_0 + _WEYL_0) & _MASK, (key_1 + _WEYL_1) & _MASK
    return counter_0, counter_1, counter_2, counter_3


def open_uniforms(cells: Tensor, genes: Tensor, seed: int, second: bool) -> Tensor:
    """Return uniforms in (0, 1) for entries, float64.

    Parameters
    ----------
    cells, genes
        Hashes of the names as int64, of shapes that broadcast against each other.
    seed
        Seed in [0, 2**32).
    second
        Whether to use words 2 and 3 of Philox (uniforms v of a mapping) instead of 0 and 1.
    """
    counter = (cells & _MASK, (cells >> 32) & _MASK, genes & _MASK, (genes >> 32) & _MASK)
    words = philox4x32(counter, (seed, int(COUNTS_STREAM)))
    high, low = words[2:] if second else words[:2]
    return ((high << 21) | (low >> 11) | 1).to(torch.float64) * 2.0**-53
