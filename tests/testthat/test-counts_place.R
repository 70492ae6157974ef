# Where a model's counts are in objects of R: the assay and the layer of the training are read from
# whatever is given later, and nothing else silently.

# nolint start: object_usage_linter. The functions are in helper.R.
place_cells <- function() {
  counts <- methods::as(counts_of_r(n_genes = 30, n_cells = 120) + 1, "CsparseMatrix")
  cells <- data.frame(batch = rep(c("a", "b"), 60), row.names = colnames(counts))
  list(counts = counts, half = methods::as(counts %/% 2, "CsparseMatrix"), cells = cells)
}

place_sce <- function() {
  of <- place_cells()
  SingleCellExperiment::SingleCellExperiment(
    list(counts = of$half, umi = of$counts), colData = S4Vectors::DataFrame(of$cells)
  )
}

place_seurat <- function() {
  of <- place_cells()
  object <- SeuratObject::CreateSeuratObject(of$half, meta.data = of$cells)
  object[["UMI"]] <- SeuratObject::CreateAssay5Object(of$counts)
  object
}

train_small <- function(object, ...) {
  key <- paste("place", deparse(substitute(object)), ...)
  if (is.null(remembered[[key]])) {
    remembered[[key]] <- train_scvi(
      object,
      batch_key = "batch", n_top_genes = NULL, max_epochs = 2, progress = FALSE, ...
    )
  }
  remembered[[key]]
}

correct_small <- function(...) {
  suppressWarnings(corrected_counts(..., transform_batch = "a", progress = FALSE))
}

raw_of <- function(sce) unname(as.matrix(SummarizedExperiment::assay(sce, "counts")))

# Cells of the target are unchanged, whatever they were read from.
expect_read_from <- function(corrected, counts) {
  own <- place_cells()$cells$batch == "a"
  expect_identical(unname(as.matrix(corrected))[, own], unname(as.matrix(counts))[, own])
}

test_that("the assay of a SingleCellExperiment is read again", {
  skip_without_python()
  model <- train_small(place_sce(), assay = "umi")
  told <- messages_of(found <- correct_small(place_sce(), model))
  expect_match(told, "raw counts are read from the assay umi, on which the model was trained", all = FALSE)
  expect_read_from(SummarizedExperiment::assay(found, "corrected"), place_cells()$counts)
  # Also where the object is an argument.
  found <- suppressMessages(correct_small(model, adata = place_sce()))
  expect_identical(raw_of(found), unname(as.matrix(place_cells()$counts)))
  expect_identical(
    S4Vectors::metadata(found)$scvibridge$counts_from,
    "the assay umi of the SingleCellExperiment"
  )
  # What is named is taken, with a warning.
  suppressWarnings(expect_warning(
    found <- corrected_counts(
      place_sce(), model,
      assay = "counts", transform_batch = "a", progress = FALSE
    ),
    "was trained on the assay umi .* those of the assay counts"
  ))
  expect_read_from(SummarizedExperiment::assay(found, "corrected"), place_cells()$half)
})

test_that("an object without the assay of the training is refused", {
  skip_without_python()
  model <- train_small(place_sce(), assay = "umi")
  lacking <- place_sce()
  SummarizedExperiment::assay(lacking, "umi") <- NULL
  message <- "trained on the assay umi, which the object lacks; it has counts: set assay to the one"
  expect_error(correct_small(lacking, model), message, class = "scvibridge_error")
  expect_error(correct_small(model, adata = lacking), message, class = "scvibridge_error")
})

test_that("a saved model remembers the assay, and files of another are warned of", {
  skip_without_python()
  folder <- tempfile("place")
  train_scvi(
    place_sce(),
    batch_key = "batch", assay = "umi", n_top_genes = NULL, max_epochs = 2, save = folder,
    progress = FALSE
  )
  told <- messages_of(model <- load_scvi(folder, adata = place_sce()))
  expect_match(told, "read from the assay umi", all = FALSE)
  expect_identical(raw_of(correct_small(model)), unname(as.matrix(place_cells()$counts)))
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(place_sce(), file)
  suppressWarnings(expect_warning(
    corrected_counts(model, adata = file, transform_batch = "a", progress = FALSE),
    "those of the assay counts"
  ))
})

test_that("assay and layer of a Seurat object are read again", {
  skip_without_python()
  skip_without("Seurat")
  model <- train_small(place_seurat(), assay = "UMI")
  told <- messages_of(found <- correct_small(place_seurat(), model))
  expect_match(told, "read from the assay UMI, layer counts, on which the model was trained", all = FALSE)
  corrected <- SeuratObject::LayerData(found, assay = "corrected", layer = "counts")
  expect_read_from(corrected, place_cells()$counts)
  expect_identical(SeuratObject::DefaultAssay(found[["scvi"]]), "UMI")

  layered <- place_seurat()
  SeuratObject::LayerData(layered, assay = "RNA", layer = "umi") <- place_cells()$counts
  model <- train_small(layered, layer = "umi")
  found <- suppressMessages(correct_small(layered, model))
  corrected <- SeuratObject::LayerData(found, assay = "corrected", layer = "counts")
  expect_read_from(corrected, place_cells()$counts)

  # The assay that was the default of the training, whatever the default is now.
  model <- train_small(place_seurat())
  changed <- place_seurat()
  SeuratObject::DefaultAssay(changed) <- "UMI"
  found <- suppressMessages(correct_small(changed, model))
  corrected <- SeuratObject::LayerData(found, assay = "corrected", layer = "counts")
  expect_read_from(corrected, place_cells()$half)
})

test_that("the layer of a file is read from files and objects that have it", {
  skip_without_python()
  adata <- as_anndata(place_sce())
  adata <- reticulate::r_to_py(adata)
  reticulate::py_set_item(adata$layers, "umi", adata$X$multiply(3L)$tocsr())
  file <- tempfile(fileext = ".h5ad")
  adata$write_h5ad(file)
  model <- train_small(file, layer = "umi")
  three <- unname(as.matrix(place_cells()$half * 3))
  expect_identical(raw_of(correct_small(model, adata = file)), three)
  found <- suppressMessages(correct_small(place_sce(), model))
  expect_read_from(SummarizedExperiment::assay(found, "corrected"), place_cells()$counts)
  lacking <- place_sce()
  SummarizedExperiment::assay(lacking, "umi") <- NULL
  expect_match(
    messages_of(correct_small(lacking, model)), "trained on the layer umi, which the object lacks",
    all = FALSE
  )
  expect_identical(
    raw_of(suppressMessages(correct_small(model, adata = place_sce()))),
    unname(as.matrix(place_cells()$counts))
  )
})

test_that("counts in raw are taken from files, and named in the error", {
  skip_without_python()
  adata <- reticulate::r_to_py(as_anndata(place_sce()))
  adata$raw <- adata$copy() # log1p() changes the values in place
  reticulate::import("scanpy", convert = FALSE)$pp$log1p(adata)
  file <- tempfile(fileext = ".h5ad")
  adata$write_h5ad(file)
  expect_error(train_small(file), 'layer = "raw"', class = "scvibridge_error")
  model <- train_small(file, layer = "raw")
  half <- unname(as.matrix(place_cells()$half))
  expect_identical(raw_of(correct_small(model, adata = file)), half)
})

test_that("results are not taken for raw counts", {
  skip_without_python()
  skip_without("Seurat")
  model <- train_small(place_sce())
  result <- correct_small(place_sce(), model)
  refused <- function(expression) {
    expect_error(expression, "a result of scvibridge", class = "scvibridge_error")
  }
  refused(train_small(result, assay = "corrected"))
  refused(correct_small(result, model, assay = "corrected"))
  refused(scvi_damage(result, "batch", assay = "corrected"))
  refused(correct_small(model, adata = as_anndata(result, assay = "corrected")))
  found <- suppressMessages(correct_small(result, model))
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"), SummarizedExperiment::assay(result, "corrected")
  )
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(as_sce(result), file)
  suppressWarnings(expect_warning(
    found <- corrected_counts(model, adata = file, transform_batch = "a", progress = FALSE),
    "raw counts are read from its layer \"raw_counts\""
  ))
  expect_identical(raw_of(found), unname(as.matrix(place_cells()$half)))
})

test_that("errors speak of the object, and of its other assays or layers", {
  skip_without_python()
  skip_without("Seurat")
  sce <- place_sce()
  SummarizedExperiment::assay(sce, "logcounts") <- log1p(as.matrix(place_cells()$counts))
  expect_error(
    train_small(sce, assay = "logcounts"),
    "^the assay logcounts of the SingleCellExperiment must hold.*has counts, umi: name the assay",
    class = "scvibridge_error"
  )
  object <- Seurat::NormalizeData(place_seurat(), verbose = FALSE)
  expect_error(
    train_small(object, layer = "data"),
    "^the assay RNA \\(layer data\\) of the Seurat object must hold.*has counts: name the layer",
    class = "scvibridge_error"
  )
})

test_that("modalities in layers of one assay are named, and 10x files too", {
  skip_without_python()
  skip_without("Seurat")
  counts <- place_cells()$counts
  object <- SeuratObject::CreateSeuratObject(
    list(`Gene Expression` = counts, Peaks = counts[1:5, ])
  )
  expect_error(
    as_anndata(object), "layer = \"counts.Gene Expression\"",
    fixed = TRUE, class = "scvibridge_error"
  )
  expect_anndata_of(as_anndata(object, layer = "counts.Gene Expression"), counts)
  file <- tempfile(fileext = ".h5")
  file.create(file)
  expect_error(train_small(file), "Seurat::Read10X_h5()", fixed = TRUE)
  expect_error(as_anndata(file), "Seurat::Read10X_h5()", fixed = TRUE)
})
# nolint end
