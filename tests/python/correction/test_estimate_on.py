"""Batch effects and depth are estimated on chosen cells alone, and removed from all."""

from __future__ import annotations

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from numpy.testing import assert_allclose, assert_array_equal
from preloaded import small_cluster

import scvibridge as sb
from conftest import differing
from scvibridge.cli import correct, main
from scvibridge.io import blocks

GIVEN = {"transform_batch": "V3", "labels_key": "cell_type", "progress": False}
CONTROLS = {"condition": "ctrl"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.fixture(scope="module")
def model(simulate, train):
    data = simulate(n_cells=600)
    place = data.obs.groupby("batch", observed=True).cumcount().to_numpy() % 4
    donor = data.obs["batch"].astype(str) + "-" + pd.Series(place.astype(str), data.obs_names)
    data.obs["donor"] = donor.astype("category")
    data.obs["condition"] = pd.Categorical(np.where(place < 2, "ctrl", "stim"))
    data.obs["lane"] = pd.Categorical(place)
    return train(data, max_epochs=5)


@pytest.fixture(scope="module")
def of_controls(model, tmp_path_factory):
    """The same model, whose own data are the controls alone."""
    folder = str(tmp_path_factory.mktemp("model") / "scvi")
    model.save(folder)
    return scvi.model.SCVI.load(folder, adata=model.adata[is_control(model)].copy())


@pytest.fixture(scope="module")
def expected(model):
    return corrected(model, estimate_on=CONTROLS)


def is_control(model):
    return model.adata.obs["condition"] == "ctrl"


def corrected(model, *data, **given):
    return sb.corrected_counts(model, *data, **{**GIVEN, **given})


def provenance(result):
    return result.uns["scvibridge"]


# -- against estimates on other data, and a second implementation ---------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {"shrinkage": 10},
        {"shrinkage": 10, "effect": "global", "labels_key": None},
        {"shrinkage": 0, "library_size": "median", "transform_batch": ["V2", "V3"]},
    ],
)
def test_counts_are_those_of_a_model_whose_data_are_the_chosen_cells(model, of_controls, given):
    ours = corrected(model, estimate_on=CONTROLS, **given)
    restricted = corrected(of_controls, model.adata, **given)
    assert differing(ours.X, restricted.X) <= 1e-5
    assert_allclose(ours.obs["scvibridge_depth_ratio"], restricted.obs["scvibridge_depth_ratio"])
    assert_array_equal(ours.varm["scvibridge_detection"], restricted.varm["scvibridge_detection"])
    assert (ours.X != corrected(model, **given).X).nnz > 1000


def test_counts_equal_a_second_implementation(model):
    ours = corrected(model, estimate_on=CONTROLS, library_size="observed", shrinkage=0)
    obs = model.adata.obs
    labels = obs["cell_type"].cat.codes.to_numpy()
    chosen = is_control(model).to_numpy()
    depth = np.ones(len(obs))
    counts, comparable = oracle.quantile(model, [2], depth, "label", labels, estimate_on=chosen)
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4


def test_the_depth_is_that_of_the_chosen_cells(model):
    ours = corrected(model, estimate_on=CONTROLS, effect="global", labels_key=None)
    controls, batch = is_control(model).to_numpy(), model.adata.obs["batch"].to_numpy()
    total = np.asarray(model.adata.X.sum(axis=1), dtype=float).ravel()
    everyone = np.full(controls.sum(), "")
    for name in ("V1", "V2"):
        expected = oracle.log_depth_ratio(total[controls], batch[controls], everyone, name, ["V3"])
        ratio = ours.obs["scvibridge_depth_ratio"][batch == name]
        assert_allclose(ratio, np.exp(expected), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:sample_key")  # the controls' model knows no other donor
def test_shrinkage_and_residual_effects_rest_on_the_chosen_cells(model, of_controls):
    given = {"sample_key": "donor", "residual": "always"}
    ours = provenance(corrected(model, estimate_on=CONTROLS, **given, shrinkage=10))
    restricted = provenance(corrected(of_controls, model.adata, **given, shrinkage=10))
    assert ours["residual_from"] == restricted["residual_from"] == "6 samples"
    for name in ("residual_sd_batch", "residual_sd_label"):
        assert_allclose(ours[name], restricted[name], rtol=1e-5)
    held_out = model.adata.obs_names[model.validation_indices]
    n_controls = int(is_control(model)[held_out].sum())
    auto = provenance(corrected(model, estimate_on=CONTROLS))
    assert auto["shrinkage_from"] == f"{n_controls} held-out cells"


def test_samples_that_were_not_chosen_keep_what_they_differ_by(model):
    """Their factors rest on all of their cells, and sums stay as observed."""
    result = corrected(
        model,
        estimate_on=CONTROLS,
        sample_key="donor",
        effect="global",
        labels_key=None,
        library_size="observed",
    )
    raw = result.layers["raw_counts"]
    stimulated = (result.obs["donor"] == "V1-3").to_numpy()
    sums = [np.asarray(m[stimulated].sum(axis=0)).ravel() for m in (result.X, raw)]
    common = sums[1] > 100
    controls = (result.obs["donor"] == "V1-0").to_numpy()
    effect = [np.asarray(m[controls].sum(axis=0)).ravel()[common] for m in (result.X, raw)]
    shifts = [np.log(a / b) for a, b in ((sums[0][common], sums[1][common]), effect)]
    assert np.corrcoef(*shifts)[0, 1] > 0.95  # one batch effect for both, and nothing else


# -- conditions that are nested in batches ---------------------------------------------------------


@pytest.fixture(scope="module")
def nested(train):
    """Two batches of one condition each, and bridge samples in both; the effects are known."""
    rng = np.random.default_rng(3)
    n_cells, n_genes = 900, 60
    batch, is_bridge = rng.integers(2, size=n_cells), rng.random(n_cells) < 0.4
    treated = (batch == 1) & ~is_bridge
    batch_effect, treatment = rng.normal(0, 0.5, n_genes), np.zeros(n_genes)
    treatment[:10] = np.where(np.arange(10) % 2, 1.2, -1.2)
    rate = np.exp(
        rng.normal(0, 0.7, n_genes) + np.outer(batch, batch_effect) + np.outer(treated, treatment)
    )
    mean = 1500 * rate / rate.sum(axis=1, keepdims=True)
    counts = rng.poisson(rng.gamma(5, mean / 5)).astype(np.float32)
    sample = np.where(is_bridge, "bridge", np.where(treated, "treated", "healthy"))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.array(["A", "B"])[batch]),
            "condition": pd.Categorical(np.where(is_bridge, None, sample)),
            "role": pd.Categorical(np.where(is_bridge, "bridge", "sample")),
            "sample": pd.Categorical([f"{s}-{n % 4}" for n, s in enumerate(sample)]),
        },
        index=[f"cell_{n}" for n in range(n_cells)],
    )
    data = ad.AnnData(sp.csr_matrix(counts), obs=obs)
    data.var_names = [f"gene_{g}" for g in range(n_genes)]
    model = train(data, labels_key=None, max_epochs=30, kl_warmup=5)
    return model, batch_effect, treatment


def fold(result, rows, others):
    counts = result.X
    sums = [np.asarray(counts[mask.to_numpy()].sum(axis=0)).ravel() for mask in (rows, others)]
    return np.log(sums[0] / sums[0].sum()) - np.log(sums[1] / sums[1].sum())


def test_a_condition_nested_in_batches_survives(nested):
    model, batch_effect, treatment = nested
    given = {"transform_batch": "A", "condition_key": "condition", "sample_key": "sample"}
    given["progress"] = False
    with pytest.raises(ValueError, match=r"pass cells that all batches share .* estimate_on="):
        sb.corrected_counts(model, **given)
    with pytest.warns(UserWarning, match="no cell has a condition"):
        ours = sb.corrected_counts(
            model, **given, estimate_on={"role": "bridge"}, residual="auto", shrinkage=10
        )
    assert provenance(ours)["residual_from"] == "8 samples"
    obs = model.adata.obs
    bridge, in_a = obs["role"] == "bridge", obs["batch"] == "A"
    left = fold(ours, bridge & ~in_a, bridge & in_a)
    there = batch_effect - np.average(batch_effect)
    assert np.sqrt(np.mean(left**2)) < 0.35 * np.sqrt(np.mean(there**2))
    effect = fold(ours, obs["condition"] == "treated", obs["condition"] == "healthy")
    assert_allclose(effect[:10] - np.median(effect), treatment[:10], atol=0.4)
    assert np.sqrt(np.mean((effect[10:] - np.median(effect)) ** 2)) < 0.25


def test_the_check_names_the_cells(model):
    obs = model.adata.obs
    obs["mixed"] = pd.Categorical(np.where(obs["lane"] == 1, "stim", "ctrl"))
    result = corrected(model, estimate_on={"lane": [0, 1]}, condition_key="mixed")
    assert provenance(result)["confounding"] == "balanced"
    yes = (obs["batch"].astype(str) == "V3") == (obs["mixed"] == "stim")
    obs["nested"] = pd.Categorical(np.where(yes, "yes", "no"))
    with pytest.raises(ValueError, match=r"among the \d+ cells of estimate_on \(nested: 'yes'\)"):
        corrected(model, estimate_on={"nested": "yes"}, condition_key="mixed")


def test_controls_carry_no_condition(model, recwarn):
    result = corrected(model, estimate_on=CONTROLS, condition_key="condition")
    made = provenance(result)
    assert made["confounding"] == "estimated on one condition"
    notes = [note for note in made["notes"] if "all have the condition 'ctrl'" in note]
    assert len(notes) == 1
    assert (
        f"the {int(is_control(model).sum())} cells of estimate_on (condition: 'ctrl')" in notes[0]
    )
    assert not [w for w in recwarn if "confounding" in str(w.message)]


def test_a_condition_that_is_unbalanced_over_all_cells_is_warned_of(model):
    obs = model.adata.obs
    batch = obs["batch"].astype(str)
    obs["uneven"] = pd.Categorical(np.where((batch == "V3") & (obs["lane"] != 0), "stim", "ctrl"))
    with pytest.warns(UserWarning, match=r"over all cells, conditions are unbalanced across"):
        corrected(model, estimate_on={"lane": 0}, condition_key="uneven")


# -- ways to choose cells --------------------------------------------------------------------------


def test_cells_are_chosen_by_values_masks_and_names(model, expected):
    controls = is_control(model)
    names = model.adata.obs_names[controls]
    for given in (
        controls,
        controls.sample(frac=1, random_state=1),
        controls.to_numpy(),
        list(names[::-1]),
        {"lane": [0, 1]},
        {"lane": ["0", "1"], "condition": ["ctrl"]},
    ):
        assert (corrected(model, estimate_on=given).X != expected.X).nnz == 0
    assert provenance(expected)["estimate_on"]["condition"] == ["ctrl"]
    assert provenance(expected)["estimate_on_cells"] == len(names)
    where = f"{len(names)} of {model.adata.n_obs} cells of the model's data"
    assert provenance(expected)["estimated_on"] == where
    assert provenance(corrected(model, estimate_on=controls))["estimate_on"] == "cells given"


def test_cells_are_chosen_among_those_that_effects_are_estimated_on(model, expected):
    some = model.adata[model.adata.obs["batch"] != "V2"].copy()
    ours = corrected(model, some, estimate_on=CONTROLS)
    assert differing(ours.X, expected[ours.obs_names].X) <= 1e-5
    given = corrected(model, some, estimate_on=is_control(model))
    assert (given.X != ours.X).nnz == 0
    with pytest.raises(ValueError, match="estimate_on is a mask without names"):
        corrected(model, some, estimate_on=np.ones(some.n_obs, dtype=bool))
    some.obs["mine"] = "x"  # a column that the model's own data lack
    ours = corrected(model, some, estimate_on={"mine": "x"})
    assert (
        provenance(ours)["estimated_on"] == f"{some.n_obs} of {some.n_obs} cells of the given data"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"estimate_on": {"conditon": "ctrl"}}, "did you mean 'condition'"),
        ({"estimate_on": {"condition": "ctlr"}}, "no value 'ctlr'; it has .*did you mean 'ctrl'"),
        ({"estimate_on": {"condition": []}}, "lists no values for the column 'condition'"),
        ({"estimate_on": {"condition": None}}, "missing value"),
        ({"estimate_on": {}}, "is empty: it has no column"),
        ({"estimate_on": {"condition": "ctrl", "lane": 3}}, "selects no cells: no cell has"),
        ({"estimate_on": {"batch": ["V1", "V2"]}}, "no cells of the target 'V3', only cells of"),
        ({"estimate_on": {"batch": ["V1", "V3"]}}, "no cells of 'V2'"),
        ({"estimate_on": "ctrl"}, "got the single name 'ctrl'"),
        ({"estimate_on": ["cell_9999"]}, "estimate_on contains 1 cells that the data lack"),
        ({"estimate_on": [0, 1]}, "not positions"),
        ({"estimate_on": slice(5)}, "not positions"),
        ({"estimate_on": np.zeros(600, dtype=bool)}, "estimate_on selects no cells"),
        ({"estimate_on": CONTROLS, "effect": "cell"}, "effect='label', 'global' or 'local'"),
        ({"estimate_on": CONTROLS, "method": "sample", "labels_key": None}, "method='sample'"),
    ],
)
def test_bad_choices_are_refused(model, given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        corrected(model, **given)


@pytest.mark.parametrize("lacking", ["B", "NK", "T"])
def test_labels_without_chosen_cells_take_the_effect_of_their_batch(model, lacking):
    chosen = [name for name in ("B", "NK", "T") if name != lacking]
    with pytest.warns(
        UserWarning, match=rf"\('V3'\) has no cells of '{lacking}' among those of estimate_on"
    ):
        result = corrected(model, estimate_on={"cell_type": chosen}, shrinkage=0)
    others = (result.obs["cell_type"] == lacking) & (result.obs["batch"] != "V3")
    assert_array_equal(result.obs["scvibridge_effect_fallback"], others)
    given = {"effect": "global", "estimate_on": {"cell_type": chosen}, "shrinkage": 0}
    whole = corrected(model, **given)
    assert differing(result[others].X, whole[others].X) <= 1e-5
    assert (result.X != whole.X).nnz > 1000


def test_few_chosen_cells_are_warned_of(model):
    obs = model.adata.obs
    few = obs["batch"] != "V1"
    few[obs_names_of(obs, "V1")[:15]] = True
    with pytest.warns(UserWarning, match="fewer than 20 cells of 'V1'"):
        corrected(model, estimate_on=few, effect="global", labels_key=None)


def test_chosen_cells_that_show_no_gene_are_named(model):
    obs = model.adata.obs
    few = [*obs_names_of(obs, "V1")[:3], *obs_names_of(obs, "V2")[:3], *obs_names_of(obs, "V3")[:3]]
    message = (
        "among the 9 cells of estimate_on, no gene.*'V3' \\(3 cells\\).*'V2' \\(6 cells\\). "
        "Choose more cells with estimate_on= of both batches"
    )
    with pytest.raises(ValueError, match=message):
        corrected(model, estimate_on=few, effect="global", labels_key=None)


def obs_names_of(obs, batch):
    return obs.index[obs["batch"] == batch]


# -- on disk, with workers, of added genes ---------------------------------------------------------


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_streamed_counts_are_the_same(model, expected, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 64 * 120)
    path = tmp_path / f"data{ending}"
    data = ad.AnnData(model.adata.X, obs=model.adata.obs[["batch", "cell_type", "condition"]])
    data.var_names = model.adata.var_names
    data.write_h5ad(path) if ending == ".h5ad" else data.write_zarr(path)
    out = tmp_path / f"out{ending}"
    ours = corrected(model, path, estimate_on=CONTROLS, out=out)
    assert differing(ours.to_memory().X, expected.X) <= 1e-5
    # A column that the model's own data lack: the counts on disk are estimated on.
    data.obs["mine"] = data.obs["condition"].astype(str)
    path = tmp_path / f"mine{ending}"
    data.write_h5ad(path) if ending == ".h5ad" else data.write_zarr(path)
    given = {"estimate_on": {"mine": "ctrl"}, "shrinkage": 10}
    ours = corrected(model, path, out=tmp_path / f"mine_out{ending}", **given)
    assert provenance(ours)["estimated_on"].endswith("cells of the given data")
    assert differing(ours.to_memory().X, corrected(model, data, **given).X) <= 1e-5


def test_a_run_is_resumed_only_with_the_same_cells_and_genes(model, tmp_path):
    out = tmp_path / "x.h5ad"
    given = {"estimate_on": CONTROLS, "genes_kept": ["gene_0001"], "out": out}
    corrected(model, **given)
    same = {**given, "estimate_on": list(model.adata.obs_names[is_control(model)])}
    corrected(model, **same, resume=True)
    for other in (
        {"estimate_on": {"condition": "stim"}},
        {"estimate_on": None},
        {"genes_kept": ["gene_0002"]},
        {"genes_kept": None},
    ):
        with pytest.raises(FileExistsError):
            corrected(model, **{**given, **other}, resume=True)


def test_workers_give_the_same_counts(model, tmp_path):
    with small_cluster(tmp_path) as client:
        out = tmp_path / "x.zarr"
        kept = ["gene_0001"]
        ours = corrected(
            model, estimate_on=CONTROLS, genes_kept=kept, out=out, client=client
        ).to_memory()
    here = corrected(model, estimate_on=CONTROLS, genes_kept=kept)
    assert differing(ours.X, here.X) <= 1e-5


@pytest.mark.filterwarnings("ignore:.*held-out")
def test_added_genes_are_estimated_on_the_chosen_cells(model, tmp_path):
    own = model.adata
    more = sp.csr_matrix(own.X[:, :8])
    full = ad.AnnData(
        sp.hstack([own.X, more]).tocsr(), obs=own.obs[["batch", "cell_type", "condition", "donor"]]
    )
    full.var_names = [*own.var_names, *(f"more_{g}" for g in range(8))]
    extended = sb.extend_genes(model, full, max_epochs=2, progress=False)
    controls = full[full.obs["condition"] == "ctrl"].copy()
    kept = ["gene_0001", "more_3"]
    given = {"shrinkage": 10, "genes_kept": kept}
    ours = corrected(extended, full, estimate_on=CONTROLS, **given)
    assert list(provenance(ours)["genes_kept"]) == kept
    assert (ours[:, kept].layers["raw_counts"] != ours[:, kept].X).nnz == 0
    extended.save(tmp_path / "extended")
    of_controls = sb.load(tmp_path / "extended", adata=controls)
    restricted = corrected(of_controls, full, **given)
    assert differing(ours.X, restricted.X) <= 1e-5
    assert (ours.X != corrected(extended, full, **given).X).nnz > 1000


# -- genes that are kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["label", "cell"])
def test_genes_are_kept_and_the_others_corrected_as_without_them(model, effect):
    kept = ["gene_0007", "gene_0003"]
    result = corrected(model, genes_kept=kept, effect=effect)
    raw = result.layers["raw_counts"]
    assert (result[:, kept].layers["raw_counts"] != result[:, kept].X).nnz == 0
    others = ~result.var_names.isin(kept)
    assert (result.X[:, others] != raw[:, others]).nnz > 1000
    assert list(provenance(result)["genes_kept"]) == sorted(kept)
    assert result.X.has_canonical_format
    assert result.X.dtype == np.int32


def test_kept_genes_equal_a_second_implementation(model):
    kept = ["gene_0007", "gene_0003"]
    ours = corrected(model, genes_kept=kept, library_size="observed", shrinkage=0)
    obs = model.adata.obs
    labels = obs["cell_type"].cat.codes.to_numpy()
    positions = model.adata.var_names.get_indexer(kept)
    counts, comparable = oracle.quantile(
        model, [2], np.ones(len(obs)), "label", labels, genes_kept=positions
    )
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4


def test_genes_are_kept_among_those_returned(model):
    genes = ["gene_0010", "gene_0003", "gene_0001"]
    result = corrected(model, genes_kept=["gene_0003", "gene_0020"], gene_list=genes)
    whole = corrected(model, genes_kept=["gene_0003", "gene_0020"])
    assert (result.X != whole[:, genes].X).nnz == 0
    mask = pd.Series(model.adata.var_names == "gene_0003", index=model.adata.var_names)
    by_mask = corrected(model, genes_kept=mask, gene_list=genes)
    by_name = corrected(model, genes_kept=["gene_0003"], gene_list=genes)
    assert (by_mask.X != by_name.X).nnz == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"genes_kept": ["gene_0O03"]}, "did you mean 'gene_0"),
        ({"genes_kept": "gene_0003"}, "single name"),
        ({"genes_kept": []}, "genes_kept selects no genes"),
        ({"genes_kept": ["gene_0003"], "gene_list": ["gene_0003"]}, "all genes that are returned"),
        (
            {"genes_kept": ["gene_0003"], "method": "sample", "labels_key": None},
            "are all simulated",
        ),
    ],
)
def test_bad_genes_are_refused(model, given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        corrected(model, **given)


def test_the_command_line_reads_values_and_genes(tmp_path):
    (tmp_path / "genes.txt").write_text("XIST\n\nRPS4Y1\n")
    words = ["correct", "model", "--out", "a.h5ad"]
    words += ["--estimate-on", "condition=ctrl", "pool=A", "pool=B"]

    def given(*kept):
        options = main.parser().parse_args([*words, "--genes-kept", *kept])
        return correct.arguments_of(options)

    found = given(str(tmp_path / "genes.txt"))
    assert found["estimate_on"] == {"condition": ["ctrl"], "pool": ["A", "B"]}
    assert found["genes_kept"] == ["XIST", "RPS4Y1"]
    assert given("XIST")["genes_kept"] == ["XIST"]
    assert given("XIST", "TSIX")["genes_kept"] == ["XIST", "TSIX"]
    with pytest.raises(ValueError, match=r"--genes-kept .* could not be read"):
        given(str(tmp_path / "none.txt"))
