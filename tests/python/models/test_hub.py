"""Folders of models of the scvi hub, as ``HubModel.save`` leaves them."""

from __future__ import annotations

import json

import anndata as ad
import pytest
from numpy.testing import assert_allclose

import scvibridge as sb

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
]

HOW = {"transform_batch": "V3", "labels_key": "cell_type", "progress": False}


def save_by_hand(folder):
    """The two files that ``HubModel.save`` adds."""
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# A model\n")
    found = {"scvi_version": "1.4.2", "anndata_version": "0.12.0", "model_cls_name": "SCVI"}
    (folder / "_required_metadata.json").write_text(json.dumps(found))


def save_by_scvi(folder):
    pytest.importorskip("huggingface_hub", reason="scvi.hub needs huggingface_hub")
    from scvi.hub import HubMetadata, HubModel, HubModelCardHelper

    version = ad.__version__
    metadata = HubMetadata.from_dir(str(folder), anndata_version=version)
    card = HubModelCardHelper.from_dir(
        str(folder), license_info="cc-by-4.0", anndata_version=version
    )
    HubModel(str(folder), metadata=metadata, model_card=card).save()


@pytest.fixture(params=[save_by_hand, save_by_scvi], ids=["by hand", "by scvi-tools"])
def complete(request):
    return request.param


@pytest.fixture(scope="module")
def model(simulated, train):
    return train(simulated.copy(), max_epochs=5)


def test_a_model_with_its_data_is_loaded_in_one_line(model, complete, tmp_path):
    folder = tmp_path / "hub"
    model.save(str(folder), save_anndata=True)
    complete(folder)
    expected = sb.corrected_counts(model, **HOW)
    found = sb.corrected_counts(sb.load(folder), **HOW)
    assert (found.X != expected.X).nnz == 0


def test_a_minified_model_gives_expression_and_takes_counts(model, simulated, complete, tmp_path):
    folder = tmp_path / "hub"
    expected = sb.corrected_counts(model, **HOW)
    means = sb.normalized_expression(model, transform_batch="V3", progress=False)
    model.save(str(tmp_path / "whole"), save_anndata=True)
    small = sb.load(tmp_path / "whole")
    location, variance = small.get_latent_representation(give_mean=True, return_dist=True)
    small.adata.obsm["X_latent_qzm"], small.adata.obsm["X_latent_qzv"] = location, variance
    small.minify_adata()
    small.save(str(folder), save_anndata=True)
    complete(folder)
    loaded = sb.load(folder)
    assert loaded.adata.X.nnz == 0
    found = sb.normalized_expression(loaded, transform_batch="V3", progress=False)
    assert_allclose(found.X, means.X, rtol=1e-4)
    own = sb.denoised_expression(loaded, progress=False)
    assert_allclose(own.X, sb.denoised_expression(model, progress=False).X, rtol=1e-4)
    support = sb.batch_support(loaded, transform_batch="V3", progress=False)
    assert len(support.cells) == simulated.n_obs
    drawn = sb.corrected_counts(loaded, transform_batch="V3", method="sample", progress=False)
    assert drawn.X.sum() > 0
    with pytest.raises(ValueError, match="minified to latent variables: pass adata= with counts"):
        sb.corrected_counts(loaded, **HOW)
    with pytest.raises(ValueError, match="adata"):
        sb.calibration(loaded, progress=False)
    counts = sb.corrected_counts(loaded, adata=simulated.copy(), **HOW)
    # The same but for the order of floating-point operations.
    assert (counts.X != expected.X).nnz <= 1e-4 * expected.X.size
