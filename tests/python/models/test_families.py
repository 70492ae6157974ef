"""Every supported class of model against scvi-tools' own modules, and the refusal of the others."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import extension
import families
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version

import scvibridge as sb
from scvibridge.models.adapters import classes
from scvibridge.models.load import inputs_of_saved
from scvibridge.r import descriptions, to_anndata

QUIET = {"progress": False}
MODELS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
QUANTITIES = ("normalized", "denoised", "sample", "quantile", "extend")
# What the tests of this file have found to agree, by class: the page's table is made of it.
PROVED: dict[str, set[str]] = {name: set() for name in families.FAMILIES}
BATCHES = ["V1", "V2", "V3"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:labels. .* used the effect of their batch"),
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),
]


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=240, n_genes=60, seed=3)


@pytest.fixture(scope="module")
def trained(data):
    made = {}

    def get(name, **arguments):
        key = (name, repr(sorted(arguments.items())))
        if key not in made:
            made[key] = families.make(name, data, **arguments)
        return made[key]

    return get


@pytest.mark.parametrize("name", families.FAMILIES)
@pytest.mark.parametrize("batch", [None, "V2", ["V1", "V3"]])
def test_expression_equals_upstreams_module(trained, name, batch):
    model, rna = trained(name)
    ours = sb.normalized_expression(model, transform_batch=batch, **QUIET)
    targets = [batch] if batch is None or isinstance(batch, str) else batch
    codes = [None if target is None else BATCHES.index(target) for target in targets]
    scale = np.mean([families.parameters(model, code)["scale"] for code in codes], axis=0)
    assert list(ours.var_names) == list(rna.var_names)
    assert_allclose(ours.X, 1e4 * scale, rtol=2e-5, atol=1e-8)
    # Another batch makes another expression, if the model took any notice of it.
    own = families.parameters(model, None)["scale"]
    if batch == "V2":
        assert np.abs(np.log(scale / own)).mean() > 1e-3
        PROVED[name].add("normalized")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_denoised_is_the_mean_at_the_models_library(trained, name):
    model, _ = trained(name)
    ours = sb.denoised_expression(model, **QUIET)
    assert_allclose(ours.X, families.parameters(model, None)["mean"], rtol=3e-5, atol=1e-8)
    PROVED[name].add("denoised")


@pytest.mark.parametrize("name", families.FAMILIES)
@pytest.mark.parametrize("effect", ["cell", "label"])
def test_quantile_counts_equal_a_second_implementation(trained, name, effect):
    model, rna = trained(name)
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        shrinkage=None if effect == "cell" else 0,
        seed=2,
        **QUIET,
    )
    labels = rna.obs["cell_type"].cat.codes.to_numpy()
    expected, comparable = oracle.quantile(
        model,
        [2],
        np.ones(rna.n_obs),
        effect,
        labels,
        seed=2,
        adata=rna,
        parameters=families.parameters,
    )
    assert comparable.mean() > 0.6
    assert ours.X.dtype == np.int32
    assert (ours.X.toarray() != expected)[comparable].mean() < 5e-4
    home = (rna.obs["batch"] == "V3").to_numpy()
    assert_array_equal(ours.X[home].toarray(), rna.X[home].toarray())
    if effect == "label":
        PROVED[name].add("quantile")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_samples_have_the_means_of_upstreams_draws(trained, name):
    model, _ = trained(name)
    drawn = [
        sb.corrected_counts(
            model, transform_batch="V2", method="sample", library_size="latent", seed=seed, **QUIET
        ).X.toarray()
        for seed in range(40)
    ]
    scvi.settings.seed = 1
    means = []
    for _ in range(40):
        given = families.parameters(model, 1, at_means=False)
        present = 1.0 if given["logits"] is None else 1 / (1 + np.exp(given["logits"]))
        means.append((given["mean"] * present).mean(axis=0))
    assert all((values == np.floor(values)).all() for values in drawn)
    # Means over cells of a draw, and their Monte-Carlo errors.
    ours = np.array([values.mean(axis=0) for values in drawn])
    error = np.sqrt(ours.var(axis=0) / len(ours) + np.var(means, axis=0) / len(means))
    z = (ours.mean(axis=0) - np.mean(means, axis=0)) / error
    assert np.abs(z).max() < 5
    assert 0.5 < (z**2).mean() < 2
    PROVED[name].add("sample")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_can_be_extended(data, name):
    own_names = data.var_names[np.sort(np.random.default_rng(0).permutation(60)[:35])]
    model, everything, given = extension.of_family(name, data, own_names)
    extended = sb.extend_genes(model, given, max_epochs=6, ridge=0.1, **QUIET)
    has_trunk = name != "LinearSCVI"
    features = "last hidden layer" if has_trunk else "latent variables"
    assert extended.settings["features"] == features
    extension.check_added_counts(extended, everything, "label")
    how = {"transform_batch": "V3", "library_size": "observed", **QUIET}
    alone, ours = sb.corrected_counts(model, **how), sb.corrected_counts(extended, **how)
    assert_array_equal(ours.X[:, :35].toarray(), alone.X.toarray())
    described = ours.uns["scvibridge"]["extension"]
    assert (described["features"], described["n_genes"]) == (features, 25)
    fits = [sb.calibration(fitted, n_references=5, **QUIET) for fitted in (model, extended)]
    pd.testing.assert_frame_equal(fits[0].batches, fits[1].batches)
    assert np.isfinite(fits[1].added.genes["variance"]).all()
    PROVED[name].add("extend")


@pytest.mark.parametrize("name", ["TOTALVI", "TOTALANVI"])
def test_proteins_are_the_mean_of_upstreams_draws(trained, name):
    model, rna = trained(name)
    ours = sb.normalized_expression(model, transform_batch="V2", **QUIET)
    values = ours.obsm["protein_normalized"]
    assert list(ours.uns["scvibridge"]["proteins"]) == list(rna.obsm["protein_counts"].columns)
    scvi.settings.seed = 0
    theirs = families.foreground(model, 1, 400)
    assert values.shape == theirs.shape
    assert_allclose(values.mean(axis=0), theirs.mean(axis=0), rtol=0.03)
    assert np.abs(np.log(values / theirs)).mean() < 0.1
    own = sb.denoised_expression(model, **QUIET).obsm["protein_normalized"]
    home = (rna.obs["batch"] == "V2").to_numpy()
    assert_allclose(own[home], values[home], rtol=1e-5)
    assert np.abs(np.log(own[~home] / values[~home])).mean() > 1e-3
    counts = sb.corrected_counts(model, transform_batch="V2", gene_list=["gene_0003"], **QUIET)
    assert_allclose(counts.obsm["protein_normalized"], values, rtol=1e-5)


@pytest.mark.skipif(
    Version(scvi.__version__) < Version("1.3.1"),
    reason="TOTALVI returned frequencies for several batches",
)
def test_upstreams_library_of_totalvi_is_multiplied_once_a_batch(trained):
    # Why our expression is compared with one batch at a time: see the issue of two batches.
    model, _ = trained("TOTALVI")
    genes, _ = model.get_normalized_expression(
        transform_batch=["V1", "V2"], library_size=1e4, return_numpy=True
    )
    ours = sb.normalized_expression(model, transform_batch=["V1", "V2"], **QUIET)
    assert np.median(genes.sum(axis=1)) > 1e7
    assert_allclose(ours.X.sum(axis=1), 1e4, rtol=1e-4)


@pytest.mark.parametrize("name", ["SCVI", "TOTALVI", "TOTALVI of MuData", "MULTIVI"])
def test_what_is_encoded_beside_the_genes_is_told_and_taken_from_r(trained, name, tmp_path):
    model, rna = trained(name.split(" ")[0], **({"mudata_too": True} if "Mu" in name else {}))
    described = descriptions.describe_model(model)
    told = described["modalities"]
    model.save(str(tmp_path / "saved"), save_anndata=False)
    of_saved = inputs_of_saved(tmp_path / "saved", trust=False)
    is_mudata = "Mu" in name or name == "MULTIVI"
    # A model of a MuData is not loaded with objects of R.
    assert of_saved["modalities"] == ([] if is_mudata else told)
    assert of_saved["genes"] == ([] if is_mudata else described["genes"])
    tables = []
    for part in told:
        if part["what"] == "proteins":
            counts = rna.obsm["protein_counts"][part["names"]].to_numpy()
        else:
            counts = model.adata["atac"][:, part["names"]].X
        vectors = sp.csr_matrix(counts)
        tables.append(
            {
                "key": part["key"],
                "n": len(part["names"]),
                "counts": {key: getattr(vectors, key) for key in ("data", "indices", "indptr")},
            }
        )
    expected = {"SCVI": [], "MULTIVI": ["regions"]}.get(name, ["proteins"])
    assert [part["what"] for part in told] == expected
    bare = AnnData(rna.X, obs=rna.obs, var=rna.var)
    cells = to_anndata.fit_to_model(bare, modalities=tables)
    found = sb.denoised_expression(model, adata=cells, **QUIET)
    assert_allclose(found.X, sb.denoised_expression(model, **QUIET).X, rtol=1e-5)
    if told:
        with pytest.raises(ValueError, match=f"the model also encodes {expected[0]}"):
            sb.denoised_expression(model, adata=bare, **QUIET)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_diagnostics_take_every_class(trained, name):
    model, rna = trained(name)
    support = sb.batch_support(model, transform_batch="V2", labels_key="cell_type", **QUIET)
    assert list(support.cells.index) == list(rna.obs_names)
    ranked = sb.choose_batch(model, **QUIET)
    assert sorted(ranked.index) == BATCHES
    fit = sb.calibration(model, n_references=5, **QUIET)
    held_out = rna.n_obs - len(model.train_indices)
    assert fit.settings["n_cells"] == held_out
    assert fit.genes["theta"].notna().all()
    # What is learnt of the fit can be used.
    counts = sb.corrected_counts(
        model, transform_batch="V2", dispersion=fit.genes["theta_refitted"], **QUIET
    )
    plain = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    assert (counts.X != plain.X).nnz > 0


# -- the classes that are refused ----------------------------------------------------------------


def upstream_classes():
    found = {}
    for module in (scvi.model, scvi.external):
        for name in module.__all__:
            value = getattr(module, name, None)
            if inspect.isclass(value) and hasattr(value, "setup_anndata"):
                found[name] = value
    return found


def test_every_class_of_scvi_tools_is_supported_or_refused_by_name():
    for name in upstream_classes():
        known = classes._SAME.get(name, name)
        assert known in classes.SUPPORTED or known in classes.REFUSED, name


@pytest.mark.parametrize("name", sorted(classes.REFUSED))
def test_refusals_tell_the_reason(name):
    with pytest.raises(TypeError, match=f"{name} are not supported: .{{20}}"):
        classes.check_class(name)


def test_a_class_of_an_older_scvi_tools_is_refused(monkeypatch):
    for version in ("1.4.1.post1", "1.5.0"):
        monkeypatch.setattr(classes.metadata, "version", lambda _, version=version: version)
        classes.check_class("CondSCVI")
    monkeypatch.setattr(classes.metadata, "version", lambda _: "1.3.3")
    classes.check_class("SCVI")
    with pytest.raises(TypeError, match=r"CondSCVI need scvi-tools 1\.4\.1 .*scvi-tools 1\.3\.3"):
        classes.check_class("CondSCVI")


def test_a_trained_model_of_a_refused_class_is_refused(data):
    adata = data.copy()
    scvi.model.PEAKVI.setup_anndata(adata, batch_key="batch")
    model = families.train(scvi.model.PEAKVI(adata, n_hidden=8), epochs=1)
    with pytest.raises(TypeError, match="PEAKVI are not supported: it models whether peaks"):
        sb.corrected_counts(model, transform_batch="V1", **QUIET)


# -- the page ------------------------------------------------------------------------------------


def part_of_page(name):
    begin, end = (
        f"<!-- {name}: written by tests/python/models/test_families.py -->\n",
        f"<!-- end of {name} -->",
    )
    before, _, rest = MODELS_PAGE.read_text(encoding="utf-8").partition(begin)
    inside, found, after = rest.partition(end)
    assert found, f"{MODELS_PAGE.name} lacks the lines {begin.strip()!r} and {end!r}"
    return before + begin, inside, end + after


def check_page(name, lines):
    """Compare a table of the page with what it should be; write it where that is asked for."""
    if not MODELS_PAGE.is_file():
        pytest.skip("the pages are not part of the installed package")
    expected = "\n".join(["", *lines, "", ""])
    before, inside, after = part_of_page(name)
    if os.environ.get("SCVIBRIDGE_WRITE_DOCS"):
        MODELS_PAGE.write_text(before + expected + after, encoding="utf-8")
        return
    assert inside == expected, f"run this file with SCVIBRIDGE_WRITE_DOCS=1 to write {name}"


def test_the_table_of_classes_is_what_was_proved():
    if any(len(proved) < len(QUANTITIES) for proved in PROVED.values()):
        pytest.skip("not all tests of this file have run and passed")
    rows = [
        [name, *("yes" if quantity in PROVED[name] else "" for quantity in QUANTITIES)]
        for name in families.FAMILIES
    ]
    head = [["class", *QUANTITIES], ["---"] * (len(QUANTITIES) + 1)]
    check_page("classes", [f"| {' | '.join(row)} |" for row in head + rows])


def test_the_table_of_refusals_is_what_is_refused():
    rows = [["class", "why"], ["---", "---"], *sorted(classes.REFUSED.items(), key=str)]
    check_page("refused", [f"| {' | '.join(row)} |" for row in rows])
