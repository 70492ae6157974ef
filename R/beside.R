# Proteins and regions that a model encodes beside the genes: found in an object by their names, in
# an assay of Seurat or an alternative experiment.

# For Python's fit_to_model(): counts of the model's `cells`, features in its order.
beside_for_model <- function(object, model, cells) {
  in_tables <- Filter(function(part) !is.null(part$key), model$summary$beside)
  lapply(in_tables, function(part) {
    names <- as_text(part$names)
    parts <- find_beside(object, part$what, names)
    columns <- match(cells, parts$cells)
    if (anyNA(columns)) {
      stop_scvibridge(
        sum(is.na(columns)), " of the ", length(cells), " cells have no counts of the ", part$what,
        ", which the model encodes: ", some_of(cells[is.na(columns)])
      )
    }
    rows <- match(names, names_of_model(parts$genes, names))
    counts <- csr_vectors(parts$read(columns, rows))
    list(key = part$key, n = length(names), counts = as_arrays(counts))
  })
}

find_beside <- function(object, what, names) {
  holders <- holders_of(object)
  for (holder in holders) {
    found <- counts_in(object, holder)
    if (!is.null(found) && all(names %in% names_of_model(found$genes, names))) {
      return(found)
    }
  }
  place <- if (data_kind(object) == "Seurat") "assay" else "altExp"
  stop_scvibridge(
    "the model encodes ", length(names), " ", what, " as well (", few_names(names), "): the ",
    "object must have an ", place, " with the counts of all of them",
    if (length(holders)) paste0(" (it has the ", place, "s ", paste(holders, collapse = ", "), ")")
  )
}

holders_of <- function(object) {
  switch(data_kind(object),
    Seurat = SeuratObject::Assays(object),
    SingleCellExperiment = SingleCellExperiment::altExpNames(object)
  )
}

# NULL where there are no counts, as in what scvibridge itself has put there.
counts_in <- function(object, holder) {
  if (data_kind(object) == "Seurat") {
    counts <- layers_named(present_layers(object[[holder]]), "counts")
    return(if (length(counts)) object_parts(object, assay = holder))
  }
  experiment <- SingleCellExperiment::altExp(object, holder)
  if ("counts" %in% SummarizedExperiment::assayNames(experiment)) {
    object_parts(experiment, assay = "counts")
  }
}

# Their normalized values come back under this name.
check_proteins_stay <- function(object, model) {
  encoded <- vapply(model$summary$beside, function(part) part$what, character(1))
  in_the_way <- "proteins" %in% encoded && "proteins" %in% holders_of(object)
  if (in_the_way && !is.null(counts_in(object, "proteins"))) {
    is_seurat <- data_kind(object) == "Seurat"
    stop_scvibridge(
      "the normalized values of the proteins are put into ",
      if (is_seurat) "the assay proteins" else "altExp(object, \"proteins\")",
      ", where the object has counts: rename that one first, ",
      if (is_seurat) "RenameAssays()" else "altExpNames()"
    )
  }
}
