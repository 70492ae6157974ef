"""Results that were normalised, logged or scaled in place are not handed on as what they were."""

import warnings

import anndata as ad
import numpy as np
import pytest
import scanpy as sc

import scvibridge as sb
from scvibridge.io import ten_x
from scvibridge.io.backed import open_anndata
from scvibridge.r import descriptions, to_anndata, to_r


@pytest.fixture(scope="module")
def counts(trained_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(
            trained_model, transform_batch="V1", normalized=True, progress=False
        )


@pytest.fixture(scope="module")
def expression(trained_model):
    return sb.normalized_expression(trained_model, progress=False)


def logged(result, layer=None):
    changed = result.copy()
    sc.pp.normalize_total(changed, target_sum=1e4, layer=layer)
    sc.pp.log1p(changed, layer=layer)
    return changed


def scaled(result):
    changed = result.copy()
    changed.X = changed.X.toarray() if hasattr(changed.X, "toarray") else changed.X
    sc.pp.scale(changed)
    return changed


WAYS = {
    "to R": lambda result, _: to_r.assays(result),
    "to R, from disk": lambda result, folder: descriptions.describe_file(written(result, folder)),
    "h5ad from R": lambda result, folder: to_anndata.write_anndata(
        result, str(folder / "a.h5ad"), overwrite=False
    ),
    "10x": lambda result, folder: ten_x.write_10x_h5(result, folder / "a.h5"),
    "report": lambda result, folder: sb.report(result, folder / "a.html", progress=False),
    "report of a file": lambda result, folder: sb.report(written(result, folder), progress=False),
}


def written(result, folder):
    result.write_h5ad(folder / "changed.h5ad")
    return str(folder / "changed.h5ad")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (logged, r"^X of this result no longer holds the corrected counts.*not whole numbers"),
        (scaled, r"^X of this result no longer holds the corrected counts.*negative values"),
        (
            lambda result: logged(result, "raw_counts"),
            r"^layers\['raw_counts'\] of this result no longer holds the raw counts",
        ),
    ],
    ids=["log", "scale", "log of raw counts"],
)
def test_no_way_out_takes_what_was_changed(counts, way, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        WAYS[way](change(counts), tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != "changed.h5ad"]


@pytest.mark.parametrize("form", ["sparse", "columns", "dense"])
def test_matrices_on_disk_are_looked_through_whole(counts, form, tmp_path, monkeypatch):
    monkeypatch.setattr("scvibridge.io.unchanged._VALUES_PER_READ", 50)
    changed = ad.AnnData(counts.X.astype(np.float32), obs=counts.obs, uns=counts.uns)
    changed.layers["raw_counts"] = counts.layers["raw_counts"]
    changed.X = {
        "sparse": lambda: changed.X,
        "columns": changed.X.tocsc,
        "dense": changed.X.toarray,
    }[form]()
    changed.write_h5ad(tmp_path / "whole.h5ad")
    assert list(to_r.assays(open_anndata(tmp_path / "whole.h5ad"))) == ["counts", "corrected"]
    last = changed.X[-1].nonzero()[-1][-1]
    changed.X[-1, last] += 0.5
    changed.write_h5ad(tmp_path / "changed.h5ad")
    with pytest.raises(ValueError, match="no longer holds the corrected counts"):
        to_r.assays(open_anndata(tmp_path / "changed.h5ad"))


def test_the_message_names_a_copy_that_was_kept(counts):
    kept = counts.copy()
    kept.layers["kept"] = kept.X.copy()
    with pytest.raises(ValueError, match=r"adata.X = adata.layers\['kept'\]"):
        to_r.assays(logged(kept))
    del kept.layers["kept"]
    kept.raw = kept
    changed = logged(kept)
    with pytest.raises(ValueError, match=r"put them back, adata.X = adata.raw.X"):
        to_r.assays(changed)
    changed.X = changed.raw.X
    np.testing.assert_array_equal(to_r.assays(changed)["corrected"].toarray(), counts.X.toarray())


def test_expressions_may_be_anything_but_scaled(expression):
    np.testing.assert_array_equal(to_r.assays(expression)["normalized"], expression.X)
    with pytest.raises(ValueError, match="no longer holds expression, but negative values"):
        to_r.assays(scaled(expression))
    with pytest.warns(UserWarning, match="logarithms of logarithms"):
        to_r.assays(logged(expression))


def test_what_was_joined_without_its_record_is_explained(counts):
    joined = ad.concat([counts[:100], counts[100:]])
    with pytest.raises(ValueError, match="uns_merge='first'"):
        to_r.assays(joined)
    joined = ad.concat([counts[:100], counts[100:]], uns_merge="first")
    assert list(to_r.assays(joined)) == ["counts", "corrected", "normalized"]
