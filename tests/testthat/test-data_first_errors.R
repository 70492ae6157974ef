# What functions with the data first refuse, and what they advise.

test_that("what cannot be done is refused before any work", {
  model <- example_model()
  data <- example_data()
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = data$counts),
    colData = data$cells
  )
  refused <- function(expression, pattern) {
    expect_error(expression, pattern, class = "scvibridge_error")
  }
  refused(
    corrected_counts(sce, model, transform_bach = "V3"),
    "there is no argument transform_bach; did you mean transform_batch"
  )
  refused(corrected_counts(sce, model, "V3", asay = "counts"), "did you mean assay")
  refused(corrected_counts(sce, model, "V3", indices = 1:3), "subset the object instead")
  # Abbreviated names are those that R expands them to.
  refused(corrected_counts(sce, model, "V3", ind = 1:3), "subset the object instead")
  refused(corrected_counts(sce, model, transform_b = "V9"), "\"V9\" is not among")
  refused(
    corrected_counts(data$counts, model, "V3", cell_data = data$cells, norm = TRUE),
    "normalized_expression"
  )
  refused(corrected_counts(sce, model, adata = sce), "adata cannot be set if the data come first")
  refused(
    corrected_counts(sce, transform_batch = "V3"), "the second argument, model, must be a model"
  )
  refused(corrected_counts(sce, data$counts, "V3"), "model must be a model from load_scvi")
  refused(corrected_counts("x.h5ad", model), "corrected_counts\\(model, adata = ...\\)")
  refused(corrected_counts(data.frame(), model), "not an object of class data.frame: convert it")
  refused(corrected_counts(sce, model, "V9"), "\"V9\" is not among \"V1\", \"V2\", \"V3\"")
  refused(corrected_counts(sce, model, "V3", cell_data = data$cells), "only for a matrix")
  refused(
    corrected_counts(data$counts, model, "V3"), "column batch, which is missing from cell_data"
  )
  refused(
    corrected_counts(data$counts, model, "V3", cell_data = data$cells, out = "x.h5ad"),
    "omit out"
  )
  refused(
    corrected_counts(data$counts, model, "V3", cell_data = data$cells, normalized = TRUE),
    "normalized_expression"
  )
  refused(add_latent(data$counts, model), "cannot store a latent space")
  refused(add_latent(model, sce), "add_latent\\(object, model\\)")
  names(SummarizedExperiment::colData(sce))[1] <- "Batch"
  refused(
    denoised_expression(sce, model),
    "column batch, which is missing from the object's colData; did you mean Batch"
  )
  skip_without("Seurat")
  refused(
    corrected_counts(example_seurat(), model, transform_batch = "V3", out = "x.h5ad"),
    "a file, which a Seurat object does not support"
  )
})
