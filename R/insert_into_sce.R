# Adds a result to a SingleCellExperiment, a SummarizedExperiment or a matrix.

insert_into_sce <- function(object, sce, dropped) {
  object <- object[, !colnames(object) %in% dropped]
  if (length(result_assays(sce))) {
    object <- if (has_same_genes(sce, object)) {
      add_assays(object, sce)
    } else {
      add_alternative(object, sce)
    }
  }
  for (name in SingleCellExperiment::altExpNames(sce)) {
    object <- replace_alternative(object, name, SingleCellExperiment::altExp(sce, name))
  }
  add_cell_flags(add_reduced_dimension(object, sce), sce)
}

# Keeps an existing one with these values: other functions of the same model return the same.
add_reduced_dimension <- function(object, sce) {
  if (!"scvi" %in% SingleCellExperiment::reducedDimNames(sce)) {
    return(object)
  }
  latent <- SingleCellExperiment::reducedDim(sce, "scvi")
  if ("scvi" %in% SingleCellExperiment::reducedDimNames(object)) {
    if (is_same_latent(SingleCellExperiment::reducedDim(object, "scvi"), latent)) {
      return(object)
    }
    announce_replacing("reduced dimension", "scvi")
  }
  SingleCellExperiment::reducedDim(object, "scvi") <- latent
  object
}

# Adds flags and provenance.
add_cell_flags <- function(object, sce) {
  SummarizedExperiment::colData(object) <- with_flags(
    SummarizedExperiment::colData(object), SummarizedExperiment::colData(sce)
  )
  held <- S4Vectors::metadata(object)$scvibridge
  S4Vectors::metadata(object)$scvibridge <- with_provenance(held, sce)
  object
}

add_assays <- function(object, sce) {
  sce <- in_order_of(sce, object)
  for (name in result_assays(sce)) {
    if (name %in% SummarizedExperiment::assayNames(object)) {
      announce_replacing("assay", name)
    }
    values <- SummarizedExperiment::assay(sce, name)
    SummarizedExperiment::assay(object, name, withDimnames = FALSE) <- values
  }
  SummarizedExperiment::rowData(object) <- with_flags(
    SummarizedExperiment::rowData(object), SummarizedExperiment::rowData(sce)
  )
  object
}

with_flags <- function(table, found) {
  flags <- own_flags(found)
  for (name in names(flags)) {
    table[[name]] <- flags[[name]]
  }
  table
}

# Stores genes that differ from the object's in an alternative experiment, with their raw counts.
add_alternative <- function(object, sce) {
  held <- NULL
  if ("scvi" %in% SingleCellExperiment::altExpNames(object)) {
    held <- SingleCellExperiment::altExp(object, "scvi")
  }
  if (!is.null(held) && has_same_genes(sce, held)) {
    return(replace_alternative(object, "scvi", add_assays(held, sce), silently = TRUE))
  }
  bare <- SingleCellExperiment::SingleCellExperiment(
    assays = SummarizedExperiment::assays(sce), rowData = SummarizedExperiment::rowData(sce)
  )
  replace_alternative(object, "scvi", bare)
}

replace_alternative <- function(object, name, value, silently = FALSE) {
  if (!silently && name %in% SingleCellExperiment::altExpNames(object)) {
    announce_replacing("alternative experiment", name)
  }
  SingleCellExperiment::altExp(object, name) <- value
  object
}

insert_into_se <- function(object, sce, dropped) {
  object <- object[, !colnames(object) %in% dropped]
  if (length(result_assays(sce))) {
    if (!has_same_genes(sce, object)) {
      message(
        "the result has the ", nrow(sce), " genes that were corrected, not all ", nrow(object),
        " of the object; a SingleCellExperiment would keep all, with the result as altExp \"scvi\""
      )
      object <- object[match(rownames(sce), rownames(object)), ]
    }
    object <- add_assays(object, sce)
  }
  if ("scvi" %in% SingleCellExperiment::reducedDimNames(sce)) {
    # One column that is a matrix.
    SummarizedExperiment::colData(object)$scvi <- SingleCellExperiment::reducedDim(sce, "scvi")
  }
  add_cell_flags(object, sce)
}

insert_into_matrix <- function(object, sce) {
  if (has_same_genes(sce, object)) {
    sce <- in_order_of(sce, object)
  }
  values <- SummarizedExperiment::assay(sce, result_assays(sce))
  attr(values, "scvibridge") <- S4Vectors::metadata(sce)$scvibridge
  values
}
