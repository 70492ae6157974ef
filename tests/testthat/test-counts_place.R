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

# What a report compares the corrected counts with.
reported_raw <- function(object) {
  raw <- result_parts(object)$raw
  unname(as.matrix(raw$read(seq_along(raw$cells))))
}

rna_of <- function(object) {
  unname(as.matrix(SeuratObject::LayerData(object, assay = "RNA", layer = "counts")))
}

test_that("the raw counts of a result are those of the assay that was corrected", {
  skip_without_python()
  counts <- unname(as.matrix(place_cells()$counts))
  half <- unname(as.matrix(place_cells()$half))
  plain <- methods::as(place_sce(), "SummarizedExperiment")
  rownames(plain) <- rownames(place_sce())
  model <- train_small(place_sce())
  named <- suppressMessages(correct_small(place_sce(), model, assay = "umi"))
  of_model <- suppressMessages(correct_small(place_sce(), train_small(place_sce(), assay = "umi")))
  by_number <- suppressMessages(correct_small(plain, model, assay = 2))
  for (found in list(named, of_model, by_number)) {
    expect_identical(raw_of(found), half)
    expect_identical(reported_raw(found), counts)
    expect_message(converted <- as_sce(found), "those of the assay umi, .* becomes other_counts")
    for (x in list(converted, as_sce(converted))) {
      expect_setequal(
        SummarizedExperiment::assayNames(x), c("counts", "other_counts", "corrected")
      )
      expect_identical(raw_of(x), counts)
      expect_identical(
        unname(as.matrix(SummarizedExperiment::assay(x, "other_counts"))), half
      )
    }
    expect_identical(raw_of(read_corrected(suppressMessages(written_result(found)))), counts)
  }
  # Means that are added from other counts leave the record of the corrected counts.
  more <- suppressMessages(normalized_expression(named, model, progress = FALSE))
  expect_identical(raw_of(suppressMessages(as_sce(more))), counts)
  # Other counts, corrected in their place, do not.
  again <- suppressMessages(correct_small(named, model))
  expect_identical(raw_of(as_sce(again)), half)
  expect_identical(reported_raw(again), half)
  SummarizedExperiment::assay(named, "umi") <- NULL
  expect_identical(raw_of(as_sce(named)), half)
  skip_without("Seurat")
  expect_identical(rna_of(as_seurat(of_model)), counts)
  expect_identical(rna_of(as_seurat(again)), half)
})

test_that("so are those of results beside the object's genes", {
  skip_without_python()
  model <- train_small(place_sce()[1:20, ])
  counts <- unname(as.matrix(place_cells()$counts))
  half <- unname(as.matrix(place_cells()$half))
  first <- suppressMessages(correct_small(place_sce(), model))
  expect_identical(raw_of(as_sce(first)), half[1:20, ])
  found <- suppressMessages(correct_small(first, model, assay = "umi"))
  expect_identical(raw_of(as_sce(found)), counts[1:20, ])
  expect_identical(reported_raw(found), counts[1:20, ])
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(
    suppressMessages(written_result(found))
  )
  expect_identical(python_matrix(adata$X), counts)
  skip_without("Seurat")
  expect_identical(rna_of(suppressMessages(as_seurat(found))), counts)
})

test_that("the raw counts of a Seurat object are those of the layer that was corrected", {
  skip_without_python()
  skip_without("Seurat")
  counts <- unname(as.matrix(place_cells()$counts))
  layered <- place_seurat()
  SeuratObject::LayerData(layered, assay = "RNA", layer = "umi") <- place_cells()$counts
  named <- suppressMessages(correct_small(layered, train_small(place_seurat()), layer = "umi"))
  of_model <- suppressMessages(correct_small(layered, train_small(layered, layer = "umi")))
  renamed <- suppressWarnings(suppressMessages(SeuratObject::RenameAssays(named, RNA = "mine")))
  for (found in list(named, of_model, renamed)) {
    expect_identical(raw_of(as_sce(found)), counts)
    expect_identical(reported_raw(found), counts)
    expect_identical(raw_of(read_corrected(written_result(found))), counts)
  }
  SeuratObject::LayerData(named, assay = "RNA", layer = "umi") <- NULL
  expect_identical(raw_of(as_sce(named)), unname(as.matrix(place_cells()$half)))
})

test_that("another reduction scvi does not say where the raw counts are", {
  skip_without_python()
  skip_without("Seurat")
  model <- train_small(place_seurat())
  latent <- SeuratObject::Embeddings(
    suppressMessages(correct_small(place_seurat(), model)), "scvi"
  )
  object <- place_seurat()
  object[["scvi"]] <- SeuratObject::CreateDimReducObject(latent, key = "scvi_", assay = "UMI")
  found <- suppressMessages(correct_small(object, model, assay = "RNA"))
  expect_identical(SeuratObject::DefaultAssay(found[["scvi"]]), "UMI")
  half <- unname(as.matrix(place_cells()$half))
  expect_identical(raw_of(as_sce(found)), half)
  expect_identical(reported_raw(found), half)
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
  # A matrix that a call returned is known by its attribute.
  cells <- place_cells()$cells
  matrix <- correct_small(place_cells()$half, model, cell_data = cells)
  refused(correct_small(matrix, model, cell_data = cells))
  refused(train_scvi(matrix, "batch", cell_data = cells))
  refused(scvi_damage(matrix, "batch", cell_data = cells))
  refused(correct_small(model, adata = as_anndata(matrix, cell_data = cells)))
})

test_that("the raw counts of a result are taken without a warning of its flags", {
  skip_without_python()
  correct <- function(adata) {
    corrected_counts(example_model(), adata = adata, transform_batch = "V3", progress = FALSE)
  }
  objects <- list(correct_first(example_sce()))
  if (requireNamespace("Seurat", quietly = TRUE)) {
    objects <- c(objects, correct_first(example_seurat()))
  }
  for (object in objects) {
    warnings <- testthat::capture_warnings(found <- correct(as_anndata(object)))
    expect_false(any(grepl("columns of a result", warnings)))
    expect_identical(
      as.matrix(SummarizedExperiment::assay(found, "counts")),
      as.matrix(SummarizedExperiment::assay(suppressMessages(as_sce(object)), "counts"))[
        rownames(found),
      ]
    )
  }
  # Other assays of it may hold anything.
  other <- objects[[1]]
  SummarizedExperiment::assay(other, "fixed") <- SummarizedExperiment::assay(other, "corrected") + 1
  warnings <- testthat::capture_warnings(correct(as_anndata(other, assay = "fixed")))
  expect_match(warnings, "columns of a result", all = FALSE)
})

test_that("an assay of Seurat with a result is no raw counts under another name", {
  skip_without_python()
  skip_without("Seurat")
  model <- example_model()
  result <- correct_first(example_seurat())
  renamed <- suppressWarnings(
    SeuratObject::RenameAssays(result, corrected = "fixed", verbose = FALSE)
  )
  refused <- function(expression) {
    expect_error(expression, "fixed .*a result of scvibridge", class = "scvibridge_error")
  }
  refused(correct_first(renamed, assay = "fixed"))
  refused(train_small(renamed, assay = "fixed"))
  adata <- as_anndata(renamed, assay = "fixed")
  refused(corrected_counts(model, adata = adata, transform_batch = "V3", progress = FALSE))
  SeuratObject::DefaultAssay(renamed) <- "fixed"
  expect_message(
    found <- correct_first(renamed, quiet = FALSE), "raw counts are read from the assay RNA"
  )
  expect_identical(
    SeuratObject::LayerData(found, "counts", assay = "corrected"),
    SeuratObject::LayerData(result, "counts", assay = "corrected")
  )
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
