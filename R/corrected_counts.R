#' Batch-corrected counts
#'
#' Returns integer counts as if every cell came from the target batch, computed with the quantile
#' functions of the model's likelihood. Use them for tools that cannot take a batch covariate. For
#' differential expression between donors, use the raw counts (assay `counts`) with the batch in the
#' design.
#'
#' If the batch is the replicate (each donor or sample is a separate batch), correction removes the
#' condition and the variance between replicates: use raw counts.
#'
#' With `method = "quantile"` each cell keeps its data: the quantile of the observed count under the
#' cell's observed batch is mapped to the same quantile under the target. A cell of the target batch
#' at its observed depth is unchanged. With `method = "sample"` the counts are a simulation of the
#' cell by the model.
#'
#' @param object A model from [load_scvi()]; or the data, with the model as the second argument: a
#'   Seurat object, a SingleCellExperiment, a SummarizedExperiment, or a matrix of raw counts, genes
#'   x cells (dense, from the Matrix package, or a DelayedMatrix). See [data_first].
#' @param model A model from [load_scvi()], if the data come first.
#' @param assay,layer Location of the raw counts if the data come first: the name of an assay (if
#'   `NULL`, the default assay for Seurat, otherwise the assay `counts`) and of a Seurat layer
#'   (`counts` if `NULL`).
#' @param cell_data If a matrix comes first: a data.frame with a row for each cell, matched by name,
#'   and the columns that the model and the arguments require.
#' @param adata Cells to correct: the path of an h5ad file or a zarr folder, or several (such as one
#'   for each sample), whose cells are joined; an AnnData held by reticulate or an object that
#'   [as_anndata()] accepts; the model's own data if `NULL`. Genes are aligned by name.
#' @param transform_batch Target batch. If several are given, their parameters are averaged.
#'   Required if the model has more than one batch, unless other covariates are changed.
#' @param transform_covariates Target values for other covariates of the model, a named list such as
#'   `list(donor = "D1")`. Can be used alone (cells then keep their batch) or with the batch. If
#'   several values are given, the parameters are averaged. Continuous covariates require
#'   `effect = "cell"` or `method = "sample"`.
#' @param method `"quantile"` or `"sample"`.
#' @param effect Batch effect that `"quantile"` removes: `"label"` (one for each label and batch;
#'   the default with `labels_key`), `"global"` (one for each batch; the default without), `"local"`
#'   (one for each batch that varies over the latent space) or `"cell"` (one for each cell, which
#'   leaks the condition of interest).
#' @param labels_key Column of the cells' metadata (`colData`, `meta.data`, or `obs` of a file) with
#'   cell types. They must not encode the condition of interest.
#' @param condition_key Column of the cells' metadata with the condition of interest. Designs in
#'   which the condition cannot be separated from the batch are rejected, and conditions are
#'   weighted equally in each effect.
#' @param sample_key Column of the cells' metadata with the replicate (donor, sample). `"quantile"`
#'   then preserves how the counts of each sample and label differ from the model's means. Use it if
#'   you compare samples later.
#' @param allow_confounded Whether to continue, with a warning, if the condition cannot be separated
#'   from the batch.
#' @param library_size Depth of the counts: a number (up to 2^31 - 1); `"observed"` or `"latent"`
#'   (both keep the cell's depth); `"median"` (the target's median for all cells; default of
#'   `"sample"`); `"scaled"` (one factor for each batch; default of `"quantile"`).
#' @param zero_inflation Whether samples from a ZINB model include the zero inflation (only for
#'   `"sample"`; `"quantile"` always includes it in both source and target).
#' @param normalized Whether to add the assay `normalized`: the normalized expression for the target
#'   batch and a depth of 1e4 (dense).
#' @param unsupported How to handle cells that the target batch does not support because it has
#'   hardly any similar cells: `"keep"` (flag them in `colData`, with a warning if there are many),
#'   `"mask"` (leave their corrected counts empty) or `"drop"` (remove them). See
#'   [batch_support()].
#' @param dispersion Inverse dispersions theta to use instead of the model's own: the result of
#'   [scvi_calibration()], a numeric vector named by gene, or a data.frame or matrix of genes (row
#'   names) by batches.
#' @param shrinkage Number of counts at which an effect is shrunk by half. Effects of batches are
#'   shrunk towards zero, and those of labels or local effects towards the effect of their batch;
#'   the fewer counts a gene has, the stronger the shrinkage. `"auto"` (the default for the effects
#'   `"label"`, `"global"` and `"local"`) estimates it from the cells held out of training; 0 uses
#'   the decoder's effects without shrinkage.
#' @param residual When to remove batch effects that the decoder misses, which are estimated from
#'   the samples of `sample_key` (effects `"label"`, `"global"` and `"local"`). `"never"` uses the
#'   decoder's effects alone. `"auto"` estimates them if the conditions of `condition_key` are
#'   balanced over batches and samples, and if both a batch and the target have at least two
#'   samples. `"always"` ignores the balance, and raises an error if there are too few samples.
#' @param estimate_on Cells that batch effects and depth are estimated on, such as controls or a
#'   pool that every batch has; the effects are then removed from all cells. A list of values by
#'   the name of their column, e.g. `list(condition = "ctrl")` (several values as a vector, several
#'   columns: cells that agree with all of them), names of cells, or a logical vector (aligned by
#'   its names if it has any); all cells if `NULL`. The confounding check looks at these cells
#'   alone. Not for the effect `"cell"`.
#' @param genes_kept Genes whose counts are returned as observed, without any correction, such as
#'   sex-linked genes where the batch is a donor: names, or a logical vector named by gene. Only for
#'   `"quantile"`.
#' @param gene_list Names of the genes to return, in this order, or a logical vector named by gene;
#'   all genes of the model if `NULL`.
#' @param indices Cells to return: positions from 1, a logical vector or names; all if `NULL`. Named
#'   logical vectors or positions (such as `seurat$cell_type == "B"`), and tables or matrices of one
#'   column with row names, are aligned by name: a logical vector must name every cell. Without
#'   names they are matched by position.
#' @param seed Random seed, a whole number from 0 to 2^32 - 1. Random numbers are keyed by the names
#'   of cell and gene.
#' @param batch_size Number of cells in a minibatch. Not a batch of the data: see
#'   `transform_batch`.
#' @param device Device to run the model on: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#' @param out File to write the result to, block by block, so that memory use does not grow with the
#'   number of cells: `.h5ad`, `.h5` (10x HDF5: corrected counts only) or `.zarr`. Data passed as a
#'   path are then also read block by block.
#' @param overwrite Whether to replace `out` if it exists. Files that the model or the cells are
#'   read from are never replaced.
#' @param resume Whether to continue an interrupted run with the same `out` and settings. The result
#'   is identical to the last bit. If `out` is already the finished result for the same settings,
#'   nothing is computed.
#' @param progress Whether to show progress, for work that takes more than about two seconds: with
#'   progressr inside `progressr::with_progress()`, otherwise as a bar on a terminal (package cli),
#'   otherwise as lines on standard error.
#' @param ... If the data come first: the arguments of the method for models, without `adata` and
#'   `indices`. Otherwise no further arguments are accepted.
#' @return A SingleCellExperiment, genes x cells: assays `counts` (the raw counts),
#'   `corrected` and, with `normalized = TRUE`, `normalized`; reducedDim `scvi` (latent means, cells
#'   x dimensions); `colData` and `rowData` with the columns of the data's `obs` and `var` and
#'   scvibridge's flags; `metadata(sce)$scvibridge` records how the counts were computed. With
#'   `out`, the value is what [read_corrected()] returns for the file: assays on disk (requires
#'   HDF5Array), or in memory for a zarr folder, which R always reads completely. If the data come
#'   first, the value is the object with the result added: see [data_first].
#' @section Errors:
#'   Conditions of class `scvibridge_error`, as described in [load_scvi()], raised before any
#'   computation: for an unknown batch (the nearest name is suggested), missing genes, data that are
#'   not counts, a confounded design, an `out` that exists, and others.
#' @seealso [normalized_expression()] for plots; [as_seurat()]; [read_corrected()] for files.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' sce <- corrected_counts(
#'   model,
#'   transform_batch = "V3", labels_key = "cell_type", condition_key = "condition"
#' )
#' sce
#' SummarizedExperiment::assay(sce, "corrected")[1:5, 1:5]
#' @export
corrected_counts <- function(object, ...) {
  UseMethod("corrected_counts")
}

#' @rdname corrected_counts
#' @export
corrected_counts.scvi_model <- function(object, adata = NULL, transform_batch = NULL,
                                        transform_covariates = NULL, method = "quantile",
                                        effect = NULL, labels_key = NULL,
                                        condition_key = NULL, sample_key = NULL,
                                        allow_confounded = FALSE, library_size = NULL,
                                        zero_inflation = TRUE, normalized = FALSE,
                                        unsupported = "keep", dispersion = NULL, shrinkage = NULL,
                                        residual = "never", estimate_on = NULL,
                                        genes_kept = NULL, gene_list = NULL, indices = NULL,
                                        seed = 0, batch_size = NULL, device = "auto", out = NULL,
                                        overwrite = FALSE, resume = FALSE, progress = TRUE, ...) {
  arguments <- arguments_of_call("corrected_counts(model)", list(...))
  with_scvibridge_errors(call_on_model("corrected_counts", arguments))
}

#' @rdname corrected_counts
#' @export
corrected_counts.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                     cell_data = NULL) {
  check_required("corrected_counts(model)")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(add_result("corrected_counts", object, model, given, source))
}
