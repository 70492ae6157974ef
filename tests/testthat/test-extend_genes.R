# Extended models from R: counts against Python's own.

test_that("an extended model gives Python's counts, and is loaded again", {
  files <- example_files()
  python <- python_scvibridge()
  anndata <- reticulate::import("anndata", convert = FALSE)
  everything <- anndata$read_h5ad(files$adata)
  further <- everything$copy()
  names <- reticulate::py_to_r(everything$var_names$tolist())
  further$var_names <- as.list(paste0("further_", names))
  both <- anndata$concat(list(everything, further), axis = "var", merge = "first")
  path <- tempfile(fileext = ".h5ad")
  both$write_h5ad(path)
  folder <- tempfile()
  extended <- extend_genes(
    example_model(), path,
    gene_list = paste0("further_", names[1:5]), max_epochs = 2, ridge = 0.1, device = "cpu",
    progress = FALSE, save = folder
  )
  expect_s3_class(extended, "scvi_model")
  expect_identical(rownames(extended$quality), paste0("further_", names[1:5]))
  expect_true(all(extended$quality$theta > 0))
  expect_identical(extended$summary$n_genes, length(names) + 5L)
  expect_output(print(extended), paste0(length(names), " genes; 5 added"), fixed = TRUE)
  expect_output(print(example_model()), paste0(length(names), " genes\n"), fixed = TRUE)
  again <- load_scvi(folder, adata = path, device = "cpu")
  sce <- suppressWarnings(corrected_counts(
    again,
    transform_batch = "V3", device = "cpu", progress = FALSE
  ))
  warnings <- reticulate::import("warnings", convert = FALSE)
  warnings$simplefilter("ignore")
  expected <- python$corrected_counts(
    extended$python, path,
    transform_batch = "V3", device = "cpu", progress = FALSE
  )
  ours <- as.matrix(SummarizedExperiment::assay(sce, "corrected"))
  theirs <- t(reticulate::py_to_r(expected$X$toarray()))
  expect_identical(dim(ours), dim(theirs))
  expect_identical(unname(ours) + 0, theirs + 0)
  expect_identical(
    SummarizedExperiment::rowData(sce)$scvibridge_added,
    rownames(sce) %in% rownames(extended$quality)
  )

  fit <- scvi_calibration(again, n_references = 5, device = "cpu", progress = FALSE)
  expected <- python$calibration(
    extended$python, path,
    n_references = 5L, device = "cpu", progress = FALSE
  )
  expect_s3_class(fit$added, "scvi_calibration")
  expect_null(fit$added$added)
  expect_identical(rownames(fit$added$genes), rownames(extended$quality))
  expect_identical(fit$summary, reticulate::py_to_r(expected$summary()))
  expect_identical(fit$added$advice, reticulate::py_to_r(expected$added$advice))
  for (part in c("batches", "genes")) {
    theirs <- reticulate::py_to_r(expected$added[[part]]$variance$tolist())
    expect_equal(fit$added[[part]]$variance, unlist(theirs), tolerance = 1e-6)
  }
})

test_that("what is no model is refused", {
  expect_error(extend_genes(1, "x.h5ad"), "object must be a model from load_scvi\\(\\)")
})
