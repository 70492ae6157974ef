"""Results that went to R come back to Python as they were, with the record of their making."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("rpy2")

import scvibridge as sb
from scvibridge.io.h5ad import PROVENANCE_KEY

pytestmark = pytest.mark.r


@pytest.fixture(scope="module", autouse=True)
def needs_r():
    try:
        sb.r.check_available("seurat")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def counts(trained_model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(
            trained_model,
            transform_batch="V1",
            labels_key="cell_type",
            normalized=True,
            progress=False,
        )


def assert_same_result(found: ad.AnnData, expected: ad.AnnData, *, exact: bool = True) -> None:
    assert list(found.obs_names) == list(expected.obs_names)
    assert list(found.var_names) == list(expected.var_names)
    for one, other in (
        (found.X, expected.X),
        (found.layers["raw_counts"], expected.layers["raw_counts"]),
    ):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.toarray(), other.toarray())
    if "normalized" in expected.layers:
        tolerance = 0 if exact else 1e-5
        np.testing.assert_allclose(
            found.layers["normalized"], expected.layers["normalized"], rtol=tolerance, atol=0
        )
    np.testing.assert_array_equal(found.obsm["X_scvi"], expected.obsm["X_scvi"])
    for name, column in expected.obs.items():
        pd.testing.assert_series_equal(found.obs[name], column, check_dtype=False)
    for name, column in expected.var.items():
        pd.testing.assert_series_equal(found.var[name], column, check_dtype=False)
    np.testing.assert_array_equal(
        found.varm["scvibridge_detection"], expected.varm["scvibridge_detection"]
    )
    record = found.uns[PROVENANCE_KEY]
    assert set(record) == set(expected.uns[PROVENANCE_KEY])
    for name, value in expected.uns[PROVENANCE_KEY].items():
        if isinstance(value, dict):
            continue
        assert type(record[name]) is type(value), name
        np.testing.assert_array_equal(record[name], value, err_msg=name)


@pytest.mark.parametrize("kind", ["sce", "seurat"])
def test_counts_come_back(counts, kind, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Seurat allows neither")
        path = sb.r.write_rds(counts, tmp_path / "result.rds", as_=kind)
        to_r = sb.r.to_sce if kind == "sce" else sb.r.to_seurat
        found = [sb.r.read_result(path), sb.r.result_from_r(to_r(counts))]
    for result in found:
        assert_same_result(result, counts, exact=kind == "sce")
    assert sb.report(found[0], tmp_path / "report.html", progress=False).exists()


def test_expressions_come_back(trained_model):
    expected = sb.denoised_expression(trained_model, progress=False)
    found = sb.r.result_from_r(sb.r.to_sce(expected))
    np.testing.assert_array_equal(found.X, expected.X)
    assert found.X.dtype == np.float32
    assert found.uns[PROVENANCE_KEY]["kind"] == "denoised_expression"
    np.testing.assert_array_equal(
        found.layers["raw_counts"].toarray(), expected.layers["raw_counts"].toarray()
    )


def test_raw_counts_of_a_result_are_no_result(counts, tmp_path):
    path = sb.r.write_rds(counts, tmp_path / "result.rds")
    raw = sb.r.read_rds(path)
    assert PROVENANCE_KEY not in raw.uns
    np.testing.assert_array_equal(raw.X.toarray(), counts.layers["raw_counts"].toarray())
    named = sb.r.read_rds(path, assay="corrected")
    with pytest.raises(ValueError, match=r"the assay corrected .* is a result of scvibridge"):
        sb.train_scvi(named, "batch", progress=False)


def test_what_holds_no_result_is_refused(simulated, tmp_path):
    with pytest.raises(TypeError, match="obj must be an R object"):
        sb.r.result_from_r(simulated)
    with pytest.raises(FileNotFoundError):
        sb.r.read_result(tmp_path / "absent.rds")


def test_counts_that_were_changed_are_not_handed_on(counts, tmp_path):
    import scanpy as sc

    changed = counts.copy()
    sc.pp.log1p(changed)
    for kind in ("sce", "seurat"):
        with pytest.raises(ValueError, match="X of this result no longer holds"):
            sb.r.write_rds(changed, tmp_path / "changed.rds", as_=kind)
    assert not list(tmp_path.iterdir())
