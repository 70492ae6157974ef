#' Train an scVI model
#'
#' Trains an SCVI of scvi-tools on raw counts, from whatever object holds them. The model is ready
#' for [corrected_counts()] and the other functions that take one.
#'
#' Choose the batch with care: if it is the replicate (each donor or sample its own batch),
#' correction removes the condition and the variance between replicates.
#'
#' Variable genes are chosen as Seurat v3 does, within each batch. Cells without counts of the
#' chosen genes are left out of the training, with a warning.
#'
#' @param object Raw counts: a Seurat object, SingleCellExperiment or matrix, as [as_anndata()]
#'   takes it, the path of an h5ad file or a zarr folder, or an AnnData. It is not changed.
#' @param batch Column of the cells' metadata with the batches; `NULL` for none.
#' @param labels Column with cell types. They are registered with the model, and are no part of it:
#'   an SCVI knows no labels.
#' @param categorical_covariates,continuous_covariates Names of columns with further covariates.
#' @param n_top_genes How many variable genes to take (all where there are not more), the names of
#'   genes, or `NULL` for all.
#' @param n_latent Number of latent dimensions.
#' @param n_layers Number of hidden layers of encoder and decoder.
#' @param gene_likelihood `"nb"`, `"zinb"` or `"poisson"`.
#' @param max_epochs Most passes through the cells; scvi-tools' choice for their number if `NULL`
#'   (400 for up to 20,000 cells, fewer for more).
#' @param n_epochs_kl_warmup Epochs over which the prior of the latent variables gets its weight; a
#'   quarter of `max_epochs`, at most 400, if `NULL`. (scvi-tools takes 400 of however many: in a
#'   shorter training the latent space then keeps more of the batch.)
#' @param early_stopping Whether to stop once the held-out cells (a tenth) have not been described
#'   better for 45 epochs.
#' @param seed Seed of weights, split and minibatches, a whole number from 0 to 2^32 - 1. One seed
#'   gives one model on one machine.
#' @param device `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#' @param save Folder to save the model to, with its data: `load_scvi(save)` needs nothing else.
#'   With `NULL` the model is in Python's memory alone, and gone with the R session.
#' @param overwrite Whether a folder of that name may be replaced, if it holds nothing but a model.
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @param assay,layer Where the raw counts are: see [as_anndata()]. Of an AnnData or a path `layer`
#'   is a layer in place of `X`, or `"raw"` for the counts that it keeps beside normalized ones
#'   (`adata.raw`, as in files of CELLxGENE). The model remembers the place: data given to it later
#'   are read from there, too, unless an assay is named.
#' @param isolate Whether to train in a Python process of its own, as [load_scvi()] describes it.
#' @param ... What else [as_anndata()] takes for `object`, such as `cell_data` of a matrix.
#' @return An object of class `scvi_model`, as from [load_scvi()]. Printed, it tells its class,
#'   cells, genes, batches and likelihood, how many epochs it was trained for, and its last losses.
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
#' train_scvi(sce, batch = "batch")
#' @export
train_scvi <- function(object, batch = NULL, labels = NULL, categorical_covariates = NULL,
                       continuous_covariates = NULL, n_top_genes = 2000, n_latent = 10,
                       n_layers = 1, gene_likelihood = "nb", max_epochs = NULL,
                       n_epochs_kl_warmup = NULL, early_stopping = TRUE, seed = 0,
                       device = "auto", save = NULL, overwrite = FALSE, progress = TRUE,
                       assay = NULL, layer = NULL,
                       isolate = getOption("scvibridge.isolate", FALSE), ...) {
  isolate <- as_flag(isolate, "isolate")
  arguments <- python_arguments(list(
    batch_key = batch, labels_key = labels, categorical_covariate_keys = categorical_covariates,
    continuous_covariate_keys = continuous_covariates, n_top_genes = n_top_genes,
    n_latent = n_latent, n_layers = n_layers, gene_likelihood = gene_likelihood,
    max_epochs = max_epochs, n_epochs_kl_warmup = n_epochs_kl_warmup,
    early_stopping = early_stopping, seed = seed, device = device,
    save = save, overwrite = overwrite, progress = progress
  ))
  where <- Filter(Negate(is.null), list(assay = assay, layer = layer))
  if (is_python_data(object)) {
    arguments$layer <- if (!is.null(layer)) as_one_text(layer, "layer")
    where$layer <- NULL
    arguments$adata <- do.call(as_anndata, c(list(object), where, list(...)))
  } else {
    check_names_raw(object, where)
    arguments$adata <- raw_anndata(object, c(where, list(...)))
  }
  reporter <- if (arguments$progress) progress_reporter()
  model <- call_python("train_scvi", arguments, reporter, isolate = isolate)
  saved <- call_python("saved_in", list(model = model, folder = arguments$save))
  new_scvi_model(model, if (is.null(saved)) "none" else saved)
}
