# Errors and warnings of Python speak R.

# Words that mean nothing to someone who writes R.
python_only <- c(
  "\\bobs\\b", "\\bobsm\\b", "\\buns\\b", "\\bvar\\b", "\\badata[.\\[]", "\\bTrue\\b",
  "\\bFalse\\b", "\\bNone\\b(?! of)", "\\w=", "'[^' ]+'", "[.]astype", "scanpy[.]",
  "scvibridge[.]\\w+\\(", "\\{'", "--[a-z]", "DataFrame", "\\bdict\\b", "\\blist of names\\b",
  "(?<![\\w.])(calibration|damage|load|report)\\("
)

expect_speaks_r <- function(message) {
  met <- vapply(python_only, grepl, NA, x = message, perl = TRUE)
  expect_identical(python_only[met], character(), label = message)
}

test_that("text is put into the words of R, names stay as they are", {
  expect_words <- function(python, r) expect_identical(in_words_of_r(python), r)
  expect_words(
    "batch 'v3' is not among 'V2', 'V3': did you mean 'V3'?",
    "batch \"v3\" is not among \"V2\", \"V3\": did you mean \"V3\"?"
  )
  expect_words("pass allow_confounded=True", "pass allow_confounded = TRUE")
  expect_words(
    "effect='label' needs labels_key=, the column of obs with cell types",
    "effect = \"label\" needs labels_key, the column with cell types"
  )
  expect_words(
    paste0(
      "obs['batch'] of the model's data was changed after the model was set up, for 2 of 5 cells: ",
      "the current values are used, but scvi-tools and the training used the previous ones"
    ),
    paste0(
      "the column \"batch\" of the model's data was changed after the model was set up, for 2 of 5 ",
      "cells: the current values are used, but scvi-tools and the training used the previous ones"
    )
  )
  expect_words("obs['a b'] is missing for 2 cells", "the column \"a b\" is missing for 2 cells")
  expect_words(
    "adata.X must hold raw counts, but holds values. layers['raw'] holds whole numbers: put those there",
    paste0(
      "the counts must hold raw counts, but holds values. The layer \"raw\" holds whole numbers: ",
      "name it, layer = \"raw\""
    )
  )
  expect_words("uns['scvibridge']['kind'] is None", "metadata$scvibridge$kind is NULL")
  expect_words(
    "Make them unique first: adata.obs_names_make_unique()",
    "Make them unique first: colnames(x) <- make.unique(colnames(x))"
  )
  expect_words(
    paste0(
      "obs['CD4/CD8'] cannot be written: rename it, adata.obs = ",
      "adata.obs.rename(columns={'CD4/CD8': 'CD4_CD8'})"
    ),
    "the column \"CD4/CD8\" cannot be written: rename it, \"CD4/CD8\" to \"CD4_CD8\""
  )
  expect_words(
    "rename it, adata.obs.rename(columns={'_index': 'name'}), or drop it",
    "rename it, \"_index\" to \"name\", or drop it"
  )
  expect_words(
    "obs['a'] cannot be written: make it text, adata.obs['a'] = adata.obs['a'].astype(str)",
    "the column \"a\" cannot be written: make it text, as.character()"
  )
  # Names of the user's, and paths.
  expect_words("batch 'True=None' is not", "batch \"True=None\" is not")
  expect_words("there is no file /data/None=True/x.h5ad", "there is no file /data/None=True/x.h5ad")
  expect_words("the model's genes: 'it\\'s', \"it's\"", "the model's genes: \"it's\", \"it's\"")
  expect_words("batch 'a\"b'", "batch \"a\\\"b\"")
  expect_words("None of 3 batches is flagged", "None of 3 batches is flagged")
  expect_words("corrected_counts(dispersion=) takes", "corrected_counts(dispersion = ...) takes")
  expect_words(
    "pass calibration(model) of this model, scvibridge.damage() or 'damage()'",
    "pass scvi_calibration(model) of this model, scvi_damage() or \"damage()\""
  )
  expect_words("", "")
  expect_words("batch_key='x' is not", "batch_key = \"x\" is not")
})

test_that("every message in the source of the Python code can be put into the words of R", {
  messages <- reticulate::py_to_r(
    test_module("python_messages")$messages(file.path(python_code(), "scvibridge"))
  )
  expect_gt(length(messages), 150)
  # What only Python's functions can say, to those who call them.
  of_python_alone <- "dask|client|AnnData, a path|dtype|torch[.]save|a dictionary|got True|is not a dict"
  for (message in grep(of_python_alone, messages, value = TRUE, invert = TRUE)) {
    expect_speaks_r(in_words_of_r(message))
  }
})

test_that("errors as they are met speak R", {
  skip_without_python()
  model <- example_model()
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = example_data()$counts),
    colData = example_data()$cells
  )
  met <- function(expression) {
    condition <- tryCatch(
      withCallingHandlers(expression, warning = function(w) {
        expect_speaks_r(conditionMessage(w))
        invokeRestart("muffleWarning")
      }),
      error = identity
    )
    expect_s3_class(condition, "scvibridge_error")
    expect_speaks_r(conditionMessage(condition))
    conditionMessage(condition)
  }
  correct <- function(...) corrected_counts(model, ..., progress = FALSE)
  expect_match(
    met(correct(transform_batch = "v3")), "among \"V1\", \"V2\", \"V3\": did you mean \"V3\""
  )
  expect_match(
    met(correct(transform_batch = "V3", labels_key = "celltype")),
    "labels_key = \"celltype\" is not a column of the cells' metadata.*did you mean \"cell_type\""
  )
  expect_match(
    met(correct(transform_batch = "V3", gene_list = "FOXP3")), "extend_genes\\(\\) adds genes"
  )
  expect_match(
    met(correct(transform_batch = "V3", effect = "label")), "effect = \"label\" needs labels_key"
  )
  expect_match(
    met(correct(transform_batch = "V3", out = "x.csv")), "out = \"x.csv\" ends in .csv"
  )
  expect_match(
    met(correct(transform_batch = "V3", condition_key = "batch")), "allow_confounded = TRUE"
  )
  normal <- sce
  SummarizedExperiment::assay(normal, "counts") <- log1p(example_data()$counts)
  expect_match(
    met(corrected_counts(normal, model, "V3")), "^the assay counts of .* must hold raw counts"
  )
  expect_match(
    met(train_scvi(normal, batch_key = "batch")), "^the assay counts of .* must hold raw counts"
  )
  expect_match(met(train_scvi(sce, batch_key = "Batch")), "^batch_key = \"Batch\" is not a column")
  expect_match(
    met(train_scvi(sce, continuous_covariate_keys = "cell_type")),
    "^continuous_covariate_keys: the column \"cell_type\" must hold finite numbers"
  )
  missing <- sce
  missing$cell_type[3] <- NA
  expect_match(
    met(train_scvi(missing, labels_key = "cell_type")), "the column \"cell_type\" is missing for 1 of"
  )
  met(as_sce(as_anndata(sce)))
  met(load_scvi(tempdir()))
  met(correct(transform_batch = "V3", library_size = "total"))
  met(correct(transform_batch = "V3", transform_covariates = list(donor = "D1")))
  met(corrected_counts(sce[1:5, ], model, "V3"))
  met(scvi_damage(sce, batch_key = "none"))
  met(batch_support(model, transform_batch = "V9"))
  error <- tryCatch(correct(transform_batch = "v3"), error = identity)
  expect_match(error$python_message, "did you mean 'V3'", fixed = TRUE)
})
