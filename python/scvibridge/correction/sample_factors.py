"""Factors that preserve how each sample's counts differ from the model's means.

If the target is deeper, or the frequency of a gene higher there, mapping adds counts, which follow
the decoder's means. Donor differences that the decoder misses would be weakened, and condition
effects that it wrongly predicts would be added to the counts. Multiplying the means of each sample
by a factor, on both sides of the mapping, makes its summed counts equal to the observed sums, up to
the batch effect and depth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scvibridge._utils import wording
from scvibridge._utils.grouped import add_sums
from scvibridge.correction import matching
from scvibridge.correction.batch_effects import MOST_GROUP_CELLS
from scvibridge.correction.findings import NOTHING, Found, noted
from scvibridge.correction.group_sums import ExpectedSums
from scvibridge.io.blocks import blocks, minibatch_entries
from scvibridge.models.cell_sampling import choose_cells

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Encoder


# Sums over fewer cells follow individual cells.
MIN_SAMPLE_CELLS = 10

# Pseudocounts, at the model's frequencies, added to observed and expected sums. Without them, a
# gene with no counts in a sample could never get a count.
PRIOR_COUNTS = 2.0

# Warn if a larger share of the cells has no sample whose differences are preserved.
MOST_WITHOUT = 0.5


@dataclass(frozen=True)
class SampleFactors:
    """Ratios of observed to expected counts of groups of cells.

    Attributes
    ----------
    keys
        Codes of batch, label (-1 where missing or not given), condition (likewise) and sample of
        each group, shape ``(4, n_groups)``.
    ratio
        The factors, shape ``(n_groups + 1, n_genes)``. The last row is 1, for cells without a
        group.
    """

    keys: np.ndarray
    ratio: np.ndarray

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Return the row of each cell from its codes, shape ``(4, n)``."""
        known = {tuple(key): row for row, key in enumerate(self.keys.T.tolist())}
        groups, place = np.unique(keys, axis=1, return_inverse=True)
        found = [known.get(tuple(key), len(self.ratio) - 1) for key in groups.T.tolist()]
        return np.array(found, dtype=np.intp)[place.ravel()]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class SampleGroups:
    """The groups of cells that have factors, and the cells from which these are estimated.

    Attributes
    ----------
    keys
        Codes of the groups, shape ``(4, n_groups)``.
    chosen
        Positions of the cells, sorted.
    group
        Group of each chosen cell.
    """

    keys: np.ndarray
    chosen: np.ndarray
    group: np.ndarray


def keys_of_reference(reference: Reference) -> np.ndarray:
    """Return the codes of batch, label, condition and sample of the reference, ``(4, n)``."""
    batch = reference.data.covariates.batch
    columns = (reference.labels, reference.condition, reference.samples)
    return np.stack([batch, *(np.full(len(batch), -1) if c is None else c for c in columns)])


def keys_of_cells(request: Request, reference: Reference) -> np.ndarray:
    """Return the same codes for the requested cells, shape ``(4, n)``."""
    codes = [request.batch]
    for name, (known, names) in reference.columns().items():
        none = np.full(len(request.rows), -1)
        codes.append(none if known is None else matching.codes_of_cells(request, name, names))
    return np.stack(codes)


def check_samples(request: Request, reference: Reference) -> Found:
    """Check that the cells belong to samples that are large enough for their factors.

    Raises
    ------
    ValueError
        If none of them does.
    """
    if reference.samples is None:
        return NOTHING
    found = NOTHING
    key = f"sample_key={request.settings.sample_key!r}"
    if len(reference.sample_names) == 1 and len(request.adapter.batches) > 1:
        found += noted(
            f"{key} has a single value, {wording.list_names(reference.sample_names)}, so there are "
            "no differences between samples to preserve. Pass the column with the donor or sample",
            warn=True,
        )
    groups, sizes = np.unique(keys_of_reference(reference), axis=1, return_counts=True)
    known = groups[3] >= 0
    large = groups[:, known & (sizes >= MIN_SAMPLE_CELLS)]
    with_factor = {tuple(key) for key in large.T.tolist()}
    n_asked, n_without = _without_factor(request, reference, with_factor)
    if not n_without:
        return found
    text = (
        f"{key}: {n_without} of {n_asked} cells to correct have no sample of at least "
        f"{MIN_SAMPLE_CELLS} cells in their batch, label and condition; differences between their "
        "samples are not preserved"
    )
    everyone = replace(request, rows=np.arange(request.data.n_cells))
    n_all, n_all_without = _without_factor(everyone, reference, with_factor)
    if n_all_without == n_all:
        # Some requested cells may have no sample: they are corrected as in a result of all cells.
        raise ValueError(f"{text}. Pass a column with larger samples, or omit sample_key")
    return found + noted(text, warn=n_without > MOST_WITHOUT * n_asked)


def _without_factor(
    request: Request, reference: Reference, with_factor: set[tuple[int, ...]]
) -> tuple[int, int]:
    """Count the cells to correct, and those of them whose group has no factor."""
    asked = request.target.changes(request.batch)
    own, place = np.unique(keys_of_cells(request, reference)[:, asked], axis=1, return_inverse=True)
    has_group = np.array([tuple(key) in with_factor for key in own.T.tolist()], dtype=bool)
    return int(asked.sum()), int((~has_group[place.ravel()]).sum())


def group_samples(keys: np.ndarray, names: np.ndarray) -> SampleGroups:
    """Group cells by their codes of batch, label, condition and sample, shape ``(4, n)``.

    Groups of fewer than `MIN_SAMPLE_CELLS` and cells of no known sample are left out. From large
    groups, `MOST_GROUP_CELLS` cells are chosen by the hashes of their names.
    """
    groups, place, sizes = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    place = place.ravel()
    large = np.flatnonzero((sizes >= MIN_SAMPLE_CELLS) & (groups[3] >= 0))
    chosen, group = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for number, index in enumerate(large):
        members = choose_cells(names, np.flatnonzero(place == index), MOST_GROUP_CELLS)
        chosen.append(members)
        group.append(np.full(len(members), number))
    positions = np.concatenate(chosen)
    order = np.argsort(positions)
    return SampleGroups(groups[:, large], positions[order], np.concatenate(group)[order])


def estimate_samples(
    adapter: Adapter,
    encoder: Encoder,
    groups: SampleGroups,
    batch_size: int | None,
    progress: bool,
) -> SampleFactors:
    """Compare sums of observed counts with the sums expected by the model, for each group.

    Parameters
    ----------
    adapter
        The model.
    encoder
        Reads the cells; holds the latents of the chosen cells.
    groups
        The groups.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.

    Notes
    -----
    A factor is (O + a) / (E + a), where O and E are the observed and the expected sum of a gene
    over the cells of a group, under the observed batch at the posterior means of z, and
    a = `PRIOR_COUNTS`.
    """
    n_groups, n_genes = groups.keys.shape[1], len(adapter.genes)
    observed, expected = np.zeros((2, n_groups, n_genes))
    cut = blocks(len(groups.chosen), n_genes, batch_size, minibatch_entries(adapter.device))
    add_sums(
        encoder.data.pool,
        ExpectedSums(adapter, encoder, groups.chosen, groups.group),
        cut,
        adapter.device,
        (observed, expected),
        "Comparing samples with the model",
        progress,
    )
    ratio = (observed + PRIOR_COUNTS) / (expected + PRIOR_COUNTS)
    return SampleFactors(groups.keys, np.concatenate([ratio, np.ones((1, n_genes))]))
