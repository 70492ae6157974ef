"""Three 10x chemistries: whether batches mix while cell types stay separate.

The figures depend on how the model was trained, so several settings are reported: one, chosen in
advance, with all methods, the others with the methods that show the effect of the settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.validity import cells as real
from benchmarks.validity.methods import Case
from benchmarks.validity.neighbours import embedding, mixing, scib
from benchmarks.validity.rows import Row
from benchmarks.validity.training import trained

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData

EXPERIMENT = "mixing"
SEEDS = (1, 2, 3)
# The newest chemistry, with most cells and the deepest.
TARGET = "V3"
LATENT = "latent space"


@dataclass(frozen=True)
class Setting:
    """Training settings of a model: genes, epochs, and warm-up epochs of the prior."""

    n_genes: int
    warmup: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.n_genes} genes, warm-up {self.warmup}, {self.epochs} epochs"


# scvi-tools' default warm-up; see the other settings for what depends on this choice.
RECORD = Setting(2000, 400, 80)
VARIANTS = tuple(
    Setting(n_genes, warmup, epochs)
    for n_genes in (1000, 2000)
    for warmup in (20, 400)
    for epochs in (60, 100)
)
TELLING = (
    "raw",
    "quantile, label",
    "quantile, label, not shrunk",
    "quantile, global",
    "quantile, cell",
    "sample",
)
SMALL, SMALL_CELLS = Setting(150, 400, 5), 300


def run(
    seed: int,
    work: Path,
    data: Path,
    *,
    small: bool = False,
    methods: Sequence[str] | None = None,
) -> list[Row]:
    """Compute figures of all methods under the chosen setting, and of some under the others."""
    cells = real.load(data, real.CHEMISTRIES)
    if small:
        chosen = np.random.default_rng(seed).permutation(cells.n_obs)[:SMALL_CELLS]
        return list(setting_rows(cells[np.sort(chosen)].copy(), SMALL, seed, work, methods))
    rows = list(setting_rows(cells, RECORD, seed, work, methods, slow=seed == SEEDS[0]))
    telling = [name for name in TELLING if methods is None or name in methods]
    for setting in VARIANTS:
        rows += setting_rows(cells, setting, seed, work, telling)
    return rows


def setting_rows(
    cells: AnnData,
    setting: Setting,
    seed: int,
    work: Path,
    methods: Sequence[str] | None,
    *,
    slow: bool = False,
) -> Iterator[Row]:
    """Train under one setting; return the figures of the latent space and of each method."""
    chosen = real.most_variable(cells, setting.n_genes, "batch")
    folder = work / f"mixing-{setting.n_genes}-{setting.warmup}-{setting.epochs}-{seed}"
    model = trained(
        chosen, folder, batch_key="batch", seed=seed, epochs=setting.epochs, warmup=setting.warmup
    )
    case = Case(chosen, model, TARGET, sample_key="batch", seed=seed)
    batch, label = chosen.obs["batch"], chosen.obs["cell_type"]

    def rows(method: str, points: np.ndarray) -> Iterator[Row]:
        figures = mixing(points, batch, label)
        if setting == RECORD:
            figures |= scib(points, batch, label)
        for figure, value in figures.items():
            yield Row(EXPERIMENT, str(setting), seed, method, figure, value)

    yield from rows(LATENT, model.get_latent_representation())
    for method, counts in real.counts_by_method(case, methods, slow=slow):
        yield from rows(method, embedding(counts))
