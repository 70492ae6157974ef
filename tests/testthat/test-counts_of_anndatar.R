# AnnData objects of anndataR. The package itself is loaded where the variable SCVIBRIDGE_ANNDATAR
# names the folder of its source; elsewhere a stand-in has the fields of its classes.

# The fields that the classes of anndataR share, as one has them after reading a file.
stand_in <- function(fields, class = "InMemoryAnnData") {
  structure(list2env(fields, parent = emptyenv()), class = c(class, "AbstractAnnData", "R6"))
}

# The example, cells x genes, with the counts in `X` or in a layer.
anndatar_fields <- function(chosen = example_order(), layer = NULL) {
  data <- example_data()
  counts <- Matrix::t(data$counts[, chosen])
  counts <- methods::as(counts, "RsparseMatrix")
  halves <- as.matrix(counts) / 2
  list(
    X = if (is.null(layer)) counts else halves,
    layers = if (is.null(layer)) list(halves = halves) else stats::setNames(list(counts), layer),
    obs = data$cells[chosen, ], obs_names = rownames(counts),
    var = data.frame(symbol = tolower(colnames(counts)), row.names = colnames(counts)),
    var_names = colnames(counts),
    obsm = list(X_pca = matrix(seq_len(2 * length(chosen)) / 3, ncol = 2), names = letters),
    uns = list(note = "mine")
  )
}

# Installs anndataR from its source, once, in a library of its own.
real_anndatar <- function() {
  source <- Sys.getenv("SCVIBRIDGE_ANNDATAR")
  testthat::skip_if_not(
    dir.exists(source), "SCVIBRIDGE_ANNDATAR does not name the folder of anndataR's source"
  )
  if (is.null(remembered$anndatar)) {
    library <- tempfile("library")
    dir.create(library)
    status <- system2(
      file.path(R.home("bin"), "R"),
      c("CMD", "INSTALL", "--no-docs", "--no-test-load", "-l", library, source),
      stdout = FALSE, stderr = FALSE
    )
    testthat::skip_if_not(status == 0, "anndataR could not be installed from its source")
    loadNamespace("anndataR", lib.loc = library)
    remembered$anndatar <- library
  }
  asNamespace("anndataR")
}

# The AnnData that Python gets has the counts, tables and reductions of the fields.
expect_anndata_of_fields <- function(adata, fields, counts) {
  held <- reticulate::r_to_py(adata)
  expect_identical(reticulate::py_to_r(held$obs_names$tolist()), fields$obs_names)
  expect_identical(reticulate::py_to_r(held$var_names$tolist()), fields$var_names)
  expect_identical(unname(as.matrix(python_matrix(held$X))), unname(t(as.matrix(counts))))
  expect_identical(
    as.vector(reticulate::py_to_r(held$obs[["batch"]]$astype("str")$tolist())),
    as.character(fields$obs$batch)
  )
  expect_equal(unname(reticulate::py_to_r(held$obsm[["X_pca"]])), unname(fields$obsm$X_pca))
}

test_that("an AnnData of anndataR is converted", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  fields <- anndatar_fields()
  for (class in c("InMemoryAnnData", "HDF5AnnData", "ZarrAnnData")) {
    expect_anndata_of_fields(as_anndata(stand_in(fields, class)), fields, fields$X)
  }
  fields <- anndatar_fields(layer = "counts")
  expect_anndata_of_fields(as_anndata(stand_in(fields), layer = "counts"), fields, fields$layers[[1]])
})

test_that("an AnnData of anndataR is corrected as a SingleCellExperiment is", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  object <- stand_in(anndatar_fields())
  before <- as.list(object)
  found <- correct_first(object)
  expect_s4_class(found, "SingleCellExperiment")
  expect_identical(SummarizedExperiment::assay(found, "corrected"), corrected_value("corrected"))
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "halves", "corrected"))
  expect_identical(SummarizedExperiment::rowData(found)$symbol, before$var$symbol)
  expect_true("pca" %in% SingleCellExperiment::reducedDimNames(found))
  expect_identical(as.list(object)[names(before)], before)
  # As data of a model, and with the counts in a layer.
  in_layer <- stand_in(anndatar_fields(layer = "raw"))
  expect_identical(
    SummarizedExperiment::assay(correct_first(in_layer, layer = "raw"), "corrected"),
    corrected_value("corrected")
  )
  given <- suppressWarnings(corrected_counts(
    example_model(),
    adata = object, transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  ))
  expect_identical(SummarizedExperiment::assay(given, "corrected"), corrected_value("corrected"))
  latent <- suppressMessages(add_latent(object, example_model(), progress = FALSE))
  expect_true("scvi" %in% SingleCellExperiment::reducedDimNames(latent))
})

test_that("an AnnData of anndataR trains a model, which reads the same layer again", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  train <- function(object, ...) {
    suppressWarnings(train_scvi(
      object,
      batch_key = "batch", n_top_genes = NULL, max_epochs = 2, progress = FALSE, ...
    ))
  }
  latent <- function(model) reticulate::py_to_r(model$python$get_latent_representation())
  fields <- anndatar_fields()
  experiment <- experiment_of_anndatar(stand_in(fields))
  expected <- latent(train(experiment))
  expect_identical(latent(train(stand_in(fields))), expected)
  in_layer <- stand_in(anndatar_fields(layer = "umi")) # X has halves
  model <- train(in_layer, layer = "umi")
  expect_identical(latent(model), expected)
  found <- suppressWarnings(corrected_counts(
    in_layer, model,
    transform_batch = "V3", progress = FALSE
  ))
  expect_identical(
    SummarizedExperiment::assay(found, "counts"), SummarizedExperiment::assay(experiment, "counts")
  )
  expect_error(train(in_layer, layer = "umis"), "no layer \"umis\"; it has X, umi")
})

test_that("what an AnnData lacks is named", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  object <- stand_in(anndatar_fields())
  expect_error(as_anndata(object, layer = "raw"), "no layer \"raw\"; it has X, halves: name the layer")
  expect_error(correct_first(object, assay = "counts"), "layers, not assays")
  expect_error(as_sce(object), "read_corrected")
  expect_error(as_anndata(object, layers = "raw"), class = "scvibridge_error")
  empty <- anndatar_fields()
  empty["X"] <- list(NULL)
  expect_error(as_anndata(stand_in(empty)), "no X; it has halves")
})

test_that("the classes of anndataR itself are taken", {
  skip_without_python()
  skip_without("SingleCellExperiment", "rhdf5")
  anndatar <- real_anndatar()
  fields <- anndatar_fields()
  object <- anndatar$AnnData(
    X = fields$X, layers = fields$layers, obs = fields$obs, var = fields$var,
    obsm = fields$obsm["X_pca"]
  )
  expect_anndata_of_fields(as_anndata(object), fields, fields$X)
  expect_identical(
    SummarizedExperiment::assay(correct_first(object), "corrected"), corrected_value("corrected")
  )
  # A file of scvibridge's own, read by anndataR.
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(object, file, progress = FALSE)
  on_disk <- anndatar$read_h5ad(file, as = "HDF5AnnData")
  expect_anndata_of_fields(as_anndata(on_disk), fields, fields$X)
  expect_identical(
    SummarizedExperiment::assay(correct_first(on_disk), "corrected"), corrected_value("corrected")
  )
  expect_error(write_h5ad(on_disk, file, overwrite = TRUE, progress = FALSE), "is read here")
  # A result in a file.
  out <- tempfile(fileext = ".h5ad")
  suppressWarnings(corrected_counts(
    example_model(), adata = file, transform_batch = "V3", labels_key = "cell_type", out = out,
    progress = FALSE
  ))
  result <- anndatar$read_h5ad(out)
  expect_identical(
    unname(as.matrix(result$X)), unname(t(as.matrix(corrected_value("corrected"))))
  )
  expect_identical(result$uns$scvibridge$kind, "corrected_counts")
})

# -- what else the tools of R call it ----------------------------------------------------------------

test_that("assay.type names the assay, as in scuttle and scater", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  object <- example_sce()
  SummarizedExperiment::assayNames(object) <- c("umi", "other")
  found <- correct_first(object, assay.type = "umi")
  genes <- rownames(object)
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"), corrected_value("corrected", genes)
  )
  held <- reticulate::r_to_py(as_anndata(object, assay.type = "umi"))
  expect_identical(
    unname(as.matrix(python_matrix(held$X))),
    unname(as.matrix(SummarizedExperiment::assay(object, "umi")))
  )
  expect_error(correct_first(object, assay = "umi", assay.type = "umi"), "pass only one of them")
  expect_error(correct_first(object, assay.type = "counts"), "there is no assay \"counts\"")
})

test_that("data come in several files, one for each sample", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  data <- example_data()
  order <- order(data$cells$batch)
  files <- vapply(split(order, data$cells$batch[order]), function(chosen) {
    file <- tempfile(fileext = ".h5ad")
    cells <- data$cells[chosen, ]
    write_h5ad(data$counts[, chosen], file, cell_data = cells, progress = FALSE)
    file
  }, "")
  model <- load_scvi(example_files()$model, adata = files)
  found <- suppressWarnings(corrected_counts(
    model, transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  ))
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"),
    SummarizedExperiment::assay(example_corrected(), "corrected")[, order]
  )
  found <- suppressWarnings(corrected_counts(
    example_model(),
    adata = files, transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  ))
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"),
    SummarizedExperiment::assay(example_corrected(), "corrected")[, order]
  )
  expect_error(load_scvi(example_files()$model, adata = c(files[[1]], "none.h5ad")), "no file")

  expect_error(
    write_h5ad(unname(files), tempfile(fileext = ".h5ad")), "x must be a single string",
    class = "scvibridge_error"
  )
  expect_error(
    train_scvi(c(files[[1]], "none.h5ad"), batch_key = "batch"), "no file none.h5ad",
    class = "scvibridge_error"
  )

  # The other functions that take data.
  together <- tempfile(fileext = ".h5ad")
  write_h5ad(
    data$counts[, order], together,
    cell_data = data$cells[order, ], progress = FALSE
  )
  same <- function(call) {
    expect_equal(
      suppressWarnings(call(files)), suppressWarnings(call(together)),
      ignore_function_env = TRUE
    )
  }
  same(function(adata) {
    model <- train_scvi(
      adata,
      batch_key = "batch", n_top_genes = NULL, max_epochs = 1, device = "cpu", progress = FALSE
    )
    reticulate::py_to_r(model$python$get_latent_representation())
  })
  same(function(adata) {
    batch_support(
      example_model(),
      adata = adata, transform_batch = "V3", labels_key = "cell_type", progress = FALSE
    )$labels
  })
})

test_that("damage is measured on cells in several files", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  data <- example_data()
  write <- function(copies) {
    counts <- do.call(cbind, lapply(copies, function(copy) {
      `colnames<-`(data$counts, paste0(copy, colnames(data$counts)))
    }))
    cells <- do.call(rbind, rep(list(data$cells), length(copies)))
    rownames(cells) <- colnames(counts)
    file <- tempfile(fileext = ".h5ad")
    write_h5ad(counts, file, cell_data = cells, progress = FALSE)
    file
  }
  measure <- function(adata) {
    found <- suppressWarnings(scvi_damage(
      adata, "batch",
      labels_key = "cell_type", max_epochs = 1, device = "cpu", progress = FALSE
    ))
    found[c("figure", "before", "after")]
  }
  names <- c("one_", "two_")
  expect_equal(measure(vapply(names, write, "")), measure(write(names)))
})

test_that("genes are added from several files", {
  skip_without_python()
  skip_without("SingleCellExperiment")
  data <- example_data()
  added <- data$counts[rev(seq_len(40)), ]
  rownames(added) <- paste0("ADDED", seq_len(40))
  counts <- rbind(data$counts, added)
  order <- order(data$cells$batch)
  write <- function(chosen) {
    file <- tempfile(fileext = ".h5ad")
    write_h5ad(counts[, chosen], file, cell_data = data$cells[chosen, ], progress = FALSE)
    file
  }
  files <- vapply(split(order, data$cells$batch[order]), write, "")
  extend <- function(adata) {
    suppressWarnings(extend_genes(
      example_model(), adata,
      max_epochs = 2, ridge = 0.1, progress = FALSE
    ))
  }
  found <- extend(unname(files))
  expect_true("ADDED1" %in% rownames(found$quality))
  expect_equal(found$quality, extend(write(order))$quality)
})
