"""Compute the batch effect of each gene before and after a correction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scvibridge._utils.arguments import check_types
from scvibridge.diagnostics.report import evidence
from scvibridge.diagnostics.report.reading import open_result
from scvibridge.diagnostics.report.tallies import tally
from scvibridge.likelihood.cpu.philox import check_seed

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData

    from scvibridge.diagnostics.report.evidence import Folds, Spread
    from scvibridge.diagnostics.report.reading import Result


@dataclass(frozen=True)
class GeneEffects:
    """Batch effects of genes.

    Attributes
    ----------
    result
        The result that they are of.
    folds
        The folds of all genes, by batch.
    spread
        Their size over all genes and batches.
    """

    result: Result
    folds: dict[str, Folds]
    spread: Spread

    def table(self) -> pd.DataFrame:
        """Return one row for each gene and batch that can be compared with the target.

        Returns
        -------
        DataFrame with ``gene``, ``batch``, ``before`` and ``after`` (log2 folds) and ``depth_only``
        (only depth was corrected). Its ``attrs`` have the root mean squares ``before``, ``after``
        and ``chance``, and ``left``, what is left of them beyond chance.
        """
        genes = np.array(self.result.genes, dtype=object)
        parts = []
        for batch, folds in self.folds.items():
            known = ~np.isnan(folds.before)
            part = {
                "gene": genes[known],
                "batch": np.full(int(known.sum()), batch, dtype=object),
                "before": folds.before[known] / np.log(2),
                "after": folds.after[known] / np.log(2),
                "depth_only": self.result.depth_only(batch)[known],
            }
            parts.append(pd.DataFrame(part))
        table = pd.concat(parts, ignore_index=True)
        sizes = ("before", "after", "chance", "left")
        table.attrs = {name: float(getattr(self.spread, name)) for name in sizes}
        return table


def gene_effects(
    counts: AnnData | str | PathLike[str], labels_key: str | None = None, seed: int = 0
) -> GeneEffects:
    """Compute the batch effects of a result's genes.

    Parameters
    ----------
    counts, labels_key, seed
        As in :func:`scvibridge.pl.batch_effect`.

    Returns
    -------
    GeneEffects

    Raises
    ------
    ValueError
        If `counts` is not a corrected-counts result with the raw counts, has no such column, or no
        batch can be compared with the target.
    """
    check_types(gene_effects, locals())
    seed = int(check_seed(seed))
    result = open_result(counts, labels_key)
    folds = evidence.batch_folds(result, tally(result, seed, progress=False))
    spread = evidence.spread(evidence.pooled(folds))
    if not spread.n_genes:
        raise ValueError(
            "no batch effect can be plotted: the result has no batch besides the target, or no "
            "gene with 30 counts in both"
        )
    return GeneEffects(result, folds, spread)
