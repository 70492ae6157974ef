"""Objects of R with one gene, columns of other classes and results beside, from Python."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.io import h5ad
from scvibridge.r.session import call

pytest.importorskip("rpy2", reason="needs rpy2")


@pytest.fixture(scope="module")
def counts(run_r):
    run_r("", needs=("SingleCellExperiment", "Seurat"))
    result = ad.AnnData(
        np.arange(12, dtype=np.int32).reshape(4, 3),
        obs=pd.DataFrame({"lot": [1.0, 2.0, 1.0, 2.0]}, index=list("abcd")),
        var=pd.DataFrame({"seen": pd.to_datetime(["2024-01-01"] * 3)}, index=["g1", "g2", "g3"]),
    )
    result.layers["raw_counts"] = result.X[::-1].copy()
    result.obsm["X_scvi"] = np.ones((4, 2), dtype=np.float32)
    result.uns["scvibridge"] = {"kind": "corrected_counts"}
    return result


SHAPES = {"one gene": np.s_[:, :1], "one cell": np.s_[1:2, :], "one value": np.s_[1:2, :1]}


@pytest.mark.parametrize("part", SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_small_results_become_seurat_objects(counts, part, tmp_path):
    small = counts[SHAPES[part]].copy()
    path = sb.r.write_rds(small, tmp_path / "small.rds", as_="seurat")
    for assay, expected in (("RNA", small.layers["raw_counts"]), ("corrected", small.X)):
        read = sb.r.read_rds(path, assay=assay)
        np.testing.assert_array_equal(read.X.toarray(), expected)
        assert read.obs_names.tolist() == small.obs_names.tolist()
        assert read.var_names.tolist() == small.var_names.tolist()
        assert read.obs["lot"].tolist() == small.obs["lot"].tolist()


def test_the_way_out_is_told(counts):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sb.r.to_seurat(counts[:, :1].copy())
    told = " ".join(str(warning.message) for warning in caught)
    assert "cannot hold a single gene or a single cell" in told
    assert "Converted to text or plain numbers: seen" in told


def test_results_beside_more_genes_are_kept(counts):
    from rpy2 import robjects

    sce = sb.r.to_sce(counts)
    whole = robjects.r(
        "function(sce) { x <- SingleCellExperiment::SingleCellExperiment("
        "list(counts = matrix(7, 5, 4, dimnames = list(paste0('g', 1:5), colnames(sce)))));"
        "SingleCellExperiment::altExp(x, 'scvi') <- sce; x }"
    )(sce)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seurat = sb.r.sce_to_seurat(whole)
    np.testing.assert_array_equal(sb.r.from_r(seurat, assay="corrected").X.toarray(), counts.X)
    assert (sb.r.from_r(seurat, assay="RNA").X.toarray() == 7).all()


def test_columns_with_classes_of_r_come_back(counts):
    from rpy2 import robjects

    sce = sb.r.to_sce(counts)
    dated = robjects.r("function(x) { x$day <- as.Date('2024-01-01') + 0:3; x }")(sce)
    adata = sb.r.from_r(dated, assay="corrected")
    assert adata.obs["day"].tolist() == [f"2024-01-0{day}" for day in range(1, 5)]
    adata.layers["raw_counts"] = adata.X
    adata.uns["scvibridge"] = {"kind": "corrected_counts"}
    again = sb.r.to_sce(adata)
    same = robjects.r("function(x, y) identical(x$day, y$day) && inherits(x$day, 'Date')")
    assert same(again, dated)[0]


def test_bytes_and_old_objects_are_refused():
    from rpy2 import robjects

    matrix = "matrix(1:4, 2, 2, dimnames = list(c('a', 'b'), c('c', 'd\\xfc')))"
    with pytest.raises(ValueError, match=r"colnames\(x\) <- iconv\(colnames\(x\), \"latin1\""):
        sb.r.from_r(robjects.r(matrix))
    with pytest.raises(ValueError, match=r"Seurat 2, .*UpdateSeuratObject"):
        call("vectors_of_object", robjects.r("structure(list(), class = 'seurat')"))


@pytest.mark.parametrize("name", ["x.rds", "x.RDS"])
def test_objects_of_r_are_no_data_of_python(name, tmp_path, capsys):
    for read in (sb.train_scvi, h5ad.read_anndata, sb.report):
        with pytest.raises(ValueError, match="read_rds") as error:
            read(name)
        assert f"scvibridge.r.read_rds({name!r})" in str(error.value)
    (tmp_path / "model.pt").touch()
    arguments = ["correct", str(tmp_path), "--adata", name, "--transform-batch", "V3"]
    assert main.main([*arguments, "--out", str(tmp_path / "out.h5ad")]) == 2
    assert "read_rds" in capsys.readouterr().err
