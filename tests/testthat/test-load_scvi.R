test_that("a model is loaded with its data and printed", {
  model <- example_model()
  expect_s3_class(model, "scvi_model")
  expect_s3_class(model$python, "scvi.model._scvi.SCVI")
  printed <- capture.output(print(model))
  expect_match(printed[1], 'SCVI, gene_likelihood "nb", dispersion "gene"')
  expect_match(printed[2], "150 cells, 60 genes")
  expect_match(printed[3], "batches \\(batch\\): V1, V2, V3")
  expect_false(any(grepl("not loaded", printed)))
})

test_that("the data may be an AnnData, or have been saved with the model", {
  files <- example_files()
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(files$adata)
  expect_identical(load_scvi(files$model, adata)$summary, example_model()$summary)

  folder <- tempfile("model")
  example_model()$python$save(folder, save_anndata = TRUE)
  expect_identical(load_scvi(folder)$summary, example_model()$summary)
})

test_that("what is no model is refused", {
  files <- example_files()
  expect_error(
    load_scvi(tempdir(), files$adata), "not the folder of a saved scvi-tools model",
    class = "scvibridge_error"
  )
  expect_error(load_scvi("absent"), "the model folder absent does not exist", class = "scvibridge_error")
  expect_error(load_scvi(files$model, "absent.h5ad"), "there is no file absent.h5ad")
  expect_error(load_scvi(files$model), "pass adata, the data")
  expect_error(load_scvi(c("a", "b")), "model_dir must be a single string")
})

test_that("a model that would run code is refused unless it is trusted", {
  folder <- file.path(tempfile("model"), "hostile")
  marker <- tempfile("marker")
  dir.create(folder, recursive = TRUE)
  file.copy(file.path(example_files()$model, "model.pt"), folder)
  test_module("hostile_model")$make_hostile(file.path(folder, "model.pt"), marker)

  expect_error(
    load_scvi(folder, example_files()$adata), "attr_dict\\[\"mine_\"\\] refers to posix.system",
    class = "scvibridge_error"
  )
  expect_false(file.exists(marker))
  trusted <- load_scvi(folder, example_files()$adata, trust = TRUE)
  expect_identical(trusted$summary, example_model()$summary)
  expect_true(file.exists(marker))
  expect_error(load_scvi(folder, trust = NA), "trust must be TRUE or FALSE, got NA")
})

test_that("the data may be a MuData that reticulate holds", {
  data <- reticulate::import("anndata", convert = FALSE)$read_h5ad(example_files()$adata)
  held <- reticulate::import("mudata", convert = FALSE)$MuData(list(rna = data))
  expect_identical(python_adata(held), held)
  expect_error(load_scvi(example_files()$model, held), "must be an AnnData, not a MuData")
  expect_error(load_scvi(example_files()$model, 1), "held by reticulate, or an object that as_")
})

test_that("a model from another session says that it must be loaded again", {
  file <- tempfile(fileext = ".rds")
  saveRDS(example_model(), file)
  restored <- readRDS(file)
  expect_output(print(restored), "not loaded in this R session")
  expect_error(
    corrected_counts(restored, transform_batch = "V3"), "load it again, load_scvi",
    class = "scvibridge_error"
  )
})

test_that("what is neither model nor data is refused", {
  expect_error(corrected_counts(1), "a model from load_scvi.*class numeric")
  expect_error(normalized_expression("model"), "an AnnData follows the model")
})

test_that("an object of R is taken where an AnnData is", {
  model <- example_model()
  expected <- corrected_counts(model, transform_batch = "V3", progress = FALSE)
  given <- SingleCellExperiment::SingleCellExperiment(
    list(counts = SummarizedExperiment::assay(expected, "counts")),
    colData = SummarizedExperiment::colData(expected)[c("batch", "cell_type")]
  )
  found <- corrected_counts(model, adata = given, transform_batch = "V3", progress = FALSE)
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"),
    SummarizedExperiment::assay(expected, "corrected")
  )
})

test_that("a prefix chooses among models, and the only one is found", {
  folder <- tempfile("model")
  example_model()$python$save(folder, prefix = "one_", save_anndata = TRUE)
  expect_identical(load_scvi(folder)$summary, example_model()$summary)
  for (file in list.files(folder)) {
    file.copy(file.path(folder, file), file.path(folder, sub("one_", "two_", file)))
  }
  expect_error(load_scvi(folder), 'several models, .* "one_", "two_"', class = "scvibridge_error")
  expect_identical(load_scvi(folder, prefix = "two_")$summary, example_model()$summary)
  expect_error(load_scvi(folder, prefix = 1), "prefix must be a single string")
})

test_that("genes that Seurat renamed are found in an object passed as adata", {
  skip_without("Seurat")
  odd <- odd_model()
  object <- SeuratObject::CreateSeuratObject(odd$seurat_counts[60:1, ], meta.data = odd$cells)
  loaded <- load_scvi(odd$model$dir, adata = object)
  for (found in list(
    denoised_expression(loaded, progress = FALSE),
    denoised_expression(odd$model, adata = object, progress = FALSE)
  )) {
    expect_identical(
      as.matrix(SummarizedExperiment::assay(found, "counts")), as.matrix(odd$counts)
    )
    expect_identical(SummarizedExperiment::assay(found, "denoised"), odd$denoised)
  }
})
