"""How far the counts of each sample are from the model's means: kept through a correction.

Where the target is deeper, or a gene's frequency higher there, a mapping invents counts, and
invents them around the decoder's means. What the decoder misses of a donor, or says of a condition
without ground, would then be weakened or brought into the counts. Factors on the means of each
sample, on both sides of the mapping, make the sums of a sample's counts what they were observed to
be, times what the batch effect and the depth are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from scvibridge._utils import wording
from scvibridge._utils.progress import track
from scvibridge.correction import matching
from scvibridge.correction.batch_effects import MOST_GROUP_CELLS
from scvibridge.correction.own_parameters import expected_counts, own_parameters
from scvibridge.io.blocks import blocks, minibatch_entries
from scvibridge.models.cell_sampling import choose_cells

if TYPE_CHECKING:
    from scvibridge.correction.records import Reference, Request
    from scvibridge.models.adapters import Adapter
    from scvibridge.models.encoder import Encoder


# The sums of fewer cells follow the single cells in them.
MIN_SAMPLE_CELLS = 10

# Counts, at the model's own frequencies, that observed and expected sums are each given: without
# them a gene of which a sample shows none could never get a count.
PRIOR_COUNTS = 2.0

# A warning: a larger share of cells keeps nothing of what its sample differs by.
MOST_WITHOUT = 0.5


@dataclass(frozen=True)
class SampleFactors:
    """Observed over expected counts of groups of cells.

    Attributes
    ----------
    keys
        Codes of batch, label (-1 where missing or not given), condition (likewise) and sample of
        each group, shape ``(4, n_groups)``.
    ratio
        The factors, shape ``(n_groups + 1, n_genes)``; 1 in the last row, which the cells of no
        group take.
    """

    keys: np.ndarray
    ratio: np.ndarray

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """Row of each cell, from its codes, shape ``(4, n)``."""
        known = {tuple(key): row for row, key in enumerate(self.keys.T.tolist())}
        groups, place = np.unique(keys, axis=1, return_inverse=True)
        found = [known.get(tuple(key), len(self.ratio) - 1) for key in groups.T.tolist()]
        return np.array(found, dtype=np.intp)[place.ravel()]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name."""
        return dict(vars(self))


@dataclass(frozen=True)
class SampleGroups:
    """The groups of cells that have factors, and the cells that these are estimated from.

    Attributes
    ----------
    keys
        Their codes, shape ``(4, n_groups)``.
    chosen
        Positions of the cells, sorted.
    group
        Group of each of these cells.
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
    """Return the same codes of the cells asked for, shape ``(4, n)``."""
    codes = [request.batch]
    for name, (known, names) in reference.columns().items():
        none = np.full(len(request.rows), -1)
        codes.append(none if known is None else matching.codes_of_cells(request, name, names))
    return np.stack(codes)


def check_samples(request: Request, reference: Reference) -> None:
    """Check that the cells have a sample of enough cells, whose differences are kept.

    Raises
    ------
    ValueError
        If no cell has.
    """
    if reference.samples is None:
        return
    key = f"sample_key={request.settings.sample_key!r}"
    if len(reference.sample_names) == 1 and len(request.adapter.batches) > 1:
        request.note(
            f"{key} holds one value alone, {wording.list_names(reference.sample_names)}: there are "
            "no samples to keep the differences of. Name the column with the donor or sample",
            warn=True,
        )
    groups, sizes = np.unique(keys_of_reference(reference), axis=1, return_counts=True)
    known = groups[3] >= 0
    large = groups[:, known & (sizes >= MIN_SAMPLE_CELLS)]
    found = {tuple(key) for key in large.T.tolist()}
    asked = request.target.changes(request.batch)
    own, place = np.unique(keys_of_cells(request, reference)[:, asked], axis=1, return_inverse=True)
    has_group = np.array([tuple(key) in found for key in own.T.tolist()], dtype=bool)
    n_asked, n_without = int(asked.sum()), int((~has_group[place.ravel()]).sum())
    if not n_without:
        return
    text = (
        f"{key}: {n_without} of {n_asked} cells to correct have no sample of at least "
        f"{MIN_SAMPLE_CELLS} cells in their batch, label and condition, and do not keep what their "
        "sample differs by"
    )
    if n_without == n_asked:
        raise ValueError(f"{text}. Name a column of larger samples, or leave sample_key out")
    request.note(text, warn=n_without > MOST_WITHOUT * n_asked)


def group_samples(keys: np.ndarray, names: np.ndarray) -> SampleGroups:
    """Group cells by their codes of batch, label, condition and sample, shape ``(4, n)``.

    Groups of fewer than `MIN_SAMPLE_CELLS` and cells of no known sample are left out; of large
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


@torch.inference_mode()
def estimate_samples(
    adapter: Adapter,
    encoder: Encoder,
    groups: SampleGroups,
    batch_size: int | None,
    progress: bool,
) -> SampleFactors:
    """Compare the sums of observed counts with those that the model expects, group by group.

    Parameters
    ----------
    adapter
        The model.
    encoder
        Reads the cells, and knows the latents of those chosen.
    groups
        The groups.
    batch_size, progress
        Cells in a minibatch, and whether to show progress.

    Notes
    -----
    A factor is (O + a) / (E + a), O and E the observed and the expected sum of a gene over the
    cells of a group, under the observed batch at the posterior means of z, and a = `PRIOR_COUNTS`.
    """
    n_groups, n_genes = groups.keys.shape[1], len(adapter.genes)
    observed, expected = np.zeros((2, n_groups, n_genes))
    cut = blocks(len(groups.chosen), n_genes, batch_size, minibatch_entries(adapter.device))
    for block in track(cut, "Comparing samples with the model", progress):
        cells = encoder.cells(groups.chosen[block])
        place, group = np.arange(cells.n_cells), groups.group[block]
        members = sp.csr_matrix((np.ones(cells.n_cells), (group, place)), (n_groups, cells.n_cells))
        observed += (members @ cells.counts).toarray()
        expected += members @ expected_counts(own_parameters(adapter, cells))
    ratio = (observed + PRIOR_COUNTS) / (expected + PRIOR_COUNTS)
    return SampleFactors(groups.keys, np.concatenate([ratio, np.ones((1, n_genes))]))
