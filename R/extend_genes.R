#' Add genes to a trained model
#'
#' Fits an output layer for additional genes on the decoder's last hidden layer. The encoder and
#' decoder of the model, and therefore its latent space, are unchanged. Counts of the model's own
#' genes are the same as without the extension, unless all cells are scaled to one depth
#' (`library_size` is a number or `"median"`): that depth is then the total over all genes.
#'
#' @inheritParams corrected_counts
#' @param adata Cells by all genes, including the model's own: the path of an h5ad file or a zarr
#'   folder, or several (such as one for each sample), or an AnnData held by reticulate. Preferably
#'   the training cells, in the same order.
#' @param gene_list Genes to add: names, or a logical vector named by gene; all that the model does
#'   not know if `NULL`.
#' @param labels_key Column of the cells' metadata with cell types. If the model held out no cells,
#'   the cells for evaluation are sampled from each type.
#' @param max_epochs Maximum number of passes through the cells.
#' @param ridge Weight of the penalty; `"auto"` chooses it on held-out cells.
#' @param seed Random seed for the order of the cells.
#' @param device `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#' @param progress Whether to show progress.
#' @param save Folder to save the extended model to, for [load_scvi()]; `NULL` does not save it.
#' @param overwrite Whether to replace an existing folder, if it contains nothing but a model.
#' @return An object of class `scvi_model`, as from [load_scvi()], that knows all genes. `quality`
#'   is a data.frame with a row for each added gene: `explained` (held-out deviance explained beyond
#'   its share of each batch), `theta`, `detection_rate` and `flag`. If `adata` is a path, also pass
#'   the path to the functions that take the model.
#' @inheritSection corrected_counts Errors
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' \dontrun{
#' extended <- extend_genes(model, "all_genes.h5ad")
#' corrected_counts(extended, adata = "all_genes.h5ad", transform_batch = "V3")
#' }
#' @export
extend_genes <- function(object, ...) {
  UseMethod("extend_genes")
}

#' @rdname extend_genes
#' @export
extend_genes.scvi_model <- function(object, adata, gene_list = NULL, labels_key = NULL,
                                    max_epochs = 20, ridge = "auto", seed = 0, device = "auto",
                                    progress = TRUE, save = NULL, overwrite = FALSE, ...) {
  arguments <- arguments_of_call("extend_genes(model, adata = \"all_genes.h5ad\")", list(...))
  with_scvibridge_errors({
    extended <- call_with("extend_genes", arguments)
    made <- new_scvi_model(extended, if (is.null(save)) "none" else as_python_path(save, "save"))
    found <- call_python("describe_quality", list(model = extended))
    made$quality <- assemble_data_frame(found$table)
    made
  })
}

#' @rdname extend_genes
#' @export
extend_genes.default <- function(object, model = NULL, ..., assay = NULL, layer = NULL,
                                 cell_data = NULL) {
  check_required("extend_genes(model, adata = \"all_genes.h5ad\")")
  given <- list(...)
  source <- source_of(assay, layer, cell_data)
  with_scvibridge_errors(
    call_on_data("extend_genes", object, model, given, source, all_genes = TRUE)
  )
}
