"""What goes wrong, one factor at a time: errors, power, what is left, and the warnings issued.

Every group of designs is one simulation with one trained model. The base is a balanced design with
a model that was trained for long enough; each other design differs from it in one respect.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from benchmarks.validity import measures
from benchmarks.validity.methods import Case, true_effect
from benchmarks.validity.rows import Row
from benchmarks.validity.simulated import test_rows
from benchmarks.validity.simulation import (
    CELL_TYPES,
    TARGET,
    TYPE_SHARES,
    Scenario,
    simulate_scenario,
)
from benchmarks.validity.training import trained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from benchmarks.validity.simulation import Truth

EXPERIMENT = "what goes wrong"
SEEDS = (601, 602, 603, 604, 605)
SIZE = {"cells_per_donor": 200, "n_genes": 1000}
SMALL = {"cells_per_donor": 40, "n_genes": 150}
EPOCHS, WARMUP = 100, 25
# As many counts per gene as in the larger simulation.
DEPTH = {"A": 1500.0, "B": 2250.0}
RAW, LABEL, RESIDUAL, GLOBAL, LOCAL, TRUE_EFFECT, OBSERVED = (
    "raw",
    "quantile, label",
    "quantile, label, residual",
    "quantile, global",
    "quantile, local",
    "true effect",
    "quantile, label, observed depth",
)
# What the warnings of corrected_counts are about, by words that they contain.
WARNINGS = {
    "confounding": ("confounding", "confounded"),
    "mixing": ("has not mixed", "not mixed the batches"),
    "support": ("support",),
    "depth": ("their own depth",),
    "labels": ("labels: ",),
    "samples": ("sample_key=",),
}
OTHER = "something else"
# DESeq2 takes ten times as long as edgeR.
TESTED_WITH_DESEQ2 = ("base", "type-specific effects")


@dataclass(frozen=True)
class Group:
    """Designs that share cells and model.

    Attributes
    ----------
    scenario
        What is simulated.
    training
        Arguments of the training.
    labels
        How the labels that are passed are made from the cells, by design.
    cells_per_donor
        If not as in the other groups.
    varies_depth
        Whether to compute counts at the observed depth, too.
    """

    scenario: Scenario
    labels: Mapping[str, Callable[[Case], np.ndarray]]
    training: Mapping[str, Any] = field(default_factory=dict)
    cells_per_donor: int | None = None
    varies_depth: bool = False


# -- labels ----------------------------------------------------------------------------------------


def _types(case: Case) -> np.ndarray:
    return case.cells.obs["cell_type"].to_numpy().astype(str)


def _wrong(share: float) -> Callable[[Case], np.ndarray]:
    """Replace the labels of a share of the cells by another type's."""

    def make(case: Case) -> np.ndarray:
        rng = np.random.default_rng(case.seed)
        codes = case.cells.obs["cell_type"].cat.codes.to_numpy()
        n_types = len(CELL_TYPES)
        other = (codes + rng.integers(1, n_types, len(codes))) % n_types
        return np.array(CELL_TYPES)[np.where(rng.random(len(codes)) < share, other, codes)]

    return make


def _clusters(n_clusters: int) -> Callable[[Case], np.ndarray]:
    """Cluster the latent means."""

    def make(case: Case) -> np.ndarray:
        from sklearn.cluster import KMeans

        clusters = KMeans(min(n_clusters, case.cells.n_obs // 10), n_init=3, random_state=case.seed)
        found = clusters.fit_predict(case.model.get_latent_representation())
        return np.char.add("cluster ", found.astype(str))

    return make


def _transferred(case: Case) -> np.ndarray:
    """Give cells outside of the target the type of their neighbours in the target."""
    from sklearn.neighbors import KNeighborsClassifier

    latent, types, home = case.model.get_latent_representation(), _types(case), case.at_home()
    neighbours = KNeighborsClassifier(15).fit(latent[home], types[home])
    return np.where(home, types, neighbours.predict(latent))


# -- designs ---------------------------------------------------------------------------------------

BASE = Scenario(median_depth=DEPTH)
_LETTERS = tuple("ABCDEFGH")
_UNEVEN = {"A": (0.40, 0.20, 0.18, 0.15, 0.07), "B": (0.08, 0.17, 0.20, 0.20, 0.35)}
_ABSENT = {"A": TYPE_SHARES, "B": (*TYPE_SHARES[:-1], 0.0)}
_NULL = replace(BASE, differential_share=0.0)
_FOUR_TWO, _FIVE_ONE = {"A": "ccccss", "B": "ccssss"}, {"A": "cccccs", "B": "csssss"}


def _group(name: str, scenario: Scenario, **settings: Any) -> tuple[str, Group]:
    return name, Group(scenario, {name: _types}, **settings)


GROUPS: dict[str, Group] = dict(
    [
        (
            "base",
            Group(
                BASE,
                {
                    "base": _types,
                    "10 % of labels wrong": _wrong(0.10),
                    "25 % of labels wrong": _wrong(0.25),
                    "labels transferred from the target": _transferred,
                    "8 clusters as labels": _clusters(8),
                    "24 clusters as labels": _clusters(24),
                },
            ),
        ),
        _group("5 epochs", BASE, training={"epochs": 5, "warmup": 2}),
        _group("warm-up of 400 epochs", BASE, training={"warmup": 400}),
        _group("donors 5:1 and 1:5", replace(BASE, conditions=_FIVE_ONE)),
        _group("type-specific effects", replace(BASE, batch_type_sd=0.5)),
        _group("composition 5 x apart", replace(BASE, type_shares=_UNEVEN)),
        _group("a type absent from the target", replace(BASE, type_shares=_ABSENT)),
        _group(
            "target 5 x deeper",
            replace(BASE, median_depth={"A": 600.0, "B": 3000.0}),
            varies_depth=True,
        ),
        _group(
            "target 5 x shallower",
            replace(BASE, median_depth={"A": 3000.0, "B": 600.0}),
            varies_depth=True,
        ),
        _group("no effect, donors 5:1 and 1:5", replace(_NULL, conditions=_FIVE_ONE)),
        _group("no effect, donors 4:2 and 2:4", replace(_NULL, conditions=_FOUR_TWO)),
        _group("donors 4:2 and 2:4", replace(BASE, conditions=_FOUR_TWO)),
        _group(
            "8 small batches",
            replace(
                BASE,
                batches=_LETTERS,
                conditions=dict.fromkeys(_LETTERS, "cs"),
                median_depth=dict.fromkeys(_LETTERS, DEPTH["A"]) | {"B": DEPTH["B"]},
                type_shares=dict.fromkeys(_LETTERS, TYPE_SHARES),
            ),
            cells_per_donor=150,
        ),
        _group("ambient RNA, 20 % and 2 %", replace(BASE, ambient={"A": 0.20, "B": 0.02})),
        _group("crossing interaction", replace(BASE, crosses=True)),
        _group(
            "zero-inflated counts and model",
            replace(BASE, zero_inflated=True),
            training={"gene_likelihood": "zinb"},
        ),
    ]
)


def slug(group: str) -> str:
    """Return the name of a group for files."""
    return "".join(c if c.isalnum() else "_" for c in group)


def run(group: str, seed: int, work: Path, *, small: bool = False) -> list[Row]:
    """Compute the figures of the designs of one group.

    Parameters
    ----------
    group
        One of `GROUPS`.
    seed
        Number of the run.
    work
        Folder of the models.
    small
        Use a few cells and genes, to test the code.
    """
    chosen = GROUPS[group]
    case, truth = prepare(group, seed, work, small=small)
    effect = shared_counts(case, truth, chosen)
    rows: list[Row] = []
    for design, make in chosen.labels.items():
        case.cells.obs["label"] = pd.Categorical(make(case))
        case.model.adata.obs["label"] = case.cells.obs["label"].to_numpy()
        made = corrected(chosen, replace(case, labels_key="label"))
        counts = {name: sp.csr_matrix(result.X) for name, (result, _) in made.items()} | effect
        figures = cell_figures(chosen, case, truth, counts)
        for name, (result, messages) in made.items():
            figures[name] |= {
                "share of wrong labels": wrong_labels(case),
                "share of unsupported cells": float(result.uns["scvibridge"]["unsupported_share"]),
                **warned_of(messages),
            }
        rows += [
            Row(EXPERIMENT, design, seed, method, figure, value)
            for method, found in figures.items()
            for figure, value in found.items()
        ]
        rows += test_rows(design, seed, case.cells, truth, counts, (), ("edgeR",), EXPERIMENT)
        if design in TESTED_WITH_DESEQ2:
            few = {name: counts[name] for name in (RAW, LABEL, GLOBAL)}
            rows += test_rows(design, seed, case.cells, truth, few, (), ("DESeq2",), EXPERIMENT)
    return rows


def wrong_labels(case: Case) -> float:
    """Return the share of cells whose label is another type; NaN for names of clusters."""
    labels = case.cells.obs["label"].to_numpy().astype(str)
    known = np.isin(labels, CELL_TYPES).all()
    return float((labels != _types(case)).mean()) if known else float("nan")


def prepare(group: str, seed: int, work: Path, *, small: bool = False) -> tuple[Case, Truth]:
    """Simulate the cells of a group and train its model (or load the one stored in `work`)."""
    chosen = GROUPS[group]
    size = dict(SMALL if small else SIZE)
    if chosen.cells_per_donor is not None and not small:
        size["cells_per_donor"] = chosen.cells_per_donor
    # Groups of the same size have the same random numbers.
    cells, truth = simulate_scenario(chosen.scenario, [seed, 3], **size)
    training = {"epochs": EPOCHS, "warmup": WARMUP, **chosen.training}
    if small:
        training["epochs"] = 3
    folder = work / f"grid-{slug(group)}-{seed}{'-small' * small}"
    model = trained(cells, folder, batch_key="batch", seed=seed, **training)
    return Case(cells, model, TARGET, batch_key="batch", seed=seed), truth


def shared_counts(case: Case, truth: Truth, group: Group) -> dict[str, sp.csr_matrix]:
    """Return counts that do not depend on labels: raw, global, local, and with the true effect."""
    keys = {"condition_key": case.condition_key, "sample_key": case.sample_key}
    counts = {
        RAW: case.counts,
        GLOBAL: sp.csr_matrix(case.corrected(**keys).X),
        LOCAL: sp.csr_matrix(case.corrected(effect="local", **keys).X),
    }
    if group.scenario.zero_inflated:
        return counts  # the mapping with the true effect is that of the negative binomial
    codes = {name: case.codes[name] for name in ("batch", "label")}
    places = [list(truth.batches).index(b) for b in _batch_names(case)]
    shift = truth.batch_effect[np.array(places)[codes["batch"]], codes["label"]]
    return {**counts, TRUE_EFFECT: true_effect(case, shift)}


def _batch_names(case: Case) -> list[str]:
    from scvibridge.models.adapters import adapter_for

    return [str(name) for name in adapter_for(case.model).batches]


def corrected(group: Group, case: Case) -> dict[str, tuple[AnnData, list[str]]]:
    """Return the results of the methods that use labels, with the warnings of each."""
    keys = {
        "labels_key": case.labels_key,
        "condition_key": case.condition_key,
        "sample_key": case.sample_key,
    }
    calls: dict[str, dict[str, Any]] = {LABEL: {}, RESIDUAL: {"residual": "auto"}}
    if group.varies_depth:
        calls[OBSERVED] = {"library_size": "observed"}
    return {name: case.corrected_and_warned(**keys, **more) for name, more in calls.items()}


def cell_figures(
    group: Group, case: Case, truth: Truth, counts: Mapping[str, sp.csr_matrix]
) -> dict[str, dict[str, float]]:
    """Compute figures of single cells, and what is left of the batch effect, by method."""
    obs, home = case.cells.obs, case.at_home()
    changed = measures.Changed.of(obs, case.counts.toarray(), truth, np.flatnonzero(~home))
    raw = measures.batch_effect_left(case.counts.toarray(), obs, home, truth)
    figures = {}
    for method, matrix in counts.items():
        dense = matrix.toarray()
        figures[method] = {
            "Spearman with true counterfactual": measures.spearman(
                dense[~home], changed.counterfactual, changed
            )
        }
        # A simulation at a small size has too few cells of a type.
        left = measures.batch_effect_left(dense, obs, home, truth)
        figures[method] |= measures.left_figures(left, raw)
        if not group.scenario.zero_inflated:
            figures[method]["donor variance ratio"] = measures.donor_variance(dense[~home], changed)
    return figures


def warned_of(messages: Sequence[str]) -> dict[str, float]:
    """Return 1 or 0 for each subject of warnings: whether a message is about it.

    A message is about the first subject whose words it contains.
    """
    subjects = [
        next((name for name, words in WARNINGS.items() if any(w in text for w in words)), OTHER)
        for text in messages
    ]
    return {f"warned of {name}": float(name in subjects) for name in (*WARNINGS, OTHER)}
