# By reticulate: what the SingleCellExperiment holds, against what Python holds.

test_that("a result of counts keeps every value", {
  adata <- test_module("odd_result")$odd_counts()
  sce <- as_sce(adata)

  expect_s4_class(sce, "SingleCellExperiment")
  expect_identical(
    SummarizedExperiment::assayNames(sce), c("counts", "corrected", "normalized")
  )
  expect_same_values(SummarizedExperiment::assay(sce, "counts"), adata$layers[["raw_counts"]])
  expect_same_values(SummarizedExperiment::assay(sce, "corrected"), adata$X)
  expect_same_values(SummarizedExperiment::assay(sce, "normalized"), adata$layers[["normalized"]])
  expect_s4_class(SummarizedExperiment::assay(sce, "corrected"), "dgCMatrix")
  expect_true(is.matrix(SummarizedExperiment::assay(sce, "normalized")))
  expect_identical(rownames(sce), reticulate::py_to_r(adata$var_names$tolist()))
  expect_identical(colnames(sce), reticulate::py_to_r(adata$obs_names$tolist()))
  expect_true(methods::validObject(SummarizedExperiment::assay(sce, "corrected")))
  expect_true(methods::validObject(sce))
})

test_that("columns keep kind, values, levels and what is missing", {
  adata <- test_module("odd_result")$odd_counts()
  sce <- as_sce(adata)
  expect_columns_of_python(SummarizedExperiment::colData(sce), adata$obs)
  expect_columns_of_python(SummarizedExperiment::rowData(sce), adata$var)

  cells <- SummarizedExperiment::colData(sce)
  expect_identical(levels(cells$factor), c("b", "a", "unused"))
  expect_s3_class(cells$ordered, "ordered")
  expect_true(cells$ordered[1] < cells$ordered[2])
  expect_identical(cells$nullable_bool[1:4], c(TRUE, NA, FALSE, TRUE))
  expect_identical(cells$object_bool[1:4], c(TRUE, NA, FALSE, TRUE))
  expect_identical(cells$nullable_int[1:4], c(1L, NA, 3L, 4L))
  expect_identical(cells$at_na_integer[1:2], c(-2^31, 1))
  expect_identical(cells$text[1:4], c("x", "y", "NA", ""))
  expect_identical(cells$double[1:4], c(0.1, NA, Inf, -1e300))
  expect_identical(cells$all_missing, rep(NA, 12))
  expect_identical(format(cells$time[3], "%Y-%m-%d %H", tz = "UTC"), "2021-02-03 04")
})

test_that("reduced dimensions and tables of genes keep their values", {
  adata <- test_module("odd_result")$odd_counts()
  sce <- as_sce(adata)
  expect_identical(SingleCellExperiment::reducedDimNames(sce), c("scvi", "UMAP"))
  scvi <- SingleCellExperiment::reducedDim(sce, "scvi")
  expect_same_values(t(scvi), adata$obsm[["X_scvi"]])
  expect_identical(rownames(scvi), colnames(sce))
  detection <- SummarizedExperiment::rowData(sce)$detection
  expect_same_values(t(detection), adata$varm[["detection"]]$to_numpy())
  expect_identical(colnames(detection), c("V2", "V3"))
})

test_that("the provenance arrives as plain R values", {
  sce <- as_sce(test_module("odd_result")$odd_counts())
  expect_identical(
    S4Vectors::metadata(sce)$scvibridge,
    list(
      kind = "corrected_counts", transform_batch = c("V2", "V3"), library_size = 1e4,
      seed = 2^32 - 1, zero_inflation = TRUE, notes = character(), labels_key = "cell_type",
      nested = list(numbers = 1:3, text = "a")
    )
  )
})

test_that("expressions carry the name of their kind", {
  odd <- test_module("odd_result")
  for (name in c("normalized", "denoised")) {
    adata <- odd$odd_expression(paste0(name, "_expression"))
    sce <- as_sce(adata)
    expect_identical(SummarizedExperiment::assayNames(sce), c("counts", name))
    expect_same_values(SummarizedExperiment::assay(sce, name), adata$X)
  }
})

test_that("a selection of one cell or one gene stays a matrix", {
  adata <- test_module("odd_result")$odd_counts()
  positions <- function(i) reticulate::r_to_py(array(i))
  one_cell <- as_sce(adata[positions(3L)])
  expect_identical(dim(one_cell), c(7L, 1L))
  expect_same_values(
    SummarizedExperiment::assay(one_cell, "corrected"), adata$X[positions(3L)]
  )
  one_gene <- as_sce(adata[reticulate::tuple(reticulate::import_builtins()$slice(NULL), "GENE")])
  expect_identical(dim(one_gene), c(1L, 12L))
  expect_identical(rownames(one_gene), "GENE")
})

test_that("results written by Python are read from their files", {
  adata <- test_module("odd_result")$odd_counts()
  adata$obs <- adata$obs[reticulate::r_to_py(list("factor", "nullable_bool", "double"))]
  file <- tempfile(fileext = ".h5ad")
  scvibridge_module("io.h5ad")$write_h5ad(adata, file)
  sce <- as_sce(file)
  expect_same_values(SummarizedExperiment::assay(sce, "corrected"), adata$X)
  expect_columns_of_python(SummarizedExperiment::colData(sce), adata$obs)
  expect_equal(as_sce(reticulate::import("anndata", convert = FALSE)$read_h5ad(file)), sce)
})

test_that("what is no result is refused", {
  adata <- test_module("odd_result")$odd_counts()
  adata$uns <- reticulate::dict()
  expect_error(as_sce(adata), "not a result of scvibridge", class = "scvibridge_error")
  expect_error(as_sce("absent.h5ad"), "there is no file", class = "scvibridge_error")
  expect_error(as_sce(1), "x must be the path.*class numeric", class = "scvibridge_error")
  expect_error(as_sce(NULL), "not NULL", class = "scvibridge_error")
})

test_that("the rpy2 way gives the identical objects", {
  adata <- test_module("odd_result")$odd_counts()
  folder <- tempfile("rds")
  dir.create(folder)
  sys <- reticulate::import("sys")
  code <- paste(
    "import sys; sys.path[:0] = sys.argv[1:3]",
    "import odd_result, scvibridge",
    "for kind in ('sce', 'seurat'):",
    "    scvibridge.r.write_rds(odd_result.odd_counts(), f'{sys.argv[3]}/{kind}.rds', as_=kind)",
    sep = "\n"
  )
  script <- file.path(folder, "write.py")
  writeLines(code, script)
  arguments <- shQuote(c(
    script, normalizePath(python_code()), normalizePath(test_path(".")), folder
  ))
  output <- suppressWarnings(system2(sys$executable, arguments, stdout = TRUE, stderr = TRUE))
  skip_if(
    any(grepl("^ImportError", output)),
    paste("scvibridge.r is not usable here:", tail(output, 1))
  )
  expect_true(file.exists(file.path(folder, "seurat.rds")), info = paste(output, collapse = "\n"))

  sce <- as_sce(adata)
  expect_identical(readRDS(file.path(folder, "sce.rds")), sce)
  skip_without("Seurat")
  expect_identical(readRDS(file.path(folder, "seurat.rds")), suppressMessages(as_seurat(sce)))
})
