"""The whole way on real cells; the data are found through SCVIBRIDGE_TEST_DATA."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scvi
from scipy.stats import spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score

import scvibridge as sb
from scvibridge.diagnostics.report.measures import same_batch_neighbours

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:labels. .* used the effect of their batch"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),  # a short training mixes chemistries in part
]


def variable_genes(path, n_genes, batch_key):
    adata = ad.read_h5ad(path)
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=n_genes, batch_key=batch_key)
    adata.X = adata.layers.pop("counts")
    return adata[:, adata.var["highly_variable"]].copy()


@pytest.fixture(scope="module")
def chemistries(shared_data, train, tmp_path_factory):
    """A model of three chemistries, saved and loaded with its data from a file."""
    adata = variable_genes(shared_data("pbmc_10x_v2_v3_vdj"), 1000, "batch")
    folder = tmp_path_factory.mktemp("chemistries")
    adata.write_h5ad(folder / "data.h5ad")
    trained = train(
        adata,
        labels_key=None,
        max_epochs=60,
        kl_warmup=20,
        n_latent=10,
        n_hidden=128,
        batch_size=128,
        lr=2e-3,
    )
    trained.save(str(folder / "model"))
    return sb.load(folder / "model", adata=folder / "data.h5ad")


def embedding(counts):
    """Principal components of log-normalised counts."""
    totals = np.asarray(counts.sum(axis=1), dtype=float)
    normalised = np.log1p(counts.toarray() / np.maximum(totals.reshape(-1, 1), 1) * 1e4)
    return PCA(20, random_state=0).fit_transform(normalised)


def plain(figures):
    """Figures as a report of a test takes them from another process."""
    if isinstance(figures, dict):
        return {str(name): plain(value) for name, value in figures.items()}
    return np.asarray(figures, dtype=float).tolist()


def test_label_effect_mixes_chemistries_and_keeps_types_apart(chemistries, record_property):
    """Issue: same-batch neighbours <= 1.6 x expected, silhouette by type not below raw's."""
    result = sb.corrected_counts(
        chemistries, transform_batch="V3", labels_key="cell_type", progress=False
    )
    batch, labels = result.obs["batch"], result.obs["cell_type"]
    mixing, silhouette = {}, {}
    for name, counts in {"raw": result.layers["raw_counts"], "corrected": result.X}.items():
        points = embedding(counts)
        mixing[name] = same_batch_neighbours(points, batch, labels, n_neighbours=30)
        silhouette[name] = silhouette_score(points, labels)
    record_property("same-batch neighbours over expectation", plain(mixing))
    record_property("silhouette", plain(silhouette))
    assert mixing["corrected"] <= 1.6 < mixing["raw"]
    assert silhouette["corrected"] >= silhouette["raw"]


def test_quantile_keeps_the_cells_own_data_and_sample_does_not(chemistries, record_property):
    """Correlation of corrected with raw counts, over the cells that expression cannot tell apart.

    Within a type and batch, gene by gene: what of a cell's own deviation survives.
    """
    kept = {}
    for method in ("quantile", "sample"):
        result = sb.corrected_counts(
            chemistries,
            transform_batch="V3",
            method=method,
            labels_key="cell_type",
            library_size="observed",
            progress=False,
        )
        group = (result.obs["batch"] == "V2") & (result.obs["cell_type"] == "Monocytes")
        raw = result.layers["raw_counts"][group.to_numpy()].toarray()
        new = result.X[group.to_numpy()].toarray()
        genes = np.flatnonzero((raw.mean(axis=0) > 0.5) & (new.std(axis=0) > 0))
        kept[method] = np.mean([spearmanr(raw[:, g], new[:, g])[0] for g in genes])
    record_property("Spearman with raw within type and batch", plain(kept))
    assert kept["quantile"] > 0.6
    assert kept["sample"] < 0.3


@pytest.fixture(scope="module")
def donors(shared_data, train):
    adata = variable_genes(shared_data("kang_ifnb_pbmc_4k"), 1000, "donor")
    return train(
        adata,
        batch_key="donor",
        labels_key=None,
        max_epochs=30,
        n_latent=10,
        n_hidden=128,
        batch_size=128,
        lr=2e-3,
    )


def test_condition_survives_the_correction_of_donors(donors, record_property):
    """Interferon response per gene, before and after, within monocytes of all donors."""
    assert isinstance(donors, scvi.model.SCVI)
    result = sb.corrected_counts(
        donors,
        transform_batch="1015",
        labels_key="cell_type_coarse",
        condition_key="condition",
        progress=False,
    )
    assert result.uns["scvibridge"]["confounding"] in ("balanced", "partly confounded")

    def response(counts):
        rows = result.obs["cell_type_coarse"] == "CD14 Mono"
        stim = (result.obs["condition"] == "stim") & rows
        ctrl = (result.obs["condition"] == "ctrl") & rows
        sums = [np.asarray(counts[m.to_numpy()].sum(axis=0)).ravel() for m in (stim, ctrl)]
        rates = [(s + 0.5) / (s.sum() + 0.5) for s in sums]
        return np.log(rates[0] / rates[1]), sums[0] + sums[1]

    raw, depth = response(result.layers["raw_counts"])
    corrected, _ = response(result.X)
    well_seen = depth > 200
    slope = np.polyfit(raw[well_seen], corrected[well_seen], 1)[0]
    record_property("slope of the interferon response", plain(slope))
    assert 0.9 < slope < 1.1
    assert np.corrcoef(raw[well_seen], corrected[well_seen])[0, 1] > 0.97
