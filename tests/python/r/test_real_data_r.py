"""The whole way on real cells into R, by rpy2 from Python and by reticulate from R itself."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest

import scvibridge as sb
from scvibridge.io.h5ad import write_h5ad

pytestmark = [pytest.mark.r, pytest.mark.slow]

N_GENES = 400

DATA = {
    "pbmc_10x_v2_v3_vdj": {"transform_batch": "V3", "labels_key": "cell_type"},
    "kang_ifnb_pbmc_4k": {
        "transform_batch": "1015",
        "labels_key": "cell_type_coarse",
        "condition_key": "condition",
    },
}

# Arguments: the model's folder, its data, Python's result as h5ad, sce.rds and seurat.rds, then the
# target, the labels and, if any, the condition.
IN_R = """
suppressPackageStartupMessages({library(scvibridge); library(SingleCellExperiment)})
a <- commandArgs(trailingOnly = TRUE)
sce <- readRDS(a[4]); seurat <- readRDS(a[5])

# rpy2's objects against the file, read by a reader that is not ours
on_disk <- function(layer = NULL) unname(as.matrix(HDF5Array::H5ADMatrix(a[3], layer)))
stopifnot(
  identical(unname(as.matrix(assay(sce, "corrected"))), on_disk() + 0),
  identical(unname(as.matrix(assay(sce, "counts"))), on_disk("raw_counts") + 0),
  identical(unname(assay(sce, "normalized")), on_disk("normalized"))
)

# reticulate's objects against rpy2's
from_file <- as_sce(a[3])
for (part in c(assays, reducedDims, colData, rowData, metadata))
  stopifnot(identical(part(from_file), part(sce)))
stopifnot(identical(suppressMessages(as_seurat(sce)), seurat))

# the same call, made in R
model <- load_scvi(a[1], adata = a[2])
ours <- suppressWarnings(corrected_counts(
  model, transform_batch = a[6], labels_key = a[7], condition_key = if (length(a) > 7) a[8],
  normalized = TRUE, progress = FALSE
))
stopifnot(
  identical(colData(ours), colData(sce)), identical(metadata(ours), metadata(sce)),
  identical(assay(ours, "counts"), assay(sce, "counts")),
  mean(assay(ours, "corrected") != assay(sce, "corrected")) <= 1e-5,
  all.equal(assay(ours, "normalized"), assay(sce, "normalized"), tolerance = 1e-5)
)
in_seurat <- SeuratObject::LayerData(seurat, "counts", assay = "corrected")
cat(sprintf("%.0f", c(sum(assay(ours, "corrected")), sum(in_seurat))))
"""


@pytest.mark.parametrize("name", DATA)
def test_both_languages_give_the_same_objects(name, shared_data, train, run_r, tmp_path):
    adata = ad.read_h5ad(shared_data(name))
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    largest = np.argsort(np.asarray(adata.X.sum(axis=0)).ravel())[-N_GENES:]
    adata = adata[:, np.sort(largest)].copy()
    adata.write_h5ad(tmp_path / "data.h5ad")
    train(adata, labels_key=None, max_epochs=3, batch_size=128).save(str(tmp_path / "model"))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sb.load(tmp_path / "model", adata=tmp_path / "data.h5ad")
        result = sb.corrected_counts(model, normalized=True, progress=False, **DATA[name])
        write_h5ad(result, tmp_path / "result.h5ad")
        for as_ in ("sce", "seurat"):
            sb.r.write_rds(result, tmp_path / f"{as_}.rds", as_=as_)
    files = [tmp_path / f for f in ("model", "data.h5ad", "result.h5ad", "sce.rds", "seurat.rds")]
    needs = ("scvibridge", "SingleCellExperiment", "Seurat", "HDF5Array")
    totals = run_r(IN_R, *files, *DATA[name].values(), needs=needs).split()[-2:]
    total = float(result.X.sum())
    assert float(totals[1]) == total
    assert float(totals[0]) == pytest.approx(total, rel=1e-5)
