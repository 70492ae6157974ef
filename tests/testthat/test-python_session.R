# Isolated calls: the same values as in R's process, to the last bit, and no torch there.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

# What an R process of its own says after isolated calls; it saves what they gave.
isolated_session <- function(files, folder) {
  run_rscript(c(
    "library(scvibridge)",
    sprintf(
      "model <- load_scvi(%s, %s, isolate = TRUE)", quoted(files$model), quoted(files$adata)
    ),
    "sce <- corrected_counts(model, transform_batch = 'V3', labels_key = 'cell_type',",
    "  condition_key = 'condition', normalized = TRUE, progress = FALSE)",
    sprintf("saveRDS(sce, %s)", quoted(file.path(folder, "sce.rds"))),
    "modules <- reticulate::import('sys')$modules",
    "cat('\nloaded:', c('torch', 'scvi', 'anndata') %in% names(modules), '\n')",
    "cat('left:', list.files(tempdir(), 'scvibridge'), '\n')"
  ), stderr = file.path(folder, "messages"))
}

test_that("counts are those of the shared process, and torch is not loaded in R's", {
  files <- example_files()
  folder <- tempfile("isolated")
  dir.create(folder)
  printed <- isolated_session(files, folder)
  expect_true("loaded: FALSE FALSE TRUE " %in% printed, info = toString(printed))
  expect_true("left:  " %in% printed || "left: " %in% printed, info = toString(printed))
  shared <- suppressWarnings(corrected_counts(
    example_model(),
    transform_batch = "V3", labels_key = "cell_type", condition_key = "condition",
    normalized = TRUE, progress = FALSE
  ))
  expect_identical(readRDS(file.path(folder, "sce.rds")), shared)
})

# One model for the tests below, which is loaded by each call.
isolated_model <- function() {
  files <- example_files()
  if (is.null(remembered$isolated)) {
    remembered$isolated <- load_scvi(files$model, files$adata, isolate = TRUE)
  }
  remembered$isolated
}

test_that("an isolated model is described as the shared one", {
  expect_identical(isolated_model()$summary, example_model()$summary)
  expect_s3_class(isolated_model()$python, "scvibridge.r.process.IsolatedModel")
  expect_output(print(isolated_model()), "150 cells, 60 genes")
})

test_that("data that reticulate holds go over, and results may go to a file", {
  skip_without("HDF5Array")
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(example_files()$adata)
  file <- tempfile(fileext = ".h5ad")
  found <- denoised_expression(
    isolated_model(),
    adata = adata, indices = c(5, 2), out = file, progress = FALSE
  )
  shared <- denoised_expression(example_model(), indices = c(5, 2), progress = FALSE)
  expect_identical(colnames(found), c("cell5", "cell2"))
  expect_same_assays(found, shared)
})

test_that("diagnoses are those of the shared process and are taken by either", {
  found <- scvi_calibration(isolated_model(), n_references = 5, progress = FALSE)
  shared <- scvi_calibration(example_model(), n_references = 5, progress = FALSE)
  without_pointer <- function(x) x[setdiff(names(x), "python")]
  expect_identical(without_pointer(found), without_pointer(shared))
  correct <- function(model, dispersion) {
    corrected_counts(model, transform_batch = "V3", dispersion = dispersion, progress = FALSE)
  }
  expected <- suppressWarnings(correct(example_model(), shared))
  expect_identical(suppressWarnings(correct(example_model(), found)), expected)
  expect_warning(
    again <- correct(isolated_model(), shared), "confounding was not checked"
  )
  expect_identical(again, expected)
})

test_that("an error is the same condition", {
  error_of <- function(model) {
    error <- tryCatch(
      corrected_counts(model, transform_batch = "v3", progress = FALSE),
      error = identity
    )
    list(class(error), conditionMessage(error), grepl("Traceback", error$traceback))
  }
  found <- error_of(isolated_model())
  expect_identical(found, error_of(example_model()))
  expect_true("python.builtin.ValueError" %in% found[[1]])
})

test_that("a model extended by an isolated call is the one of the shared process", {
  files <- example_files()
  anndata <- reticulate::import("anndata", convert = FALSE)
  own <- anndata$read_h5ad(files$adata)
  further <- own$copy()
  names <- reticulate::py_to_r(own$var_names$tolist())
  further$var_names <- as.list(paste0("further_", names))
  path <- tempfile(fileext = ".h5ad")
  anndata$concat(list(own, further), axis = "var", merge = "first")$write_h5ad(path)
  extend <- function(model) {
    extend_genes(
      model, path,
      gene_list = paste0("further_", names[1:4]), max_epochs = 1, ridge = 0.1, progress = FALSE
    )
  }
  found <- extend(isolated_model())
  shared <- extend(example_model())
  expect_identical(found$quality, shared$quality)
  expect_identical(found$summary$n_genes, 64L)
  source <- found$python$source
  expect_true(file.exists(file.path(source$model_dir, "extension.npz")))
  expect_identical(source$adata, normalizePath(path))
})

# One batch of enough cells to be split.
damage_file <- function() {
  if (is.null(remembered$damage)) {
    remembered$damage <- tempfile(fileext = ".h5ad")
    adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(example_files()$adata)
    reticulate::py_set_item(adata$obs, "batch", "one")
    adata$write_h5ad(remembered$damage)
  }
  remembered$damage
}

test_that("the option isolates what has no model, and progress is shown", {
  skip_without("progressr")
  previous <- options(scvibridge.isolate = TRUE, scvibridge.threads = 1L)
  on.exit(options(previous))
  told <- list()
  found <- withCallingHandlers(
    progressr::with_progress(
      suppressWarnings(scvi_damage(
        damage_file(), "batch",
        max_epochs = 1
      )),
      handlers = progressr::handler_void(), enable = TRUE
    ),
    progression = function(condition) told <<- c(told, list(conditionMessage(condition)))
  )
  options(scvibridge.isolate = FALSE)
  shared <- suppressWarnings(scvi_damage(damage_file(), "batch", max_epochs = 1, progress = FALSE))
  attr(found, "python") <- attr(shared, "python") <- NULL
  expect_identical(found, shared)
  expect_true(length(told) > 0)
})

test_that("what is no flag or number of threads is refused", {
  expect_error(load_scvi("x", isolate = NA), "isolate must be TRUE or FALSE, got NA")
  previous <- options(scvibridge.isolate = "yes", scvibridge.threads = NULL)
  on.exit(options(previous))
  expect_error(load_scvi("x"), "isolate must be TRUE or FALSE", class = "scvibridge_error")
  options(scvibridge.isolate = NULL, scvibridge.threads = 0)
  expect_error(load_scvi("x"), "must be 1 or more, got 0", class = "scvibridge_error")
})

test_that("training is isolated, too, and its model is at hand afterwards", {
  expected <- example_corrected()
  cells <- SingleCellExperiment::SingleCellExperiment(
    list(counts = SummarizedExperiment::assay(expected, "counts")),
    colData = SummarizedExperiment::colData(expected)[c("batch", "cell_type")]
  )
  train <- function(isolate) {
    train_scvi(
      cells,
      batch_key = "batch", n_top_genes = NULL, max_epochs = 2, progress = FALSE, isolate = isolate
    )
  }
  isolated <- train(TRUE)
  expect_match(paste(class(isolated$python), collapse = " "), "IsolatedModel")
  expect_identical(isolated$summary$n_cells, ncol(cells))
  expect_identical(isolated$summary$training$n_epochs, 2L)
  shared <- train(FALSE)
  given <- list(cells, transform_batch = "V3", labels_key = "cell_type", progress = FALSE)
  corrected <- lapply(list(isolated, shared), function(model) {
    suppressWarnings(do.call(corrected_counts, c(list(given[[1]], model), given[-1])))
  })
  expect_identical(
    SummarizedExperiment::assay(corrected[[1]], "corrected"),
    SummarizedExperiment::assay(corrected[[2]], "corrected")
  )
})

test_that("isolated models have data with names that no h5ad file can hold", {
  files <- example_files()
  data <- example_data()
  cells <- SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts),
    colData = S4Vectors::DataFrame(
      batch = data$cells$batch, "CD4/CD8" = data$cells$cell_type, check.names = FALSE
    ),
    reducedDims = list("PCA/all" = matrix(1, ncol(data$counts), 2))
  )
  loaded <- lapply(c(TRUE, FALSE), function(isolate) {
    model <- load_scvi(files$model, cells, isolate = isolate)
    suppressWarnings(corrected_counts(
      model,
      transform_batch = "V3", labels_key = "CD4/CD8", shrinkage = 0, progress = FALSE
    ))
  })
  expect_identical(loaded[[1]], loaded[[2]])
  expect_true("CD4/CD8" %in% colnames(SummarizedExperiment::colData(loaded[[1]])))
  trained <- lapply(c(TRUE, FALSE), function(isolate) {
    model <- train_scvi(cells, "CD4/CD8", max_epochs = 1, progress = FALSE, isolate = isolate)
    expect_identical(model$summary$batch_key, "CD4/CD8")
    suppressWarnings(corrected_counts(model, transform_batch = "B", progress = FALSE))
  })
  expect_identical(
    SummarizedExperiment::assay(trained[[1]], "corrected"),
    SummarizedExperiment::assay(trained[[2]], "corrected")
  )
  # The folder of the user's is another matter.
  expect_error(
    train_scvi(cells, "CD4/CD8", max_epochs = 1, save = tempfile(), isolate = TRUE),
    "\"CD4/CD8\" cannot be written to an h5ad file",
    class = "scvibridge_error"
  )
})
