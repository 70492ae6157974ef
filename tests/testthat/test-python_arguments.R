arguments <- function(..., n_cells = 10) {
  python_arguments(list(...), n_cells)
}

test_that("whole numbers become integers", {
  expect_identical(arguments(seed = 1)$seed, 1L)
  expect_identical(
    arguments(n_samples = 25, batch_size = 128), list(n_samples = 25L, batch_size = 128L)
  )
  for (wrong in list(1.5, NA_real_, Inf, c(1, 2), "1", TRUE)) {
    expect_error(
      arguments(seed = wrong), "seed must be a single whole number",
      class = "scvibridge_error"
    )
  }
})

test_that("a batch name given as batch_size is left to Python's error", {
  expect_identical(arguments(batch_size = "V3")$batch_size, "V3")
})

test_that("NULL stays NULL", {
  given <- list(
    transform_batch = NULL, gene_list = NULL, indices = NULL, n_samples = NULL, out = NULL
  )
  expect_identical(python_arguments(given, n_cells = stop("not needed")), given)
})

test_that("names of batches and genes become lists where there are several", {
  expect_identical(arguments(transform_batch = "A")$transform_batch, "A")
  expect_identical(arguments(transform_batch = c("A", "B"))$transform_batch, list("A", "B"))
  expect_identical(arguments(transform_batch = c(x = "A"))$transform_batch, "A")
  expect_identical(arguments(transform_batch = factor("A"))$transform_batch, "A")
  expect_identical(arguments(transform_batch = 1)$transform_batch, 1L)
  expect_identical(arguments(transform_batch = TRUE)$transform_batch, TRUE)
  expect_error(arguments(transform_batch = NA), "names of batches")
  expect_identical(arguments(gene_list = "A")$gene_list, list("A"))
  expect_error(arguments(gene_list = 1:2), "gene_list must be a character vector")
  expect_error(arguments(gene_list = c("A", NA)), "without NA, got c\\(\"A\", NA\\)")
})

test_that("depth is a number or a name", {
  expect_identical(arguments(library_size = 10000L)$library_size, 1e4)
  expect_identical(arguments(library_size = "median")$library_size, "median")
  expect_error(arguments(library_size = c(1, 2)), "library_size must be a single number or string")
  expect_identical(arguments(shrinkage = 10L)$shrinkage, 10)
  expect_identical(arguments(shrinkage = "auto")$shrinkage, "auto")
})

test_that("residual is a name", {
  expect_identical(arguments(residual = "auto")$residual, "auto")
  expect_error(arguments(residual = 1), "residual must be a single string")
})

test_that("cells to estimate on are values of columns, names or a logical vector", {
  given <- function(value) arguments(estimate_on = value)$estimate_on
  expect_identical(given(list(pool = "A")), list(pool = list("A")))
  expect_identical(
    given(list(pool = c("A", "B"), plate = 1)), list(pool = list("A", "B"), plate = list(1L))
  )
  expect_identical(given(c("cell_1", "cell_2")), list("cell_1", "cell_2"))
  expect_identical(given(c(TRUE, FALSE)), array(c(TRUE, FALSE)))
  expect_identical(
    given(c(a = TRUE, b = FALSE)), list(named = array(c(TRUE, FALSE)), names = array(c("a", "b")))
  )
  expect_error(given(list("A")), "list\\(condition = \"ctrl\"\\)")
  expect_error(given(1:2), "estimate_on must be a list of values of columns")
  expect_error(given(c(TRUE, NA)), "estimate_on is NA for 1 of 2")
  expect_identical(arguments(genes_kept = "XIST")$genes_kept, list("XIST"))
})

test_that("truth values are TRUE or FALSE", {
  expect_true(arguments(normalized = TRUE)$normalized)
  for (wrong in list(NA, "yes", 1, c(TRUE, TRUE), logical())) {
    expect_error(arguments(progress = wrong), "progress must be TRUE or FALSE")
  }
})

test_that("paths lose their tilde", {
  expect_identical(arguments(out = "~/x.h5ad")$out, path.expand("~/x.h5ad"))
  expect_error(arguments(out = NA_character_), "out must be a single string")
})

test_that("positions count from 0 in Python", {
  expect_identical(as.vector(arguments(indices = c(1, 10))$indices), c(0L, 9L))
  expect_identical(as.vector(arguments(indices = 3L)$indices), 2L)
  expect_true(is.array(arguments(indices = 3L)$indices))
  mask <- rep(c(TRUE, FALSE), 5)
  expect_identical(as.vector(arguments(indices = mask)$indices), c(0L, 2L, 4L, 6L, 8L))
  expect_identical(arguments(indices = "cell1")$indices, list("cell1"))
})

test_that("positions outside, negative ones and masks of another length are refused", {
  expect_error(arguments(indices = 0:3), "between 1 and 10, got 0")
  expect_error(arguments(indices = 11), "between 1 and 10, got 11")
  expect_error(arguments(indices = -1), "between 1 and 10, got -1")
  expect_error(arguments(indices = 1.5), "positions from 1")
  expect_error(arguments(indices = NA_integer_), "NA for 1 of 1 entries: '?1")
  expect_error(arguments(indices = c(TRUE, FALSE)), "each of the 10 cells, got 2 values")
  expect_error(arguments(indices = rep(NA, 10)), "NA for 10 of 10 entries")
  expect_error(arguments(indices = list(1)), "positions from 1")
})

test_that("unknown arguments are refused with the nearest name", {
  dead <- structure(list(python = NULL), class = "scvi_model")
  expect_error(
    corrected_counts(dead, transform_bach = "V3"),
    "no argument transform_bach; did you mean transform_batch"
  )
  expect_error(denoised_expression(dead, transform_batch = "V3"), "no argument transform_batch")
  for (argument in c("assay", "layer", "cell_data")) {
    expect_error(
      do.call(corrected_counts, stats::setNames(list(dead, "RNA"), c("object", argument))),
      paste0("for adata, pass as_anndata\\(object, ", argument, " = ...\\)")
    )
  }
  expect_error(check_no_more_arguments(list("V3"), known = "seed"), "too many unnamed arguments")
})

test_that("large objects in the wrong argument are shown at once", {
  counts <- methods::as(matrix(rep_len(c(1.5, 0), 4e6), 2000), "dgCMatrix")
  taken <- system.time(
    expect_error(write_h5ad("x.h5ad", counts), "path must be a single string, got new\\(\"dgCMatrix")
  )
  expect_lt(taken[["user.self"]], 1)
})

test_that("long values are shortened in errors", {
  expect_lte(nchar(shown(strrep("a", 500))), 60)
})
