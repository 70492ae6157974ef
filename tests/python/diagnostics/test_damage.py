"""What a correction changes between random halves of one batch."""

from __future__ import annotations

import random
from pathlib import Path

import anndata as ad
import families
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.metrics import roc_auc_score

import scvibridge as sb
from scvibridge._utils.progress import reporting_to
from scvibridge.cli import main
from scvibridge.diagnostics import damage, damage_measures
from scvibridge.models.adapters import adapter_for
from scvibridge.models.training.trainer import train_like

QUIET = {"max_epochs": 8, "progress": False}
CHANGED = "share of nonzero counts changed"
DIFFERENTIAL = "differential genes between the halves"
KEPT = "share of marker genes kept"
SPEARMAN = "Spearman with the cell's own counts (median)"


def by_figure(table):
    return table.set_index("figure")


@pytest.fixture(scope="module")
def cells(simulate):
    return simulate(n_cells=500, n_genes=100, batches=("V1", "V2"))


@pytest.fixture(scope="module")
def table(cells):
    return sb.damage(cells.copy(), "batch", labels_key="cell_type", **QUIET)


# -- the whole check -----------------------------------------------------------------------------


def test_a_row_for_each_figure(table, cells):
    assert list(table.columns) == ["figure", "before", "after", "expected"]
    figures = by_figure(table)
    assert figures.notna().all(axis=None)
    assert 0 < figures.loc["share of all counts changed", "after"] < 1
    assert figures.loc["share of all counts changed", "before"] == 0
    assert 0.5 < figures.loc["depth over the cell's own (median)", "after"] < 2
    assert (figures["before"] == figures["expected"]).drop(DIFFERENTIAL).all()
    in_v1 = int((cells.obs["batch"] == "V1").sum())
    assert table.attrs["n_cells"] == max(in_v1, 500 - in_v1)
    assert {row["label"] for row in table.attrs["by_label"]} == {"B", "NK", "T"}
    assert table.attrs["method"] == "quantile"
    assert table.attrs["effect"] == "label"
    assert table.attrs["max_epochs"] == 8


def test_the_share_of_the_effect_that_was_removed_is_told(table):
    """It is told beside the kappa that it rests on, which means nothing without it."""
    assert table.dtypes.iloc[1:].eq(float).all()
    row = by_figure(table).loc[damage.REMOVED_FIGURE]
    assert row["before"] == row["expected"] == 0
    assert row["after"] == table.attrs["shrinkage_kept"]
    assert 0 <= row["after"] <= 1
    assert table.attrs["shrinkage_batch"] > 0
    assert "held-out cells" in table.attrs["shrinkage_from"]


def test_a_harmful_method_shows_more_damage(table, cells):
    """Draws do not keep the cell's own data: they are worse in all that counts."""
    sample = by_figure(
        sb.damage(cells.copy(), "batch", labels_key="cell_type", method="sample", **QUIET)
    )
    quantile = by_figure(table)
    assert sample.loc[CHANGED, "after"] > quantile.loc[CHANGED, "after"] + 0.1
    assert sample.loc[DIFFERENTIAL, "after"] > quantile.loc[DIFFERENTIAL, "after"] + 10
    assert sample.loc[KEPT, "after"] < quantile.loc[KEPT, "after"]
    assert sample.loc[SPEARMAN, "after"] < quantile.loc[SPEARMAN, "after"] - 0.1
    # What was there before has nothing to do with the method.
    assert_array_equal(sample["before"], quantile["before"].drop(damage.REMOVED_FIGURE))


def test_halves_are_compared_at_the_depth_that_both_are_scaled_to(cells):
    """Against counts at their own depth, most genes would look differential."""
    given = {"labels_key": "cell_type", "max_epochs": 40, "progress": False, "library_size": 300}
    found = by_figure(sb.damage(cells.copy(), "batch", **given))
    assert found.loc["depth over the cell's own (median)", "after"] < 0.3
    assert found.loc[DIFFERENTIAL, "after"] <= 2


def test_what_changed_in_both_halves_is_compared_between_them():
    rng = np.random.default_rng(1)
    raw = rng.poisson(3, (400, 60))
    second = np.arange(400) >= 200
    kind = pd.Series(pd.Categorical(np.where(np.arange(400) % 2, "a", "b")))
    halved = rng.binomial(raw, 0.1)
    table, by_label = damage_measures.tabulate(
        sp.csr_matrix(raw), sp.csr_matrix(halved), second, kind
    )
    expected = sum(
        damage_measures.n_differential(*(sp.csr_matrix(halved[s & t]) for s in (~second, second)))
        for t in (kind == "a", kind == "b")
    )
    assert by_figure(table).loc[DIFFERENTIAL, "after"] == expected == 0
    assert_array_equal(by_label["differential_after"], 0)
    alike = pd.Series(pd.Categorical(kind.map({"a": 1, "b": "1"}).astype(object)))
    same_text = damage_measures.tabulate(sp.csr_matrix(raw), sp.csr_matrix(halved), second, alike)
    pd.testing.assert_frame_equal(same_text[0], table)
    assert list(same_text[1]["n_cells"]) == [200, 200]
    kept, _ = damage_measures.tabulate(
        sp.csr_matrix(raw), sp.csr_matrix(halved), second, kind, sp.csr_matrix(raw)
    )
    assert by_figure(kept).loc[DIFFERENTIAL, "after"] > 20
    fold = damage_measures.FOLD_FIGURE
    rates = [halved[rows].sum(axis=0) + 0.5 for rows in (second, ~second)]
    rates = [rate / rate.sum() for rate in rates]
    found, _ = damage_measures.tabulate(sp.csr_matrix(raw), sp.csr_matrix(halved), second, None)
    assert_allclose(
        by_figure(found).loc[fold, "after"], np.sqrt(np.mean(np.log2(rates[0] / rates[1]) ** 2))
    )


def test_the_same_seed_gives_the_same_and_the_data_stay_as_they_are(table, cells):
    before = cells.copy()
    again = sb.damage(before, "batch", labels_key="cell_type", **QUIET)
    pd.testing.assert_frame_equal(again, table)
    assert_array_equal(before.obs.columns, cells.obs.columns)
    other = sb.damage(cells.copy(), "batch", labels_key="cell_type", seed=1, **QUIET)
    assert not other["after"].equals(table["after"])


def test_figures_do_not_depend_on_the_order_of_the_cells(table, cells):
    order = np.random.default_rng(4).permutation(cells.n_obs)
    again = sb.damage(cells[order].copy(), "batch", labels_key="cell_type", **QUIET)
    assert_array_equal(again["figure"], table["figure"])
    for column in ("before", "after", "expected"):
        assert_allclose(again[column], table[column], rtol=1e-9)


def test_the_training_is_that_of_train_scvi(cells, monkeypatch):
    """One thread, its warm-up and early stopping, and progress that is shown."""
    import scvi

    told, found = [], {}
    original = scvi.model.SCVI.train

    class Told:
        def start(self, *step):
            told.append(step)

        def update(self, _done):
            pass

        def finish(self):
            pass

    def train(self, **how):
        found.update(how, threads=torch.get_num_threads())
        return original(self, **how)

    monkeypatch.setattr(scvi.model.SCVI, "train", train)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with reporting_to(Told()):
            sb.damage(cells.copy(), "batch", max_epochs=8)
        of_damage = dict(found)
        sb.train_scvi(cells.copy(), "batch", n_top_genes=None, **QUIET)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert ("Training", 8, "epochs") in told
    assert of_damage["threads"] == 1
    assert of_damage["plan_kwargs"] == {"n_epochs_kl_warmup": 2}
    of_damage.pop("callbacks")
    assert of_damage == {name: value for name, value in found.items() if name != "callbacks"}


def test_folds_between_the_halves_are_those_of_each_gene():
    """Of a gene that a correction doubles, the log2 fold grows by one; the rest stays chance."""
    rng = np.random.default_rng(0)
    raw = rng.poisson(20, (400, 200))
    second = np.arange(400) >= 200
    changed = raw.copy()
    changed[np.ix_(second, np.arange(100))] *= 2
    table, _ = damage_measures.tabulate(sp.csr_matrix(raw), sp.csr_matrix(changed), second, None)
    row = by_figure(table).loc[damage_measures.FOLD_FIGURE]
    rates = [(m[rows].sum(axis=0) + 0.5) for m in (raw, changed) for rows in (second, ~second)]
    rates = [rate / rate.sum() for rate in rates]
    for name, (own, other) in {"before": rates[:2], "after": rates[2:]}.items():
        assert_allclose(row[name], np.sqrt(np.mean(np.log2(own / other) ** 2)))
    assert row["expected"] == row["before"] < 0.1
    assert row["after"] > 0.4


def test_training_leaves_the_callers_random_numbers_alone(cells):
    def seeded():
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002 - the generator that scvi-tools uses
        random.seed(5)

    def next_numbers():
        return torch.rand(1).item(), np.random.random(), random.random()  # noqa: NPY002

    seeded()
    expected = next_numbers()
    seeded()
    train_like(cells.copy(), "batch", 1, 0, "cpu", {"n_hidden": 8})
    assert next_numbers() == expected


def test_a_model_gives_its_genes_and_architecture(cells, train):
    few = cells[:, ::-2].copy()
    model = train(few, max_epochs=1, n_latent=3, n_layers=2, gene_likelihood="zinb")
    found = sb.damage(cells.copy(), "batch", model=model, batch="V2", **QUIET)
    assert found.attrs["batch"] == "V2"
    assert found.attrs["n_genes"] == 50
    architecture = found.attrs["architecture"]
    assert architecture["n_latent"] == 3
    assert architecture["n_layers"] == 2
    assert architecture["gene_likelihood"] == "zinb"
    assert found.attrs["effect"] == "global"
    assert KEPT not in set(found["figure"])


@pytest.mark.parametrize("name", families.AVAILABLE)
def test_the_architecture_is_that_of_every_class(cells, name):
    """Of the size that a class has chosen itself, and with its likelihood."""
    sizes = {"n_hidden": None, "n_latent": None} if name == "MULTIVI" else {}
    model, rna = families.make(name, cells, epochs=1, **sizes)
    made = adapter_for(model).architecture()
    of_nb = name in ("LinearSCVI", "CondSCVI", "TOTALVI", "TOTALANVI")
    assert made["gene_likelihood"] == ("nb" if of_nb else "zinb")
    alike = train_like(rna[:60].copy(), "batch", 1, 0, "cpu", made)
    assert alike.module.n_latent == model.module.n_latent
    assert alike.module.gene_likelihood == model.module.gene_likelihood
    if hasattr(model.module, "n_hidden"):
        assert alike.module.n_hidden == model.module.n_hidden


def test_labels_are_no_part_of_the_architecture(cells, train):
    model = train(cells.copy(), max_epochs=1, dispersion="gene-label")
    assert adapter_for(model).architecture()["dispersion"] == "gene"


def test_cells_without_counts_and_other_layers(cells):
    adata = cells.copy()
    counts = adata.X.toarray()
    counts[3] = 0
    adata.layers["counts"] = sp.csr_matrix(counts)
    adata.X = sp.csr_matrix(np.log1p(counts))
    batch = adata.obs["batch"].iloc[3]
    found = sb.damage(adata, "batch", batch=batch, layer="counts", max_epochs=1, progress=False)
    assert found.attrs["n_cells"] == (adata.obs["batch"] == batch).sum() - 1
    with pytest.raises(ValueError, match="not whole numbers"):
        sb.damage(adata, "batch", **QUIET)


@pytest.mark.filterwarnings("ignore:Transforming to str index")
def test_a_donor_of_kang(shared_data):
    """A real batch: quantile keeps its genes and markers, sample does not."""
    adata = ad.read_h5ad(shared_data("kang_ifnb_pbmc_4k"))
    means = np.asarray(adata.X.mean(axis=0)).ravel()
    adata = adata[:, np.sort(np.argsort(-means)[:300])].copy()
    found = {
        method: by_figure(
            sb.damage(
                adata,
                "donor",
                labels_key="cell_type_coarse",
                batch="1488",
                method=method,
                max_epochs=40,  # after ten, random weights still tell the halves apart
                progress=False,
            )
        )["after"]
        for method in ("quantile", "sample")
    }
    assert found["quantile"][CHANGED] < 0.5 < found["sample"][CHANGED]
    assert found["quantile"][DIFFERENTIAL] <= 5 < found["sample"][DIFFERENTIAL]
    assert found["quantile"][KEPT] > 0.8 > found["sample"][KEPT]


# -- its parts -----------------------------------------------------------------------------------


def test_the_split_is_balanced_within_labels_and_keyed_by_names():
    names = pd.Index([f"cell{i}" for i in range(501)])
    labels = pd.Series(np.random.default_rng(0).integers(4, size=501))
    half = pd.Series(damage.split(names, labels, 3))
    counts = pd.crosstab(labels, half)
    assert (abs(counts["A"] - counts["B"]) <= 1).all()
    order = np.random.default_rng(1).permutation(501)
    shuffled = damage.split(names[order], labels[order], 3)
    assert_array_equal(shuffled, half[order])
    assert (np.asarray(damage.split(names, labels, 4)) != half).mean() > 0.3


@pytest.fixture(scope="module")
def two_sets():
    rng = np.random.default_rng(2)
    first = rng.poisson(3.0, (60, 30))
    second = rng.poisson(np.where(np.arange(30) < 6, 9.0, 3.0), (50, 30))
    second[:, 7] = first[:60, 7].max() * 0  # never seen in one of them
    return sp.csr_matrix(first), sp.csr_matrix(second)


def test_differential_genes_are_those_of_scipy(two_sets, monkeypatch):
    first, second = (m.toarray() / m.toarray().sum(axis=1, keepdims=True) for m in two_sets)
    logs = np.log1p(1e4 * first), np.log1p(1e4 * second)
    p_values = [
        stats.mannwhitneyu(a, b, method="asymptotic").pvalue
        for a, b in zip(logs[0].T, logs[1].T, strict=True)
    ]
    expected = (stats.false_discovery_control(p_values) < 0.05).sum()
    assert expected >= 6
    assert damage_measures.n_differential(*two_sets) == expected
    monkeypatch.setattr(damage_measures, "_ENTRIES", 300)  # a few genes at a time
    assert damage_measures.n_differential(*two_sets) == expected


def test_markers_are_ranked_by_the_area_under_the_curve(monkeypatch):
    rng = np.random.default_rng(3)
    labels = rng.integers(3, size=150)
    counts = rng.poisson(np.exp(rng.normal(0.5, 0.5, (3, 40)))[labels])
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    types = [labels == t for t in range(3)]
    monkeypatch.setattr(damage_measures, "_ENTRIES", 1000)
    found = damage_measures.top_markers(sp.csr_matrix(counts), types)
    for rows, markers in zip(types, found, strict=True):
        areas = np.array([roc_auc_score(rows, gene) for gene in logs.T])
        assert markers == set(np.argsort(-areas, kind="stable")[:4])


def test_rank_correlations_are_those_of_scipy(monkeypatch):
    rng = np.random.default_rng(4)
    first = rng.poisson(1.0, (12, 50))
    second = rng.binomial(first, 0.7)
    monkeypatch.setattr(damage_measures, "_ENTRIES", 200)
    found = damage_measures.rank_correlations(sp.csr_matrix(first), sp.csr_matrix(second))
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert_allclose(found, expected, rtol=1e-12)


def test_changes_are_counted_by_hand():
    raw = sp.csr_matrix(np.array([[1, 0, 2], [0, 3, 0], [5, 0, 4], [0, 0, 7]]))
    new = sp.csr_matrix(np.array([[1, 0, 2], [0, 3, 0], [5, 1, 0], [0, 0, 8]]))
    second = np.array([False, False, True, True])
    found = by_figure(damage_measures.tabulate(raw, new, second, None)[0])
    assert_allclose(found.loc[CHANGED, "after"], 2 / 3)
    assert_allclose(found.loc["share of all counts changed", "after"], 3 / 6)
    assert_allclose(found.loc["mean absolute change of a count", "after"], (1 + 4 + 1) / 6)
    assert_allclose(found.loc["share of zeros", ["before", "after", "expected"]], 3 / 6)
    ratio = np.median([6 / 9, 8 / 7])
    assert_allclose(found.loc["depth over the cell's own (median)", "after"], ratio)


# -- input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_key": "bacth"}, "batch_key='bacth' is not a column of obs.*'batch'"),
        ({"labels_key": "celltype"}, "labels_key='celltype' is not a column"),
        ({"labels_key": "batch"}, "pass the column with cell types"),
        ({"batch": "V9"}, "batch 'V9' is not among 'V1', 'V2'"),
        ({"method": "quantiles"}, "did you mean 'quantile'"),
        ({"effect": "label"}, "effect='label' needs labels_key="),
        ({"effect": "cell", "method": "sample"}, "effect requires method='quantile'"),
        ({"library_size": "medan"}, "did you mean 'median'"),
        ({"max_epochs": 0}, "max_epochs must be None or at least 1"),
        ({"layer": "counts"}, "no layer 'counts'"),
        ({"seed": -1}, "seed"),
    ],
)
def test_input_is_checked_before_any_training(cells, arguments, message):
    with pytest.raises(ValueError, match=message):
        sb.damage(cells.copy(), **{"batch_key": "batch", "progress": False, **arguments})


def test_a_batch_has_to_be_large_enough(cells):
    with pytest.raises(ValueError, match="at least 100"):
        sb.damage(cells[:120].copy(), "batch", **QUIET)


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_the_same_table(table, cells, tmp_path, capsys):
    data, out = tmp_path / "data.h5ad", tmp_path / "damage.csv"
    cells.write_h5ad(data)
    arguments = ["damage", data, "--batch-key", "batch", "--labels-key", "cell_type"]
    arguments += ["--max-epochs", 8, "--out", out, "--quiet"]
    assert main.main([str(value) for value in arguments]) == 0
    assert Path(capsys.readouterr().out.strip()) == out
    written = pd.read_csv(out)
    assert_array_equal(written["figure"], table["figure"])
    assert_allclose(written["after"], table["after"])
    assert main.main([str(value) for value in [*arguments[:-3], "--batch", "V9"]]) == 2
    assert "'V9' is not among" in capsys.readouterr().err


def test_cells_that_a_model_takes_for_unlabeled_have_no_label(simulate):
    adata = simulate(n_cells=700, n_genes=30)
    labels = adata.obs["cell_type"].astype(str)
    labels[::4] = families.UNLABELLED
    adata.obs["cell_type"] = labels.astype("category")
    model, _ = families.make("SCANVI", adata, epochs=1)
    settings = {"labels_key": "cell_type", "batch": "V1", "max_epochs": 1, "progress": False}
    found = sb.damage(adata, "batch", model=model, **settings)
    adata.obs["cell_type"] = labels.where(labels != families.UNLABELLED)
    pd.testing.assert_frame_equal(found, sb.damage(adata, "batch", model=model, **settings))
