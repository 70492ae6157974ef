sce_of_example <- function(chosen = TRUE) {
  data <- example_data()
  SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts[, chosen]),
    colData = data$cells[chosen, , drop = FALSE]
  )
}

corrected <- function(...) suppressWarnings(corrected_counts(..., progress = FALSE))

test_that("a target without cells in the data is refused, and its cells beside them help", {
  batch <- as.character(example_data()$cells$batch)
  own <- setdiff(unique(batch), "V3")[1]
  model <- load_scvi(example_files()$model, sce_of_example(batch == own))
  for (given in list(list(), list(library_size = "observed"), list(effect = "cell"))) {
    arguments <- c(list(model, transform_batch = "V3"), given)
    expect_error(
      do.call(corrected, arguments), "nothing can be corrected.*no cells of the target",
      class = "scvibridge_error"
    )
  }
  both <- corrected(
    model,
    adata = sce_of_example(batch %in% c(own, "V3")), transform_batch = "V3", library_size = "observed", shrinkage = 0
  )
  of_own <- both$batch == own
  raw <- SummarizedExperiment::assay(both, "counts")
  new <- SummarizedExperiment::assay(both, "corrected")
  expect_gt(sum(raw[, of_own] != new[, of_own]), 0)
  expect_identical(
    as.integer(S4Vectors::metadata(both)$scvibridge$corrected_cells), sum(of_own)
  )
})

test_that("labels that match nothing are refused with the names of both sides", {
  model <- example_model()
  other <- sce_of_example()
  other$cell_type <- tolower(other$cell_type)
  expect_error(
    corrected(other, model, transform_batch = "V3", labels_key = "cell_type"),
    "labels_key.*matches nothing.*did you mean",
    class = "scvibridge_error"
  )
})

test_that("how unbalanced conditions are arrives in R", {
  model <- example_model()
  other <- sce_of_example()
  is_target <- other$batch == "V3"
  position <- stats::ave(seq_len(ncol(other)), is_target, FUN = seq_along)
  other$arm <- ifelse((position %% 6 == 0) == is_target, "ctrl", "stim")
  expect_warning(
    made <- corrected_counts(
      model,
      adata = other, transform_batch = "V3", condition_key = "arm", library_size = "observed", progress = FALSE
    ),
    "conditions are unbalanced across batches"
  ) |> suppressWarnings()
  made <- S4Vectors::metadata(made)$scvibridge
  expect_identical(made$confounding, "unbalanced")
  table <- table(is_target, other$arm)
  v <- sqrt(suppressWarnings(stats::chisq.test(table, correct = FALSE))$statistic / sum(table))
  expect_equal(made$confounding_variance_inflation, 1 / (1 - unname(v)^2), tolerance = .1)
})
