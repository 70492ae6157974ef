# Proteins and regions that a model encodes along with the genes. They are matched by name in
# another assay (Seurat) or an alternative experiment.

# For Python's fit_to_model(): counts of the model's `cells`, with features in the model's order.
modalities_for_model <- function(object, about, cells) {
  in_tables <- Filter(function(part) !is.null(part$key), about$modalities)
  lapply(in_tables, function(part) {
    names <- as_text(part$names)
    parts <- find_modality(object, part$what, names)
    columns <- match(cells, parts$cells)
    if (anyNA(columns)) {
      stop_scvibridge(
        sum(is.na(columns)), " of the ", length(cells), " cells have no counts of the ", part$what,
        ", which the model encodes: ", some_of(cells[is.na(columns)])
      )
    }
    rows <- match(names, parts$genes)
    counts <- csr_vectors(parts$read(columns, rows))
    list(
      key = part$key, n = length(names), counts = as_arrays(counts),
      names = if (part$what == "proteins") as.list(names)
    )
  })
}

# Returns the counts of the assay that has all features and the fewest others, under the model's
# names. Proteins can have the names of their genes, which other assays have too.
find_modality <- function(object, what, names) {
  holders <- modality_names(object)
  sizes <- vapply(holders, function(holder) nrow(modality(object, holder)), numeric(1))
  for (holder in holders[order(sizes)]) {
    genes <- names_of_model(rownames(modality(object, holder)), names)
    if (all(names %in% genes) && has_counts(object, holder)) {
      parts <- if (data_kind(object) == "Seurat") {
        object_parts(object, assay = holder)
      } else {
        object_parts(modality(object, holder), assay = "counts")
      }
      parts$genes <- names_of_model(parts$genes, names)
      # A layer can have fewer features than its assay.
      if (all(names %in% parts$genes)) {
        return(parts)
      }
    }
  }
  place <- if (data_kind(object) == "Seurat") "assay" else "altExp"
  stop_scvibridge(
    "the model also encodes ", length(names), " ", what, " (", few_names(names), "): the ",
    "object must have an ", place, " with the counts of all of them",
    if (length(holders)) paste0(" (it has the ", place, "s ", paste(holders, collapse = ", "), ")")
  )
}

modality_names <- function(object) {
  switch(data_kind(object),
    Seurat = SeuratObject::Assays(object),
    SingleCellExperiment = alternative_names(object)
  )
}

modality <- function(object, holder) {
  if (data_kind(object) == "Seurat") {
    object[[holder]]
  } else {
    SingleCellExperiment::altExp(object, holder)
  }
}

has_counts <- function(object, holder) {
  held <- modality(object, holder)
  if (data_kind(object) == "Seurat") {
    length(layers_named(present_layers(held), "counts")) > 0
  } else {
    "counts" %in% SummarizedExperiment::assayNames(held)
  }
}

# The normalized values are stored under this name.
check_proteins_stay <- function(object, model) {
  encoded <- vapply(model$summary$modalities, function(part) part$what, character(1))
  if (!"proteins" %in% encoded) {
    return(invisible())
  }
  is_seurat <- data_kind(object) == "Seurat"
  if (is_seurat) {
    check_names_free(object, "proteins")
  }
  if ("proteins" %in% modality_names(object) && has_counts(object, "proteins")) {
    stop_scvibridge(
      "the normalized values of the proteins would replace the counts in ",
      if (is_seurat) "the assay proteins" else "altExp(object, \"proteins\")",
      " of the object: rename it first, ",
      if (is_seurat) "RenameAssays()" else "altExpNames()"
    )
  }
}
