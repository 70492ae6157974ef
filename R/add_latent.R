#' Add the latent space of a model to data
#'
#' Encodes the cells, without decoding any genes, and stores the latent means in the standard slot
#' of the object. They are the same latent means that [corrected_counts()] and the other functions
#' return.
#'
#' @inheritParams corrected_counts
#' @param object The data: a Seurat object, a SingleCellExperiment or a SummarizedExperiment with
#'   raw counts. Its cells need not be those used for training. Genes are matched by name.
#' @param model A model from [load_scvi()].
#' @param progress Whether to show progress, as [corrected_counts()] does.
#' @return The object, with the latent means (cells x dimensions) as reduction `scvi` (Seurat, key
#'   `scvi_`), reducedDim `scvi` (SingleCellExperiment) or a matrix column `scvi` of `colData`
#'   (SummarizedExperiment). Everything else is unchanged.
#' @inheritSection corrected_counts Errors
#' @seealso [data_first]
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' sce <- normalized_expression(model) # or any SingleCellExperiment with these genes
#' SingleCellExperiment::reducedDims(sce) <- list()
#' sce <- add_latent(sce, model)
#' SingleCellExperiment::reducedDim(sce, "scvi")[1:3, ]
#' @export
add_latent <- function(object, model, batch_size = NULL, device = "auto", progress = TRUE,
                       assay = NULL, layer = NULL) {
  check_required("add_latent(object, model)")
  arguments <- list(
    model = model, batch_size = batch_size, device = device, progress = progress
  )
  with_scvibridge_errors({
    python_arguments(arguments[-1]) # checks them before the data are converted
    plain <- plain_data(object, source_of(assay, layer, NULL), layer_of_model(model))
    object <- plain$object
    check_has_reductions(object)
    check_data_first("add_latent", object, model, list(), plain$source)
    check_can_insert(object, list(), "add_latent")
    data <- data_for_model(object, model, plain$source)
    found <- call_with("latent", arguments, adata = data$adata)
    insert_result(object, sce_of_latent(found), data$origin)
  })
}

check_has_reductions <- function(object) {
  if (is_matrix_kind(data_kind(object))) {
    stop_scvibridge(
      "object is a matrix, which cannot store a latent space: pass a SingleCellExperiment, ",
      "SingleCellExperiment(list(counts = matrix), colData = cell_data)"
    )
  }
  if (inherits(object, "scvi_model")) {
    stop_scvibridge("object must be the data, not a model: add_latent(object, model)")
  }
}

# A SingleCellExperiment that has the latent means but no genes.
sce_of_latent <- function(found) {
  cells <- as_text(found$cells)
  SingleCellExperiment::SingleCellExperiment(
    colData = S4Vectors::make_zero_col_DFrame(length(cells)) |> `rownames<-`(cells),
    reducedDims = list(scvi = assemble_numbers(found$latent, cells)),
    metadata = list(scvibridge = assemble_nested(found$provenance))
  )
}
