#' Train an scVI model
#'
#' Trains an SCVI model of scvi-tools on raw counts from any supported object. The model can be
#' passed to [corrected_counts()] and all other functions that take a model.
#'
#' Choose the batch with care: if it is the replicate (each donor or sample is a separate batch),
#' correction removes the condition and the variance between replicates.
#'
#' Variable genes are selected as in Seurat v3, within each batch. Cells without counts of the
#' selected genes are left out of the training, with a warning.
#'
#' @param adata Raw counts: a Seurat object, SingleCellExperiment or matrix, as accepted by
#'   [as_anndata()], the path of an h5ad file or a zarr folder, or several (such as one for each
#'   sample), or an AnnData. It is not changed.
#' @param batch_key Column of the cells' metadata with the batches; `NULL` for none.
#' @param labels_key Column with cell types. They are registered with the model, but have no effect
#'   on it: SCVI does not use labels.
#' @param categorical_covariate_keys,continuous_covariate_keys Names of columns with additional
#'   covariates.
#' @param n_top_genes Number of variable genes to select (all genes if there are fewer), the names
#'   of genes, or `NULL` for all.
#' @param n_latent Number of latent dimensions.
#' @param n_layers Number of hidden layers of encoder and decoder.
#' @param gene_likelihood `"nb"`, `"zinb"` or `"poisson"`.
#' @param max_epochs Maximum number of passes through the cells; scvi-tools' default for their
#'   number if `NULL` (400 for up to 20,000 cells, fewer for more).
#' @param n_epochs_kl_warmup Number of epochs over which the weight of the prior of the latent
#'   variables increases; a quarter of `max_epochs`, at most 400, if `NULL`. (scvi-tools always uses
#'   400: with fewer training epochs the latent space then keeps more of the batch.)
#' @param early_stopping Whether to stop when the fit to the held-out cells (a tenth) has not
#'   improved for 45 epochs.
#' @param seed Random seed for weights, split and minibatches, a whole number from 0 to 2^32 - 1.
#'   The same seed results in the same model on the same machine.
#' @param device `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#' @param save Folder to save the model to, with its data: `load_scvi(save)` needs nothing else.
#'   With `NULL` the model is only in Python's memory, and lost when the R session ends.
#' @param overwrite Whether to replace an existing folder, if it contains nothing but a model.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @param assay,layer Location of the raw counts: see [as_anndata()]. For an AnnData or a path,
#'   `layer` is a layer to use instead of `X`, or `"raw"` for counts stored in `adata.raw`, as in
#'   CELLxGENE files with a normalized `X`. The model remembers the location: data passed to it
#'   later are also read from there, unless an assay is named.
#' @param isolate Whether to train in a separate Python process, as described in [load_scvi()].
#' @param ... Further arguments of [as_anndata()] for `adata`, such as `cell_data` for a matrix.
#' @return An object of class `scvi_model`, as from [load_scvi()]. Its print method shows its class,
#'   cells, genes, batches and likelihood, the number of training epochs, and the last losses.
#' @inheritSection corrected_counts Errors
#' @seealso [load_scvi()] for the saved model.
#' @examplesIf scvibridge::scvibridge_available()
#' counts <- matrix(rpois(20 * 120, 2), 20, 120,
#'   dimnames = list(paste0("gene", 1:20), paste0("cell", 1:120))
#' )
#' sce <- SingleCellExperiment::SingleCellExperiment(
#'   assays = list(counts = counts),
#'   colData = S4Vectors::DataFrame(batch = rep(c("b1", "b2"), 60))
#' )
#' train_scvi(sce, batch_key = "batch")
#' @export
train_scvi <- function(adata, batch_key = NULL, labels_key = NULL,
                       categorical_covariate_keys = NULL, continuous_covariate_keys = NULL,
                       layer = NULL, n_top_genes = 2000, n_latent = 10, n_layers = 1,
                       gene_likelihood = "nb", max_epochs = NULL, n_epochs_kl_warmup = NULL,
                       early_stopping = TRUE, seed = 0, device = "auto", save = NULL,
                       overwrite = FALSE, progress = TRUE, assay = NULL,
                       isolate = getOption("scvibridge.isolate", FALSE), ...) {
  check_required("train_scvi(object, batch_key = \"COLUMN\")")
  arguments <- mget(setdiff(names(formals()), c("assay", "isolate", "...")))
  where <- c(Filter(Negate(is.null), list(assay = assay, layer = layer)), list(...))
  with_scvibridge_errors({
    isolate <- as_flag(isolate, "isolate")
    check_further(list(...))
    if (!is_python_data(adata) && !is_anndatar(adata)) {
      arguments["layer"] <- NULL
    }
    data <- function() training_data(adata, where)
    model <- call_with("train_scvi", arguments, adata = data(), isolate = isolate)
    folder <- if (!is.null(save)) as_python_path(save, "save")
    saved <- call_python("saved_in", list(model = model, folder = folder))
    new_scvi_model(model, if (is.null(saved)) "none" else saved)
  })
}

# Before as_anndata(), which knows nothing of the arguments of train_scvi().
check_further <- function(given) {
  known <- c("assay.type", "cell_data", "gene_data")
  if (length(given)) {
    is_known <- !is.na(pmatch(names(given), known, duplicates.ok = TRUE)) # abbreviations too
    unknown <- if (is.null(names(given))) given else given[!is_known]
    check_no_more_arguments(unknown, c(setdiff(names(formals(train_scvi)), "..."), known))
  }
}

# `layer` of an AnnData or a path is an argument of Python's function: the model then reads it from
# other data, too.
training_data <- function(adata, where) {
  if (is_python_data(adata)) {
    further <- where[names(where) != "layer"]
    check_for_python_data(further, has_layer = TRUE)
    return(do.call(as_anndata, c(list(adata), further)))
  }
  if (is_anndatar(adata)) {
    data <- raw_anndata(adata, where)
    return(call_python("fit_to_model", list(adata = data, layer = where$layer)))
  }
  if (!isS4(adata) && is.na(data_kind(adata))) {
    stop_without_counts(adata, "adata")
  }
  check_names_raw(adata, where)
  check_cell_data(adata, where)
  if (data_kind(adata) == "Seurat") {
    where$assay <- checked_seurat_assay(adata, where$assay) # reads the flags
  }
  raw_anndata(without_flags(adata), where)
}

# Drops the flags of results, which describe other counts than those of the training.
without_flags <- function(object) {
  if (is_matrix_kind(data_kind(object)) ||
        !length(results_of(object)) && !has_named_result(object)) {
    return(object)
  }
  if (inherits(object, "Seurat")) {
    object@meta.data <- without_own_flags(object@meta.data)
    return(object)
  }
  SummarizedExperiment::colData(object) <- without_own_flags(SummarizedExperiment::colData(object))
  SummarizedExperiment::rowData(object) <- without_own_flags(SummarizedExperiment::rowData(object))
  object
}
