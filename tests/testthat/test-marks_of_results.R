# Corrected counts under another name are not raw counts.

# lintr does not see what the helpers define.
# nolint start: object_usage_linter.

is_refused <- function(expression, message = "a result of scvibridge") {
  expect_error(suppressWarnings(suppressMessages(expression)), message, class = "scvibridge_error")
}

latent_of <- function(object, ...) {
  add_latent(object, example_model(), progress = FALSE, ...)
}

renamed_assay <- function(object, before, after) {
  names <- SummarizedExperiment::assayNames(object)
  SummarizedExperiment::assayNames(object)[match(before, names)] <- after
  object
}

with_counts <- function(object, values) {
  SummarizedExperiment::assay(object, "counts", withDimnames = FALSE) <- values
  object
}

corrected_of <- function(object) SummarizedExperiment::assay(object, "corrected")

with_assay_only <- function(object, name) {
  SummarizedExperiment::assays(object) <- SummarizedExperiment::assays(object)[name]
  S4Vectors::metadata(object) <- list()
  cells <- SummarizedExperiment::colData(object)
  SummarizedExperiment::colData(object) <- without_own_flags(cells)
  object
}

latent_values <- function(object) {
  if (methods::is(object, "SingleCellExperiment")) {
    return(SingleCellExperiment::reducedDim(object, "scvi"))
  }
  SummarizedExperiment::colData(object)$scvi
}

test_that("an assay of an experiment with a result is no raw counts under another name", {
  skip_without_python()
  sce <- correct_first(example_sce())
  renamed <- renamed_assay(sce, "corrected", "fixed")
  plain <- methods::as(renamed, "SummarizedExperiment")
  rownames(plain) <- rownames(renamed)
  file <- tempfile(fileext = ".rds")
  saveRDS(renamed[60:1, 60:11], file)
  few <- renamed[, c(5, 50)]
  half <- seq_len(ncol(sce)) <= ncol(sce) / 2
  joined <- SummarizedExperiment::cbind(renamed[, !half], renamed[, half])
  for (object in list(renamed, plain, readRDS(file), few, joined)) {
    is_refused(latent_of(object, assay = "fixed"))
    is_refused(train_scvi(object, "batch", assay = "fixed", max_epochs = 1, progress = FALSE))
    is_refused(scvi_damage(object, "batch", assay = "fixed", progress = FALSE))
    adata <- as_anndata(object, assay = "fixed")
    is_refused(denoised_expression(example_model(), adata = adata, progress = FALSE))
    is_refused(latent_of(object[1:30, ], assay = "fixed"))
    # The raw counts are not.
    raw <- with_assay_only(object, "counts")
    expect_identical(latent_values(latent_of(object)), latent_values(latent_of(raw)))
  }
})

test_that("neither are corrected counts that were stored as the counts, or in an altExp", {
  skip_without_python()
  sce <- correct_first(example_sce())
  overwritten <- with_counts(sce, corrected_of(sce))
  is_refused(latent_of(overwritten), "the assay counts .* a result")
  is_refused(load_scvi(example_files()$model, adata = overwritten), "the assay counts .* a result")
  is_refused(scvi_report(overwritten, tempfile()), "the assay counts holds corrected counts")
  is_refused(as_sce(overwritten), "the assay counts holds corrected counts")
  is_refused(written_result(overwritten), "the assay counts holds corrected counts")
  # A second result does not hide the first.
  second <- suppressMessages(suppressWarnings(corrected_counts(
    renamed_assay(sce, "corrected", "first"), example_model(),
    transform_batch = "V1", progress = FALSE
  )))
  for (name in c("first", "corrected")) {
    is_refused(latent_of(with_counts(second, SummarizedExperiment::assay(second, name))))
  }
  beside <- sce
  SingleCellExperiment::altExp(beside, "fixed") <- SummarizedExperiment::SummarizedExperiment(
    list(counts = corrected_of(sce))
  )
  swapped <- SingleCellExperiment::swapAltExp(beside, "fixed", saved = "raw", withColData = TRUE)
  is_refused(latent_of(swapped))
  # Without the object that has the record, the flags raise a warning.
  alone <- SingleCellExperiment::altExp(beside, "fixed", withColData = TRUE)
  warnings <- testthat::capture_warnings(latent_of(alone))
  expect_match(warnings, "columns of a result .*no record of it", all = FALSE)
  # Genes that the model does not know are left where they are.
  more <- correct_first(example_sce(all_genes()))
  known <- rownames(example_data()$counts)
  values <- as.matrix(SummarizedExperiment::assay(more, "counts"))
  values[known, ] <- as.matrix(corrected_of(SingleCellExperiment::altExp(more, "scvi"))[known, ])
  is_refused(latent_of(with_counts(more, values)))
})

test_that("renaming the cells does not hide a result", {
  skip_without_python()
  sce <- correct_first(example_sce())
  renamed <- renamed_assay(sce, "corrected", "fixed")
  colnames(renamed) <- paste0("sample_", rev(seq_len(ncol(sce))))
  half <- seq_len(ncol(sce)) %% 2 == 0
  for (object in list(renamed, renamed[60:1, half])) {
    is_refused(latent_of(object, assay = "fixed"))
    is_refused(train_scvi(object, "batch", assay = "fixed", max_epochs = 1, progress = FALSE))
    raw <- with_assay_only(object, "counts")
    expect_identical(latent_values(latent_of(object)), latent_values(latent_of(raw)))
  }
  result <- renamed_assay(renamed, "fixed", "corrected")
  expect_identical(colnames(as_sce(result)), colnames(renamed))
  is_refused(as_sce(with_counts(result, corrected_of(sce))), "holds corrected counts")
  skip_without("HDF5Array")
  on_disk <- renamed
  SummarizedExperiment::assay(on_disk, "fixed", withDimnames = FALSE) <-
    HDF5Array::writeHDF5Array(as.matrix(corrected_of(sce)))
  is_refused(latent_of(on_disk, assay = "fixed"))
})

test_that("nor does renaming those of a Seurat object", {
  skip_without_python()
  skip_without("Seurat")
  object <- correct_first(example_seurat())
  object[["mine"]] <- SeuratObject::CreateAssay5Object(
    counts = SeuratObject::LayerData(object, "counts", assay = "corrected")
  )
  object <- SeuratObject::RenameCells(object, add.cell.id = "run1")
  is_refused(latent_of(object, assay = "mine"), "the assay mine .* a result")
  expect_no_error(suppressMessages(latent_of(object)))
})

test_that("real cells with other names are raw", {
  found <- correct_real(real_cells()$counts, cell_data = real_cells()$cells)
  raw <- real_cells()$counts[rownames(found), ]
  marks <- list(marks_of_counts(raw, found, rownames(raw), colnames(raw)))
  cells <- paste0("other_", seq_len(ncol(raw)))
  expect_true(holds_marks(marks, rownames(raw), cells, reader_of(found)))
  expect_false(holds_marks(marks, rownames(raw), cells, reader_of(raw)))
})

test_that("cells whose counts did not change are raw under any name", {
  skip_without_python()
  sce <- correct_first(example_sce())
  target <- renamed_assay(sce[, sce$batch == "V3"], "corrected", "fixed")
  expect_identical(
    unname(as.matrix(SummarizedExperiment::assay(target, "fixed"))),
    unname(as.matrix(SummarizedExperiment::assay(target, "counts")))
  )
  expect_identical(
    latent_values(latent_of(target, assay = "fixed")), latent_values(latent_of(target))
  )
})

test_that("results that a model or a file gives are known as well, also on disk", {
  skip_without_python()
  found <- example_corrected()
  is_refused(latent_of(with_counts(found, corrected_of(found))))
  file <- written_result(found)
  read <- read_corrected(file)
  is_refused(latent_of(with_counts(read, corrected_of(read))))
  skip_without("HDF5Array")
  read <- read_corrected(file, backed = TRUE)
  is_refused(latent_of(with_counts(read, corrected_of(read))))
})

test_that("layers and assays of Seurat with a copy of a result are no raw counts", {
  skip_without_python()
  skip_without("Seurat")
  object <- correct_first(example_seurat())
  values <- SeuratObject::LayerData(object, "counts", assay = "corrected")
  copied <- object
  copied[["mine"]] <- SeuratObject::CreateAssay5Object(counts = values)
  is_refused(latent_of(copied, assay = "mine"), "the assay mine .* a result")
  is_refused(latent_of(copied[, 40:1], assay = "mine"))
  SeuratObject::LayerData(copied, assay = "mine", layer = "umi") <- values
  is_refused(latent_of(copied, assay = "mine", layer = "umi"), "layer umi.* a result")
  converted <- suppressMessages(as_seurat(as_sce(object)))
  SeuratObject::LayerData(converted, assay = "RNA", layer = "umi") <-
    SeuratObject::LayerData(converted, "counts", assay = "corrected")
  is_refused(latent_of(converted, layer = "umi"), "layer umi.* a result")
  SeuratObject::LayerData(object, assay = "RNA", layer = "counts") <- rbind(
    values, SeuratObject::LayerData(object, "counts", assay = "RNA")[paste0("further", 1:4), ]
  )
  is_refused(as_sce(object), "the assay RNA holds corrected counts")
  # Names of genes that Seurat changes.
  odd <- odd_model()
  found <- suppressWarnings(suppressMessages(corrected_counts(
    SingleCellExperiment::SingleCellExperiment(
      list(counts = odd$seurat_counts),
      colData = odd$cells
    ), odd$model,
    transform_batch = "V3", progress = FALSE
  )))
  is_refused(add_latent(with_counts(found, corrected_of(found)), odd$model, progress = FALSE))
})

test_that("results whose record merge() lost are known by their names and flags", {
  skip_without_python()
  skip_without("Seurat")
  object <- correct_first(example_seurat())
  merged <- merge(object, SeuratObject::RenameCells(object, add.cell.id = "other"))
  is_refused(latent_of(merged, assay = "corrected"))
  expect_message(written_result(merged), "no record of a result. It has the assay corrected.*merge")
  values <- SeuratObject::Embeddings(latent_of(object), "scvi")
  found <- SeuratObject::Embeddings(expect_no_warning(latent_of(merged)), "scvi")
  expect_equal(found[colnames(object), ], values, tolerance = 1e-5)
  train <- function(x) train_scvi(x, "batch", max_epochs = 1, progress = FALSE)
  expect_equal(expect_no_warning(train(merged))$summary$n_cells, ncol(merged))
  SeuratObject::DefaultAssay(merged) <- "corrected"
  is_refused(latent_of(merged), "default assay corrected is a result")
  is_refused(train(merged), "default assay corrected is a result")
  sce <- suppressWarnings(Seurat::as.SingleCellExperiment(object, assay = "corrected"))
  is_refused(latent_of(sce), "assay corrected of a Seurat object, a result")
  SeuratObject::DefaultAssay(object) <- "RNA"
  sce <- suppressWarnings(Seurat::as.SingleCellExperiment(object))
  found <- latent_values(suppressWarnings(latent_of(sce)))
  expect_equal(unname(found), unname(values), tolerance = 1e-5)
})
# nolint end
