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
EVERY = 3  # cell of the data

DATA = {
    "pbmc_10x_v2_v3_vdj": {"transform_batch": "V3", "labels_key": "cell_type"},
    "kang_ifnb_pbmc_4k": {
        "transform_batch": "1015",
        "labels_key": "cell_type_coarse",
        "condition_key": "condition",
    },
}

# Arguments, eight for each data set: the model's folder, its data, Python's result as h5ad, sce.rds
# and seurat.rds, then the target, the labels and the condition, which may be empty.
IN_R = """
suppressPackageStartupMessages({library(scvibridge); library(SingleCellExperiment)})

totals <- function(a) {
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
    model, transform_batch = a[6], labels_key = a[7], condition_key = if (nzchar(a[8])) a[8],
    normalized = TRUE, progress = FALSE
  ))
  stopifnot(
    identical(colData(ours), colData(sce)), identical(metadata(ours), metadata(sce)),
    identical(assay(ours, "counts"), assay(sce, "counts")),
    mean(assay(ours, "corrected") != assay(sce, "corrected")) <= 1e-5,
    all.equal(assay(ours, "normalized"), assay(sce, "normalized"), tolerance = 1e-5)
  )
  in_seurat <- SeuratObject::LayerData(seurat, "counts", assay = "corrected")
  sprintf("%.0f", c(sum(assay(ours, "corrected")), sum(in_seurat)))
}
cat(apply(matrix(commandArgs(trailingOnly = TRUE), 8), 2, totals))
"""


def test_both_languages_give_the_same_objects(shared_data, train, run_r, tmp_path):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    arguments, expected = [], []
    for name, settings in DATA.items():
        folder = tmp_path / name
        folder.mkdir()
        expected.append(in_python(ad.read_h5ad(shared_data(name)), settings, train, folder))
        files = ("model", "data.h5ad", "result.h5ad", "sce.rds", "seurat.rds")
        values = {"condition_key": "", **settings}
        keys = ("transform_batch", "labels_key", "condition_key")
        arguments += [*(folder / file for file in files), *(values[key] for key in keys)]
    needs = ("scvibridge", "SingleCellExperiment", "Seurat", "HDF5Array")
    totals = np.array(run_r(IN_R, *arguments, needs=needs).split()[-2 * len(DATA) :], float)
    in_r, in_seurat = totals.reshape(-1, 2).T
    assert in_seurat.tolist() == expected
    assert in_r == pytest.approx(expected, rel=1e-5)


def in_python(adata, settings, train, folder):
    """Write the model, its cells and the result in each form; return the sum of all counts."""
    largest = np.argsort(np.asarray(adata.X.sum(axis=0)).ravel())[-N_GENES:]
    adata = adata[::EVERY, np.sort(largest)].copy()
    adata.write_h5ad(folder / "data.h5ad")
    train(adata, labels_key=None, max_epochs=3, batch_size=128).save(str(folder / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sb.load(folder / "model", adata=folder / "data.h5ad")
        result = sb.corrected_counts(model, normalized=True, progress=False, **settings)
        write_h5ad(result, folder / "result.h5ad")
        for as_ in ("sce", "seurat"):
            sb.r.write_rds(result, folder / f"{as_}.rds", as_=as_)
    return float(result.X.sum())
