"""Recommend inverse dispersions by their gain in held-out likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter


# A gain is clear if it exceeds this number of standard errors.
_CLEAR = 2.0

_PER = 1000


@dataclass(frozen=True)
class Gain:
    """Gain in held-out log-likelihood per entry of one choice of theta over another.

    ``by`` is what theta varies by, and ``over`` what it is compared with.
    """

    COLUMNS: ClassVar = ("theta", "over", "gain", "standard_error", "clear")

    by: str
    over: str
    mean: float
    standard_error: float

    @staticmethod
    def of(by: str, over: str, difference: np.ndarray, n_genes: int) -> Gain:
        """Average cells' differences, summed over genes, with the standard error over cells."""
        by_entry = difference / n_genes
        spread = by_entry.std(ddof=1) / np.sqrt(len(by_entry)) if len(by_entry) > 1 else np.inf
        return Gain(by, over, float(by_entry.mean()), float(spread))

    @property
    def clear(self) -> bool:
        """Whether the gain is larger than expected by chance."""
        return self.mean > _CLEAR * self.standard_error

    def row(self) -> dict[str, Any]:
        """Return a row of the table of gains, per 1,000 entries."""
        values = (self.by, self.over, _PER * self.mean, _PER * self.standard_error, self.clear)
        return dict(zip(self.COLUMNS, values, strict=True))

    def __str__(self) -> str:
        return f"{_PER * self.mean:.2f} (standard error {_PER * self.standard_error:.2f})"


@dataclass(frozen=True)
class Advice:
    """What theta should vary by (None: keep the model's own), and why."""

    by: str | None
    text: str


def advise(adapter: Adapter, gains: list[Gain], *, conclusive: bool = True) -> Advice:
    """Recommend which theta to use: the model's own if there are too few cells to decide."""
    if adapter.gene_likelihood == "poisson":
        return Advice(
            None,
            "A Poisson model has no theta to refit. If counts vary more than it predicts, train "
            "with gene_likelihood='nb'.",
        )
    if not gains:
        return Advice(
            None,
            "With dispersion='gene-cell' the decoder computes a theta for each cell; it cannot be "
            "refitted.",
        )
    if not conclusive:
        return Advice(
            None,
            "Keep the model's own theta: no batch has enough held-out cells to compare others.",
        )
    found = {(gain.by, gain.over): gain for gain in gains}
    finer = found.get(("gene-batch", "gene"))
    by = "gene-batch" if finer is not None and finer.clear else "gene"
    total = found[by, "the model's own"]
    comparison = _comparison(finer)
    if not total.clear:
        return Advice(
            None,
            f"{comparison}Keep the model's own theta: refitting changes the held-out "
            f"log-likelihood per 1,000 entries by only {total}.",
        )
    return Advice(
        by,
        f"{comparison}Theta refitted by {_words(by)} increases the held-out log-likelihood per "
        f"1,000 entries by {total} over the model's own: pass this calibration as "
        "corrected_counts(dispersion=).",
    )


def _comparison(finer: Gain | None) -> str:
    if finer is None:
        return ""
    if finer.clear:
        return (
            f"Use one theta for each gene and batch (dispersion='gene-batch'): this gains {finer} "
            "in held-out log-likelihood per 1,000 entries over one for each gene. "
        )
    return (
        "One theta for each gene is enough: one for each gene and batch would change the held-out "
        f"log-likelihood per 1,000 entries by {finer}. "
    )


def _words(by: str) -> str:
    return "gene and batch" if by == "gene-batch" else "gene"
