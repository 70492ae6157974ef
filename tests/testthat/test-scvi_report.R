testthat::skip_on_cran() # pages with pictures

# lintr does not see what helper.R defines.
# nolint start: object_usage_linter.

skip_without_report <- function() {
  skip_if_not(
    reticulate::py_module_available("jinja2") && reticulate::py_module_available("matplotlib"),
    "Python's jinja2 and matplotlib are not at hand"
  )
}

# The page, without the name of the file that it may be about.
page_of <- function(result, ...) {
  out <- tempfile(fileext = ".html")
  written <- suppressWarnings(scvi_report(result, out, title = "Page", progress = FALSE, ...))
  expect_identical(normalizePath(written), normalizePath(out))
  lines <- readLines(out, warn = FALSE)
  expect_match(lines, "<h1>Page</h1>", fixed = TRUE, all = FALSE)
  if (is.character(result)) {
    lines <- sub(paste0(basename(result), ": "), "", lines, fixed = TRUE)
  }
  # testthat would print long pictures where they differ.
  pictures <- nchar(lines) > 2000
  c(lines[!pictures], vapply(lines[pictures], digest_of, "", USE.NAMES = FALSE))
}

digest_of <- function(text) {
  file <- tempfile()
  on.exit(unlink(file))
  writeLines(text, file)
  unname(tools::md5sum(file))
}

correct_all <- function(...) {
  suppressMessages(suppressWarnings(corrected_counts(
    ...,
    transform_batch = "V3", labels_key = "cell_type", progress = FALSE
  )))
}

test_that("a page about an object of R is that about the file, whatever the object's class", {
  skip_without("HDF5Array")
  skip_without("Seurat")
  skip_without_report()
  model <- example_model()
  file <- tempfile("a_result", fileext = ".h5ad")
  correct_all(model, normalized = TRUE, out = file)
  expected <- page_of(file)
  expect_match(expected, "Markers of cell types", fixed = TRUE, all = FALSE)

  sce <- correct_all(model, normalized = TRUE)
  expect_identical(page_of(sce), expected)
  seurat <- suppressMessages(as_seurat(sce))
  expect_identical(page_of(seurat), expected)

  # Data first: with genes that the model lacks, and in another order.
  data <- example_data()
  counts <- rbind(further_genes(seq_len(ncol(data$counts))), data$counts)
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = data$cells)
  own <- c("orig.ident", "nCount_RNA", "nFeature_RNA")
  object@meta.data <- object@meta.data[setdiff(names(object@meta.data), own)]
  expect_identical(page_of(correct_all(object, model, normalized = TRUE)), expected)

  object <- SingleCellExperiment::SingleCellExperiment(
    list(counts = counts),
    colData = S4Vectors::DataFrame(data$cells)
  )
  expect_identical(page_of(correct_all(object, model, normalized = TRUE)), expected)
  object <- SummarizedExperiment::SummarizedExperiment(
    list(counts = data$counts),
    colData = S4Vectors::DataFrame(data$cells)
  )
  corrected <- correct_all(object, model, normalized = TRUE)
  expect_identical(page_of(corrected), expected)
  # Expression that came by a call of its own may be that of another batch.
  other <- normalized_expression(corrected, model, transform_batch = "V1", progress = FALSE)
  expect_identical(page_of(other), page_of(correct_all(model)))
})

test_that("a report takes what was found before, and a model", {
  skip_without_report()
  model <- example_model()
  sce <- correct_all(model)
  support <- batch_support(model, transform_batch = "V3", progress = FALSE)
  with_support <- page_of(sce, support = support)
  with_model <- page_of(sce, model = model, calibration = FALSE)
  alone <- page_of(sce)
  expect_false(identical(with_support, alone))
  expect_false(identical(with_model, alone))
  expect_error(
    scvi_report(sce, tempfile(), support = 1), "support must be the value of batch_support",
    class = "scvibridge_error"
  )
})

test_that("an isolated report is the same", {
  skip_without_report()
  sce <- correct_all(example_model())
  expected <- page_of(sce)
  previous <- options(scvibridge.isolate = TRUE)
  on.exit(options(previous))
  expect_identical(page_of(sce), expected)
})

test_that("what no report can be about is refused", {
  out <- tempfile(fileext = ".html")
  refused <- function(result, message, to = out) {
    expect_error(scvi_report(result, to), message, fixed = TRUE, class = "scvibridge_error")
  }
  refused(1, "not an object of class numeric")
  bare <- small_sce()
  S4Vectors::metadata(bare) <- list()
  refused(bare, "result has no corrected counts")
  skip_without_python()
  sce <- correct_all(example_model())
  refused(sce, "out must be the path of the HTML file", to = NULL)
  without_raw <- sce
  SummarizedExperiment::assay(without_raw, "counts") <- NULL
  refused(without_raw, "the assay counts, which result lacks")

  expression <- suppressWarnings(denoised_expression(example_model(), progress = FALSE))
  refused(expression, "result has no corrected counts")

  skip_without("Seurat")
  seurat <- suppressMessages(as_seurat(sce))
  no_latent <- seurat
  no_latent[["scvi"]] <- NULL
  no_latent[["corrected"]]@misc <- list()
  refused(no_latent, "the reduction scvi, which result lacks")
  fewer <- seurat
  suppressWarnings(
    fewer[["RNA"]] <- subset(seurat[["RNA"]], features = rownames(seurat)[-(1:2)])
  )
  refused(fewer, "the assay RNA lacks 2 of the 60 corrected genes")

  other_cells <- seurat
  suppressWarnings(
    other_cells[["RNA"]] <- subset(seurat[["RNA"]], cells = colnames(seurat)[-1])
  )
  refused(other_cells, "do not have the same cells")

  skip_without("HDF5Array")
  file <- tempfile(fileext = ".h5ad")
  refused(correct_all(example_model(), out = file), "are in a file, or too many for a dgCMatrix")
})
# nolint end
