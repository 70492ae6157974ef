"""Where a model's counts are: in X, a layer, ``adata.raw`` or a result; each read from there."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.io.backed import open_anndata
from scvibridge.io.raw_counts import ORIGIN_KEY

# The simulated batches differ in depth.
pytestmark = pytest.mark.filterwarnings("ignore:.*times their own depth")

TRAIN = {"n_top_genes": None, "max_epochs": 2, "progress": False}


@pytest.fixture(scope="module")
def cells(simulated):
    """Counts in ``layers["umi"]``, other whole numbers in X."""
    counts = simulated[:, :30].X.toarray()
    obs = simulated.obs[["batch"]].copy()
    obs["mito"] = np.random.default_rng(0).random(len(obs))
    made = ad.AnnData(np.floor(counts / 2), obs=obs, var=simulated.var[:30][[]])
    made.layers["umi"] = counts
    return made[counts.sum(axis=1) > 0].copy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("counts_place")


@pytest.fixture(scope="module")
def layered(cells, folder):
    return sb.train_scvi(cells, "batch", layer="umi", save=folder / "layered", **TRAIN)


@pytest.fixture(scope="module")
def plain(cells, folder):
    counts = ad.AnnData(cells.layers["umi"].copy(), obs=cells.obs.copy(), var=cells.var.copy())
    return sb.train_scvi(
        counts, "batch", continuous_covariate_keys=["mito"], save=folder / "plain", **TRAIN
    )


@pytest.fixture(scope="module")
def result(plain):
    return corrected(plain)


def corrected(model, adata=None, **how):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="confounding was not checked")
        warnings.filterwarnings("ignore", message=".*times their own depth")
        return sb.corrected_counts(
            model, adata=adata, transform_batch="V1", progress=False, **how
        ).to_memory()


def assert_counts(result, counts):
    np.testing.assert_array_equal(result.layers["raw_counts"].toarray(), counts)
    own = (result.obs["batch"] == "V1").to_numpy()
    # The cells of the target are unchanged, whatever they were read from.
    np.testing.assert_array_equal(result.X.toarray()[own], counts[own])


@pytest.mark.parametrize("form", ["memory", "streamed", "zarr"])
@pytest.mark.parametrize("loaded", ["trained", "given", "bare"])
def test_a_layer_is_read_from_data_given_again(cells, layered, folder, form, loaded, tmp_path):
    given = cells
    if form != "memory":
        given = tmp_path / ("data.zarr" if form == "zarr" else "data.h5ad")
        (cells.write_zarr if form == "zarr" else cells.write_h5ad)(given)
    model = layered
    if loaded != "trained":
        adata = {"given": given, "bare": False}[loaded]
        model = sb.load(folder / "layered", adata=adata)
    how = {"out": tmp_path / "out.h5ad"} if form == "streamed" else {}
    found = corrected(model, given, **how)
    assert_counts(found, cells.layers["umi"])
    assert found.uns["scvibridge"]["counts_from"] == "layers['umi']"


def test_the_layer_is_registered_by_scvi_tools(cells, layered, folder):
    assert layered.registry_["setup_args"]["layer"] == "umi"
    np.testing.assert_array_equal(layered.adata.layers["umi"].toarray(), cells.layers["umi"])
    assert layered.adata.X is None
    import scvi

    loaded = scvi.model.SCVI.load(str(folder / "layered"), accelerator="cpu")
    np.testing.assert_array_equal(loaded.get_latent_representation().shape, (cells.n_obs, 10))


def test_data_without_the_layer_are_refused_by_name(cells, layered):
    other = cells.copy()
    del other.layers["umi"]
    with pytest.raises(
        ValueError, match=r"layers\['umi'\], which is missing from the data.*adata.X holds"
    ):
        corrected(layered, other)


@pytest.mark.parametrize("named", ["umi", None])
def test_damage_reads_the_layer_that_is_named(cells, plain, named, monkeypatch):
    from scvibridge.diagnostics import damage

    seen = {}
    monkeypatch.setattr(damage, "_FEWEST_CELLS", 10)
    monkeypatch.setattr(damage, "train_like", lambda cells, *_: seen.update(cells=cells) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sb.damage(cells, "batch", batch="V1", layer=named, model=plain, progress=False)
    rows = seen["cells"].obs_names
    expected = cells[rows].X if named is None else cells[rows].layers["umi"]
    np.testing.assert_array_equal(seen["cells"].X.toarray(), expected)


# -- adata.raw ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_raw(cells):
    """As from CELLxGENE: X normalised, of some genes; counts of all in ``raw``."""
    made = ad.AnnData(cells.layers["umi"].copy(), obs=cells.obs.copy(), var=cells.var.copy())
    made.raw = made
    made.X = np.log1p(made.X)
    return made[:, 5:].copy()


@pytest.mark.parametrize("on_disk", [False, True])
def test_raw_stands_for_adata_raw(with_raw, on_disk, tmp_path):
    given = with_raw
    if on_disk:
        given = tmp_path / "cellxgene.h5ad"
        with_raw.write_h5ad(given)
    model = sb.train_scvi(given, "batch", layer="raw", save=tmp_path / "model", **TRAIN)
    counts = with_raw.raw.X
    assert list(model.adata.var_names) == list(with_raw.raw.var_names)
    how = {"out": tmp_path / "out.h5ad"} if on_disk else {}
    assert_counts(corrected(model, given, **how), counts)
    loaded = sb.load(tmp_path / "model", adata=given)
    np.testing.assert_array_equal(loaded.adata.layers["raw"], counts)
    assert_counts(corrected(loaded), counts)


def test_a_layer_named_raw_wins(with_raw):
    both = with_raw.copy()
    both.layers["raw"] = np.ones(both.shape)
    model = sb.train_scvi(both, "batch", layer="raw", **TRAIN)
    assert (model.adata.layers["raw"].toarray() == 1).all()


def test_errors_name_raw_and_the_call(with_raw, plain):
    with pytest.raises(ValueError, match=r"adata.raw holds whole numbers: layer='raw'"):
        sb.train_scvi(with_raw, "batch", **TRAIN)
    with pytest.raises(ValueError, match=r"lack 5 of the model's 30 .*pass adata.raw.to_adata\(\)"):
        corrected(plain, with_raw)
    whole = ad.AnnData(np.log1p(with_raw.raw.X), obs=with_raw.obs, var=with_raw.raw.var)
    whole.raw = with_raw.raw.to_adata()
    with pytest.raises(ValueError, match=r"adata.raw holds whole numbers: pass adata.raw.to_adata"):
        corrected(plain, whole)
    assert_counts(corrected(plain, whole.raw.to_adata()), with_raw.raw.X)
    with pytest.raises(ValueError, match=r"no layer 'raw', and adata\.raw is None"):
        sb.train_scvi(with_raw.raw.to_adata(), "batch", layer="raw", **TRAIN)


def test_logarithms_in_raw_are_named_so(with_raw):
    logged = with_raw.copy()
    logged.raw = ad.AnnData(np.log1p(with_raw.raw.X), obs=with_raw.obs, var=with_raw.raw.var)
    with pytest.raises(ValueError, match=r"^adata.raw must hold raw counts"):
        sb.train_scvi(logged, "batch", layer="raw", **TRAIN)


# -- results -----------------------------------------------------------------------------------

READ_FROM_RESULT = r"raw counts are read from its layers\['raw_counts'\]"


def results_of(result, plain, tmp_path):
    result.write_h5ad(tmp_path / "result.h5ad")
    denoised = sb.denoised_expression(plain, progress=False)
    denoised.X = np.round(denoised.X)  # whole numbers, but no counts
    return {
        "memory": result,
        "file": tmp_path / "result.h5ad",
        "joined": ad.concat([result[:50], result[50:]]),
        "rounded": denoised,
    }


@pytest.mark.parametrize("form", ["memory", "file", "joined", "rounded"])
def test_a_result_is_read_from_its_raw_counts(cells, plain, layered, result, form, tmp_path):
    given = results_of(result, plain, tmp_path)[form]
    counts = cells.layers["umi"]
    for model in (plain, layered):
        with pytest.warns(UserWarning, match=READ_FROM_RESULT):
            assert_counts(corrected(model, given), counts)


def test_flags_of_a_result_without_its_raw_counts_are_warned_of(cells, result, folder):
    bare = ad.AnnData(result.X, obs=result.obs, var=result.var)
    lost = "pass the raw ones; if they are raw, remove these columns"
    with pytest.warns(UserWarning, match=lost):
        sb.train_scvi(bare, "batch", **TRAIN)
    model = sb.load(folder / "plain", adata=False)
    with pytest.warns(UserWarning, match=lost):
        corrected(model, bare)
    raw = cells.copy()
    raw.X = raw.layers["umi"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the cells have columns of a result")
        corrected(model, raw)


def test_every_function_reads_the_raw_counts_of_a_result(cells, plain, result, folder):
    counts = cells.layers["umi"]
    with pytest.warns(UserWarning, match=READ_FROM_RESULT):
        trained = sb.train_scvi(result, "batch", **TRAIN)
    np.testing.assert_array_equal(trained.adata.X.toarray(), counts)
    with pytest.warns(UserWarning, match=READ_FROM_RESULT):
        loaded = sb.load(folder / "plain", adata=result)
    np.testing.assert_array_equal(loaded.adata.X.toarray(), counts)
    with pytest.warns(UserWarning, match=READ_FROM_RESULT):
        found = sb.normalized_expression(plain, adata=result, progress=False)
    expected = sb.normalized_expression(plain, progress=False)
    np.testing.assert_array_equal(found.X, expected.X)


def test_a_result_that_a_model_was_given_by_scvi_tools_is_known(cells, result, folder):
    import scvi

    model = scvi.model.SCVI.load(str(folder / "plain"), adata=result.copy(), accelerator="cpu")
    with pytest.warns(UserWarning, match=READ_FROM_RESULT):
        assert_counts(corrected(model), cells.layers["umi"])


def test_a_result_without_raw_counts_is_refused(plain, result):
    bare = result.copy()
    del bare.layers["raw_counts"]
    for use in (
        lambda: sb.train_scvi(bare, "batch", **TRAIN),
        lambda: corrected(plain, bare),
        lambda: sb.extend_genes(plain, bare, progress=False),
    ):
        with pytest.raises(ValueError, match=r"result of corrected_counts: .*no layers\['raw_cou"):
            use()


# -- what else a model remembers ---------------------------------------------------------------


def test_covariates_in_other_units_are_warned_of(cells, plain, folder):
    percent = ad.AnnData(cells.layers["umi"], obs=cells.obs.assign(mito=cells.obs["mito"] * 100))
    percent.var_names = cells.var_names
    for model in (plain, sb.load(folder / "plain", adata=False)):
        with pytest.warns(UserWarning, match=r"mito ranged from 0\.\d+ to 0\.\d+ in training"):
            corrected(model, percent)
    with pytest.warns(UserWarning, match="1 of 1 values are outside"):
        corrected(plain, transform_covariates={"mito": 50}, effect="cell")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="confounding was not checked")
        warnings.filterwarnings("ignore", message=".*times their own depth")
        corrected(plain, plain.adata[:50].copy())


def of_object(cells, **origin):
    made = ad.AnnData(cells.layers["umi"], obs=cells.obs, var=cells.var)
    made.uns[ORIGIN_KEY] = {"object": "Seurat", "layer": "counts", **origin}
    return made


def test_counts_of_another_assay_are_warned_of(cells, tmp_path):
    sb.train_scvi(of_object(cells, assay="UMI"), "batch", save=tmp_path / "model", **TRAIN)
    model = sb.load(tmp_path / "model")
    of_object(cells, assay="UMI").write_h5ad(tmp_path / "same.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="confounding was not checked")
        warnings.filterwarnings("ignore", message=".*times their own depth")
        found = corrected(model, tmp_path / "same.h5ad")
    place = "the assay UMI (layer counts) of the Seurat object"
    assert found.uns["scvibridge"]["counts_from"] == place
    with pytest.warns(UserWarning, match=r"trained on the assay UMI .* of the assay RNA"):
        corrected(model, of_object(cells, assay="RNA"))


def test_messages_speak_of_the_object(cells):
    logged = of_object(cells, assay="RNA", layer="data", others=["counts"])
    logged.X = np.log1p(logged.X)
    expected = r"^the assay RNA \(layer data\) of the Seurat object must hold .* also has counts"
    with pytest.raises(ValueError, match=expected):
        sb.train_scvi(logged, "batch", **TRAIN)


def test_lazily_read_data_keep_raw_and_what_they_are(with_raw, tmp_path):
    with_raw.write_h5ad(tmp_path / "data.h5ad")
    opened = open_anndata(tmp_path / "data.h5ad")
    assert isinstance(opened.obs, pd.DataFrame)
    model = sb.train_scvi(opened, "batch", layer="raw", **TRAIN)
    np.testing.assert_array_equal(model.adata.layers["raw"].toarray(), with_raw.raw.X)
