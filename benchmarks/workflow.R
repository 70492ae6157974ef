# A contender in R: makes its object of the cells in a file, runs once on few of them, and then once
# for each line on its standard input. It tells the seconds of each run, from object to object.
#
# Usage: Rscript workflow.R TASK KIND CELLS MODEL EPOCHS TARGET SEED

suppressPackageStartupMessages(library(scvibridge))

arguments <- stats::setNames(
  as.list(commandArgs(trailingOnly = TRUE)),
  c("task", "kind", "cells", "model", "epochs", "target", "seed")
)
seed <- as.integer(arguments$seed)

read_object <- function(path, kind) {
  counts <- methods::as(HDF5Array::H5ADMatrix(path), "dgCMatrix")
  columns <- rhdf5::h5read(path, "obs")
  columns <- Filter(function(column) "codes" %in% names(column), columns)
  obs <- as.data.frame(lapply(columns, as_factor), row.names = colnames(counts))
  if (kind == "seurat") {
    return(SeuratObject::CreateSeuratObject(counts, meta.data = obs))
  }
  SingleCellExperiment::SingleCellExperiment(
    list(counts = counts),
    colData = S4Vectors::DataFrame(obs)
  )
}

as_factor <- function(column) {
  factor(as.vector(column$categories)[column$codes + 1L], as.vector(column$categories))
}

# A model from its folder, and its result as a new object.
correct <- function(object) {
  model <- load_scvi(arguments$model, adata = as_anndata(object))
  sce <- correct_by_label(model)
  if (arguments$kind == "seurat") as_seurat(sce) else sce
}

correct_by_label <- function(...) {
  corrected_counts(
    ...,
    transform_batch = arguments$target, labels_key = "cell_type", condition_key = "condition",
    seed = seed, progress = FALSE
  )
}

# A model at hand, and its result in the object.
give_back <- function(object) correct_by_label(object, model_at_hand())

# Loaded once, by the warm-up: of all cells, which the model was trained on.
model_at_hand <- function() {
  if (is.null(held$model)) {
    held$model <- load_scvi(arguments$model, adata = as_anndata(object))
  }
  held$model
}

held <- new.env()

train <- function(object) {
  train_scvi(
    object,
    batch_key = "donor", max_epochs = as.integer(arguments$epochs), seed = seed, progress = FALSE
  )
}

# From raw counts to all that the object takes, and the support of the target.
whole <- function(object) {
  model <- train(object)
  object <- correct_by_label(object, model)
  object <- add_latent(object, model, progress = FALSE)
  batch_support(
    object, model,
    transform_batch = arguments$target, labels_key = "cell_type", condition_key = "condition",
    progress = FALSE
  )
  object
}

# Numbers that show that contenders did the same work.
facts <- function(result) {
  if (inherits(result, "scvi_model")) {
    return(c(n_cells = result$summary$n_cells, loss = result$summary$training$training_loss))
  }
  corrected <- if (arguments$kind == "seurat") {
    SeuratObject::LayerData(result, "counts", assay = "corrected")
  } else {
    beside <- "scvi" %in% SingleCellExperiment::altExpNames(result)
    with_counts <- if (beside) SingleCellExperiment::altExp(result, "scvi") else result
    SummarizedExperiment::assay(with_counts, "corrected")
  }
  c(n_cells = ncol(corrected), total = sum(corrected))
}

quietly <- function(run) suppressMessages(suppressWarnings(run))

object <- read_object(arguments$cells, arguments$kind)
run <- list(
  corrected = correct, given_back = give_back, trained = train, whole = whole
)[[arguments$task]]
cat("workflow: loaded\n")
# With so few cells, nothing is measured.
if (ncol(object) > 1200) {
  quietly(run(object[, round(seq(1, ncol(object), length.out = 1200))]))
}
cat("workflow: ready\n")
input <- file("stdin", "r")
while (length(readLines(input, 1)) > 0) {
  gc()
  seconds <- system.time(result <- quietly(run(object)))[["elapsed"]]
  found <- facts(result)
  cat("workflow:", sprintf("%s=%.17g", c("seconds", names(found)), c(seconds, found)), "\n")
}
