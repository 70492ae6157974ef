# Files written from R, as anndata reads them: every value.

read_in_python <- function(file) {
  reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
}

written <- function(x, ...) {
  file <- tempfile(fileext = ".h5ad")
  shown <- withVisible(write_h5ad(x, file, ..., progress = FALSE))
  testthat::expect_identical(shown, list(value = file, visible = FALSE))
  testthat::expect_identical(
    list.files(dirname(file), basename(file), all.files = TRUE), basename(file)
  )
  read_in_python(file)
}

# h5ad has no text with missing values: it becomes a factor.
in_file <- function(columns) {
  columns$text <- factor(columns$text)
  columns
}

test_that("a file holds what as_anndata() gives", {
  skip_without_python()
  counts <- counts_of_r()
  columns <- columns_of_r(colnames(counts))
  expect_anndata_of(written(counts, cell_data = columns), counts, in_file(columns))
  sce <- small_sce()
  adata <- written(sce, assay = "corrected")
  expect_anndata_of(
    adata, SummarizedExperiment::assay(sce, "corrected"), SummarizedExperiment::colData(sce)
  )
  expect_identical(
    reticulate::py_to_r(adata$obsm[["X_scvi"]]),
    SingleCellExperiment::reducedDim(sce, "scvi", withDimnames = FALSE)
  )
  skip_without("Seurat")
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = columns)
  expect_anndata_of(written(object), counts, in_file(object[[]]))
})

test_that("what lies on disk goes block by block, to the same file", {
  skip_without_python()
  skip_without("HDF5Array")
  counts <- counts_of_r(n_genes = 50, n_cells = 40)
  columns <- columns_of_r(colnames(counts))
  testthat::local_mocked_bindings(values_in_block = 50 * 7)
  forms <- list(
    whole = methods::as(counts, "TENxMatrix"), dense = methods::as(as.matrix(counts), "HDF5Array")
  )
  for (form in forms) {
    adata <- written(form, cell_data = columns)
    expect_anndata_of(adata, counts, in_file(columns))
    expect_identical(dtype_of(adata), "int32")
  }
  # Selected, reordered, computed with.
  halves <- forms$dense[50:3, 40:2] / 2
  adata <- written(halves)
  expect_anndata_of(adata, counts[50:3, 40:2] / 2)
  expect_identical(dtype_of(adata), "float32")
  expect_identical(dtype_of(written(forms$whole / 3)), "float64")
})

test_that("blocks hold no more cells than they should", {
  skip_without_python()
  counts <- counts_of_r(n_cells = 24)
  parts <- object_parts(counts)
  asked <- list()
  read <- parts$read
  parts$read <- function(positions) {
    asked[[length(asked) + 1]] <<- positions
    read(positions)
  }
  testthat::local_mocked_bindings(values_in_block = 30 * 10)
  file <- tempfile(fileext = ".h5ad")
  write_in_blocks(parts, file, progress = FALSE)
  expect_identical(lapply(asked, range), rep(list(c(1L, 10L), c(11L, 20L), c(21L, 24L)), 2))
  expect_anndata_of(read_in_python(file), counts)
})

test_that("a result left on disk is written, and opened where it is large", {
  skip_without("HDF5Array")
  on_disk <- read_corrected(odd_file(), backed = TRUE)
  in_memory <- as_sce(odd_file())
  adata <- suppressWarnings(written(on_disk, assay = "corrected"))
  corrected <- SummarizedExperiment::assay(in_memory, "corrected")
  expect_anndata_of(adata, corrected)
  testthat::local_mocked_bindings(most_values_in_memory = 10)
  opened <- reticulate::r_to_py(suppressWarnings(as_anndata(on_disk, assay = "corrected")))
  expect_identical(reticulate::py_to_r(opened$X$format), "csr")
  expect_s3_class(opened$X, "anndata._core.sparse_dataset._CSRDataset")
  expect_anndata_of(opened$to_memory(), corrected)
})

test_that("layers of Seurat that lie on disk are joined block by block", {
  skip_without_python()
  skip_without("Seurat", "HDF5Array")
  counts <- counts_of_r()
  object <- SeuratObject::CreateSeuratObject(counts)
  object[["RNA"]] <- split(object[["RNA"]], f = rep(c("x", "y"), 12))
  for (layer in SeuratObject::Layers(object, search = "counts")) {
    values <- SeuratObject::LayerData(object, layer)
    SeuratObject::LayerData(object, layer) <- methods::as(values, "TENxMatrix")
  }
  expect_s4_class(SeuratObject::LayerData(object, "counts.x"), "DelayedMatrix")
  testthat::local_mocked_bindings(values_in_block = 30 * 7)
  expect_anndata_of(written(object), counts)
})

test_that("a file is replaced where that is asked for alone", {
  skip_without_python()
  counts <- counts_of_r()
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(counts, file)
  expect_error(
    write_h5ad(counts[1:5, ], file), "exists: choose another name, or set overwrite = TRUE",
    class = "scvibridge_error"
  )
  expect_anndata_of(read_in_python(file), counts)
  write_h5ad(counts[1:5, ], file, overwrite = TRUE)
  expect_anndata_of(read_in_python(file), counts[1:5, ])
  expect_error(write_h5ad(counts, "counts.rds"), "ends in .rds, expected .h5ad")
  expect_error(write_h5ad(counts, "absent/x.h5ad"), "folder absent does not exist")
})

test_that("an assay raw_counts does not replace the raw counts", {
  skip_without_python()
  sce <- small_sce()
  counts <- SummarizedExperiment::assay(sce, "counts")
  SummarizedExperiment::assay(sce, "raw_counts") <- counts * 10
  file <- tempfile(fileext = ".h5ad")
  expect_error(
    write_h5ad(sce, file, progress = FALSE), "the assay raw_counts has the name .* rename it first",
    class = "scvibridge_error"
  )
  expect_false(file.exists(file))
  present <- SummarizedExperiment::assayNames(sce)
  SummarizedExperiment::assayNames(sce)[present == "raw_counts"] <- "ten"
  adata <- written(sce)
  expect_identical(python_matrix(adata$layers[["raw_counts"]]), unname(as.matrix(counts)))
  expect_identical(python_matrix(adata$layers[["ten"]]), unname(as.matrix(counts * 10)))
})

test_that("names of assays that are no names in a file are refused before anything is read", {
  skip_without_python()
  for (name in c("a/b", "", "normalized")) {
    sce <- small_sce()
    counts <- SummarizedExperiment::assay(sce, "counts")
    SummarizedExperiment::assay(sce, "more") <- counts
    present <- SummarizedExperiment::assayNames(sce)
    SummarizedExperiment::assayNames(sce)[present == "more"] <- name
    file <- tempfile(fileext = ".h5ad")
    expect_error(
      write_h5ad(sce, file, progress = FALSE),
      paste0("cannot be written under these names: '", name, "'\\. Give each another name"),
      class = "scvibridge_error"
    )
    expect_false(file.exists(file))
  }
})

test_that("what Python holds is written too", {
  files <- example_files()
  before <- read_in_python(files$adata)
  for (x in list(files$adata, before)) {
    file <- tempfile(fileext = ".h5ad")
    write_h5ad(x, file)
    after <- read_in_python(file)
    expect_identical(python_matrix(after$X), python_matrix(before$X))
    expect_true(reticulate::py_to_r(after$obs$equals(before$obs)))
    expect_true(reticulate::py_to_r(after$var$equals(before$var)))
  }
  refused <- function(message, ...) {
    file <- tempfile(fileext = ".h5ad")
    expect_error(write_h5ad(..., path = file), message, class = "scvibridge_error")
  }
  mudata <- reticulate::import("mudata", convert = FALSE)
  refused(
    "MuData, which an h5ad file cannot hold", suppressWarnings(mudata$MuData(list(rna = before)))
  )
  refused("assay is only for objects of R", files$adata, assay = "counts")
})

test_that("a failure leaves no file", {
  skip_without_python()
  parts <- object_parts(counts_of_r())
  parts$read <- function(positions) stop("the disk is gone")
  folder <- tempfile("folder")
  dir.create(folder)
  expect_error(
    write_in_blocks(parts, file.path(folder, "x.h5ad"), progress = FALSE), "the disk is gone",
    class = "scvibridge_error"
  )
  expect_identical(list.files(folder, all.files = TRUE, no.. = TRUE), character())
})

test_that("assays of the user keep their double precision", {
  sce <- as_sce(odd_file())
  counts <- as.matrix(SummarizedExperiment::assay(sce, "counts"))
  own <- list(
    logcounts = log2(counts / 3 + 1), # dense, with no exact single precision
    scaled = methods::as(counts / 7, "dgCMatrix"),
    whole = counts + 2^24 + 1, halves = counts / 2,
    gaps = replace(counts, 1:2, c(NA, 1 / 3))
  )
  for (name in names(own)) SummarizedExperiment::assay(sce, name) <- own[[name]]
  testthat::local_mocked_bindings(values_in_block = nrow(sce) * 3)
  adata <- written(sce)
  dtypes <- c(
    logcounts = "float64", scaled = "float64", whole = "float64", halves = "float32",
    gaps = "float64"
  )
  for (name in names(own)) {
    layer <- adata$layers[[name]]
    expect_identical(reticulate::py_str(layer$dtype), dtypes[[name]], label = name)
    expect_identical(python_matrix(layer), unname(as.matrix(own[[name]])), label = name)
  }
})

test_that("expression that scvibridge computed stays in single precision", {
  skip_without_python()
  sce <- normalized_expression(example_model(), progress = FALSE)
  adata <- written(sce)
  expect_identical(reticulate::py_str(adata$X$dtype), "float32")
  skip_without("Seurat")
  # log1p and its inverse leave the values a little different.
  adata <- written(suppressMessages(as_seurat(sce)))
  expect_identical(reticulate::py_str(adata$X$dtype), "float32")
  expect_equal(python_matrix(adata$X), unname(SummarizedExperiment::assay(sce, "normalized")),
    tolerance = 1e-6
  )
})
