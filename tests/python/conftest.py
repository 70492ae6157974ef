"""Data and models that the tests share.

Fixtures
--------
simulate        function: simulated counts of several batches and types (see `simulate_counts`)
train           function: a trained scvi-tools model of some data (see `train_model`)
shared_data     function: the path of a real data set, or a skip where there is none
simulated       300 cells x 120 genes, batches V1, V2, V3, three types (session; don't change it)
trained_model   SCVI, negative binomial, of `simulated` (session; don't train it further)
model_folder    `trained_model` saved to a folder, without its data (session; don't write to it)
run_r           function: run R code by Rscript, or skip where R or its packages are missing
data_file       `simulated` as an h5ad file (session; don't write to it)
folder_of_docs  what the pages speak of: `model_dir`, `data.h5ad` of real cells and more (session)
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import subprocess
import warnings
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# What an R may fill before it collects garbage: with its defaults, an R that loads packages of
# Bioconductor spends a quarter of the time on that.
for variable, size in (("R_VSIZE", "512M"), ("R_NSIZE", "8M")):
    os.environ.setdefault(variable, size)

# Thousands of tests share a process with torch and scvi-tools, whose objects a collection visits.
gc.set_threshold(20_000, 20, 20)

# Shells that start tests in the background, and nohup, ignore these signals, which tests send to
# this process and its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)

import anndata as ad  # noqa: E402  (after the number of threads)
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import pytest  # noqa: E402
import scipy.sparse as sp  # noqa: E402

BATCHES = ("V1", "V2", "V3")
CELL_TYPES = ("B", "NK", "T")


def simulate_counts(
    n_cells: int = 300,
    n_genes: int = 120,
    batches: tuple[str, ...] = BATCHES,
    cell_types: tuple[str, ...] = CELL_TYPES,
    mean_total: float = 1500.0,
    batch_sd: float = 0.5,
    type_sd: float = 1.0,
    theta: float = 4.0,
    seed: int = 1,
) -> ad.AnnData:
    """Negative binomial counts with a gene-wise batch effect and gene-wise types.

    Returns
    -------
    AnnData with X = counts (CSR, float32), obs `batch`, `cell_type` (categorical), `condition`
    ("ctrl" and "stim", crossed with both) and `n_counts`, var `symbol`, and the truth:
    layers["mean"], varm["batch_effect"] (genes x batches, log), uns["theta"].
    """
    rng = np.random.default_rng(seed)
    batch = rng.integers(len(batches), size=n_cells)
    cell_type = rng.integers(len(cell_types), size=n_cells)
    batch_effect = rng.normal(0, batch_sd, (n_genes, len(batches)))
    log_rate = (
        rng.normal(0, 1.0, n_genes)[None, :]
        + rng.normal(0, type_sd, (n_genes, len(cell_types))).T[cell_type]
        + batch_effect.T[batch]
    )
    rate = np.exp(log_rate)
    depth = mean_total * np.exp(rng.normal(0, 0.3, n_cells)) * (1 + 0.3 * batch)
    mean = depth[:, None] * rate / rate.sum(axis=1, keepdims=True)
    counts = rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)

    obs = pd.DataFrame(
        {
            "batch": pd.Categorical.from_codes(batch, list(batches)),
            "cell_type": pd.Categorical.from_codes(cell_type, list(cell_types)),
            "condition": pd.Categorical(np.where(rng.random(n_cells) < 0.5, "ctrl", "stim")),
            "n_counts": counts.sum(axis=1),
        },
        index=[f"cell_{i:04d}" for i in range(n_cells)],
    )
    var = pd.DataFrame(
        {"symbol": [f"SYM{g}" for g in range(n_genes)]},
        index=[f"gene_{g:04d}" for g in range(n_genes)],
    )
    adata = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=var)
    adata.layers["mean"] = mean
    adata.varm["batch_effect"] = batch_effect
    adata.uns["theta"] = theta
    return adata


def train_model(
    adata: ad.AnnData,
    batch_key: str | None = "batch",
    labels_key: str | None = "cell_type",
    max_epochs: int = 15,
    seed: int = 0,
    setup: dict | None = None,
    model_class=None,
    batch_size: int = 64,
    lr: float = 5e-3,
    kl_warmup: int | None = None,
    **model_kwargs,
):
    """Train a small scvi-tools model (SCVI unless `model_class` says otherwise), quietly.

    `setup` holds further arguments of `setup_anndata` (such as `layer`, `size_factor_key`);
    `model_kwargs` go to the model (`n_latent=5`, `n_hidden=32`, `gene_likelihood="nb"` unless
    given); `kl_warmup` is the number of epochs over which the weight of the prior grows to one
    (scvi-tools' 400 unless given: in fewer epochs batches mix less). `max_epochs=0` returns the
    model untrained. Pass a copy where `adata` is shared: scvi-tools writes to it.
    """
    import scvi
    import torch
    from training import without_record

    torch.set_num_threads(1)
    scvi.settings.seed = seed
    scvi.settings.verbosity = logging.ERROR
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    model_class = model_class or scvi.model.SCVI
    model_kwargs = {"n_latent": 5, "n_hidden": 32, "gene_likelihood": "nb", **model_kwargs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model_class.setup_anndata(
            adata, batch_key=batch_key, labels_key=labels_key, **(setup or {})
        )
        model = model_class(adata, **model_kwargs)
        if max_epochs:
            with without_record():
                model.train(
                    max_epochs=max_epochs,
                    accelerator="cpu",
                    batch_size=batch_size,
                    plan_kwargs={"lr": lr, "n_epochs_kl_warmup": kl_warmup or 400},
                    enable_progress_bar=False,
                    logger=False,
                )
    return model


def differing(a, b):
    """Share of entries that differ, none of them by more than 1."""
    difference = (a - b).tocsr()
    assert difference.nnz == 0 or np.abs(difference.data).max() <= 1
    return difference.count_nonzero() / np.prod(a.shape)


def pytest_configure(config):
    # anndata's own test helpers, whose comparison we use, mark some of their cases so.
    for name in ("gpu", "array_api"):
        config.addinivalue_line("markers", f"{name}: a mark of anndata's test helpers")


# Their files take longest: they run first, so that parallel processes end together.
SLOW_FOLDERS = ("project", "cli", "r", "correction")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    folders = Path(__file__).parent

    def place(item):
        folder = item.path.relative_to(folders).parts[0]
        return SLOW_FOLDERS.index(folder) if folder in SLOW_FOLDERS else len(SLOW_FOLDERS)

    items.sort(key=place)  # stable: the order within a folder is kept


@pytest.fixture(scope="session")
def simulate():
    return simulate_counts


@pytest.fixture(scope="session")
def train():
    return train_model


@pytest.fixture(scope="session")
def shared_data():
    """The path of a real data set by its name, such as "kang_ifnb_pbmc_4k"."""

    def path_of(name: str) -> Path:
        folder = os.environ.get("SCVIBRIDGE_TEST_DATA")
        if not folder:
            pytest.skip("SCVIBRIDGE_TEST_DATA (folder of the real data sets) is not set")
        path = Path(folder) / f"{name}.h5ad"
        if not path.is_file():
            pytest.skip(f"{name}.h5ad is not in the folder that SCVIBRIDGE_TEST_DATA names")
        return path

    return path_of


@pytest.fixture(scope="session")
def simulated() -> ad.AnnData:
    return simulate_counts()


@pytest.fixture(scope="session")
def trained_model(simulated):
    return train_model(simulated.copy())


@pytest.fixture(scope="session")
def model_folder(trained_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "scvi"
    trained_model.save(str(folder), save_anndata=False)
    return folder


@pytest.fixture(scope="session")
def data_file(simulated, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.h5ad"
    simulated.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def folder_of_docs(train, tmp_path_factory) -> Path:
    """A folder with what the pages speak of: a small model of real cells, and its data."""
    from examples.demo.cells import bundled_cells

    path = tmp_path_factory.mktemp("docs")
    adata = bundled_cells().adata
    names = {"full": "V3", "thinned": "V2"}
    adata.obs["batch"] = adata.obs["batch"].astype(str).map(names).astype("category")
    condition = np.where(np.random.default_rng(0).random(adata.n_obs) < 0.5, "ctrl", "stim")
    adata.obs["condition"] = pd.Categorical(condition)
    rng = np.random.default_rng(1)
    adata.obs["donor"] = pd.Categorical(rng.choice(["D1", "D2"], adata.n_obs))
    adata.obs["percent_mito"] = rng.uniform(0, 0.1, adata.n_obs)
    adata.write_h5ad(path / "data.h5ad")
    further = adata[:, :40].copy()
    further.var_names = [f"further_{gene}" for gene in further.var_names]
    everything = ad.concat([adata, further], axis="var", merge="first")
    everything.write_h5ad(path / "all_genes.h5ad")
    keys = {
        "categorical_covariate_keys": ["donor"],
        "continuous_covariate_keys": ["percent_mito"],
    }
    of_covariates = train(adata.copy(), labels_key=None, max_epochs=2, setup=keys)
    of_covariates.save(str(path / "covariate_model"))
    of_batches = train(adata, labels_key=None, max_epochs=5)
    of_batches.save(str(path / "model_dir"), save_anndata=True)
    return path


CANNOT_RUN = 77


@pytest.fixture(scope="session")
def run_r(tmp_path_factory):
    """Run R code with arguments and give its standard output; skips where R can't."""

    def run(code: str, *arguments: object, needs: tuple[str, ...] = (), timeout: int = 300) -> str:
        rscript = shutil.which("Rscript")
        if rscript is None:
            pytest.skip("needs R (there is no Rscript on the path)")
        script = tmp_path_factory.mktemp("r") / "script.R"
        script.write_text(require_packages(needs) + code)
        done = subprocess.run(
            [rscript, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode == CANNOT_RUN:
            pytest.skip(f"needs the R packages {done.stdout.strip()}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def require_packages(packages: tuple[str, ...]) -> str:
    quoted = ", ".join(f'"{package}"' for package in packages)
    return (
        f"needs <- c({quoted})\n"
        "lacks <- Filter(function(p) !nzchar(system.file(package = p)), needs)\n"
        f"if (length(lacks)) {{ cat(lacks); quit(status = {CANNOT_RUN}) }}\n"
    )
