"""Where models come from: queries of scArches, minified data, MuData, other genes and cells."""

from __future__ import annotations

import functools

import anndata as ad
import families
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
from numpy.testing import assert_allclose, assert_array_equal

import scvibridge as sb
from scvibridge.cli.main import main
from scvibridge.io import joined_files

QUIET = {"progress": False}
SAMPLE = {"transform_batch": "V2", "method": "sample", "library_size": "latent"}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=300, n_genes=50, seed=8)


@pytest.fixture(scope="module")
def reference(data):
    model, _ = families.make("SCVI", data[data.obs["batch"] != "V3"].copy())
    return model


@pytest.fixture(scope="module")
def trained(data):
    """Models of the data and their RNA, each trained once: tests don't change them."""
    return functools.cache(lambda name: families.make(name, data))


# -- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SCVI", "SCANVI", "TOTALVI"])
def test_a_query_model_corrects_its_new_batch(data, name, tmp_path):
    old = data[data.obs["batch"] != "V3"].copy()
    old.obs["batch"] = old.obs["batch"].astype(str)
    if name == "TOTALVI":
        # Surgery does not know covariates in its encoder.
        first, _ = families.make(name, old)
    else:
        first, _ = families.make(
            name, old, use_layer_norm="both", use_batch_norm="none", encode_covariates=True
        )
    first.save(str(tmp_path / "reference"))
    query = data[data.obs["batch"] == "V3"].copy()
    query.obs["batch"] = query.obs["batch"].astype(str)
    if name == "TOTALVI":
        families.with_proteins(query)
    model = getattr(scvi.model, name).load_query_data(query, str(tmp_path / "reference"))
    families.train(model, epochs=3, plan_kwargs={"weight_decay": 0.0})
    made = sb.normalized_expression(model, transform_batch="V1", **QUIET)
    assert_allclose(made.X, 1e4 * families.parameters(model, 0)["scale"], rtol=3e-5, atol=1e-8)
    assert list(made.uns["scvibridge"]["batches"]) == ["V1", "V2", "V3"]
    # Reference and query together: each batch's cells as if from the new one.
    everything = data.copy()
    everything.obs["batch"] = everything.obs["batch"].astype(str)
    if name == "TOTALVI":
        families.with_proteins(everything)
    counts = sb.corrected_counts(
        model, adata=everything, transform_batch="V3", effect="cell", **QUIET
    )
    home = (everything.obs["batch"] == "V3").to_numpy()
    assert_array_equal(counts.X[home].toarray(), everything.X[home].toarray())
    assert (counts.X[~home] != everything.X[~home]).nnz > 1000


# -- minified ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["SCVI", "SCANVI", "TOTALVI"])
def minified(request, data, tmp_path_factory):
    """A model in the form of a hub: latents only, saved with them; and the counts."""
    model, rna = families.make(request.param, data)
    latent, variance = model.get_latent_representation(return_dist=True)
    whole = sb.normalized_expression(model, transform_batch="V2", **QUIET)
    whole.layers["sample"] = sb.corrected_counts(model, **SAMPLE, **QUIET).X
    model.adata.obsm["m"], model.adata.obsm["v"] = latent, variance
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    folder = tmp_path_factory.mktemp("minified") / "hub"
    model.save(str(folder), save_anndata=True)
    return request.param, folder, rna, whole


def test_minified_models_decode_and_sample(minified):
    _, folder, rna, whole = minified
    model = sb.load(folder)
    assert model.adata.X.nnz == 0
    ours = sb.normalized_expression(model, transform_batch="V2", **QUIET)
    assert_allclose(ours.X, whole.X, rtol=2e-4, atol=1e-6)
    drawn = sb.corrected_counts(model, **SAMPLE, **QUIET)
    assert (whole.layers["sample"] != drawn.X).nnz <= 1e-4 * rna.n_obs * rna.n_vars
    with pytest.raises(ValueError, match="minified to latent variables: pass adata= with counts"):
        sb.corrected_counts(model, transform_batch="V2", **QUIET)


@pytest.mark.parametrize("library_size", ["median", "scaled", 1000.0])
def test_depths_of_minified_models_with_size_factors_are_totals(data, library_size):
    sized = data.copy()
    noise = np.random.default_rng(0).uniform(0.8, 1.2, sized.n_obs)
    sized.obs["size"] = np.asarray(sized.X.sum(axis=1)).ravel() / 1e3 * noise
    model, _ = families.make("SCVI", sized, setup={"size_factor_key": "size"}, epochs=4)
    given = {**SAMPLE, "library_size": library_size, **QUIET}
    expected = sb.corrected_counts(model, **given)
    latent, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["m"], model.adata.obsm["v"] = latent, variance
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    drawn = sb.corrected_counts(model, **given)
    assert_allclose(drawn.obs["scvibridge_depth_ratio"], expected.obs["scvibridge_depth_ratio"])
    assert (drawn.X != expected.X).nnz <= 1e-4 * np.prod(data.shape)


@pytest.mark.parametrize("minified", ["SCVI"], indirect=True)
def test_results_of_other_latents_are_not_resumed(minified, tmp_path):
    """The cells, their covariates and the weights are the same."""
    model = sb.load(minified[1])
    how = {"resume": True, "overwrite": True, **QUIET}
    calls = [
        lambda **out: sb.normalized_expression(model, transform_batch="V2", **out),
        lambda **out: sb.corrected_counts(model, **SAMPLE, **out),
    ]
    for number, call in enumerate(calls):
        out = tmp_path / f"{number}.h5ad"
        before = call(out=out, **how).to_memory()
        model.adata.obsm["scvi_latent_qzm"] = model.adata.obsm["scvi_latent_qzm"] + 1
        found, expected = call(out=out, **how).to_memory(), call(**QUIET)
        assert (found.X != expected.X).sum() == 0
        assert (found.X != before.X).mean() > 0.3


def test_minified_models_take_the_counts_beside_them(minified):
    name, folder, rna, _ = minified
    model = sb.load(folder)
    order = np.random.default_rng(0).permutation(rna.n_obs)[:200]
    counts = ad.AnnData(rna.X[order], obs=pd.DataFrame(index=rna.obs_names[order]))
    counts.var_names = rna.var_names
    if name == "TOTALVI":
        counts.obsm["protein_counts"] = rna.obsm["protein_counts"].iloc[order]
    made = sb.corrected_counts(model, adata=counts, transform_batch="V2", effect="cell", **QUIET)
    home = (rna.obs["batch"] == "V2").to_numpy()[order]
    assert_array_equal(made.X[home].toarray(), counts.X[home].toarray())
    assert (made.X[~home] != counts.X[~home]).nnz > 100
    stranger = counts.copy()
    stranger.obs_names = [f"new{i}" for i in range(stranger.n_obs)]
    with pytest.raises(ValueError, match="200 cells are not among the model's"):
        sb.corrected_counts(model, adata=stranger, transform_batch="V2", **QUIET)


def test_proteins_beside_a_minified_model_go_by_their_names(data):
    """The counts lack the batch, which is taken from the model's data."""
    rna = families.with_proteins(data.copy())
    table = rna.obsm["protein_counts"]
    rna.obsm["protein_counts"] = table.to_numpy()
    rna.uns["names"] = table.columns.to_numpy(dtype=object)
    counts, order = (
        ad.AnnData(rna.X, obs=rna.obs[["cell_type"]], var=rna.var),
        list(range(10))[::-1],
    )
    counts.obsm["protein_counts"] = table.to_numpy()[:, order]
    counts.uns["names"] = rna.uns["names"][order]
    scvi.model.TOTALVI.setup_anndata(
        rna, "protein_counts", batch_key="batch", protein_names_uns_key="names"
    )
    model = scvi.model.TOTALVI(rna, n_latent=4, empirical_protein_background_prior=False)
    families.train(model, epochs=3)
    expected = sb.corrected_counts(model, transform_batch="V2", effect="cell", **QUIET)
    rna.obsm["m"], rna.obsm["v"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(use_latent_qzm_key="m", use_latent_qzv_key="v")
    found = sb.corrected_counts(model, counts, transform_batch="V2", effect="cell", **QUIET)
    assert (found.X != expected.X).nnz <= 1e-4 * rna.n_obs * rna.n_vars


def test_minified_data_that_keep_their_counts_are_data(data):
    model, rna = families.make("SCVI", data)
    whole = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    latent, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["m"], model.adata.obsm["v"] = latent, variance
    model.minify_adata(
        minified_data_type="latent_posterior_parameters_with_counts",
        use_latent_qzm_key="m",
        use_latent_qzv_key="v",
    )
    again = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    assert (again.X != whole.X).nnz <= 1e-5 * rna.n_obs * rna.n_vars


# -- MuData --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TOTALVI", "MULTIVI"])
def test_mudata_given_beside_the_model(data, trained, name, tmp_path):
    if name == "MULTIVI":
        model, rna = trained(name)  # of a MuData, whatever is asked for
    else:
        model, rna = families.make(name, data, mudata_too=True)
    whole = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    assert list(whole.obs_names) == list(rna.obs_names)
    assert (whole.layers["raw_counts"] != rna.X).nnz == 0
    given = model.adata
    order = np.random.default_rng(2).permutation(given.n_obs)[:120]
    some = given[order].copy()
    # The features of each modality in another order.
    shuffled = mudata.MuData(
        {key: part[:, ::-1].copy() for key, part in some.mod.items()},
    )
    made = sb.corrected_counts(model, adata=shuffled, transform_batch="V2", **QUIET)
    differing = np.abs(made.X.toarray() - whole.X[order].toarray())
    assert differing.max() <= 1
    assert (differing > 0).mean() < 1e-4
    path = tmp_path / "some.h5mu"
    shuffled.write(path)
    out = sb.corrected_counts(
        model, adata=path, transform_batch="V2", out=tmp_path / "made.h5ad", **QUIET
    )
    assert (out.to_memory().X != made.X).nnz == 0


def test_columns_of_a_mudata_are_those_that_the_model_was_set_up_with(data):
    """The RNA may have another column of the same name; one that is changed later is noticed."""
    rna = data.copy()
    proteins = ad.AnnData(
        families.with_proteins(data.copy()).obsm["protein_counts"],
        obs=pd.DataFrame(index=data.obs_names),
    )
    batch = data.obs["batch"].astype(str).to_numpy()
    rna.obs["batch"] = batch[::-1]
    both = mudata.MuData({"rna": rna, "protein": proteins})
    both.obs["batch"] = pd.Categorical(batch)
    modalities = {"rna_layer": "rna", "protein_layer": "protein"}
    scvi.model.TOTALVI.setup_mudata(
        both, rna_layer=None, protein_layer=None, batch_key="batch", modalities=modalities
    )
    model = scvi.model.TOTALVI(both, n_latent=4, empirical_protein_background_prior=False)
    families.train(model, epochs=1)
    made = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    assert made.obs["batch"].astype(str).tolist() == batch.tolist()
    at_home = batch == "V2"
    assert (made.X[at_home] != made.layers["raw_counts"][at_home]).nnz == 0
    assert (made.X[~at_home] != made.layers["raw_counts"][~at_home]).nnz > 0
    assert not [name for name in made.obs if name.startswith("_scvi")]
    both.obs["batch"] = pd.Categorical(np.roll(batch, 1))
    with pytest.warns(UserWarning, match=r"obs\['batch'\].* was changed after the model was set"):
        sb.corrected_counts(model, transform_batch="V2", **QUIET)


@pytest.mark.parametrize("layer", [None, "raw"])
def test_proteins_in_an_array_are_aligned_by_their_names_in_uns(data, layer):
    cells = families.with_proteins(data.copy())
    if layer is not None:
        cells.layers[layer] = cells.X.copy()
    counts = cells.obsm["protein_counts"]
    cells.obsm["protein_counts"] = counts.to_numpy()
    cells.uns["proteins"] = list(counts.columns)
    keys = {"protein_expression_obsm_key": "protein_counts", "protein_names_uns_key": "proteins"}
    scvi.model.TOTALVI.setup_anndata(cells, batch_key="batch", layer=layer, **keys)
    model = scvi.model.TOTALVI(cells, n_latent=4, empirical_protein_background_prior=False)
    families.train(model, epochs=1)
    expected = sb.corrected_counts(model, transform_batch="V2", **QUIET)
    other = cells.copy()
    if layer is not None:  # the counts are in adata.raw alone
        del other.layers[layer]
        other.raw = other
        other.X = np.log1p(other.X)
    other.obsm["protein_counts"] = counts.to_numpy()[:, ::-1].copy()
    other.uns["proteins"] = list(counts.columns[::-1])
    found = sb.corrected_counts(model, other, transform_batch="V2", **QUIET)
    assert_allclose(found.obsm["X_scvi"], expected.obsm["X_scvi"], atol=1e-6)
    assert (found.X != expected.X).nnz <= 1e-5 * cells.n_obs * cells.n_vars
    other.uns["proteins"] = ["another", *other.uns["proteins"][1:]]
    with pytest.raises(ValueError, match=r"uns\['proteins'\] lacks 1 of the model's proteins"):
        sb.corrected_counts(model, other, transform_batch="V2", **QUIET)
    other.uns["proteins"] = other.uns["proteins"][1:]
    with pytest.raises(ValueError, match="has 9 names, but there are counts of 10 proteins"):
        sb.corrected_counts(model, other, transform_batch="V2", **QUIET)


@pytest.mark.parametrize("named", ["in uns", "by a table"])
def test_proteins_of_several_files_are_aligned_by_their_names(data, tmp_path, named):
    cells = families.with_proteins(data.copy())
    table = cells.obsm["protein_counts"]
    keys = {"protein_expression_obsm_key": "protein_counts"}
    if named == "in uns":
        cells.obsm["protein_counts"] = table.to_numpy()
        cells.uns["proteins"] = list(table.columns)
        keys["protein_names_uns_key"] = "proteins"
    halves = [np.arange(0, cells.n_obs, 2), np.arange(1, cells.n_obs, 2)]
    paths = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]
    for rows, path, names in zip(halves, paths, (table.columns, table.columns[::-1]), strict=True):
        part, own = cells[rows].copy(), table[names].iloc[rows]
        part.obsm["protein_counts"] = own.to_numpy() if named == "in uns" else own
        part.uns["proteins"] = list(names)
        part.write_h5ad(path)
    scvi.model.TOTALVI.setup_anndata(cells, batch_key="batch", **keys)
    model = scvi.model.TOTALVI(cells, n_latent=4, empirical_protein_background_prior=False)
    families.train(model, epochs=1)
    expected = sb.normalized_expression(model, transform_batch="V2", **QUIET)
    expected = expected[np.concatenate(halves)]
    out = tmp_path / "made.h5ad"
    for given in ({}, {"out": out}):
        found = sb.normalized_expression(model, paths, transform_batch="V2", **given, **QUIET)
        assert_allclose(found.to_memory().obsm["X_scvi"], expected.obsm["X_scvi"], atol=1e-6)
    model.save(str(tmp_path / "model"))
    loaded = sb.load(tmp_path / "model", adata=paths, device="cpu")
    found = sb.normalized_expression(loaded, transform_batch="V2", **QUIET)
    assert_allclose(found.obsm["X_scvi"], expected.obsm["X_scvi"], atol=1e-6)
    assert_allclose(
        loaded.get_latent_representation(), expected.obsm["X_scvi"], rtol=1e-4, atol=1e-5
    )


def test_a_file_whose_proteins_have_other_names_is_named(data, tmp_path):
    cells = families.with_proteins(data.copy())
    names = list(cells.obsm["protein_counts"].columns)
    cells.obsm["protein_counts"] = cells.obsm["protein_counts"].to_numpy()
    paths = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"]
    others = names, ["another", *names[1:]]
    for start, path, own in zip((0, 1), paths, others, strict=True):
        part = cells[start::2].copy()
        part.uns["proteins"] = own
        part.write_h5ad(path)
    message = rf"two.h5ad: 'proteins' lacks 1 of the 10 names that .*one.h5ad has: '{names[0]}'"
    with pytest.raises(ValueError, match=message):
        joined_files.join_files(paths, None, names={"protein_counts": "proteins"})
    cells[1::2].copy().write_h5ad(paths[1])
    with pytest.raises(ValueError, match=r"two\.h5ad lacks 'proteins', the names of the columns"):
        joined_files.join_files(paths, None, names={"protein_counts": "proteins"})
    cells[::2].copy().write_h5ad(paths[0])
    joined = joined_files.join_files(paths, None, names={"protein_counts": "proteins"})
    assert_array_equal(
        joined.obsm["protein_counts"], cells[joined.obs_names].obsm["protein_counts"]
    )


def test_mudata_for_a_model_of_one_table_is_refused(data, reference):
    both = families.as_mudata(data)
    with pytest.raises(TypeError, match=r"pass its RNA, e\.g\. mdata"):
        sb.normalized_expression(reference, adata=both, **QUIET)


def test_a_mudata_that_lacks_a_modality_or_cells_is_refused(trained):
    model, rna = trained("MULTIVI")
    alone = mudata.MuData({"rna": rna.copy()})
    with pytest.raises(ValueError, match="lacks the modality 'atac'"):
        sb.normalized_expression(model, adata=alone, **QUIET)
    regions = model.adata.mod["atac"][:100].copy()
    partly = mudata.MuData({"rna": rna.copy(), "atac": regions})
    with pytest.raises(ValueError, match="lacks some cells of the MuData"):
        sb.normalized_expression(model, adata=partly, **QUIET)


def set_up_as_before_1_4(adata):
    """MULTIVI with one AnnData, as its setup_anndata registered it until scvi-tools 1.4."""
    from scvi import REGISTRY_KEYS
    from scvi.data import AnnDataManager, fields

    adata.obs["_indices"] = np.arange(adata.n_obs)
    registered = [
        fields.LayerField(REGISTRY_KEYS.X_KEY, None, is_count_data=True),
        fields.CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, "batch"),
        fields.CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None),
        fields.CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, None),
        fields.NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, None),
        fields.NumericalObsField(REGISTRY_KEYS.INDICES_KEY, "_indices"),
    ]
    arguments = {"setup_args": {"batch_key": "batch"}, "setup_method_name": "setup_anndata"}
    arguments["model_name"] = "MULTIVI"
    manager = AnnDataManager(fields=registered, setup_method_args=arguments)
    manager.register_fields(adata)
    scvi.model.MULTIVI.register_manager(manager)


def test_multivi_of_one_anndata(data):
    rna, regions = data.copy(), families.as_mudata(data).mod["atac"]
    adata = ad.concat([rna, regions], axis=1, merge="first")
    adata.obs = rna.obs.copy()
    set_up_as_before_1_4(adata)
    model = scvi.model.MULTIVI(
        adata, n_genes=rna.n_vars, n_regions=regions.n_vars, n_latent=4, n_hidden=24
    )
    families.train(model, 20, lr=1e-2, adversarial_mixing=False)
    ours = sb.normalized_expression(model, transform_batch="V2", **QUIET)
    assert list(ours.var_names) == list(rna.var_names)
    theirs = families.parameters(model, 1)["scale"]
    assert_allclose(ours.X, 1e4 * theirs, rtol=3e-5, atol=1e-8)
    # Genes and regions in another order, and some that the model does not know.
    shuffled = adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()
    again = sb.normalized_expression(model, adata=shuffled, transform_batch="V2", **QUIET)
    assert_allclose(again.X, ours.X, rtol=1e-4)
    counts = sb.corrected_counts(model, transform_batch="V2", effect="cell", **QUIET)
    home = (rna.obs["batch"] == "V2").to_numpy()
    assert_array_equal(counts.X[home].toarray(), rna.X[home].toarray())


def test_proteins_that_are_missing_are_named(trained):
    model, rna = trained("TOTALVI")
    bare = rna.copy()
    del bare.obsm["protein_counts"]
    with pytest.raises(ValueError, match=r"also encodes proteins.*obsm\['protein_counts'\]"):
        sb.corrected_counts(model, adata=bare, transform_batch="V1", **QUIET)
    fewer = rna.copy()
    fewer.obsm["protein_counts"] = fewer.obsm["protein_counts"].iloc[:, :-2]
    with pytest.raises(ValueError, match=r"lacks 2 of the model's proteins, e\.g\. 'protein_8'"):
        sb.corrected_counts(model, adata=fewer, transform_batch="V1", **QUIET)
    shuffled = rna.copy()
    shuffled.obsm["protein_counts"] = shuffled.obsm["protein_counts"].iloc[:, ::-1]
    made = sb.normalized_expression(model, adata=shuffled, transform_batch="V1", **QUIET)
    whole = sb.normalized_expression(model, transform_batch="V1", **QUIET)
    assert_allclose(made.X, whole.X, rtol=1e-5)


# -- other data ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SCANVI", "AUTOZI", "CondSCVI", "LinearSCVI"])
def test_new_cells_more_genes_and_another_order(trained, simulate, name):
    model, rna = trained(name)
    new = simulate(n_cells=80, n_genes=50, seed=9)
    new.obs_names = [f"new_{cell}" for cell in new.obs_names]
    plain = sb.corrected_counts(
        model, adata=new, transform_batch="V1", labels_key="cell_type", **QUIET
    )
    more = ad.AnnData(
        np.hstack([np.ones((80, 3)), new.X.toarray()[:, ::-1]]).astype(np.float32), obs=new.obs
    )
    more.var_names = ["x", "y", "z", *new.var_names[::-1]]
    made = sb.corrected_counts(
        model, adata=more, transform_batch="V1", labels_key="cell_type", **QUIET
    )
    assert list(made.var_names) == list(rna.var_names)
    assert (made.X != plain.X).nnz <= 2
    assert made.uns["scvibridge"]["model_class"] == name


def test_a_label_that_condscvi_does_not_know_is_named(trained):
    model, rna = trained("CondSCVI")
    other = rna.copy()
    other.obs["cell_type"] = other.obs["cell_type"].astype(str).replace("NK", "new")
    with pytest.raises(
        ValueError, match=r"obs\['cell_type'\] has values unknown to the model: 'new'"
    ):
        sb.normalized_expression(model, adata=other, **QUIET)


@pytest.mark.parametrize("name", ["CondSCVI", "TOTALVI", "MULTIVI"])
def test_the_command_line_takes_all_classes(trained, name, tmp_path):
    model, rna = trained(name)
    model.save(str(tmp_path / "model"))
    path = tmp_path / ("data.h5mu" if name == "MULTIVI" else "data.h5ad")
    given = model.adata if name == "MULTIVI" else rna
    given.write(path)
    out = tmp_path / "counts.h5ad"
    command = ["correct", str(tmp_path / "model"), "--adata", str(path), "--out", str(out)]
    command += ["--transform-batch", "V2", "--labels-key", "cell_type", "--quiet"]
    # Saved without its data, the model does not tell which cells were held out.
    command += ["--shrinkage", "10"]
    assert main(command) == 0
    made = ad.read_h5ad(out)
    given = {"transform_batch": "V2", "labels_key": "cell_type", "shrinkage": 10}
    whole = sb.corrected_counts(model, **given, **QUIET)
    assert (made.X != whole.X).nnz == 0
    assert made.uns["scvibridge"]["model_class"] == name
