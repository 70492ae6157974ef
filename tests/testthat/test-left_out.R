# What conversions leave out is named, once.

# All messages about what is left out.
left_out <- function(expression) {
  said <- character()
  withCallingHandlers(expression, message = function(m) {
    said <<- c(said, conditionMessage(m))
    invokeRestart("muffleMessage")
  })
  sub("\n$", "", grep("left out", said, value = TRUE))
}

with_more <- function(sce = small_sce()) {
  counts <- SummarizedExperiment::assay(sce, "counts")
  SummarizedExperiment::assay(sce, "logcounts") <- log1p(counts)
  SummarizedExperiment::assay(sce, "spliced") <- counts
  tags <- SummarizedExperiment::SummarizedExperiment(list(counts = counts[1:3, ]))
  SingleCellExperiment::altExp(sce, "ADT") <- tags
  sce
}

new_file <- function() tempfile(fileext = ".h5ad")

test_that("as_seurat() names other assays and alternative experiments", {
  skip_without("Seurat")
  expect_identical(
    left_out(as_seurat(with_more())),
    "not converted, and left out: the assays logcounts, spliced; the alternative experiment ADT"
  )
  expect_identical(left_out(as_seurat(small_sce())), character())
})

test_that("write_h5ad() and as_sce() name what they do not take", {
  skip_without_python()
  # A result keeps its assays as layers.
  said <- left_out(write_h5ad(with_more(), new_file(), progress = FALSE))
  expect_identical(said, "not converted, and left out: the alternative experiment ADT")
  plain <- with_more()
  S4Vectors::metadata(plain) <- list()
  for (name in c("corrected", "normalized")) SummarizedExperiment::assay(plain, name) <- NULL
  expect_identical(
    left_out(write_h5ad(plain, new_file(), progress = FALSE)),
    "not converted, and left out: the assays logcounts, spliced; the alternative experiment ADT"
  )
  expect_identical(left_out(write_h5ad(plain, new_file(), assay = "spliced")), character())
  skip_without("Seurat")
  object <- suppressMessages(as_seurat(small_sce()))
  expect_identical(left_out(as_sce(object)), character())
  object[["ADT"]] <- SeuratObject::CreateAssay5Object(
    counts = SeuratObject::LayerData(object, "counts")[1:3, ]
  )
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  expected <- "not converted, and left out: the assay ADT; the layer data of the assay RNA"
  expect_identical(left_out(as_sce(object)), expected)
  expect_identical(left_out(write_h5ad(object, new_file(), progress = FALSE)), expected)
  for (name in c("corrected", "scvi_normalized")) object[[name]] <- NULL
  object@misc$scvibridge <- NULL
  expect_identical(left_out(write_h5ad(object, new_file(), progress = FALSE)), expected)
})

test_that("results that were removed are not said to be left out", {
  sce <- correct_first(example_sce())
  SummarizedExperiment::assay(sce, "corrected") <- NULL
  objects <- list(sce)
  if (requireNamespace("Seurat", quietly = TRUE)) {
    seurat <- correct_first(example_seurat())
    seurat[["corrected"]] <- NULL
    objects <- c(objects, seurat)
  }
  for (object in objects) {
    said <- messages_of(file <- written_result(object))
    expect_false(any(grepl("results", said)))
    adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
    counts <- if (inherits(object, "Seurat")) {
      SeuratObject::LayerData(object, "counts", assay = "RNA")
    } else {
      SummarizedExperiment::assay(object, "counts")
    }
    expect_identical(python_matrix(adata$X), unname(as.matrix(counts)))
  }
})
