testthat::skip_on_cran() # trains models

# Models of other classes, and covariates: R's results against Python's of the same calls.

test_that("proteins are an alternative experiment, and an assay of Seurat", {
  model <- model_of("TOTALVI")
  expect_match(capture.output(print(model))[1], "TOTALVI")
  sce <- suppressWarnings(corrected_counts(model, transform_batch = "V3", progress = FALSE))
  python <- of_python("corrected_counts", model, transform_batch = "V3")
  expect_same_values(SummarizedExperiment::assay(sce, "corrected"), python$X)
  proteins <- SingleCellExperiment::altExp(sce, "proteins")
  values <- SummarizedExperiment::assay(proteins, "normalized")
  expect_same_values(values, python$obsm[["protein_normalized"]])
  expect_identical(rownames(proteins), paste0("CD_", 0:10))
  expect_identical(colnames(proteins), colnames(sce))
  expect_identical(SingleCellExperiment::reducedDimNames(sce), "scvi")

  skip_without("Seurat")
  seurat <- suppressMessages(as_seurat(sce))
  expect_identical(SeuratObject::DefaultAssay(seurat), "RNA")
  layer <- SeuratObject::LayerData(seurat, "data", assay = "proteins")
  expect_equal(unname(as.matrix(layer)), unname(log1p(values)))
  expect_identical(rownames(layer), paste0("CD-", 0:10))
})

test_that("covariates are changed as in Python", {
  model <- model_of("SCANVI")
  changed <- list(donor = c("D1", "D2"), percent_mito = 0.05)
  asked <- reticulate::dict(donor = list("D1", "D2"), percent_mito = list(0.05))
  sce <- normalized_expression(
    model,
    transform_batch = "V2", transform_covariates = changed, progress = FALSE
  )
  python <- of_python(
    "normalized_expression", model,
    transform_batch = "V2", transform_covariates = asked
  )
  expect_same_values(SummarizedExperiment::assay(sce, "normalized"), python$X)
  made <- S4Vectors::metadata(sce)$scvibridge$transform_covariates
  expect_identical(made$donor, c("D1", "D2"))

  counts <- suppressWarnings(corrected_counts(
    model,
    transform_covariates = c(donor = "D2"), labels_key = "cell_type", progress = FALSE
  ))
  python <- of_python(
    "corrected_counts", model,
    transform_covariates = reticulate::dict(donor = "D2"), labels_key = "cell_type"
  )
  expect_same_values(SummarizedExperiment::assay(counts, "corrected"), python$X)
  stratum <- SummarizedExperiment::colData(counts)$scvibridge_stratum
  expect_identical(levels(stratum), c("donor=D1", "donor=D2"))
})

test_that("covariates that cannot be are refused", {
  model <- model_of("SCANVI")
  for (given in list("D1", list("D1"), list(), c(donor = NA))) {
    expect_error(
      corrected_counts(model, transform_covariates = given, progress = FALSE),
      "transform_covariates.* must be|transform_batch is required",
      class = "scvibridge_error"
    )
  }
  expect_error(
    corrected_counts(model, transform_covariates = list(donr = "D1"), progress = FALSE),
    'no covariate "donr".*did you mean "donor"',
    class = "scvibridge_error"
  )
})
