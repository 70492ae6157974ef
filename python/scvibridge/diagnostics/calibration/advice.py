"""Which inverse dispersions to use, from what they gain in held-out likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from scvibridge.models.adapters import Adapter


# A gain is clear beyond so many of its standard errors.
_CLEAR = 2.0

_PER = 1000


@dataclass(frozen=True)
class Gain:
    """Gain in held-out log-likelihood of one choice of theta over another, by entry.

    ``by`` is what the theta differs by, ``over`` what it is compared with.
    """

    COLUMNS: ClassVar = ("theta", "over", "gain", "standard_error", "clear")

    by: str
    over: str
    mean: float
    standard_error: float

    @staticmethod
    def of(by: str, over: str, difference: np.ndarray, n_genes: int) -> Gain:
        """Average the differences of cells, summed over genes; the error is that over cells."""
        by_entry = difference / n_genes
        spread = by_entry.std(ddof=1) / np.sqrt(len(by_entry)) if len(by_entry) > 1 else np.inf
        return Gain(by, over, float(by_entry.mean()), float(spread))

    @property
    def clear(self) -> bool:
        """Whether there is a gain that is no accident of the cells."""
        return self.mean > _CLEAR * self.standard_error

    def row(self) -> dict[str, Any]:
        """A row of the table of gains, per 1,000 entries."""
        values = (self.by, self.over, _PER * self.mean, _PER * self.standard_error, self.clear)
        return dict(zip(self.COLUMNS, values, strict=True))

    def __str__(self) -> str:
        return f"{_PER * self.mean:.2f} (standard error {_PER * self.standard_error:.2f})"


@dataclass(frozen=True)
class Advice:
    """What theta should differ by (None: the model's own do), and why."""

    by: str | None
    text: str


def advise(adapter: Adapter, gains: list[Gain], *, conclusive: bool = True) -> Advice:
    """Advise which theta to use; the model's own where the cells are too few to conclude from."""
    if adapter.gene_likelihood == "poisson":
        return Advice(
            None,
            "A Poisson model has no theta to refit. Where counts vary more than it says, train "
            "with gene_likelihood='nb'.",
        )
    if not gains:
        return Advice(
            None,
            "With dispersion='gene-cell' the decoder gives each cell its own theta; none is "
            "refitted.",
        )
    if not conclusive:
        return Advice(
            None,
            "Keep the model's own theta: no batch has enough held-out cells to judge another one.",
        )
    found = {(gain.by, gain.over): gain for gain in gains}
    finer = found.get(("gene-batch", "gene"))
    by = "gene-batch" if finer is not None and finer.clear else "gene"
    total = found[by, "the model's own"]
    comparison = _comparison(finer)
    if not total.clear:
        return Advice(
            None,
            f"{comparison}Keep the model's own theta: refitted ones change the held-out "
            f"log-likelihood per 1,000 entries by {total} only.",
        )
    return Advice(
        by,
        f"{comparison}Theta refitted by {_words(by)} raises the held-out log-likelihood per 1,000 "
        f"entries by {total} over the model's own: corrected_counts(dispersion=) takes this "
        "calibration.",
    )


def _comparison(finer: Gain | None) -> str:
    if finer is None:
        return ""
    if finer.clear:
        return (
            f"Use one theta for each gene and batch (dispersion='gene-batch'): it gains {finer} in "
            "held-out log-likelihood per 1,000 entries over one for each gene. "
        )
    return (
        f"One theta for each gene does: one for each gene and batch would change the held-out "
        f"log-likelihood per 1,000 entries by {finer}. "
    )


def _words(by: str) -> str:
    return "gene and batch" if by == "gene-batch" else "gene"
