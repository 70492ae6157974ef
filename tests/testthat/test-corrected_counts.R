# The whole way from R: what the functions return, against Python's own result of the same call.

quietly <- function(expression) suppressWarnings(expression)

test_that("corrected counts equal Python's in every part", {
  model <- example_model()
  sce <- quietly(corrected_counts(
    model,
    transform_batch = "V3", labels_key = "cell_type", condition_key = "condition",
    normalized = TRUE, seed = 3, progress = FALSE
  ))
  python <- python_result(
    "corrected_counts",
    transform_batch = "V3", labels_key = "cell_type",
    condition_key = "condition", normalized = TRUE, seed = 3L
  )
  expect_identical(
    SummarizedExperiment::assayNames(sce), c("counts", "corrected", "normalized")
  )
  expect_same_values(SummarizedExperiment::assay(sce, "corrected"), python$X)
  expect_same_values(SummarizedExperiment::assay(sce, "counts"), python$layers[["raw_counts"]])
  expect_same_values(SummarizedExperiment::assay(sce, "normalized"), python$layers[["normalized"]])
  expect_same_values(t(SingleCellExperiment::reducedDim(sce, "scvi")), python$obsm[["X_scvi"]])
  expect_columns_of_python(SummarizedExperiment::colData(sce), python$obs)
  expect_columns_of_python(SummarizedExperiment::rowData(sce), python$var)

  settings <- S4Vectors::metadata(sce)$scvibridge
  expect_identical(settings$kind, "corrected_counts")
  expect_identical(settings$seed, 3L)
  expect_identical(settings$transform_batch, "V3")
  expect_identical(settings$condition_key, "condition")
})

test_that("effects are shrunk as in Python", {
  model <- example_model()
  found <- lapply(list("auto", 0, 40), function(given) {
    sce <- quietly(corrected_counts(
      model,
      transform_batch = "V3", labels_key = "cell_type", shrinkage = given, progress = FALSE
    ))
    python <- python_result(
      "corrected_counts",
      transform_batch = "V3", labels_key = "cell_type", shrinkage = given
    )
    expect_same_values(SummarizedExperiment::assay(sce, "corrected"), python$X)
    expect_equal(S4Vectors::metadata(sce)$scvibridge$shrinkage, given)
    sce
  })
  expect_gt(S4Vectors::metadata(found[[1]])$scvibridge$shrinkage_batch, 0)
  counts <- lapply(found, SummarizedExperiment::assay, "corrected")
  expect_gt(sum(counts[[2]] != counts[[3]]), 0)
})

test_that("effects without labels vary over the latent space as in Python", {
  given <- list(transform_batch = "V3", effect = "local", condition_key = "condition")
  sce <- quietly(do.call(corrected_counts, c(list(example_model(), progress = FALSE), given)))
  python <- do.call(python_result, c(list("corrected_counts"), given))
  expect_same_values(SummarizedExperiment::assay(sce, "corrected"), python$X)
  made <- S4Vectors::metadata(sce)$scvibridge
  expect_identical(made$effect, "local")
  expect_gt(made$landmarks, 1)
  expect_gt(made$shrinkage_local, 0)
})

test_that("effects are estimated on chosen cells, and genes kept, as in Python", {
  model <- example_model()
  kept <- rownames(example_data()$counts)[c(3, 1)]
  corrected <- function(...) {
    quietly(corrected_counts(
      model,
      transform_batch = "V3", ..., progress = FALSE
    ))
  }
  python <- python_result(
    "corrected_counts",
    transform_batch = "V3",
    estimate_on = list(condition = list("ctrl")), genes_kept = as.list(kept)
  )
  sce <- corrected(estimate_on = list(condition = "ctrl"), genes_kept = kept)
  counts <- SummarizedExperiment::assay(sce, "corrected")
  expect_same_values(counts, python$X)
  expect_equal(
    as.matrix(counts[kept, ]), as.matrix(SummarizedExperiment::assay(sce, "counts")[kept, ])
  )
  settings <- S4Vectors::metadata(sce)$scvibridge
  expect_identical(as.character(settings$estimate_on$condition), "ctrl")
  expect_identical(as.character(settings$genes_kept), rev(kept))
  controls <- SummarizedExperiment::colData(sce)$condition == "ctrl"
  expect_identical(settings$estimate_on_cells, sum(controls))
  for (given in list(
    controls, stats::setNames(controls, colnames(sce)), colnames(sce)[controls]
  )) {
    again <- corrected(estimate_on = given, genes_kept = kept)
    expect_identical(SummarizedExperiment::assay(again, "corrected"), counts)
  }
  everyone <- SummarizedExperiment::assay(corrected(genes_kept = kept), "corrected")
  expect_gt(sum(everyone != counts), 0)
  expect_error(
    corrected(estimate_on = list(condition = "ctlr")), "did you mean \"ctrl\"",
    class = "scvibridge_error"
  )
  expect_error(corrected(genes_kept = "no gene"), "genes in genes_kept", class = "scvibridge_error")
})

test_that("residual effects are estimated from samples as in Python", {
  data <- example_data()
  donor <- paste(data$cells$batch, seq_len(nrow(data$cells)) %% 3)
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts), colData = cbind(data$cells, donor = donor)
  )
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(example_files()$adata)
  adata$obs <- reticulate::r_to_py(cbind(data$cells, donor = donor))
  found <- lapply(c("never", "always"), function(residual) {
    result <- quietly(corrected_counts(
      sce, example_model(),
      transform_batch = "V3", sample_key = "donor", residual = residual, progress = FALSE
    ))
    python <- python_result(
      "corrected_counts", adata,
      transform_batch = "V3", sample_key = "donor", residual = residual
    )
    counts <- SummarizedExperiment::assay(result, "corrected")
    expect_same_values(counts, python$X)
    counts
  })
  expect_gt(sum(found[[1]] != found[[2]]), 0)
})

test_that("expressions equal Python's", {
  model <- example_model()
  normalized <- normalized_expression(
    model,
    transform_batch = c("V1", "V3"), library_size = 5000, progress = FALSE
  )
  python <- python_result(
    "normalized_expression",
    transform_batch = list("V1", "V3"), library_size = 5000
  )
  expect_identical(SummarizedExperiment::assayNames(normalized), c("counts", "normalized"))
  expect_same_values(SummarizedExperiment::assay(normalized, "normalized"), python$X)
  expect_equal(
    unname(colSums(SummarizedExperiment::assay(normalized, "normalized"))), rep(5000, 150),
    tolerance = 1e-5
  )

  denoised <- denoised_expression(model, n_samples = 2, seed = 7, progress = FALSE)
  python <- python_result("denoised_expression", n_samples = 2L, seed = 7L)
  expect_same_values(SummarizedExperiment::assay(denoised, "denoised"), python$X)
})

test_that("genes come in the requested order, also one alone", {
  model <- example_model()
  all_genes <- denoised_expression(model, progress = FALSE)
  some <- denoised_expression(model, gene_list = c("GENE9", "GENE2"), progress = FALSE)
  expect_identical(rownames(some), c("GENE9", "GENE2"))
  expect_equal(
    SummarizedExperiment::assay(some, "denoised"),
    SummarizedExperiment::assay(all_genes, "denoised")[c("GENE9", "GENE2"), ]
  )
  one <- denoised_expression(model, gene_list = factor("GENE5"), progress = FALSE)
  expect_identical(dim(one), c(1L, 150L))
})

test_that("cells are chosen by positions from 1, by a logical vector or by name", {
  model <- example_model()
  take <- function(indices) {
    quietly(corrected_counts(model, transform_batch = "V1", indices = indices, progress = FALSE))
  }
  all_cells <- take(NULL)
  chosen <- c(3, 150, 1)
  by_position <- take(chosen)
  expect_identical(colnames(by_position), c("cell3", "cell150", "cell1"))
  expect_identical(
    SummarizedExperiment::assay(by_position, "corrected"),
    SummarizedExperiment::assay(all_cells, "corrected")[, chosen]
  )
  expect_identical(take(c("cell3", "cell150", "cell1")), by_position)
  expect_identical(colnames(take(seq_len(150) %in% chosen)), c("cell1", "cell3", "cell150"))
  expect_identical(colnames(take(2)), "cell2")
})

test_that("a batch may be a factor, and seeds beyond R's integers arrive", {
  model <- example_model()
  one <- quietly(corrected_counts(model, transform_batch = factor("V2"), seed = 2^32 - 1,
    progress = FALSE
  ))
  python <- python_result(
    "corrected_counts",
    transform_batch = "V2",
    seed = reticulate::import_builtins(convert = FALSE)$int(2^32 - 1)
  )
  expect_same_values(SummarizedExperiment::assay(one, "corrected"), python$X)
  expect_identical(S4Vectors::metadata(one)$scvibridge$seed, 2^32 - 1)
})

test_that("other data are given by path or as an AnnData", {
  model <- example_model()
  file <- example_files()$adata
  from_path <- quietly(corrected_counts(
    model,
    adata = file, transform_batch = "V1", indices = c(150, 2), progress = FALSE
  ))
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
  from_object <- quietly(corrected_counts(
    model,
    adata = adata, transform_batch = "V1", indices = c(150, 2), progress = FALSE
  ))
  expect_identical(from_object, from_path)
  expect_identical(colnames(from_path), c("cell150", "cell2"))
  expect_error(
    corrected_counts(model, adata = data.frame(a = 1), transform_batch = "V1"),
    "adata must be the path.*class data.frame",
    class = "scvibridge_error"
  )
  expect_error(
    corrected_counts(model, adata = "absent.h5ad", transform_batch = "V1", indices = 1),
    "there is no file absent.h5ad",
    class = "scvibridge_error"
  )
})

test_that("with out the assays stay in the file", {
  skip_without("HDF5Array")
  model <- example_model()
  file <- example_files()$adata
  correct <- function(...) {
    quietly(corrected_counts(
      model,
      adata = file, transform_batch = "V1", labels_key = "cell_type", normalized = TRUE,
      progress = FALSE, ...
    ))
  }
  expected <- correct()
  out <- tempfile(fileext = ".h5ad")
  found <- correct(out = out)
  expect_identical(without_assays(found), without_assays(as_sce(out)))
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "corrected", "normalized"))
  for (name in SummarizedExperiment::assayNames(found)) {
    assay <- SummarizedExperiment::assay(found, name)
    expect_s4_class(assay, "H5ADMatrix")
    expect_identical(DelayedArray::path(assay), normalizePath(out))
    expect_identical(in_memory(assay), as.matrix(SummarizedExperiment::assay(expected, name)))
  }
  expect_identical(
    SingleCellExperiment::reducedDim(found), SingleCellExperiment::reducedDim(expected)
  )
  expect_identical(
    SummarizedExperiment::colData(found)$scvibridge_depth_ratio,
    SummarizedExperiment::colData(expected)$scvibridge_depth_ratio
  )
  again <- correct(out = out, resume = TRUE)
  expect_identical(again, found)
})

test_that("out may be a 10x file, which stays on disk, or a zarr folder, which is loaded", {
  skip_without("HDF5Array")
  model <- example_model()
  correct <- function(...) {
    quietly(corrected_counts(model, transform_batch = "V1", progress = FALSE, ...))
  }
  expected <- SummarizedExperiment::assay(correct(), "corrected")
  ten_x <- correct(out = tempfile(fileext = ".h5"))
  expect_identical(SummarizedExperiment::assayNames(ten_x), "corrected")
  expect_s4_class(SummarizedExperiment::assay(ten_x), "TENxMatrix")
  expect_identical(in_memory(SummarizedExperiment::assay(ten_x)), as.matrix(expected))

  zarr <- correct(out = tempfile(fileext = ".zarr"))
  expect_identical(SummarizedExperiment::assay(zarr, "corrected"), expected)
})

test_that("expressions stay in the file too", {
  skip_without("HDF5Array")
  model <- example_model()
  for (express in list(normalized_expression, denoised_expression)) {
    expected <- express(model, progress = FALSE)
    found <- express(model, out = tempfile(fileext = ".h5ad"), progress = FALSE)
    for (name in SummarizedExperiment::assayNames(expected)) {
      assay <- SummarizedExperiment::assay(found, name)
      expect_s4_class(assay, "H5ADMatrix")
      expect_identical(in_memory(assay), as.matrix(SummarizedExperiment::assay(expected, name)))
    }
  }
})

test_that("odd columns of the cells survive the whole way", {
  skip_without_python()
  anndata <- reticulate::import("anndata", convert = FALSE)
  adata <- test_module("odd_result")$add_odd_columns(anndata$read_h5ad(example_files()$adata))
  sce <- quietly(corrected_counts(
    example_model(),
    adata = adata, transform_batch = "V3", progress = FALSE
  ))
  expect_true("odd name-1 (\u00b5)" %in% names(SummarizedExperiment::colData(sce)))
  expect_columns_of_python(SummarizedExperiment::colData(sce), adata$obs)
})

test_that("Python's errors arrive with their message, before any work", {
  model <- example_model()
  error <- expect_error(corrected_counts(model, transform_batch = "v3"), class = "scvibridge_error")
  expect_s3_class(error, "python.builtin.ValueError")
  expect_identical(
    conditionMessage(error), "batch \"v3\" is not among \"V1\", \"V2\", \"V3\": did you mean \"V3\"?"
  )
  expect_match(error$traceback, "Traceback", fixed = TRUE)
  expect_null(conditionCall(error))

  expect_error(corrected_counts(model), "transform_batch is required.*\"V1\", \"V2\", \"V3\"")
  expect_error(
    corrected_counts(model, transform_batch = "V3", batch_size = "V3"),
    "batch_size is the number of cells in a minibatch.*transform_batch = \"V3\""
  )
  expect_error(corrected_counts(model, transform_batch = 2), "internal code.*\"V3\"")
  expect_error(
    corrected_counts(model, transform_batch = "V3", gene_list = "GENE0"),
    "does not have 1 of the 1 genes in gene_list.*GENE0"
  )
  expect_error(
    corrected_counts(model, transform_batch = "V3", out = "absent/folder/x.h5ad"),
    "does not exist"
  )
  expect_error(corrected_counts(model, transform_batch = "V3", indices = character()), "no cells")
  for (depth in c(0, -1, Inf)) {
    expect_error(normalized_expression(model, library_size = depth), "positive and finite")
  }
})

test_that("more values than a dgCMatrix holds are in a sparse array of Bioconductor", {
  skip_without("SparseArray")
  model <- example_model()
  correct <- function(...) {
    suppressWarnings(corrected_counts(model, transform_batch = "V3", ..., progress = FALSE))
  }
  sce <- correct()
  columns <- reticulate::import_from_path("scvibridge.r.columns", python_code())
  limit <- columns$R_MAX_INTEGER
  on.exit(columns$R_MAX_INTEGER <- limit)
  columns$R_MAX_INTEGER <- Matrix::nnzero(SummarizedExperiment::assay(sce, "counts")) - 1L
  expect_message(found <- correct(), "the assay counts has more .*it is an SVT_SparseMatrix")
  array <- SummarizedExperiment::assay(found, "counts")
  expect_s4_class(array, "SVT_SparseMatrix")
  expect_identical(
    as.matrix(array) + 0, as.matrix(SummarizedExperiment::assay(sce, "counts"))
  )
  some <- correct(indices = 1:3)
  expect_s4_class(SummarizedExperiment::assay(some, "counts"), "dgCMatrix")
})

test_that("Python's warnings arrive as R's", {
  model <- example_model()
  expect_warning(
    corrected_counts(model, transform_batch = "V3", labels_key = "cell_type", progress = FALSE),
    "confounding was not checked"
  )
})

test_that("both languages have the same arguments with the same defaults", {
  skip_without_python()
  inspect <- reticulate::import("inspect", convert = FALSE)
  builtins <- reticulate::import_builtins()
  python <- python_scvibridge()
  for (name in c("corrected_counts", "normalized_expression", "denoised_expression")) {
    parameters <- inspect$signature(python[[name]])$parameters
    ours <- formals(getS3method(name, "scvi_model"))
    ours <- ours[setdiff(names(ours), c("object", "..."))]
    # A Dask client is an object of Python.
    theirs <- reticulate::py_to_r(builtins$list(parameters$keys()))
    theirs <- setdiff(theirs, c("model", "client"))
    expect_identical(names(ours), theirs, info = name)
    for (argument in theirs) {
      default <- reticulate::py_to_r(parameters[[argument]]$default)
      expect_equal(eval(ours[[argument]]), default, info = paste(name, argument))
    }
  }
})
