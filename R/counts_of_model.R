# Finds the counts of an object to pass to a model: those it was trained on, unless the caller names
# others.

# `about`: `layer`, the layer that the model reads; `counts_from`, the assay and layer of the R
# object that it was trained on; and its `genes` and `modalities`. From a model's summary, or of a
# saved model. NULL if unknown.
# `source`: assay, layer and cell_data as passed by the caller. Returns such a source.
source_for_model <- function(object, about, source) {
  check_names_raw(object, source)
  kind <- data_kind(object)
  if (!is.null(source$assay) || is.null(about) || is_matrix_kind(kind)) {
    return(source)
  }
  origin <- about$counts_from
  if (kind == "Seurat") {
    return(source_in_seurat(object, about, source, if (identical(origin$object, "Seurat")) origin))
  }
  from_experiment <- isTRUE(grepl("Experiment$", origin$object))
  source_in_experiment(object, about, source, if (from_experiment) origin)
}

source_in_experiment <- function(object, about, source, origin) {
  present <- SummarizedExperiment::assayNames(object)
  if (!is.null(origin)) {
    wanted <- origin$assay
    n_assays <- length(SummarizedExperiment::assays(object, withDimnames = FALSE))
    if (!wanted %in% present) {
      # An assay without a name was selected by number.
      by_number <- is.null(present) && wanted %in% seq_len(n_assays)
      if (!by_number) stop_missing_assay(origin, present)
      source$assay <- as.integer(wanted)
      return(source)
    }
    return(announced(source, "counts", assay = wanted))
  }
  if (is.null(about$layer)) {
    return(source)
  }
  if (about$layer %in% present) {
    return(announced(source, "counts", assay = about$layer))
  }
  announce_other_layer(about$layer, "the assay counts")
  source
}

source_in_seurat <- function(object, about, source, origin) {
  if (!is.null(origin)) {
    if (!origin$assay %in% SeuratObject::Assays(object)) {
      stop_missing_assay(origin, SeuratObject::Assays(object))
    }
    usual <- SeuratObject::DefaultAssay(object)
    layer <- source$layer %||% origin$layer
    return(announced(source, c(usual, source$layer %||% "counts"), origin$assay, layer))
  }
  if (is.null(about$layer) || !is.null(source$layer)) {
    return(source)
  }
  assay <- checked_seurat_assay(object, NULL)
  source$assay <- assay
  if (length(layers_named(present_layers(object[[assay]]), about$layer))) {
    return(announced(source, c(assay, "counts"), assay, about$layer))
  }
  announce_other_layer(about$layer, paste("the layer counts of the assay", assay))
  source
}

# Reports where the counts are read from, if that is not the `usual` place.
announced <- function(source, usual, assay, layer = NULL) {
  if (!identical(c(assay, layer), usual)) {
    message(
      "raw counts are read from the assay ", assay, if (!is.null(layer)) paste0(", layer ", layer),
      ", on which the model was trained"
    )
  }
  source$assay <- assay
  source$layer <- layer
  source
}

announce_other_layer <- function(layer, place) {
  if (!layer %in% c("counts", "raw")) {
    message(
      "the model was trained on the layer ", layer, ", which the object lacks: raw counts are ",
      "read from ", place, ". To read others, set assay and layer"
    )
  }
}

stop_missing_assay <- function(origin, present) {
  stop_scvibridge(
    "the model was trained on the assay ", origin$assay, ", which the object lacks; it has ",
    if (length(present)) paste(present, collapse = ", ") else "assays without names",
    ": set assay to the one with the raw counts"
  )
}

# A result of this package is not raw counts, whatever its name.
check_names_raw <- function(object, source) {
  if (is_result_matrix(object)) {
    stop_scvibridge(
      "the matrix is a result of scvibridge (attribute scvibridge), not raw counts: pass the ",
      "matrix with raw counts"
    )
  }
  if (is_result_of_seurat_assay(object)) {
    stop_scvibridge(
      "the counts are those of the assay ", SingleCellExperiment::mainExpName(object), " of a ",
      "Seurat object, a result of scvibridge, not raw counts: convert the assay with the raw ",
      "counts, as.SingleCellExperiment(seurat, assay = \"RNA\")"
    )
  }
  assay <- source$assay
  if (!names_an_assay(assay, data_kind(object))) {
    return(invisible())
  }
  is_own <- if (data_kind(object) == "Seurat") {
    is_result_of_seurat(object, assay)
  } else {
    assay %in% result_assay_names && length(results_of(object)) &&
      !assay %in% unrecorded_assays(object)
  }
  if (is_own) {
    stop_scvibridge(
      "the assay ", assay, " is a result of scvibridge, not raw counts: omit assay, or set it to ",
      "the one with raw counts"
    )
  }
}

names_an_assay <- function(assay, kind) {
  is.character(assay) && length(assay) == 1 && !is.na(kind) && !is_matrix_kind(kind)
}

# Returns the counts of an object as the model reads them, for the `adata` of its functions: with
# the model's gene names, and the proteins or regions that it also encodes.
anndata_for_model <- function(object, about, source = list()) {
  source <- source_for_model(object, about, source)
  parts <- parts_of_data(object, source)
  if (is.null(about)) {
    return(anndata_of(parts))
  }
  genes <- names_of_model(parts$genes, known_variables(about))
  modalities <- modalities_for_model(object, about, parts$cells)
  adata <- anndata_of(parts)
  if (is.null(about$layer) && !length(modalities) && identical(genes, parts$genes)) {
    return(adata)
  }
  call_python("fit_to_model", list(
    adata = adata, genes = if (!identical(genes, parts$genes)) as.list(genes),
    layer = about$layer, modalities = modalities
  ))
}
