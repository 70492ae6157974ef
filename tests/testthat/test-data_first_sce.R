# Functions with a SingleCellExperiment or a SummarizedExperiment first.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

# All of it but what a result adds.
expect_all_kept <- function(found, object) {
  expect <- testthat::expect_identical
  for (name in SummarizedExperiment::assayNames(object)) {
    expect(SummarizedExperiment::assay(found, name), SummarizedExperiment::assay(object, name))
  }
  expect(SummarizedExperiment::colData(found)[names(SummarizedExperiment::colData(object))],
    SummarizedExperiment::colData(object)
  )
  expect(SummarizedExperiment::rowData(found)[names(SummarizedExperiment::rowData(object))],
    SummarizedExperiment::rowData(object)
  )
  expect(S4Vectors::metadata(found)$note, "mine")
}

test_that("a SingleCellExperiment of the model's genes takes assays in its own order", {
  object <- example_sce()
  found <- correct_first(object, normalized = TRUE)
  expect_identical(
    SummarizedExperiment::assayNames(found), c("counts", "other", "corrected", "normalized")
  )
  genes <- rownames(object)
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"), corrected_value("corrected", genes)
  )
  expect_equal(
    SummarizedExperiment::assay(found, "normalized"), corrected_value("normalized", genes),
    tolerance = 1e-6
  )
  expect_equal(
    SingleCellExperiment::reducedDim(found, "scvi"),
    SingleCellExperiment::reducedDim(example_corrected(), "scvi")[example_order(), ],
    tolerance = 1e-6
  )
  flags <- SummarizedExperiment::rowData(example_corrected())[genes, ]
  expect_identical(
    SummarizedExperiment::rowData(found)$scvibridge_low_detection, flags$scvibridge_low_detection
  )
  expect_identical(
    SummarizedExperiment::rowData(found)$scvibridge_detection, flags$scvibridge_detection
  )
  expect_identical(
    found$scvibridge_depth_ratio, example_corrected()$scvibridge_depth_ratio[example_order()]
  )
  expect_all_kept(found, object)
  expect_identical(SingleCellExperiment::altExps(found), SingleCellExperiment::altExps(object))
  expect_identical(SingleCellExperiment::mainExpName(found), "RNA")
  expect_identical(
    SingleCellExperiment::reducedDim(found, "PCA"), SingleCellExperiment::reducedDim(object, "PCA")
  )
  expect_identical(
    SingleCellExperiment::sizeFactors(found), SingleCellExperiment::sizeFactors(object)
  )

  said <- messages_of(again <- denoised_expression(found, example_model(), progress = FALSE))
  expect_length(said, 0)
  expect_identical(
    SummarizedExperiment::assay(again, "corrected"), SummarizedExperiment::assay(found, "corrected")
  )
  expect_named(S4Vectors::metadata(again)$scvibridge, c("corrected", "denoised"))
  python <- python_result("denoised_expression")
  expect_equal(
    unname(SummarizedExperiment::assay(again, "denoised")[60:1, ]),
    python_matrix(python$X)[, example_order()],
    tolerance = 1e-6
  )
  expect_match(messages_of(correct_first(again, quiet = FALSE)), "assay corrected", all = FALSE)
})

test_that("one with more genes has the result beside it", {
  object <- example_sce(all_genes())
  found <- correct_first(object)
  beside <- SingleCellExperiment::altExp(found, "scvi")
  expect_identical(SummarizedExperiment::assayNames(beside), c("counts", "corrected"))
  expect_identical(
    SummarizedExperiment::assay(beside, "counts"),
    SummarizedExperiment::assay(object, "counts")[rownames(beside), ]
  )
  expect_identical(SummarizedExperiment::assay(beside, "corrected"), corrected_value("corrected"))
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "other"))
  expect_all_kept(found, object)
  expect_identical(SingleCellExperiment::altExpNames(found), c("tags", "scvi"))

  both <- normalized_expression(
    found, example_model(),
    transform_batch = "V3", progress = FALSE
  )
  beside <- SingleCellExperiment::altExp(both, "scvi")
  expect_identical(SummarizedExperiment::assayNames(beside), c("counts", "corrected", "normalized"))
  expect_equal(
    SummarizedExperiment::assay(beside, "normalized"), corrected_value("normalized"),
    tolerance = 1e-6
  )
  some <- function() correct_first(both, gene_list = c("GENE9", "GENE2"), quiet = FALSE)
  said <- messages_of(few <- some())
  expect_match(said, "alternative experiment scvi is replaced", all = FALSE)
  expect_identical(
    SummarizedExperiment::assay(SingleCellExperiment::altExp(few, "scvi"), "corrected"),
    corrected_value("corrected", c("GENE9", "GENE2"))
  )
})

test_that("a SummarizedExperiment is cut down to the genes, and takes the latent as a column", {
  object <- methods::as(example_sce(all_genes()), "SummarizedExperiment")
  rownames(object) <- all_genes()
  said <- messages_of(found <- correct_first(object, quiet = FALSE))
  expect_match(said, "60 genes that were corrected, not all 61", all = FALSE)
  expect_identical(class(found), class(object))
  expect_identical(SummarizedExperiment::assay(found, "corrected"), corrected_value("corrected"))
  expect_all_kept(found, object[rownames(found), ])
  expect_equal(
    found$scvi, SingleCellExperiment::reducedDim(example_corrected(), "scvi")[example_order(), ],
    tolerance = 1e-6
  )
  again <- expect_silent(denoised_expression(found, example_model(), progress = FALSE))
  expect_identical(SummarizedExperiment::assay(again, "corrected"), corrected_value("corrected"))
  latent <- add_latent(object, example_model(), progress = FALSE)
  expect_identical(dim(latent), dim(object))
  expect_equal(latent$scvi, found$scvi, tolerance = 1e-6)
  object$scvi <- "mine"
  expect_message(
    latent <- add_latent(object, example_model(), progress = FALSE),
    "the object's column scvi is replaced"
  )
  expect_equal(latent$scvi, found$scvi, tolerance = 1e-6)
})

test_that("the latent alone is that of the results, also from disk", {
  model <- example_model()
  object <- example_sce(all_genes())
  found <- add_latent(object, model, progress = FALSE)
  expected <- t(python_matrix(python_result("denoised_expression")$obsm[["X_scvi"]]))
  latent <- SingleCellExperiment::reducedDim(found, "scvi")
  expect_equal(unname(latent), expected[example_order(), ], tolerance = 1e-6)
  expect_all_kept(found, object)
  expect_identical(SingleCellExperiment::altExpNames(found), "tags")
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "other"))
  expect_identical(S4Vectors::metadata(found)$scvibridge$latent$model_class, "SCVI")
  in_pieces <- add_latent(object, model, batch_size = 7, progress = FALSE)
  expect_equal(SingleCellExperiment::reducedDim(in_pieces, "scvi"), latent, tolerance = 1e-5)
  on_disk <- call_python(
    "latent", list(model = model$python, adata = example_files()$adata, progress = FALSE)
  )
  expect_equal(on_disk$latent$values, expected, tolerance = 1e-6)
  skip_without("Seurat")
  seurat <- example_seurat()
  found <- add_latent(seurat, model, progress = FALSE)
  expect_equal(unname(SeuratObject::Embeddings(found, "scvi")), unname(latent), tolerance = 1e-6)
  found@reductions$scvi <- NULL
  found@misc$scvibridge <- NULL
  expect_identical(found, seurat)
})

test_that("assays on disk are read, and with out those of the result stay there", {
  skip_without("HDF5Array")
  model <- example_model()
  object <- example_sce()
  expected <- correct_first(object)
  delayed <- object
  values <- HDF5Array::writeHDF5Array(SummarizedExperiment::assay(object, "counts"),
    tempfile(fileext = ".h5"), "counts",
    with.dimnames = TRUE
  )
  SummarizedExperiment::assay(delayed, "counts") <- values
  found <- correct_first(delayed)
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"),
    SummarizedExperiment::assay(expected, "corrected")
  )
  expect_identical(SummarizedExperiment::assay(found, "counts"), values)

  out <- tempfile(fileext = ".h5ad")
  found <- correct_first(object, out = out)
  on_disk <- SummarizedExperiment::assay(found, "corrected")
  expect_s4_class(on_disk, "DelayedMatrix")
  expect_identical(DelayedArray::path(on_disk), normalizePath(out))
  corrected <- SummarizedExperiment::assay(expected, "corrected")
  expect_identical(in_memory(on_disk), as.matrix(corrected))
  expect_identical(
    SummarizedExperiment::colData(found), SummarizedExperiment::colData(expected)
  )
  expect_all_kept(found, object)
  more <- correct_first(example_sce(all_genes()), out = tempfile(fileext = ".h5"))
  beside <- SingleCellExperiment::altExp(more, "scvi")
  expect_identical(in_memory(SummarizedExperiment::assay(beside, "corrected")),
    as.matrix(corrected_value("corrected"))
  )
})

test_that("assay chooses the counts, and new cells are corrected by the model's own", {
  object <- example_sce()
  renamed <- object
  SummarizedExperiment::assayNames(renamed) <- c("umi", "other")
  found <- correct_first(renamed, assay = "umi")
  expect_identical(
    SummarizedExperiment::assay(found, "corrected"), corrected_value("corrected", rownames(object))
  )
  new <- object[, 1:20]
  colnames(new) <- paste0("new", 1:20)
  found <- correct_first(new)
  expect_match(
    S4Vectors::metadata(found)$scvibridge$corrected$estimated_on, "model",
    info = "effects are the model's own"
  )
  anndata <- as_anndata(new)
  python <- python_result(
    "corrected_counts", anndata,
    transform_batch = "V3", labels_key = "cell_type"
  )
  order <- match(rownames(object), rownames(example_data()$counts))
  expect_identical(
    unname(as.matrix(SummarizedExperiment::assay(found, "corrected"))),
    python_matrix(python$X)[order, ]
  )
})

test_that("diagnostics take the data first", {
  model <- example_model()
  object <- example_sce(all_genes())
  support <- batch_support(
    object, model,
    transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  )
  expected <- batch_support(
    model,
    transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  )
  expect_identical(support$cells, expected$cells[colnames(object), ])
  everything <- example_sce(chosen = 1:150)
  expect_equal(
    choose_batch(everything, model, labels_key = "cell_type", progress = FALSE),
    choose_batch(model, labels_key = "cell_type", progress = FALSE)
  )
  expect_error(
    scvi_calibration(object, model, n_references = 5, indices = 1:3), "subset the object instead",
    class = "scvibridge_error"
  )
  fit <- scvi_calibration(everything, model, n_references = 5, progress = FALSE)
  python <- python_result("calibration", as_anndata(everything), n_references = 5L)
  expect_equal(fit$batches$n_cells, reticulate::py_to_r(python$batches$n_cells$tolist()))
  expect_identical(fit$advice, in_words_of_r(reticulate::py_to_r(python$advice)))
  everything$all <- "one"
  harm <- function(data) suppressWarnings(scvi_damage(data, "all", max_epochs = 1, progress = FALSE))
  found <- harm(everything)
  by_python <- harm(as_anndata(everything))
  expect_identical(found$after, by_python$after)
})

test_that("all genes of an extended model come back", {
  object <- example_sce(all_genes(), 1:150)
  counts <- SummarizedExperiment::assay(object, "counts")
  counts["further", ] <- counts["GENE5", ]
  SummarizedExperiment::assay(object, "counts") <- counts
  extended <- extend_genes(
    object, example_model(),
    max_epochs = 2, ridge = 0.1, device = "cpu", progress = FALSE
  )
  expect_identical(rownames(extended$quality), "further")
  found <- correct_first(object, model = extended)
  python <- of_python(
    "corrected_counts", extended, as_anndata(object),
    transform_batch = "V3", labels_key = "cell_type"
  )
  genes <- reticulate::py_to_r(python$var_names$tolist())
  expect_setequal(genes, rownames(object))
  expect_identical(
    unname(as.matrix(SummarizedExperiment::assay(found, "corrected")[genes, ])),
    python_matrix(python$X)
  )
  latent <- add_latent(object, extended, progress = FALSE)
  expect_equal(
    SingleCellExperiment::reducedDim(latent, "scvi"),
    SingleCellExperiment::reducedDim(found, "scvi"),
    tolerance = 1e-6
  )
})
