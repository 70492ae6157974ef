# Diagnostics from R: their tables against Python's own, and what other functions take of them.

expect_table_of_python <- function(found, table, rows = TRUE) {
  testthat::expect_s3_class(found, "data.frame")
  expect_columns_of_python(found, table) # nolint: object_usage_linter.
  if (rows) {
    testthat::expect_identical(rownames(found), as.character(unlist(reticulate::py_to_r(
      table$index$tolist()
    ))))
  }
}

test_that("support equals Python's", {
  found <- batch_support(
    example_model(),
    transform_batch = "V3", labels_key = "cell_type", condition_key = "condition",
    progress = FALSE
  )
  python <- python_result(
    "batch_support",
    transform_batch = "V3", labels_key = "cell_type", condition_key = "condition"
  )
  expect_s3_class(found, "scvi_support")
  expect_table_of_python(found$cells, python$cells)
  expect_table_of_python(found$labels, python$labels, rows = FALSE)
  expect_table_of_python(found$conditions, python$conditions, rows = FALSE)
  expect_identical(found$summary, in_words_of_r(reticulate::py_to_r(python$summary())))
  expect_output(print(found), "Target \"V3\".*n_target")
  plain <- batch_support(
    example_model(),
    transform_batch = "V3", indices = c(2, 5), progress = FALSE
  )
  expect_null(plain$conditions)
  expect_identical(rownames(plain$cells), c("cell2", "cell5"))
})

test_that("the ranking of batches equals Python's", {
  found <- choose_batch(example_model(), labels_key = "cell_type", progress = FALSE)
  expect_table_of_python(found, python_result("choose_batch", labels_key = "cell_type"))
})

test_that("calibration equals Python's, and its theta is taken in each form", {
  model <- example_model()
  found <- scvi_calibration(model, n_references = 5, progress = FALSE)
  python <- python_result("calibration", n_references = 5L)
  expect_table_of_python(found$batches, python$batches)
  expect_table_of_python(found$genes, python$genes)
  expect_identical(found$advice, in_words_of_r(reticulate::py_to_r(python$advice)))
  expect_output(print(found), "Calibration on")
  # No batch has the held-out cells that another theta takes.
  expect_null(found$theta)
  expect_match(found$advice, "Keep the model's own theta")
  theta <- data.frame(theta = found$genes$theta_refitted, row.names = rownames(found$genes))

  correct <- function(dispersion) {
    sce <- suppressWarnings(corrected_counts(
      model,
      transform_batch = "V3", dispersion = dispersion, progress = FALSE
    ))
    SummarizedExperiment::assay(sce, "corrected")
  }
  own <- correct(NULL)
  expect_identical(correct(found), own)
  expected <- correct(theta)
  expect_false(identical(expected, own))
  expect_identical(correct(stats::setNames(theta[[1]], rownames(theta))), expected)
  by_batch <- as.matrix(theta)[, c(1, 1, 1)]
  colnames(by_batch) <- c("V3", "V1", "V2")
  expect_identical(correct(by_batch), expected)
  expect_error(correct(c(1, 2)), "named by gene", class = "scvibridge_error")
  expect_error(correct(theta[-1, , drop = FALSE]), "lacks 1 of", class = "scvibridge_error")
})

test_that("damage equals Python's", {
  path <- example_files()$adata
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(path)
  reticulate::py_set_item(adata$obs, "all", "one")
  found <- suppressWarnings(scvi_damage(adata, "all", max_epochs = 1, progress = FALSE))
  python <- reticulate::import("scvibridge.diagnostics.damage", convert = FALSE)$damage(
    adata, "all",
    max_epochs = 1L, progress = FALSE
  )
  expect_table_of_python(found, python, rows = FALSE)
  expect_identical(attr(found, "settings")$n_cells, 150L)
  expect_s3_class(attr(found, "by_label"), "data.frame")
})

test_that("what is no model or no longer in Python is refused", {
  expect_error(batch_support(1), "load_scvi", class = "scvibridge_error")
  expect_error(
    as_python_dispersion(structure(list(), class = "scvi_calibration"), "dispersion"),
    "no longer in Python",
    class = "scvibridge_error"
  )
  expect_error(
    as_python_damage(data.frame(share = 1), "damage"), "damage is no longer in Python",
    class = "scvibridge_error"
  )
})
