#' @rdname diagnostics
#' @param batch_key Column of the cells' metadata with the batches.
#' @param batch The batch to split; the batch with the most cells if `NULL`.
#' @param model A model from [load_scvi()], if the data come first. For `scvi_damage()`, the new
#'   model uses its genes, layer and architecture.
#' @param assay If the data come first, the assay with the raw counts: if `NULL`, the default assay
#'   for Seurat, otherwise `counts`.
#' @param layer Layer with the raw counts: of a Seurat object (`counts` if `NULL`) or, for
#'   `scvi_damage()`, of an AnnData or a file (`X` if `NULL`).
#' @param max_epochs Number of training epochs; the default of scvi-tools if `NULL`.
#' @export
scvi_damage <- function(adata, batch_key, labels_key = NULL, batch = NULL, model = NULL,
                        layer = NULL, max_epochs = NULL, method = "quantile", effect = NULL,
                        library_size = NULL, seed = 0, device = "auto", progress = TRUE,
                        assay = NULL, cell_data = NULL) {
  arguments <- arguments_of_call("scvi_damage(adata, batch_key = \"COLUMN\")")
  arguments[c("assay", "cell_data")] <- NULL
  with_scvibridge_errors({
    plain <- plain_data(adata, source_of(assay, layer, cell_data), layer_of_model(model))
    adata <- plain$object
    source <- plain$source
    found <- if (is.na(data_kind(adata))) {
      check_for_python_data(source[c("assay", "cell_data")], has_layer = TRUE)
      call_with("damage", arguments)
    } else {
      arguments["layer"] <- list(NULL)
      call_with("damage", arguments, adata = adata_of_damage(adata, model, source))
    }
    structure(
      assemble_data_frame(found$table),
      by_label = assemble_data_frame(found$by_label),
      settings = assemble_nested(found$settings),
      python = found$python
    )
  })
}

adata_of_damage <- function(object, model, source) {
  check_cell_data(object, source)
  if (!is.null(model)) {
    return(data_for_model(object, model, source)$adata)
  }
  check_names_raw(object, source)
  anndata_of(parts_of_data(object, source))
}
