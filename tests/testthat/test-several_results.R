# Objects that receive several results: each matrix keeps its own record and flags.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

# lintr does not see what the helpers define.
# nolint start: object_usage_linter.

few_genes <- c("GENE9", "GENE2")

corrected_to <- function(object, target, ...) {
  suppressMessages(suppressWarnings(corrected_counts(
    object, example_model(),
    transform_batch = target, progress = FALSE, ...
  )))
}

normalized_to <- function(object, target, ...) {
  suppressMessages(normalized_expression(
    object, example_model(),
    transform_batch = target, progress = FALSE, ...
  ))
}

latent_to <- function(object) {
  suppressMessages(add_latent(object, example_model(), progress = FALSE))
}

# What the method for a model returns, the independent value.
of_model <- function(name, target, genes, cells, ...) {
  compute <- if (name == "corrected") corrected_counts else normalized_expression
  sce <- suppressWarnings(compute(
    example_model(),
    transform_batch = target, progress = FALSE, ...
  ))
  unname(as.matrix(SummarizedExperiment::assay(sce, name)[genes, cells]))
}

assay_values <- function(object, name, genes = rownames(object)) {
  unname(as.matrix(SummarizedExperiment::assay(object, name)[genes, ]))
}

targets_of <- function(object) {
  lapply(results_of(object), function(record) as.character(record$transform_batch))
}

beside_of <- function(object) SingleCellExperiment::altExp(object, "scvi")

test_that("a result beside the object's own leaves that one's record and flags as they were", {
  x <- corrected_to(example_sce(), "V3", labels_key = "cell_type")
  y <- corrected_to(x, "V1", gene_list = few_genes)
  for (part in list(SummarizedExperiment::colData, SummarizedExperiment::rowData)) {
    expect_identical(part(y), part(x))
  }
  expect_identical(
    S4Vectors::metadata(y)$scvibridge$corrected, S4Vectors::metadata(x)$scvibridge$corrected
  )
  expect_identical(assay_values(y, "corrected"), assay_values(x, "corrected"))
  beside <- beside_of(y)
  expect_identical(targets_of(beside)$corrected, "V1")
  expected <- of_model("corrected", "V1", few_genes, colnames(y))
  expect_identical(assay_values(beside, "corrected", few_genes), expected)
  alone <- corrected_to(example_sce(), "V1", gene_list = few_genes)
  expect_identical(beside$scvibridge_depth_ratio, alone$scvibridge_depth_ratio)
  expect_false(identical(x$scvibridge_depth_ratio, alone$scvibridge_depth_ratio))

  expect_identical(targets_of(as_sce(y))$corrected, "V3")
  expect_message(file <- written_result(y), "altExp\\(x, \"scvi\"\\)")
  found <- read_corrected(file)
  expect_identical(targets_of(found)$corrected, "V3")
  expect_identical(assay_values(found, "corrected"), assay_values(x, "corrected"))
  expect_identical(found$scvibridge_depth_ratio, x$scvibridge_depth_ratio)
  found <- read_corrected(written_result(beside))
  expect_identical(targets_of(found)$corrected, "V1")
  expect_identical(assay_values(found, "corrected", few_genes), expected)

  # Without the object's own, the one beside it is the result.
  SummarizedExperiment::assay(y, "corrected") <- NULL
  found <- as_sce(y)
  expect_identical(targets_of(found)$corrected, "V1")
  expect_identical(found$scvibridge_depth_ratio, alone$scvibridge_depth_ratio)
  expect_identical(assay_values(found, "corrected", few_genes), expected)
})

test_that("so does a result of another quantity beside it", {
  x <- normalized_to(example_sce(), "V3")
  y <- normalized_to(x, "V1", gene_list = few_genes)
  expect_identical(targets_of(y), list(normalized = "V3"))
  expect_identical(targets_of(beside_of(y)), list(normalized = "V1"))
  expect_equal(
    assay_values(beside_of(y), "normalized", few_genes),
    of_model("normalized", "V1", few_genes, colnames(y)),
    tolerance = 1e-6
  )
  z <- corrected_to(x, "V1", gene_list = few_genes)
  expect_identical(targets_of(z), list(normalized = "V3", corrected = "V1"))
  found <- read_corrected(suppressMessages(written_result(z)))
  expect_identical(targets_of(found), list(normalized = "V3"))

  skip_without("Seurat")
  object <- suppressMessages(as_seurat(z))
  expect_identical(targets_of(object), list(normalized = "V3", corrected = "V1"))
  expect_identical(object$scvibridge_depth_ratio[[3]], beside_of(z)$scvibridge_depth_ratio[[3]])
  expect_message(as_seurat(y), "left out are the assays normalized")
  expect_identical(targets_of(suppressMessages(as_seurat(y))), list(normalized = "V3"))
})

test_that("altExp scvi of other genes is replaced with its record", {
  object <- example_sce(all_genes())
  x <- corrected_to(object, "V3")
  expect_identical(targets_of(x), list(corrected = "V3"))
  expect_identical(x$scvibridge_depth_ratio, beside_of(x)$scvibridge_depth_ratio)
  both <- normalized_to(x, "V1")
  expect_identical(targets_of(both), list(corrected = "V3", normalized = "V1"))
  expect_identical(both$scvibridge_depth_ratio, x$scvibridge_depth_ratio)
  y <- normalized_to(x, "V1", gene_list = few_genes)
  expect_identical(targets_of(y), list(normalized = "V1"))
  expect_null(y$scvibridge_depth_ratio)
})

test_that("objects of former versions, whose record is not in altExp scvi, are understood", {
  x <- corrected_to(example_sce(all_genes()), "V3")
  former <- x
  S4Vectors::metadata(former)$scvibridge <- results_of(x)
  beside <- beside_of(x)
  S4Vectors::metadata(beside)$scvibridge <- NULL
  SummarizedExperiment::colData(beside) <- SummarizedExperiment::colData(beside)[character()]
  SingleCellExperiment::altExp(former, "scvi") <- beside
  expect_identical(results_of(former), results_of(x))
  found <- as_sce(former)
  expect_identical(results_of(found), results_of(x))
  expect_identical(found$scvibridge_depth_ratio, x$scvibridge_depth_ratio)
  both <- normalized_to(former, "V1")
  expect_identical(targets_of(both), list(corrected = "V3", normalized = "V1"))
  expect_identical(beside_of(both)$scvibridge_depth_ratio, x$scvibridge_depth_ratio)
})

test_that("the record of a matrix that is replaced goes with it", {
  plain <- methods::as(example_sce(), "SummarizedExperiment")
  rownames(plain) <- rownames(example_sce())
  objects <- list(example_sce(), example_sce(all_genes()), plain)
  if (requireNamespace("Seurat", quietly = TRUE)) {
    objects <- c(objects, example_seurat())
  }
  for (object in objects) {
    x <- normalized_to(object, "V3")
    expect_identical(targets_of(x), list(normalized = "V3"))
    y <- corrected_to(x, "V1", normalized = TRUE)
    expect_identical(targets_of(y), list(corrected = "V1"))
    # The normalized expression of the call for V1 stays, but is not one with the counts for V3.
    z <- corrected_to(y, "V3")
    expect_setequal(names(targets_of(z)), c("corrected", "normalized"))
    expect_identical(targets_of(z)$corrected, "V3")
    expect_identical(targets_of(z)$normalized, "V1")
    found <- as_sce(z)
    genes <- rownames(example_data()$counts)
    cells <- colnames(found)
    expect_identical(
      assay_values(found, "corrected", genes), of_model("corrected", "V3", genes, cells)
    )
    expect_equal(
      assay_values(found, "normalized", genes), of_model("normalized", "V1", genes, cells),
      tolerance = 1e-5
    )
    expect_null(result_parts(z)$read_normalized())
    expect_false(is.null(result_parts(y)$read_normalized()))
    back <- read_corrected(suppressMessages(written_result(found)))
    expect_identical(targets_of(back)[c("corrected", "normalized")], list(
      corrected = "V3", normalized = "V1"
    ))
  }
})

test_that("flags of counts that are replaced do not stay, and normalized values leave them", {
  sce <- example_sce()
  x <- corrected_to(sce, "V3", labels_key = "cell_type")
  gone <- setdiff(
    names(own_flags(SummarizedExperiment::colData(x))),
    names(own_flags(SummarizedExperiment::colData(corrected_to(sce, "V1", method = "sample"))))
  )
  expect_gt(length(gone), 0)
  y <- corrected_to(x, "V1", method = "sample")
  expect_false(any(gone %in% names(SummarizedExperiment::colData(y))))
  z <- normalized_to(x, "V1")
  expect_identical(SummarizedExperiment::colData(z), SummarizedExperiment::colData(x))
  expect_identical(SummarizedExperiment::rowData(z), SummarizedExperiment::rowData(x))
  skip_without("Seurat")
  x <- corrected_to(example_seurat(), "V3", labels_key = "cell_type")
  y <- corrected_to(x, "V1", method = "sample")
  expect_true(all(gone %in% names(x@meta.data)))
  expect_false(any(gone %in% names(y@meta.data)))
  expect_identical(normalized_to(x, "V1")@meta.data, x@meta.data)
})

test_that("cells without a new result do not keep the flags and totals of an earlier one", {
  skip_without("Seurat")
  object <- corrected_to(example_seurat(), "V3", labels_key = "cell_type")
  with <- colnames(object)[11:50]
  counts <- SeuratObject::LayerData(object, "counts", assay = "RNA")[, with]
  object[["UMI"]] <- SeuratObject::CreateAssay5Object(counts = counts)
  found <- corrected_to(object, "V1", labels_key = "cell_type", assay = "UMI")
  columns <- c(names(own_flags(object@meta.data)), "nCount_corrected", "nFeature_corrected")
  without <- setdiff(colnames(object), with)
  expect_true(all(is.na(found@meta.data[without, columns])))
  alone <- corrected_to(object[, with], "V1", labels_key = "cell_type")
  expect_identical(found@meta.data[with, columns], alone@meta.data[with, columns])
  others <- setdiff(names(object@meta.data), columns)
  expect_identical(found@meta.data[others], object@meta.data[others])
})

test_that("results that were joined are handed on only if their records are the same", {
  x <- corrected_to(example_sce(), "V3")
  y <- corrected_to(example_sce(), "V1")
  message <- "joined from results that had other settings"
  objects <- list(
    SummarizedExperiment::cbind(x[, 1:50], y[, 51:ncol(y)]),
    SummarizedExperiment::cbind(
      corrected_to(example_sce(all_genes()), "V3")[, 1:50],
      corrected_to(example_sce(all_genes()), "V1")[, 51:ncol(y)]
    )
  )
  for (joined in objects) {
    expect_identical(expect_no_error(as_anndata(joined))$n_obs, ncol(joined))
    expect_error(as_sce(joined), message, class = "scvibridge_error")
    expect_error(written_result(joined), message, class = "scvibridge_error")
    expect_error(
      scvi_report(joined, tempfile(fileext = ".html")), message, class = "scvibridge_error"
    )
    if (requireNamespace("Seurat", quietly = TRUE)) {
      expect_error(as_seurat(joined), message, class = "scvibridge_error")
    }
  }
  same <- SummarizedExperiment::cbind(x[, 1:50], x[, 51:ncol(x)])
  expect_identical(targets_of(read_corrected(written_result(same))), list(corrected = "V3"))
  # Both copies of the record are replaced.
  again <- corrected_to(same, "V1")
  expect_identical(targets_of(again), list(corrected = "V1"))
  expect_identical(sum(names(S4Vectors::metadata(again)) == "scvibridge"), 1L)
  # As the error says.
  joined <- objects[[1]]
  S4Vectors::metadata(joined) <- S4Vectors::metadata(x)
  expect_identical(targets_of(as_sce(joined)), list(corrected = "V3"))
})

test_that("results that were joined have raw counts, from which another result is computed", {
  both <- function(sce, batch) normalized_to(corrected_to(sce, batch), batch)
  for (genes in list(NULL, all_genes())) {
    x <- both(example_sce(genes), "V3")
    n <- ncol(x)
    joined <- SummarizedExperiment::cbind(x[, 1:50], both(example_sce(genes), "V1")[, 51:n])
    corrected <- corrected_to(latent_to(joined), "V3")
    # Normalized expression is still that of two calls.
    expect_error(as_sce(corrected), "was joined", class = "scvibridge_error")
    found <- as_sce(normalized_to(corrected, "V3"))
    expect_identical(targets_of(found)[c("corrected", "normalized")], targets_of(x))
    for (name in c("counts", "corrected", "normalized")) {
      expect_identical(assay_values(found, name), assay_values(as_sce(x), name))
    }
  }
  model <- train_scvi(joined, "batch", max_epochs = 1, progress = FALSE)
  expect_identical(model$summary$n_cells, n)
})

test_that("assays of Seurat over different genes are not made one result", {
  skip_without("Seurat")
  all <- corrected_to(example_seurat(), "V3")
  x <- normalized_to(all, "V1", gene_list = few_genes)
  expect_message(found <- as_sce(x), "assay scvi_normalized has other genes")
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "corrected"))
  expect_identical(targets_of(found), list(corrected = "V3"))
  expect_identical(
    assay_values(found, "corrected"), assay_values(as_sce(all), "corrected")
  )
  expect_null(result_parts(x)$read_normalized())
  found <- read_corrected(suppressMessages(written_result(found)))
  expect_identical(SummarizedExperiment::assayNames(found), c("counts", "corrected"))

  y <- corrected_to(normalized_to(example_seurat(), "V1"), "V3", gene_list = few_genes)
  expect_message(found <- as_sce(y), "x\\[\\[\"corrected\"\\]\\] <- NULL")
  expect_setequal(rownames(found), few_genes)
  expect_identical(targets_of(found), list(corrected = "V3"))
  expect_identical(
    assay_values(found, "corrected", few_genes),
    of_model("corrected", "V3", few_genes, colnames(y))
  )
  y[["corrected"]] <- NULL
  found <- as_sce(y)
  genes <- rownames(example_data()$counts)
  expect_equal(
    assay_values(found, "normalized", genes), of_model("normalized", "V1", genes, colnames(y)),
    tolerance = 1e-5
  )
})
# nolint end
