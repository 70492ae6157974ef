# Models trained from R, against those that Python trains of the same counts.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

cells_of_r <- function() {
  set.seed(2)
  means <- outer(stats::rexp(60, 1 / 3), c(1, 1.4))
  batch <- rep(1:2, 80)
  values <- matrix(as.double(stats::rpois(60 * 160, means[, batch])), 60)
  dimnames(values) <- list(paste0("gene", 1:60), paste0("cell", 1:160))
  columns <- data.frame(
    donor = factor(c("d1", "d2")[batch]), type = rep(c("x", "y", "z", "z"), 40),
    mito = stats::runif(160), row.names = colnames(values)
  )
  list(counts = methods::as(values, "dgCMatrix"), columns = columns)
}

train_few <- function(object, ...) {
  train_scvi(object, ..., n_top_genes = 30, max_epochs = 2, device = "cpu", progress = FALSE)
}

# The latent means of the model's own cells tell one model from another.
latent_of <- function(model) reticulate::py_to_r(model$python$get_latent_representation())

test_that("every object gives the model that Python trains", {
  skip_without_python()
  cells <- cells_of_r()
  adata <- reticulate::r_to_py(as_anndata(cells$counts, cell_data = cells$columns))
  expected <- trained_in_python(adata, batch_key = "donor", labels_key = "type")
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(adata, file)
  objects <- list(
    adata, file,
    SingleCellExperiment::SingleCellExperiment(
      list(logcounts = log1p(cells$counts), counts = cells$counts),
      colData = S4Vectors::DataFrame(cells$columns)
    )
  )
  if (requireNamespace("Seurat", quietly = TRUE)) {
    whole <- SeuratObject::CreateSeuratObject(cells$counts, meta.data = cells$columns)
    halves <- whole
    halves[["RNA"]] <- split(halves[["RNA"]], f = halves$donor)
    objects <- c(objects, whole, halves)
  }
  for (object in objects) {
    model <- train_few(object, batch_key = "donor", labels_key = "type")
    expect_identical(latent_of(model), expected, label = class(object)[1])
    expect_identical(model$summary$batches, c("d1", "d2"))
  }
  model <- train_few(cells$counts, batch_key = "donor", labels_key = "type", cell_data = cells$columns)
  expect_identical(latent_of(model), expected)
})

test_that("flags of an earlier result are no columns of the training", {
  skip_without_python()
  train <- function(object) {
    train_scvi(object, batch_key = "batch", n_top_genes = NULL, max_epochs = 2, progress = FALSE)
  }
  columns_of <- function(model) {
    text <- reticulate::r_to_py(model$python)$adata$obs$columns$tolist()
    unlist(reticulate::py_to_r(text))
  }
  objects <- list(example_sce(), example_sce(all_genes()))
  if (requireNamespace("Seurat", quietly = TRUE)) {
    objects <- c(objects, example_seurat())
  }
  seurats <- c("nCount_corrected", "nFeature_corrected")
  for (object in objects) {
    expected <- expect_no_warning(train(object))
    found <- expect_no_warning(train(correct_first(object)))
    further <- setdiff(columns_of(found), columns_of(expected))
    expect_identical(further, if (inherits(object, "Seurat")) seurats else character())
    latent <- function(model) reticulate::py_to_r(model$python$get_latent_representation())
    expect_identical(latent(found), latent(expected))
  }
})

test_that("flags of an unknown result are one warning of R, and none of Python", {
  skip_without_python()
  sce <- example_sce()
  SummarizedExperiment::colData(sce)$scvibridge_empty <- FALSE
  warnings <- reticulate::import("warnings", convert = FALSE)
  user_warning <- reticulate::import_builtins(convert = FALSE)$UserWarning
  with(warnings$catch_warnings(), {
    warnings$simplefilter("error", user_warning)
    told <- testthat::capture_warnings(
      train_scvi(sce, batch_key = "batch", max_epochs = 1, progress = FALSE)
    )
  })
  expect_match(told, "columns of a result of scvibridge", all = FALSE)
  expect_length(told, 1)
})

test_that("settings arrive", {
  skip_without_python()
  cells <- cells_of_r()
  chosen <- paste0("gene", c(7, 3, 20:40))
  model <- train_scvi(
    cells$counts,
    batch_key = "donor", categorical_covariate_keys = "type", continuous_covariate_keys = "mito",
    n_top_genes = chosen, n_latent = 4, n_layers = 2, gene_likelihood = "zinb",
    max_epochs = 1, early_stopping = FALSE, seed = 5, progress = FALSE, cell_data = cells$columns
  )
  expect_identical(model$python$adata$var_names$tolist(), chosen)
  expect_identical(dim(latent_of(model)), c(160L, 4L))
  expect_identical(model$summary$gene_likelihood, "zinb")
  decoder <- model$python$module$decoder$px_decoder
  expect_equal(unlist(decoder$n_cat_list), c(2, 3))
  expect_length(decoder$fc_layers, 2)
  all_genes <- train_scvi(
    cells$counts,
    batch_key = "donor", n_top_genes = NULL, max_epochs = 1, progress = FALSE,
    cell_data = cells$columns
  )
  expect_identical(all_genes$summary$n_genes, 60L)
})

test_that("a model is printed with its training, and corrects", {
  skip_without_python()
  cells <- cells_of_r()
  model <- train_few(cells$counts, batch_key = "donor", cell_data = cells$columns)
  history <- model$python$history
  # scvi-tools before 1.3 has the loss of each epoch under another name.
  training <- intersect(c("train_loss_epoch", "train_loss"), names(history))[1]
  losses <- vapply(
    c(training, "validation_loss"),
    function(name) as.double(utils::tail(history[[name]][[1]], 1)), numeric(1)
  )
  printed <- capture.output(print(model))
  expect_match(printed[1], 'SCVI, gene_likelihood "nb"')
  expect_match(printed[2], "160 cells, 30 genes")
  expect_match(printed[3], "batches \\(donor\\): d1, d2")
  expect_identical(printed[4], paste0(
    "  trained for 2 epochs; last loss: training ", format(losses, digits = 5)[[1]],
    ", held-out cells ", format(losses, digits = 5)[[2]]
  ))
  expect_match(printed[5], "folder: none")
  sce <- suppressWarnings(corrected_counts(model, transform_batch = "d1", progress = FALSE))
  genes <- model$python$adata$var_names$tolist()
  expect_identical(
    as.matrix(SummarizedExperiment::assay(sce, "counts")), as.matrix(cells$counts[genes, ])
  )
})

test_that("a saved model is loaded by its folder, one that was not says so", {
  skip_without_python()
  cells <- cells_of_r()
  folder <- tempfile("model")
  model <- train_few(cells$counts, batch_key = "donor", save = folder, cell_data = cells$columns)
  loaded <- load_scvi(folder)
  expect_equal(latent_of(loaded), latent_of(model), tolerance = 1e-6)
  expect_output(print(model), paste("folder:", folder), fixed = TRUE)
  expect_false(any(grepl("epochs", capture.output(print(loaded)))))
  expect_error(
    train_few(cells$counts, cell_data = cells$columns, save = folder), "overwrite = TRUE",
    class = "scvibridge_error"
  )

  model$dir <- "none"
  file <- tempfile(fileext = ".rds")
  saveRDS(model, file)
  restored <- readRDS(file)
  expect_output(print(restored), "not in this R session, and not saved")
  expect_error(
    corrected_counts(restored, transform_batch = "d1"), "was not saved: train it again, train_scvi",
    class = "scvibridge_error"
  )
})

test_that("progress is told in epochs", {
  skip_without_python()
  skip_without("progressr")
  cells <- cells_of_r()
  told <- list()
  withCallingHandlers(
    progressr::with_progress(
      train_scvi(cells$counts, max_epochs = 3, n_top_genes = NULL, device = "cpu"),
      handlers = progressr::handler_void(), enable = TRUE
    ),
    progression = function(condition) told <<- c(told, list(condition))
  )
  told <- Filter(function(condition) !inherits(condition, "control_progression"), told)
  types <- vapply(told, function(condition) condition$type, character(1))
  expect_identical(types[c(1, length(types))], c("initiate", "finish"))
  expect_identical(conditionMessage(told[[1]]), "Training")
})

test_that("what cannot be is refused", {
  skip_without_python()
  cells <- cells_of_r()
  expect_refused <- function(message, ...) {
    expect_error(
      train_scvi(cells$counts, ..., cell_data = cells$columns), message,
      class = "scvibridge_error"
    )
  }
  expect_refused("^batch_key = \"doner\" is not a column of the cells' metadata.*did you mean \"donor\"", batch_key = "doner")
  expect_refused("n_latent must be a single whole number, got 2.5", n_latent = 2.5)
  expect_refused("early_stopping must be TRUE or FALSE", early_stopping = NA)
  expect_refused("n_top_genes must be a character vector without NA", n_top_genes = list(1))
  expect_refused("the data lack 1 of the 1 genes in n_top_genes", n_top_genes = "GENE")
  expect_refused("there is no argument labls; did you mean labels_key", labls = "type")
  expect_refused("there is no argument maxepochs; did you mean max_epochs", maxepochs = 5)
  expect_error(
    train_scvi(example_files()$adata, "batch", maxepochs = 5), "did you mean max_epochs",
    class = "scvibridge_error"
  )
  # What only objects of R have.
  for (adata in list(example_files()$adata, as_anndata(cells$counts))) {
    expect_error(
      train_scvi(adata, "batch", assay = "umi"),
      "assay is only for objects of R, .* has layers: layer", class = "scvibridge_error"
    )
    expect_error(
      train_scvi(adata, "batch", cell_data = cells$columns), "cell_data is only for objects of R",
      class = "scvibridge_error"
    )
    for (argument in c("assay", "cell_data")) {
      given <- stats::setNames(list("umi"), argument)
      expect_error(
        do.call(scvi_damage, c(list(adata, "batch"), given)),
        paste(argument, "is only for objects of R"), class = "scvibridge_error"
      )
    }
  }
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = cells$counts))
  for (call in list(train_scvi, scvi_damage)) {
    expect_error(
      call(sce, "batch", cell_data = cells$columns), "cell_data is only for a matrix",
      class = "scvibridge_error"
    )
  }
  expect_error(train_scvi(1:3), "not an object of class integer", class = "scvibridge_error")
  halves <- cells$counts / 2
  expect_error(train_scvi(halves, n_top_genes = NULL), "not whole numbers")
})
