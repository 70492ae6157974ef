"""Training: what goes in, what comes out, and that nothing else changes."""

from __future__ import annotations

import os
import random
import signal
import warnings

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose

import scvibridge as sb
from scvibridge._utils import progress
from scvibridge._utils.progress import reporting_to
from scvibridge.models.adapters import adapter_for
from scvibridge.models.training import train_scvi, variable_genes
from scvibridge.r import descriptions

FEW = {"max_epochs": 2, "n_latent": 3, "device": "cpu", "progress": False}


def train(adata, batch_key="batch", n_top_genes=40, **how):
    return sb.train_scvi(adata, batch_key, n_top_genes=n_top_genes, **{**FEW, **how})


def weights(model):
    return {name: tensor.numpy() for name, tensor in model.module.state_dict().items()}


def assert_same_weights(one, other):
    assert weights(one).keys() == weights(other).keys()
    for name, values in weights(one).items():
        np.testing.assert_array_equal(values, weights(other)[name], err_msg=name)


@pytest.fixture(scope="module")
def model(simulated):
    return train(simulated, labels_key="cell_type")


def test_the_model_is_scvi_tools_own_of_the_same_seed(simulated, model):
    """The same steps by hand give the same weights."""
    import scvi

    chosen = sc.pp.highly_variable_genes(
        sb_counts(simulated), n_top_genes=40, flavor="seurat_v3", batch_key="batch", inplace=False
    )["highly_variable"].to_numpy()
    cells = simulated[:, chosen].copy()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scvi.settings.seed = 0
        scvi.model.SCVI.setup_anndata(cells, batch_key="batch", labels_key="cell_type")
        own = scvi.model.SCVI(cells, n_latent=3, gene_likelihood="nb")
        # One thread, since sums over several differ in the last bit.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        own.train(
            max_epochs=2,
            accelerator="cpu",
            early_stopping=True,
            enable_progress_bar=False,
            plan_kwargs={"n_epochs_kl_warmup": 1},
        )
        torch.set_num_threads(threads)
    assert list(model.adata.var_names) == list(cells.var_names)
    assert_same_weights(model, own)


def sb_counts(adata):
    return sc.AnnData(adata.X.copy(), obs=adata.obs[["batch"]].copy())


def test_the_prior_gets_its_weight_within_the_training(simulated):
    for warmup, expected in ((None, 2), (8, 8), (80, 80)):
        found = train(simulated, max_epochs=8, n_epochs_kl_warmup=warmup, early_stopping=False)
        weight = found.history["kl_weight"]["kl_weight"].astype(float)
        assert len(weight)
        assert_allclose(weight, np.minimum(weight.index / expected, 1), atol=1e-6)
    with pytest.raises(ValueError, match="n_epochs_kl_warmup must be a whole number"):
        train(simulated, n_epochs_kl_warmup=0)


def test_one_seed_gives_one_model_whatever_came_before(simulated, model):
    torch.rand(3)
    np.random.rand(5)  # noqa: NPY002
    assert_same_weights(train(simulated, labels_key="cell_type"), model)
    other = train(simulated, labels_key="cell_type", seed=1)
    assert not np.array_equal(
        weights(other)["z_encoder.mean_encoder.weight"],
        weights(model)["z_encoder.mean_encoder.weight"],
    )


def test_the_callers_random_numbers_and_data_stay_as_they_were(simulated, monkeypatch):
    import scvi

    given = simulated.copy()
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    variables = {"PL_GLOBAL_SEED": None, "PL_SEED_WORKERS": "1", "XLA_FLAGS": "--mine"}
    before = (
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002
        random.getstate(),
        scvi.settings.seed,
    )
    train(given)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert (random.getstate(), scvi.settings.seed) == before[2:]
    assert {name: os.environ.get(name) for name in variables} == variables
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (False, True)
    pd.testing.assert_frame_equal(given.obs, simulated.obs)
    pd.testing.assert_frame_equal(given.var, simulated.var)
    assert (given.X != simulated.X).nnz == 0
    assert set(given.uns) == set(simulated.uns)


def test_nothing_is_left_in_the_working_folder(simulated, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    train(simulated)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_model_keeps_tables_and_is_ready_to_be_used(simulated, model):
    pd.testing.assert_frame_equal(model.adata.obs[simulated.obs.columns], simulated.obs)
    np.testing.assert_array_equal(
        model.adata.X.toarray(), simulated[:, model.adata.var_names].X.toarray()
    )
    counts = sb.corrected_counts(model, transform_batch="V2", labels_key="cell_type")
    own = (simulated.obs["batch"] == "V2").to_numpy()
    assert (counts.X[own] != counts.layers["raw_counts"][own]).nnz == 0


@pytest.mark.parametrize("layer", [None, "raw"])
def test_files_and_layers_give_the_same_model(simulated, model, tmp_path, layer):
    data = simulated.copy()
    if layer is not None:
        data.layers["raw"] = data.X.copy()
        data.X = np.log1p(data.X)
    path = tmp_path / "data.h5ad"
    data.write_h5ad(path)
    assert_same_weights(train(path, labels_key="cell_type", layer=layer), model)


def test_genes_by_name_by_number_and_all(simulated):
    names = ["gene_0100", "gene_0003", "gene_0050"]
    assert list(train(simulated, n_top_genes=names).adata.var_names) == names
    for everything in (None, 120, 5000):
        found = train(simulated, n_top_genes=everything, max_epochs=1).adata.var_names
        assert list(found) == list(simulated.var_names)


def test_genes_are_ranked_over_all_cells_where_a_batch_is_too_small(simulated):
    batches = simulated.obs["batch"].astype(str)
    batches.iloc[0] = "one cell"
    with pytest.warns(UserWarning, match="ranked over all cells, because a batch has too few"):
        found = variable_genes.variable_genes(simulated.X, 40, batches)
    np.testing.assert_array_equal(found, variable_genes.variable_genes(simulated.X, 40, None))


def test_covariates_are_those_of_the_model(simulated):
    data = simulated.copy()
    data.obs["donor"] = np.where(np.arange(data.n_obs) % 2, "D1", "D2")
    model = train(
        data,
        categorical_covariate_keys=["donor"],
        continuous_covariate_keys=["n_counts"],
        gene_likelihood="zinb",
        n_layers=2,
    )
    adapter = adapter_for(model)
    assert set(adapter.registry.columns) >= {"batch", "donor", "n_counts"}
    assert model.module.gene_likelihood == "zinb"
    assert len(model.module.z_encoder.encoder.fc_layers) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["batch_key", "labels_key", "categorical_covariate_keys"])
def test_numbers_beside_text_are_the_same_values_as_text(simulated, key):
    mixed, text = simulated.copy(), simulated.copy()
    mixed.obs["batch"] = simulated.obs["batch"].astype(object).map({"V1": 1, "V2": 3, "V3": "b"})
    text.obs["batch"] = mixed.obs["batch"].astype(str)
    keys = {"batch_key": "batch"} if key == "batch_key" else {"batch_key": "condition"}
    keys[key] = ["batch"] if key == "categorical_covariate_keys" else "batch"
    target = {"transform_batch": "1" if key == "batch_key" else "ctrl"}
    ours, theirs = (
        sb.corrected_counts(train(cells, n_top_genes=None, **keys), **target, progress=False)
        for cells in (mixed, text)
    )
    assert (ours.X != theirs.X).nnz == 0
    assert (ours.layers["raw_counts"] != ours.X).nnz > 0
    assert ours.obs["batch"].tolist() == mixed.obs["batch"].tolist()
    for values in ({1: 1, 3: "1", "b": "b"}, {1: "1.5", 3: 1.5, "b": "b"}):
        mixed.obs["batch"] = mixed.obs["batch"].map(values)
        with pytest.raises(ValueError, match=r"obs\['batch'\] has different values that are the"):
            train(mixed, **keys)
        mixed.obs["batch"] = ours.obs["batch"]


def test_cells_without_counts_are_left_out_with_a_warning(simulated):
    data = simulated.copy()
    data.X = sp.csr_matrix(data.X.toarray() * (np.arange(data.n_obs) > 4)[:, None])
    with pytest.warns(UserWarning, match="5 of 300 cells have no counts of the 40 genes"):
        model = train(data)
    assert list(model.adata.obs_names) == list(data.obs_names[5:])
    assert all(np.isfinite(values).all() for values in weights(model).values())


def test_a_saved_model_needs_nothing_else(simulated, model, tmp_path):
    folder = tmp_path / "model"
    saved = train(simulated, labels_key="cell_type", save=folder)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = sb.load(folder)
    assert_same_weights(loaded, saved)
    assert (loaded.adata.X != model.adata.X).nnz == 0
    with pytest.raises(FileExistsError, match=r"exists: choose another name, or set overwrite"):
        train(simulated, save=folder)
    train(simulated, n_top_genes=["gene_0000", "gene_0001"], save=folder, overwrite=True)
    assert list(sb.load(folder).adata.var_names) == ["gene_0000", "gene_0001"]


def test_it_stops_early_where_nothing_gets_better(simulated, monkeypatch):
    """With less patience, so that it takes three epochs instead of 46."""
    original = train_scvi.fit_scvi

    def impatient(*arguments):
        *others, how = arguments
        how = {**how, "early_stopping_patience": 2, "early_stopping_min_delta": 1e6}
        return original(*others, how)

    def n_epochs(**how):
        return descriptions.describe_training(train(simulated, max_epochs=5, **how))["n_epochs"]

    monkeypatch.setattr(train_scvi, "fit_scvi", impatient)
    assert (n_epochs(), n_epochs(early_stopping=False)) == (3, 5)


def test_epochs_are_told(simulated):
    told = []

    class Told:
        def start(self, *step):
            told.append(step)

        def update(self, done):
            told.append(done)

        def finish(self):
            told.append("end")

    progress._CALL_INTERVAL, before = 0, progress._CALL_INTERVAL
    try:
        with reporting_to(Told()):
            train(simulated, max_epochs=3, progress=True)
    finally:
        progress._CALL_INTERVAL = before
    assert told == [("Training", 3, "epochs"), 1, 2, 3, "end"]


def test_an_interrupt_ends_the_training_alone(simulated):
    class Interrupting:
        def start(self, *step):
            pass

        def update(self, _done):
            raise KeyboardInterrupt

        def finish(self):
            pass

    before = signal.getsignal(signal.SIGINT)
    state = torch.get_rng_state()
    progress._CALL_INTERVAL, interval = 0, progress._CALL_INTERVAL
    try:
        with reporting_to(Interrupting()), pytest.raises(KeyboardInterrupt):
            train(simulated, max_epochs=3, progress=True)
    finally:
        progress._CALL_INTERVAL = interval
    assert signal.getsignal(signal.SIGINT) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_tells_its_epochs_and_losses(model, tmp_path):
    told = descriptions.describe_model(model)["training"]
    history = model.history
    training = "train_loss" if "train_loss" in history else "train_loss_epoch"
    assert told == {
        "n_epochs": 2,
        "training_loss": float(history[training].iloc[-1, 0]),
        "validation_loss": float(history["validation_loss"].iloc[-1, 0]),
    }
    model.save(str(tmp_path / "model"), save_anndata=True)
    assert descriptions.describe_model(sb.load(tmp_path / "model"))["training"] is None
    trusted = sb.load(tmp_path / "model", trust=True)
    assert descriptions.describe_model(trusted)["training"] == told


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_key": "batches"}, ValueError, "batch_key='batches' is not .*mean 'batch'"),
        ({"labels_key": "type"}, ValueError, "labels_key='type' is not a column"),
        ({"continuous_covariate_keys": ["n_count"]}, ValueError, "'n_count' .* mean 'n_counts'"),
        ({"continuous_covariate_keys": ["condition"]}, ValueError, "finite numbers"),
        ({"categorical_covariate_keys": "donor"}, TypeError, "must be a list of columns"),
        ({"layer": "raw"}, ValueError, "no layer 'raw'"),
        ({"layer": "mean"}, ValueError, "not whole numbers"),
        (
            {"n_top_genes": ["gene_0001", "GENE"]},
            ValueError,
            "the data lack 1 of the 2 genes in n_top_genes",
        ),
        ({"n_top_genes": 0}, ValueError, "at least 1"),
        ({"n_top_genes": "gene_0001"}, TypeError, "a list of genes"),
        ({"gene_likelihood": "normal"}, ValueError, "'normal' is not among 'nb', 'zinb'"),
        ({"n_latent": 0}, ValueError, "n_latent must be a whole number of at least 1"),
        ({"max_epochs": 1.5}, TypeError, "max_epochs must be a whole number"),
        ({"seed": -1}, ValueError, "seed"),
        ({"device": "tpu"}, ValueError, "device must be"),
        ({"save": "absent/model"}, FileNotFoundError, "create it first"),
    ],
)
def test_what_cannot_be_is_refused(simulated, arguments, error, message):
    with pytest.raises(error, match=message):
        train(simulated, **arguments)


def test_missing_batches_and_repeated_names_are_refused(simulated):
    data = simulated.copy()
    data.obs["batch"] = data.obs["batch"].where(np.arange(data.n_obs) > 2)
    with pytest.raises(ValueError, match="is missing for 3 of 300 cells"):
        train(data)
    data = simulated.copy()
    data.var_names = ["gene_0000", *data.var_names[:-1]]
    with pytest.raises(ValueError, match="1 gene names occur more than once"):
        train(data)
    with pytest.raises(TypeError, match="must be an AnnData or a path"):
        train(data.X)
