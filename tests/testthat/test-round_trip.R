# Results in objects of R come back from files, from Seurat and from alternative experiments with
# the record of how they were made, and are not handed on once they were changed.

# nolint start: object_usage_linter. The functions are in helper.R.
expect_same_result <- function(found, expected) {
  expect_same_assays(found, expected)
  expect_identical(
    S4Vectors::metadata(found)$scvibridge, S4Vectors::metadata(expected)$scvibridge
  )
  expect_equal(
    SummarizedExperiment::colData(found), SummarizedExperiment::colData(expected),
    ignore_attr = FALSE
  )
  expect_equal(
    SummarizedExperiment::rowData(found), SummarizedExperiment::rowData(expected)
  )
  expect_equal(
    SingleCellExperiment::reducedDims(found), SingleCellExperiment::reducedDims(expected)
  )
}

test_that("a result is the same after it was written and read", {
  expected <- example_corrected()
  file <- written_result(expected)
  expect_same_result(read_corrected(file), expected)
  # And is what Python reads.
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
  python <- python_result(
    "corrected_counts",
    transform_batch = "V3", labels_key = "cell_type", normalized = TRUE
  )
  for (matrix in list(adata$X, adata$layers[["raw_counts"]])) {
    expect_identical(reticulate::py_str(matrix$dtype), "int32")
  }
  expect_identical(python_matrix(adata$X), python_matrix(python$X))
  expect_identical(
    python_matrix(adata$layers[["normalized"]]), python_matrix(python$layers[["normalized"]])
  )
  expect_equal(
    reticulate::py_to_r(scvibridge_module("io.h5ad")$storable(python$uns[["scvibridge"]])),
    reticulate::py_to_r(adata$uns[["scvibridge"]])
  )
  expression <- denoised_expression(example_model(), progress = FALSE)
  expect_same_result(read_corrected(written_result(expression)), expression)
})

test_that("a result on disk is written block by block", {
  skip_without("HDF5Array")
  expected <- example_corrected()
  backed <- read_corrected(written_result(expected), backed = TRUE)
  testthat::local_mocked_bindings(values_in_block = 60 * 7)
  expect_same_result(read_corrected(written_result(backed)), expected)
})

test_that("Seurat gives a result back", {
  skip_without("Seurat")
  expected <- example_corrected()
  object <- suppressMessages(as_seurat(expected))
  for (found in list(as_sce(object), read_corrected(written_result(object)))) {
    expect_identical(
      SummarizedExperiment::assayNames(found), SummarizedExperiment::assayNames(expected)
    )
    for (name in c("counts", "corrected")) {
      expect_identical(
        as.matrix(SummarizedExperiment::assay(found, name)),
        as.matrix(SummarizedExperiment::assay(expected, name))
      )
    }
    expect_equal(
      SummarizedExperiment::assay(found, "normalized"),
      SummarizedExperiment::assay(expected, "normalized"),
      tolerance = 1e-6
    )
    held <- by_quantity(S4Vectors::metadata(found)$scvibridge)
    expect_identical(held$corrected, S4Vectors::metadata(expected)$scvibridge)
    expect_equal(
      unname(SingleCellExperiment::reducedDim(found, "scvi")),
      unname(SingleCellExperiment::reducedDim(expected, "scvi")),
      tolerance = 1e-6
    )
    columns <- names(SummarizedExperiment::colData(expected))
    expect_equal(
      SummarizedExperiment::colData(found)[columns], SummarizedExperiment::colData(expected)
    )
    expect_equal(
      SummarizedExperiment::rowData(found), SummarizedExperiment::rowData(expected)
    )
  }
})

test_that("an assay proteins of the user's own is not taken for the result's", {
  sce <- example_corrected()
  tags <- matrix(
    seq_len(3 * ncol(sce)) %% 7, 3,
    dimnames = list(c("CD3", "CD4", "CD8"), colnames(sce))
  )
  only_counts <- SummarizedExperiment::SummarizedExperiment(list(counts = tags))
  logged <- SummarizedExperiment::SummarizedExperiment(list(normalized = log1p(tags)))
  for (own in list(only_counts, logged)) {
    SingleCellExperiment::altExp(sce, "proteins") <- own
    back <- read_corrected(written_result(sce))
    expect_identical(SingleCellExperiment::altExpNames(back), character())
    expect_equal(
      as.matrix(SummarizedExperiment::assay(back, "corrected")),
      as.matrix(SummarizedExperiment::assay(sce, "corrected"))
    )
    if (requireNamespace("Seurat", quietly = TRUE)) {
      object <- suppressMessages(as_seurat(sce))
      expect_false("proteins" %in% SeuratObject::Assays(object))
    }
  }
  skip_without("Seurat")
  object <- example_seurat()
  values <- tags[, colnames(object)]
  object[["proteins"]] <- SeuratObject::CreateAssay5Object(
    counts = methods::as(values, "dgCMatrix"),
    data = methods::as(t(scale(t(log1p(values)))), "dgCMatrix")
  )
  object <- correct_first(object)
  expect_identical(SingleCellExperiment::altExpNames(suppressMessages(as_sce(object))), character())
})

test_that("proteins keep their names in another order, and if there is one", {
  sce <- example_corrected()
  names <- c("P_1", "P_2", "P_3")
  values <- matrix(1:3 + 0, 3, ncol(sce), dimnames = list(names, colnames(sce)))
  with_proteins_of <- function(recorded, rows) {
    S4Vectors::metadata(sce)$scvibridge$proteins <- recorded
    SingleCellExperiment::altExp(sce, "proteins") <- SummarizedExperiment::SummarizedExperiment(
      list(normalized = values[rows, , drop = FALSE])
    )
    sce
  }
  proteins_of <- function(x) {
    SummarizedExperiment::assay(SingleCellExperiment::altExp(x, "proteins"), "normalized")
  }
  reordered <- with_proteins_of(names, 3:1)
  expect_equal(proteins_of(read_corrected(written_result(reordered))), values)
  one <- with_proteins_of("P_2", 2)
  expect_equal(proteins_of(read_corrected(written_result(one))), values[2, , drop = FALSE])
  expect_error(
    written_result(with_proteins_of(names, 2:3)), "lacks 1 of the 3 proteins .*: 'P_1'",
    class = "scvibridge_error"
  )
  # The result in X has none, but another one has.
  beside <- with_proteins_of(NULL, 3:1)
  held <- by_quantity(S4Vectors::metadata(beside)$scvibridge)
  held$normalized <- c(held$corrected, list(proteins = names))
  held$normalized$kind <- "normalized_expression"
  S4Vectors::metadata(beside)$scvibridge <- held
  expect_equal(proteins_of(read_corrected(written_result(beside))), values)
  skip_without("Seurat")
  for (x in list(reordered, one)) {
    back <- suppressMessages(as_sce(suppressMessages(as_seurat(x))))
    expect_equal(proteins_of(back), proteins_of(x))
  }
})

test_that("results among other genes are taken out of the object", {
  sce <- suppressMessages(correct_first(example_sce(all_genes())))
  expect_false("corrected" %in% SummarizedExperiment::assayNames(sce))
  found <- as_sce(sce)
  expect_identical(
    as.matrix(SummarizedExperiment::assay(found, "corrected")),
    as.matrix(corrected_value("corrected", rownames(found)))
  )
  expect_same_assays(read_corrected(written_result(found)), found)
  # The object's own counts are not lost for it.
  expect_message(file <- written_result(sce), "write_h5ad\\(as_sce\\(x\\), path\\)")
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
  expect_anndata_of(adata, SummarizedExperiment::assay(sce, "counts"))
  expect_identical(as_sce(example_corrected()), example_corrected())
})

test_that("results of several calls stay together", {
  sce <- suppressMessages(correct_first(example_sce()))
  sce <- suppressMessages(denoised_expression(sce, example_model(), progress = FALSE))
  found <- read_corrected(written_result(sce))
  for (name in c("counts", "corrected", "denoised", "other")) {
    expect_equal(
      as.matrix(SummarizedExperiment::assay(found, name)),
      as.matrix(SummarizedExperiment::assay(sce, name)),
      tolerance = 1e-6
    )
  }
  held <- results_of(sce)
  expect_identical(results_of(found)[names(held)], held)
})

test_that("the latent means of a SummarizedExperiment become a reduced dimension", {
  object <- methods::as(example_sce(), "SummarizedExperiment")
  rownames(object) <- rownames(example_sce())
  result <- suppressMessages(correct_first(object))
  found <- as_sce(result)
  expected <- as_sce(suppressMessages(correct_first(example_sce())))
  latent <- function(x) unname(SingleCellExperiment::reducedDim(x, "scvi"))
  expect_identical(latent(found), latent(expected))
  columns <- function(x) names(SummarizedExperiment::colData(x))
  expect_identical(columns(found), columns(expected))
  expect_identical(latent(read_corrected(written_result(result))), latent(found))
  skip_without("Seurat")
  seurat <- suppressMessages(as_seurat(found))
  expect_identical(unname(SeuratObject::Embeddings(seurat, "scvi")), latent(found))
})

test_that("raw counts that lack genes of the result are named", {
  skip_without("Seurat")
  object <- correct_first(example_seurat())
  few <- rownames(object[["corrected"]])[1:30]
  suppressWarnings(object[["RNA"]] <- subset(object[["RNA"]], features = few))
  expect_message(found <- as_sce(object), "no raw counts: the assay RNA, .* lacks some of its genes")
  expect_identical(SummarizedExperiment::assayNames(found), "corrected")
})

test_that("objects without results say so", {
  skip_without_python()
  plain <- example_sce()
  expect_error(as_sce(plain), "holds no result of scvibridge", class = "scvibridge_error")
  expect_anndata_of(
    reticulate::import("anndata", convert = FALSE)$read_h5ad(written_result(plain)),
    SummarizedExperiment::assay(plain, "counts")
  )
})

test_that("merged objects keep the record, or the error says what happened to it", {
  skip_without("Seurat")
  object <- correct_first(example_seurat())
  other <- SeuratObject::RenameCells(example_seurat(), add.cell.id = "other")
  merged <- merge(object, other)
  expect_null(merged@misc$scvibridge)
  expect_message(written_result(merged), "raw counts of all genes and cells are written")
  expect_identical(results_of(merged)$corrected, results_of(object)$corrected)
  expect_identical(
    as.matrix(SummarizedExperiment::assay(as_sce(merged), "corrected")),
    as.matrix(SummarizedExperiment::assay(as_sce(object), "corrected"))
  )
  updated <- suppressMessages(SeuratObject::UpdateSeuratObject(object))
  expect_identical(results_of(updated), results_of(object))

  two <- merge(object, SeuratObject::RenameCells(object, add.cell.id = "other"))
  html <- tempfile(fileext = ".html")
  expect_error(
    scvi_report(two, html), "merge\\(\\) drops it if both objects have results",
    class = "scvibridge_error"
  )
  expect_error(as_sce(two), "@misc <- first", class = "scvibridge_error")
  two[["corrected"]]@misc <- object[["corrected"]]@misc
  expect_identical(colnames(as_sce(two)), colnames(two))
  if (reticulate::py_module_available("jinja2")) {
    expect_identical(scvi_report(two, html, progress = FALSE), html)
  }
})

test_that("logarithms of expression are not handed on as expression", {
  skip_without("Seurat")
  sums_to <- function(depths) {
    set.seed(1)
    values <- matrix(rgamma(60, 2), 6, 10, dimnames = list(paste0("g", 1:6), paste0("c", 1:10)))
    sweep(values, 2, depths / colSums(values), "*")
  }
  counts <- matrix(rpois(60, 9), 6, 10, dimnames = dimnames(sums_to(1)))
  denoised <- sums_to(colSums(counts))
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = counts, normalized = sums_to(1e4), denoised = denoised)
  )
  for (name in c("normalized", "denoised")) {
    values <- SummarizedExperiment::assay(sce, name)
    handed_on <- as_seurat(sce[, 1:7])
    expect_equal(
      unname(as.matrix(SeuratObject::LayerData(
        handed_on, "data",
        assay = paste0("scvi_", name)
      ))),
      unname(log1p(values[, 1:7]))
    )
    for (change in list(log1p, function(x) log2(x + 1), function(x) t(scale(t(x))))) {
      changed <- sce
      SummarizedExperiment::assay(changed, name) <- change(values)
      message <- paste("the assay", name, "no longer holds", name, "expression, but")
      expect_error(as_seurat(changed), message, class = "scvibridge_error")
    }
  }
  # Some of the genes do not sum to a depth.
  expect_s4_class(suppressMessages(as_seurat(sce[1:3, ])), "Seurat")
})

test_that("counts on disk that were changed by a delayed operation are not handed on", {
  skip_without("Seurat")
  skip_without("DelayedArray")
  changed <- example_corrected()
  delayed <- DelayedArray::DelayedArray(SummarizedExperiment::assay(changed, "corrected"))
  SummarizedExperiment::assay(changed, "corrected") <- delayed
  expect_s4_class(suppressMessages(as_seurat(changed)), "Seurat")
  SummarizedExperiment::assay(changed, "corrected") <- log1p(delayed)
  message <- "the assay corrected no longer holds counts"
  expect_error(as_seurat(changed), message, class = "scvibridge_error")
  expect_error(written_result(changed), message, class = "scvibridge_error")
})

test_that("counts that were changed are not handed on", {
  skip_without("Seurat")
  for (name in c("corrected", "counts")) {
    for (change in list(log1p, function(x) x - 1)) {
      changed <- example_corrected()
      SummarizedExperiment::assay(changed, name) <- change(
        as.matrix(SummarizedExperiment::assay(changed, name))
      )
      message <- paste0("the assay ", name, " no longer holds counts")
      expect_error(as_seurat(changed), message, class = "scvibridge_error")
      expect_error(written_result(changed), message, class = "scvibridge_error")
      expect_error(
        scvi_report(changed, tempfile(fileext = ".html")), message, class = "scvibridge_error"
      )
    }
  }
  for (change in list(log1p, function(x) x - 1)) {
    for (assay in c("corrected", "RNA")) {
      changed <- suppressMessages(as_seurat(example_corrected()))
      SeuratObject::LayerData(changed, assay = assay, layer = "counts") <- change(
        as.matrix(SeuratObject::LayerData(changed, assay = assay, layer = "counts"))
      )
      message <- "no longer holds counts"
      expect_error(as_sce(changed), message, class = "scvibridge_error")
      expect_error(written_result(changed), message, class = "scvibridge_error")
    }
    beside <- SingleCellExperiment::SingleCellExperiment(
      list(logcounts = matrix(0, 1, ncol(changed), dimnames = list("other", colnames(changed)))),
      altExps = list(scvi = local({
        found <- example_corrected()
        SummarizedExperiment::assay(found, "corrected") <- change(
          as.matrix(SummarizedExperiment::assay(found, "corrected"))
        )
        found
      }))
    )
    expect_error(as_seurat(beside), message, class = "scvibridge_error")
  }
  # Counts that are no result may be estimates.
  plain <- SingleCellExperiment::SingleCellExperiment(list(counts = matrix(
    0.5, 3, 2,
    dimnames = list(letters[1:3], c("x", "y"))
  )))
  expect_identical(
    unname(as.matrix(SeuratObject::LayerData(as_seurat(plain), "counts"))), matrix(0.5, 3, 2)
  )
})

test_that("a result whose raw counts were removed is handed on without them", {
  expected <- example_corrected()
  bare <- expected
  SummarizedExperiment::assay(bare, "counts") <- NULL
  found <- read_corrected(written_result(bare))
  expect_identical(SummarizedExperiment::assayNames(found), c("corrected", "normalized"))
  expect_same_assays(found, bare)

  skip_without("Seurat")
  object <- suppressMessages(as_seurat(expected))
  SeuratObject::DefaultAssay(object) <- "corrected"
  object[["RNA"]] <- NULL
  for (convert in list(as_sce, function(x) read_corrected(written_result(x)))) {
    expect_message(found <- convert(object), "no raw counts: the assay RNA, .*has been removed")
    expect_setequal(SummarizedExperiment::assayNames(found), c("corrected", "normalized"))
    expect_identical(
      as.matrix(SummarizedExperiment::assay(found, "corrected")),
      as.matrix(SummarizedExperiment::assay(expected, "corrected"))
    )
  }
  expect_error(
    scvi_report(object, tempfile(fileext = ".html")), "the assay RNA, which the raw counts were in",
    class = "scvibridge_error"
  )
})
# nolint end
