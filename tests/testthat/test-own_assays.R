# Assays and columns of the user's own that have a name that scvibridge uses too.

testthat::skip_on_cran()

# lintr does not see what the helpers define.
# nolint start: object_usage_linter.

corrected_for <- function(object, ...) {
  suppressMessages(suppressWarnings(corrected_counts(
    object, example_model(), ...,
    transform_batch = "V3", progress = FALSE
  )))
}

# Values with the sums of normalized expression, but the user's own.
own_normalized <- function(object) {
  counts <- as.matrix(SummarizedExperiment::assay(object, "counts"))
  sweep(counts, 2, 1e4 / colSums(counts), "*")
}

with_assay <- function(object, name, values) {
  SummarizedExperiment::assay(object, name, withDimnames = FALSE) <- unname(values)
  object
}

page_without_subtitle <- function(result) {
  file <- tempfile(fileext = ".html")
  suppressMessages(suppressWarnings(scvi_report(result, file, progress = FALSE, title = "x")))
  grep("class=\"subtitle\"", readLines(file, warn = FALSE), value = TRUE, invert = TRUE)
}

test_that("an assay normalized without a record is not expression of scvibridge", {
  skip_without_python()
  sce <- corrected_for(example_sce())
  values <- own_normalized(sce)
  own <- with_assay(sce, "normalized", values)
  expect_null(result_parts(own)$read_normalized())
  stored <- corrected_for(example_sce(), normalized = TRUE)
  expect_false(is.null(result_parts(stored)$read_normalized()))
  # Values that no expression can have are no fault of the user's.
  for (changed in list(values, log1p(values), -values)) {
    x <- with_assay(sce, "normalized", changed)
    file <- tempfile(fileext = ".h5ad")
    suppressMessages(write_h5ad(x, file, progress = FALSE))
    layer <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)$layers[["normalized"]]
    expect_identical(python_matrix(layer), unname(changed))
    back <- read_corrected(file)
    expect_identical(unname(SummarizedExperiment::assay(back, "normalized")), unname(changed))
    expect_null(result_parts(back)$read_normalized())
    expect_identical(as_sce(x), x)
  }
  # Counts that replace the first ones do not make the assay theirs.
  again <- corrected_for(own, seed = 5)
  expect_identical(names(results_of(again)), names(results_of(sce)))
  skip_without("Seurat")
  object <- suppressMessages(as_seurat(own))
  expect_false("scvi_normalized" %in% SeuratObject::Assays(object))
  expect_null(object@misc$scvibridge$normalized)
})

test_that("a report leaves out an assay normalized of the user's", {
  skip_without_python()
  testthat::skip_if_not(reticulate::py_module_available("jinja2"))
  testthat::skip_if_not(reticulate::py_module_available("matplotlib"))
  sce <- corrected_for(example_sce(), labels_key = "cell_type")
  own <- with_assay(sce, "normalized", own_normalized(sce))
  expected <- page_without_subtitle(sce)
  expect_identical(page_without_subtitle(own), expected)
  file <- tempfile(fileext = ".h5ad")
  suppressMessages(write_h5ad(own, file, progress = FALSE))
  expect_identical(page_without_subtitle(file), expected)
})

test_that("results in altExp scvi come before an assay of the user's with their name", {
  skip_without_python()
  skip_without("Seurat")
  data <- example_data()
  counts <- rbind(data$counts, more = 1)
  sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts), colData = data$cells)
  sce <- with_assay(sce, "normalized", own_normalized(sce))
  found <- corrected_for(sce, normalized = TRUE)
  beside <- SingleCellExperiment::altExp(found, "scvi")
  object <- suppressMessages(as_seurat(found))
  expect_equal(
    unname(as.matrix(SeuratObject::LayerData(object, "data", assay = "scvi_normalized"))),
    log1p(unname(SummarizedExperiment::assay(beside, "normalized")))
  )
})

test_that("raw counts in an assay corrected of the user's are read", {
  skip_without_python()
  sce <- example_sce()
  values <- SummarizedExperiment::assay(sce, "counts")
  sce <- with_assay(with_assay(sce, "corrected", values), "counts", values * 2)
  expected <- add_latent(example_sce(), example_model(), progress = FALSE)
  found <- add_latent(sce, example_model(), assay = "corrected", progress = FALSE)
  latent <- function(x) SingleCellExperiment::reducedDim(x, "scvi")
  expect_identical(latent(found), latent(expected))
  # Also once the object has a record, of the latent means.
  again <- add_latent(found, example_model(), assay = "corrected", progress = FALSE)
  expect_identical(latent(again), latent(expected))
  # Counts that scvibridge corrected are refused.
  expect_error(
    add_latent(corrected_for(example_sce()), example_model(), assay = "corrected"),
    "is a result of scvibridge, not raw counts", class = "scvibridge_error"
  )
})

test_that("no result replaces the raw counts that it is computed from", {
  skip_without_python()
  expect_refused <- function(call, object, assay, remedy) {
    expect_error(
      suppressMessages(suppressWarnings(call(object, example_model(), progress = FALSE))),
      paste0("raw counts are in the assay ", assay, " .*would replace: rename it first, ", remedy),
      class = "scvibridge_error"
    )
  }
  to_v3 <- function(..., normalized = FALSE) {
    corrected_counts(..., transform_batch = "V3", normalized = normalized)
  }
  sce <- example_sce()
  counts <- SummarizedExperiment::assay(sce, "counts")
  for (name in c("corrected", "normalized", "denoised")) {
    own <- with_assay(with_assay(sce, name, counts), "counts", counts * 2)
    call <- list(
      corrected = to_v3, normalized = normalized_expression, denoised = denoised_expression
    )[[name]]
    of_assay <- function(...) call(..., assay = name)
    expect_refused(of_assay, own, name, "assayNames\\(\\)")
    plain <- methods::as(own, "SummarizedExperiment")
    rownames(plain) <- rownames(own)
    expect_refused(of_assay, plain, name, "assayNames\\(\\)")
  }
  own <- with_assay(sce, "normalized", counts)
  both <- function(...) to_v3(..., normalized = TRUE, assay = "normalized")
  expect_refused(both, own, "normalized", "assayNames")
  # Another quantity leaves them where they are.
  found <- corrected_for(own, assay = "normalized")
  expect_identical(unname(SummarizedExperiment::assay(found, "normalized")), unname(counts))
  expected <- SummarizedExperiment::assay(corrected_for(example_sce()), "corrected")
  expect_identical(SummarizedExperiment::assay(found, "corrected"), expected)
  # So does a result beside the object's own genes.
  more <- example_sce(all_genes())
  SummarizedExperiment::assayNames(more)[1] <- "corrected"
  raw <- SummarizedExperiment::assay(more, "corrected")
  found <- corrected_for(more, assay = "corrected")
  expect_identical(SummarizedExperiment::assay(found, "corrected"), raw)
  beside <- SummarizedExperiment::assays(SingleCellExperiment::altExp(found, "scvi"))
  expect_identical(as.matrix(beside$counts), as.matrix(raw[rownames(beside$counts), ]))

  skip_without("Seurat")
  object <- example_seurat()
  own <- SeuratObject::LayerData(object, "counts", assay = "RNA")
  object[["corrected"]] <- SeuratObject::CreateAssay5Object(own)
  expect_refused(function(...) to_v3(..., assay = "corrected"), object, "corrected", "RenameAssays")
  SeuratObject::DefaultAssay(object) <- "corrected"
  expect_refused(to_v3, object, "corrected", "RenameAssays")
  renamed <- suppressWarnings(SeuratObject::RenameAssays(object, corrected = "soup"))
  found <- as_sce(corrected_for(renamed, assay = "soup"))
  genes <- rownames(found)
  raw <- SummarizedExperiment::assay(found, "counts")
  expect_identical(unname(as.matrix(raw)), unname(as.matrix(own[genes, ])))
})

test_that("without any record, names count, which is said", {
  skip_without("Seurat")
  sce <- small_sce()
  S4Vectors::metadata(sce) <- list()
  expect_message(object <- as_seurat(sce), "names alone.* corrected, normalized\\. Rename")
  expect_true("scvi_normalized" %in% SeuratObject::Assays(object))
  sce <- with_assay(sce, "corrected", log1p(as.matrix(SummarizedExperiment::assay(sce, "counts"))))
  expect_error(
    suppressMessages(as_seurat(sce)), "no longer holds counts.* If it is your own, rename it",
    class = "scvibridge_error"
  )
})

# -- names of reductions ---------------------------------------------------------------------------

with_reductions <- function(names) {
  sce <- small_sce()
  given <- lapply(seq_along(names), function(i) {
    matrix(i + seq_len(2 * ncol(sce)) / 10, ncol(sce))
  })
  SingleCellExperiment::reducedDims(sce) <- stats::setNames(given, names)
  sce
}

expect_reductions <- function(names, expected) {
  sce <- with_reductions(names)
  expect_no_warning(object <- suppressMessages(as_seurat(sce)))
  expect_identical(SeuratObject::Reductions(object), expected)
  for (i in seq_along(names)) {
    expect_identical(
      unname(SeuratObject::Embeddings(object, expected[i])),
      unname(SingleCellExperiment::reducedDim(sce, i))
    )
  }
  keys <- vapply(expected, function(name) SeuratObject::Key(object[[name]]), "")
  expect_false(anyDuplicated(tolower(keys)) > 0)
  columns <- Seurat::FetchData(object, paste0(keys, "2"))
  for (i in seq_along(names)) {
    expect_identical(columns[[i]], unname(SingleCellExperiment::reducedDim(sce, i)[, 2]))
  }
  object
}

test_that("no reduction replaces another, or clashes with an assay", {
  skip_without("Seurat")
  expect_reductions(c("PCA", "pca", "Pca"), c("pca_1", "pca", "pca_2"))
  expect_reductions(c("SCVI", "scvi", "sc.vi"), c("scvi_1", "scvi", "sc.vi"))
  expect_reductions(c("corrected", "RNA", "proteins"), c("corrected_1", "rna", "proteins"))
  expect_reductions(c("Harmony PCA", "2d", "harmony.pca"), c("harmony.pca_1", "X2d", "harmony.pca"))
  expect_message(
    as_seurat(with_reductions(c("corrected", "PCA"))), "'corrected' becomes corrected_1\n"
  )
  expect_no_message(as_seurat(with_reductions(c("PCA", "UMAP"))))
})

test_that("no reduction replaces another in an AnnData or a file", {
  skip_without_python()
  given <- c("pca", "X_scvi", "PCA", "scvi", "X_pca", "umap")
  expected <- c("X_pca", "X_scvi_1", "X_pca_1", "X_scvi", "X_pca_2", "X_umap")
  sce <- with_reductions(given)
  value <- function(i) unname(SingleCellExperiment::reducedDim(sce, i))
  expect_message(
    adata <- as_anndata(sce), "'X_scvi' becomes X_scvi_1, 'PCA' becomes X_pca_1, 'X_pca' becomes"
  )
  obsm <- reticulate::r_to_py(adata)$obsm
  expect_identical(length(obsm), length(given))
  for (i in seq_along(given)) {
    expect_identical(unname(reticulate::py_to_r(obsm[[expected[i]]])), value(i))
  }
  file <- tempfile(fileext = ".h5ad")
  suppressMessages(write_h5ad(sce, file, progress = FALSE))
  back <- read_corrected(file)
  names <- c("PCA", "scvi_1", "pca_1", "scvi", "pca_2", "UMAP")
  expect_setequal(SingleCellExperiment::reducedDimNames(back), names)
  for (i in seq_along(given)) {
    found <- SingleCellExperiment::reducedDim(back, names[i])
    expect_equal(unname(found), value(i), tolerance = 1e-6)
  }
  # A matrix among the columns of the cells does not take the place of the latent means.
  sce <- with_reductions("scvi")
  SummarizedExperiment::colData(sce)$X_scvi <- matrix(7, ncol(sce), 2)
  expect_message(adata <- as_anndata(sce), "columns that are matrices .* 'X_scvi' becomes X_scvi_1")
  obsm <- reticulate::r_to_py(adata)$obsm
  expect_identical(unname(reticulate::py_to_r(obsm[["X_scvi"]])), value(1))
  expect_true(all(reticulate::py_to_r(obsm[["X_scvi_1"]]) == 7))
  expect_no_message(as_anndata(with_reductions(c("PCA", "UMAP", "scvi"))))
})

test_that("matrices of an AnnData whose names in R would be the same keep their values", {
  skip_without_python()
  adata <- test_module("odd_result")$odd_counts()
  latent <- reticulate::py_to_r(adata$obsm[["X_scvi"]])
  numpy <- reticulate::import("numpy", convert = FALSE)
  reticulate::py_set_item(adata$obsm, "scvi", numpy$full(c(12L, 2L), 3))
  reticulate::py_set_item(adata$obsm, "X_pca", numpy$full(c(12L, 2L), 4))
  reticulate::py_set_item(adata$obsm, "PCA", numpy$full(c(12L, 2L), 5))
  sce <- as_sce(adata)
  expect_identical(anyDuplicated(SingleCellExperiment::reducedDimNames(sce)), 0L)
  first <- function(name) SingleCellExperiment::reducedDim(sce, name)[[1, 1]]
  expect_identical(first("scvi"), latent[1, 1])
  expect_identical(c(first("scvi_1"), first("PCA"), first("PCA_1")), c(3, 4, 5))
})

test_that("a name that a Seurat object has for something else is refused before any work", {
  skip_without_python()
  skip_without("Seurat")
  object <- example_seurat()
  means <- matrix(
    seq_len(2 * ncol(object)) / 10, ncol(object),
    dimnames = list(colnames(object), paste0("scvi_", 1:2))
  )
  reduction <- SeuratObject::CreateDimReducObject(means, key = "scvi_", assay = "RNA")
  taken <- object
  taken[["corrected"]] <- reduction
  expect_error(
    corrected_counts(taken, example_model(), transform_batch = "V3", progress = FALSE),
    "as the assay corrected, but the object has a reduction of that name",
    class = "scvibridge_error"
  )
  found <- normalized_expression(taken, example_model(), progress = FALSE)
  expect_identical(unname(SeuratObject::Embeddings(found, "corrected")), unname(means))
  # The key of the user's reduction stays, and the new one gets another.
  expect_identical(SeuratObject::Key(found[["corrected"]]), "scvi_")
  expect_identical(SeuratObject::Key(found[["scvi"]]), "scvix1_")
  taken <- object
  suppressWarnings(taken[["scvi"]] <- taken[["RNA"]])
  expect_error(
    suppressMessages(add_latent(taken, example_model())),
    "as the reduction scvi, but the object has an assay of that name", class = "scvibridge_error"
  )
})

# -- a column original_name ------------------------------------------------------------------------

test_that("a column original_name of the user's is kept, and not taken for names of genes", {
  skip_without("Seurat")
  genes <- c("A_1", "B", "C_2", paste0("GENE", 4:10))
  sce <- small_sce(genes)
  own <- paste0("ENSG", 10:1)
  for (values in list(own, rep("x", 10), rev(genes), seq_len(10) + 0)) {
    SummarizedExperiment::rowData(sce)$original_name <- values
    expect_message(object <- as_seurat(sce), "column 'original_name_scvibridge'")
    for (assay in SeuratObject::Assays(object)) {
      found <- object[[assay]][[]]
      expect_identical(found$original_name, values)
      expect_identical(found$original_name_scvibridge, genes)
    }
    back <- as_sce(object)
    expect_identical(rownames(back), genes)
    expect_identical(SummarizedExperiment::rowData(back)$original_name, values)
    expect_false("original_name_scvibridge" %in% names(SummarizedExperiment::rowData(back)))
    expect_identical(result_parts(object)$corrected$genes, genes)
    expect_identical(result_parts(sce)$corrected$genes, genes)
  }
})

test_that("data with a column original_name come back with it", {
  skip_without_python()
  skip_without("Seurat")
  sce <- example_sce(rownames(example_data()$counts))
  own <- rev(rownames(sce))
  SummarizedExperiment::rowData(sce)$original_name <- own
  found <- corrected_for(sce)
  expect_identical(SummarizedExperiment::rowData(found)$original_name, own)
  expect_identical(result_parts(found)$corrected$genes, rownames(sce))
  object <- example_seurat()
  own <- rev(rownames(object))
  object[["RNA"]] <- SeuratObject::AddMetaData(
    object[["RNA"]], data.frame(original_name = own, row.names = rownames(object))
  )
  expect_identical(object[["RNA"]][[]]$original_name, own)
  found <- corrected_for(object)
  expect_identical(found[["RNA"]][[]]$original_name, own)
  expected <- corrected_for(example_seurat())
  expect_identical(rownames(as_sce(found)), rownames(as_sce(expected)))
  expect_identical(
    SeuratObject::LayerData(found, "counts", assay = "corrected"),
    SeuratObject::LayerData(expected, "counts", assay = "corrected")
  )
})
# nolint end
