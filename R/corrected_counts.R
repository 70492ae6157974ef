#' Batch-corrected counts
#'
#' Integer counts as if every cell came from the target batch, by the quantile functions of the
#' model's own likelihood. They are for tools that cannot take a batch covariate; differential
#' expression between donors belongs on the raw counts (assay `counts`), with batch in the design.
#'
#' If the batch is the replicate (each donor or sample its own batch), correction removes the
#' condition and the variance between replicates: use raw counts.
#'
#' With `method = "quantile"` the cell keeps its own data: its observed count's place in the
#' distribution under its own batch is looked up in the distribution under the target. A cell of the
#' target batch at its own depth is untouched. With `method = "sample"` the counts are a simulation
#' of the cell by the model.
#'
#' @param object A model from [load_scvi()]; or the data, with the model as the second argument: a
#'   Seurat object, a SingleCellExperiment, a SummarizedExperiment, or a matrix of raw counts, genes
#'   x cells (dense, of the package Matrix or a DelayedMatrix). See [data_first].
#' @param model A model from [load_scvi()], where the data come first.
#' @param assay,layer Where the raw counts are in data that come first: the name of an assay (of
#'   Seurat the default assay if `NULL`, else the assay `counts`) and of a layer of Seurat (`counts`
#'   if `NULL`).
#' @param cell_data Of a matrix that comes first: a data.frame with a row for each cell, by name,
#'   and the columns that the model and the arguments ask for.
#' @param adata Cells to correct: the path of an h5ad file or a zarr folder, an AnnData held by
#'   reticulate or an object that [as_anndata()] takes; the model's own data if `NULL`. Genes are
#'   aligned by name.
#' @param transform_batch Batch whose likeness the counts take, or several, whose parameters are
#'   averaged. Required where the model has more than one batch, unless other covariates are
#'   changed.
#' @param transform_covariates Values that other covariates of the model take, a list by name, e.g.
#'   `list(donor = "D1")`: alone (the cells then keep their batch) or with the batch; of several
#'   values the parameters are averaged. Continuous covariates go with `effect = "cell"` or
#'   `method = "sample"` alone.
#' @param method `"quantile"` or `"sample"`.
#' @param effect Batch effect that `"quantile"` removes: `"label"` (one for each label and batch;
#'   the default with `labels_key`), `"global"` (one for each batch; the default without) or
#'   `"cell"` (each cell's own, which leaks the condition of interest).
#' @param labels_key Column of `obs` with cell types. They must not encode the condition of
#'   interest.
#' @param condition_key Column of `obs` with the condition of interest: refuses designs in which it
#'   cannot be told from the batch, and lets the conditions weigh equally in each effect.
#' @param sample_key Column of `obs` with the replicate (donor, sample): `"quantile"` then keeps how
#'   the counts of each sample and label differ from the model's means. Give it where samples are to
#'   be compared later.
#' @param allow_confounded Go on, with a warning, where the condition cannot be told from the batch.
#' @param library_size Depth of the counts: a number (up to 2^31 - 1); `"observed"` or `"latent"`
#'   (the model's own rate); `"median"` (the target's median for all cells; default of `"sample"`);
#'   `"scaled"` (one factor for each batch; default of `"quantile"`).
#' @param zero_inflation Whether draws of a ZINB model include the zero inflation (`"sample"` alone;
#'   `"quantile"` always takes both sides with it).
#' @param normalized Whether to add the assay `normalized`: the normalized expression at the target
#'   batch and a depth of 1e4 (dense).
#' @param unsupported What becomes of cells that the target batch does not support, since it has
#'   hardly any cells like them: `"keep"` (flagged in `colData`, with a warning where they are
#'   many), `"mask"` (their corrected counts are empty) or `"drop"` (they are left out). See
#'   [batch_support()].
#' @param dispersion Inverse dispersions theta in place of the model's own: what [calibration()]
#'   returned, a numeric vector with the names of the genes, or a data.frame or matrix of genes (row
#'   names) by batches.
#' @param shrinkage Number of counts at which half of an effect is believed: effects of batches are
#'   shrunk towards none, and those of labels towards their batch's, the more the fewer counts there
#'   are of a gene. `"auto"` (the default of the effects `"label"` and `"global"`) estimates it from
#'   the cells that were held out of the training; 0 takes the decoder's effects as they are.
#' @param gene_list Names of the genes to return, in this order, or a logical vector with the names
#'   of genes; all of the model's if `NULL`.
#' @param indices Cells to return: positions from 1, a logical vector or names; all if `NULL`. A
#'   logical vector or positions with names (as `seurat$cell_type == "B"` gives), or a table or
#'   matrix of one column with row names, is aligned by them: a logical vector must name every cell.
#'   One without names goes by position.
#' @param seed Seed of the random numbers, a whole number from 0 to 2^32 - 1. They are keyed by the
#'   names of cell and gene.
#' @param batch_size Number of cells in a minibatch. It is no batch of the data: see
#'   `transform_batch`.
#' @param device `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`, where the model is run.
#' @param out File to write the result to, block by block, so that memory does not grow with the
#'   number of cells: `.h5ad`, `.h5` (10x HDF5: the corrected counts alone) or `.zarr`. Data given
#'   by a path are then read block by block too.
#' @param overwrite Whether `out` may be replaced where it exists. It never replaces a file that the
#'   model or the cells come from.
#' @param resume Whether to go on where an interrupted run with the same `out` and settings stopped.
#'   The result is the same to the last bit. Where `out` is the finished result of the same
#'   settings, nothing is computed.
#' @param progress Whether to show progress, for work of more than about two seconds: through
#'   progressr inside of `progressr::with_progress()`, else as a bar on a terminal (package cli),
#'   else as lines on standard error.
#' @param ... Where the data come first: the arguments for a model, without `adata` and `indices`.
#'   Else no further arguments are accepted.
#' @return A SingleCellExperiment, genes x cells: assays `counts` (the cells' own counts),
#'   `corrected` and, with `normalized = TRUE`, `normalized`; reducedDim `scvi` (latent means, cells
#'   x dimensions); `colData` and `rowData` with the columns of the data's `obs` and `var` and
#'   scvibridge's flags; `metadata(sce)$scvibridge` says how the counts were made. With `out` it is
#'   what [read_corrected()] gives of the file: assays that stay on disk (needs HDF5Array), or, from
#'   a zarr folder, which R cannot leave there, in memory. Where the data come first it is the
#'   object with the result in it: see [data_first].
#' @section Errors:
#'   Conditions of class `scvibridge_error`, as [load_scvi()] describes them, before any work: an
#'   unknown batch (the nearest name is suggested), genes that are missing, data that are no counts,
#'   a design that is confounded, an `out` that exists, and others.
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
                                        gene_list = NULL, indices = NULL, seed = 0,
                                        batch_size = NULL, device = "auto", out = NULL,
                                        overwrite = FALSE, resume = FALSE, progress = TRUE, ...) {
  arguments <- as.list(environment())
  check_no_more_arguments(..., known = names(arguments))
  sce_from_model("corrected_counts", object, arguments)
}

#' @rdname corrected_counts
#' @export
corrected_counts.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                     cell_data = NULL) {
  source <- source_of(assay, layer, cell_data)
  run_on_data("corrected_counts", object, model, list(...), source)
}
