# Data of the example as objects of R, and models for what it does not show.

# lintr does not see what helper.R defines.
# nolint start: object_usage_linter.

# The counts of the example, genes x cells, and its table of cells, by anndata alone.
example_data <- function() {
  if (is.null(remembered$data)) {
    remembered$data <- read_by_anndata(example_files()$adata)
  }
  remembered$data
}

read_by_anndata <- function(file) {
  adata <- reticulate::import("anndata", convert = FALSE)$read_h5ad(file)
  counts <- python_matrix(adata$X)
  dimnames(counts) <- list(
    reticulate::py_to_r(adata$var_names$tolist()), reticulate::py_to_r(adata$obs_names$tolist())
  )
  list(counts = methods::as(counts, "dgCMatrix"), cells = cells_of_python(adata))
}

cells_of_python <- function(adata) {
  cells <- as.data.frame(reticulate::py_to_r(adata$obs))
  attr(cells, "pandas.index") <- NULL
  cells
}

# Some cells of the example in an order of their own, as a Seurat object that has more than counts.
example_seurat <- function(chosen = example_order()) {
  data <- example_data()
  cells <- data$cells[chosen, ]
  cells$severity <- factor(
    rep(c("low", "high", NA), length.out = nrow(cells)), c("low", "high", "unused"),
    ordered = TRUE
  )
  counts <- rbind(data$counts[60:1, chosen], further_genes(chosen))
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = cells, project = "example")
  object <- Seurat::NormalizeData(object, verbose = FALSE)
  SeuratObject::VariableFeatures(object) <- c("GENE3", "GENE1")
  object <- Seurat::ScaleData(object, verbose = FALSE)
  object <- suppressWarnings(Seurat::RunPCA(object, npcs = 2, approx = FALSE, verbose = FALSE))
  object <- Seurat::FindNeighbors(object, reduction = "pca", dims = 1:2, verbose = FALSE)
  tags <- matrix(1, 2, length(chosen), dimnames = list(c("tag1", "tag2"), colnames(counts)))
  object[["tags"]] <- SeuratObject::CreateAssay5Object(counts = methods::as(tags, "dgCMatrix"))
  SeuratObject::Idents(object) <- "cell_type"
  SeuratObject::Misc(object, "note") <- "mine"
  object
}

example_order <- function() c(150, 3, 77, 12:70, 1, 149, 90:120)

# Of genes that the model does not know.
further_genes <- function(chosen) {
  counts <- example_data()$counts[1:4, chosen]
  rownames(counts) <- paste0("further", 1:4)
  counts
}

# What the method for a model gives, all cells of the example.
example_corrected <- function() {
  if (is.null(remembered$corrected)) {
    remembered$corrected <- suppressWarnings(corrected_counts(
      example_model(),
      transform_batch = "V3", labels_key = "cell_type", normalized = TRUE, progress = FALSE
    ))
  }
  remembered$corrected
}

# A SingleCellExperiment of the model's genes from the last to the first, or of others, with all
# that may lie in one.
example_sce <- function(genes = NULL, chosen = example_order()) {
  data <- example_data()
  counts <- rbind(data$counts, further = 1)[, chosen]
  counts <- counts[if (is.null(genes)) rev(rownames(data$counts)) else genes, ]
  sce <- SingleCellExperiment::SingleCellExperiment(
    list(counts = methods::as(counts, "dgCMatrix"), other = as.matrix(counts) / 2),
    colData = data$cells[chosen, ],
    rowData = S4Vectors::DataFrame(symbol = tolower(rownames(counts))),
    reducedDims = list(PCA = matrix(seq_len(2 * length(chosen)) / 3, ncol = 2)),
    metadata = list(note = "mine"), mainExpName = "RNA"
  )
  SingleCellExperiment::altExp(sce, "tags") <- SummarizedExperiment::SummarizedExperiment(
    list(counts = matrix(1, 2, length(chosen), dimnames = list(c("a", "b"), colnames(counts))))
  )
  SingleCellExperiment::sizeFactors(sce) <- seq_along(chosen)
  SummarizedExperiment::colData(sce)$severity <- factor(
    rep(c("low", "high"), length.out = ncol(sce)),
    levels = c("low", "high", "unused")
  )
  sce
}

all_genes <- function() c("further", rownames(example_data()$counts))

corrected_value <- function(name, genes = rownames(example_data()$counts)) {
  SummarizedExperiment::assay(example_corrected(), name)[genes, example_order()]
}

# The same with the data first.
correct_first <- function(object, ..., model = example_model(), quiet = TRUE) {
  run <- function() {
    suppressWarnings(corrected_counts(
      object, model,
      transform_batch = "V3", labels_key = "cell_type", progress = FALSE, ...
    ))
  }
  if (quiet) suppressMessages(run()) else run()
}

written_result <- function(x, ...) {
  file <- tempfile(fileext = ".h5ad")
  write_h5ad(x, file, ..., progress = FALSE)
  file
}

messages_of <- function(expression) {
  messages <- character()
  withCallingHandlers(expression, message = function(m) {
    messages <<- c(messages, conditionMessage(m))
    invokeRestart("muffleMessage")
  })
  messages
}

# The model of odd_model.py, its counts (genes x cells), also under the names that Seurat gives the
# genes, and table of cells.
odd_model <- function() {
  if (is.null(remembered$odd)) {
    folder <- run_script("odd_model.py")
    data <- file.path(folder, "data.h5ad")
    model <- load_scvi(file.path(folder, "model"), data)
    sce <- denoised_expression(model, progress = FALSE)
    counts <- SummarizedExperiment::assay(sce, "counts")
    renamed <- counts
    rownames(renamed)[match(c("GENE_2", "GENE|3"), rownames(counts))] <- c("GENE-2.1", "GENE-3")
    remembered$odd <- list(
      model = model, counts = counts, seurat_counts = renamed,
      denoised = SummarizedExperiment::assay(sce, "denoised"),
      cells = as.data.frame(SummarizedExperiment::colData(sce))
    )
  }
  remembered$odd
}

# The folder that a script of Python's wrote, in a process of its own.
run_script <- function(name, ...) {
  skip_without_python()
  folder <- tempfile("made")
  status <- system2(
    reticulate::py_exe(), shQuote(c(testthat::test_path(name), ..., folder)),
    stdout = FALSE, stderr = FALSE, env = paste0("PYTHONPATH=", shQuote(python_code()))
  )
  testthat::expect_identical(status, 0L)
  folder
}

real_data <- function(name) {
  folder <- Sys.getenv("SCVIBRIDGE_TEST_DATA")
  testthat::skip_if(
    !nzchar(folder), "SCVIBRIDGE_TEST_DATA (folder of the real data sets) is not set"
  )
  file <- file.path(folder, paste0(name, ".h5ad"))
  testthat::skip_if_not(
    file.exists(file), paste0(name, ".h5ad is not in the folder that SCVIBRIDGE_TEST_DATA names")
  )
  file
}

# Real cells of eight donors, two conditions: a model of 300 of 1,000 genes, and the counts.
real_cells <- function() {
  file <- real_data("kang_ifnb_pbmc_4k")
  if (is.null(remembered$real)) {
    folder <- run_script("real_model.py", file)
    data <- file.path(folder, "data.h5ad")
    model <- load_scvi(file.path(folder, "model"), data)
    remembered$real <- c(list(model = model), read_by_anndata(data))
  }
  remembered$real
}

correct_real <- function(object, ...) {
  suppressWarnings(corrected_counts(
    object, real_cells()$model,
    transform_batch = "1015", labels_key = "cell_type_coarse", condition_key = "condition",
    progress = FALSE, ...
  ))
}

real_by_python <- function() {
  of_python(
    "corrected_counts", real_cells()$model,
    transform_batch = "1015", labels_key = "cell_type_coarse", condition_key = "condition"
  )
}
# nolint end
