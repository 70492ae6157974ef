# Adds a result to a SingleCellExperiment, a SummarizedExperiment or a matrix.

insert_into_sce <- function(object, sce, origin, dropped) {
  object <- with_record_beside(without_cells(object, dropped))
  object <- if (!length(result_assays(sce))) {
    add_record(object, sce)
  } else if (has_same_genes(sce, object)) {
    add_matrices(with_counts_record(object, sce, origin), sce)
  } else {
    add_alternative(object, sce, origin)
  }
  for (name in alternative_names(sce)) {
    object <- replace_alternative(object, name, SingleCellExperiment::altExp(sce, name))
  }
  with_more_marks(add_reduced_dimension(object, sce), own_marks(sce))
}

# Some matrices, such as a COO_SparseMatrix, cannot be subset.
without_cells <- function(object, dropped) {
  if (length(dropped)) object[, !colnames(object) %in% dropped] else object
}

# Former versions stored the record and the flags of altExp "scvi" with the object.
with_record_beside <- function(object) {
  held <- results_beside(object)
  if (!length(held)) {
    return(object)
  }
  beside <- SingleCellExperiment::altExp(object, "scvi")
  if (!length(own_results(beside))) {
    beside <- with_entry(beside, "scvibridge", held)
    if (!is_result_itself(object)) {
      SummarizedExperiment::colData(beside) <- with_flags(
        SummarizedExperiment::colData(beside), SummarizedExperiment::colData(object),
        list(), "corrected"
      )
    }
    SingleCellExperiment::altExp(object, "scvi") <- beside
    object <- with_entry(object, "scvibridge", own_results(object))
  }
  object
}

# Keeps an existing one with these values: other functions of the same model return the same.
add_reduced_dimension <- function(object, sce) {
  if (!"scvi" %in% reduced_names(sce)) {
    return(object)
  }
  latent <- stored_reduction(sce, "scvi")
  if ("scvi" %in% reduced_names(object)) {
    if (is_same_latent(stored_reduction(object, "scvi"), latent)) {
      return(object)
    }
    announce_replacing("reduced dimension", "scvi")
  }
  SingleCellExperiment::reducedDim(object, "scvi") <- latent
  object
}

# Adds the matrices of a result, with their flags and their record.
add_matrices <- function(object, sce) {
  sce <- in_order_of(sce, object)
  held <- own_results(object)
  added <- result_assays(sce)
  SummarizedExperiment::rowData(object) <- with_flags(
    SummarizedExperiment::rowData(object), SummarizedExperiment::rowData(sce), held, added
  )
  SummarizedExperiment::colData(object) <- with_flags(
    SummarizedExperiment::colData(object), SummarizedExperiment::colData(sce), held, added
  )
  object <- add_record(object, sce)
  for (name in added) {
    if (name %in% SummarizedExperiment::assayNames(object)) {
      announce_replacing("assay", name)
    }
    values <- SummarizedExperiment::assay(sce, name)
    SummarizedExperiment::assay(object, name, withDimnames = FALSE) <- values
  }
  object
}

# Before the matrices are added: those of the object tell which records still apply.
add_record <- function(object, sce) {
  held <- with_provenance(own_results(object), sce, SummarizedExperiment::assayNames(object))
  with_entry(object, "scvibridge", held)
}

# Records the assay with the raw counts, unless it is called counts. Before the matrices are added,
# as above.
with_counts_record <- function(object, sce, origin) {
  if (!has_main_counts(sce, own_results(object))) {
    return(object)
  }
  name <- origin$assay
  with_entry(object, "scvibridge_counts", if (!identical(name, "counts")) name)
}

# The raw counts that the result has, in place of those of an earlier result.
with_counts_of <- function(object, sce) {
  has_counts <- "counts" %in% SummarizedExperiment::assayNames(sce)
  if (has_counts && has_main_counts(sce, own_results(object))) {
    values <- SummarizedExperiment::assay(in_order_of(sce, object), "counts")
    SummarizedExperiment::assay(object, "counts", withDimnames = FALSE) <- values
  }
  object
}

# Stores genes that differ from the object's in an alternative experiment, with their raw counts,
# their record and their flags. The object's own results keep theirs; without any, the object has
# the flags of cells too.
add_alternative <- function(object, sce, origin) {
  held <- NULL
  if ("scvi" %in% alternative_names(object)) {
    held <- SingleCellExperiment::altExp(object, "scvi")
  }
  if (!is_result_itself(object)) {
    object <- with_counts_record(object, sce, origin)
    SummarizedExperiment::colData(object) <- with_flags(
      SummarizedExperiment::colData(object), SummarizedExperiment::colData(sce),
      if (!is.null(held) && has_same_genes(sce, held)) own_results(held), result_assays(sce)
    )
  }
  if (!is.null(held) && has_same_genes(sce, held)) {
    held <- add_matrices(with_counts_of(held, sce), sce)
    return(replace_alternative(object, "scvi", held, silently = TRUE))
  }
  replace_alternative(object, "scvi", without_parts(sce))
}

# The matrices of a result with their record and flags, and nothing else.
without_parts <- function(sce) {
  if (length(reduced_names(sce))) {
    SingleCellExperiment::reducedDims(sce) <- list()
  }
  if (length(alternative_names(sce))) {
    SingleCellExperiment::altExps(sce) <- list()
  }
  SummarizedExperiment::colData(sce) <- own_flags(SummarizedExperiment::colData(sce))
  with_entry(sce, "scvibridge", by_quantity(record_of(sce)))
}

replace_alternative <- function(object, name, value, silently = FALSE) {
  if (!silently && name %in% alternative_names(object)) {
    announce_replacing("alternative experiment", name)
  }
  SingleCellExperiment::altExp(object, name) <- value
  object
}

insert_into_se <- function(object, sce, origin, dropped) {
  object <- without_cells(object, dropped)
  if (length(result_assays(sce))) {
    if (!has_same_genes(sce, object)) {
      message(
        "the result has the ", nrow(sce), " genes that were corrected, not all ", nrow(object),
        " of the object; a SingleCellExperiment would keep all, with the result as altExp \"scvi\""
      )
      object <- object[match(rownames(sce), rownames(object)), ]
    }
    object <- add_matrices(with_counts_record(object, sce, origin), sce)
  } else {
    object <- add_record(object, sce)
  }
  if ("scvi" %in% reduced_names(sce)) {
    object <- add_latent_column(object, SingleCellExperiment::reducedDim(sce, "scvi"))
  }
  with_more_marks(object, own_marks(sce))
}

# One column that is a matrix. As add_reduced_dimension().
add_latent_column <- function(object, latent) {
  held <- SummarizedExperiment::colData(object)[["scvi"]]
  if (is.matrix(held) && is.numeric(held) && is_same_latent(held, latent)) {
    return(object)
  }
  if (!is.null(held)) {
    announce_replacing("column", "scvi")
  }
  SummarizedExperiment::colData(object)[["scvi"]] <- latent
  object
}

insert_into_matrix <- function(object, sce) {
  if (has_same_genes(sce, object)) {
    sce <- in_order_of(sce, object)
  }
  values <- SummarizedExperiment::assay(sce, result_assays(sce))
  attr(values, "scvibridge") <- record_of(sce)
  values
}
