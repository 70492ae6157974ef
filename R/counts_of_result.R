# Results in R objects: which quantities an object has, how each was computed, and its parts for
# writing, reporting or conversion. Python also runs this file through rpy2.

# Names of assays with results, by the class of the object.
result_assay_names <- c("corrected", "normalized", "denoised")
own_seurat_assays <- c(
  corrected = "corrected", normalized = "scvi_normalized", denoised = "scvi_denoised"
)

# Name of the assay with the raw counts of the results: "counts", unless others were used.
raw_counts_assay <- function(object) {
  recorded <- entries_of_metadata(object, "scvibridge_counts")
  if (length(recorded) > 1) {
    stop_joined()
  }
  is_present <- isTRUE(unlist(recorded) %in% SummarizedExperiment::assayNames(object))
  if (is_present) recorded[[1]] else "counts"
}

# The same object with these raw counts as the assay counts; one of that name becomes other_counts.
with_raw_counts <- function(object) {
  name <- raw_counts_assay(object)
  object <- with_entry(object, "scvibridge_counts", NULL)
  if (name == "counts") {
    return(object)
  }
  assays <- SummarizedExperiment::assays(object, withDimnames = FALSE)
  names <- names(assays)
  names[names == "counts"] <- make.unique(c(names, "other_counts"))[length(names) + 1L]
  names[match(name, names)] <- "counts"
  names(assays) <- names
  SummarizedExperiment::assays(object, withDimnames = FALSE) <- assays[order(names != "counts")]
  object
}

# Provenance by quantity; an empty list if the object has no result.
results_of <- function(object) {
  if (inherits(object, "Seurat")) {
    return(seurat_results(object))
  }
  if (!methods::is(object, "SummarizedExperiment")) {
    return(list())
  }
  held <- by_quantity(record_of(object)) %||% list()
  beside <- results_beside(object)
  more <- setdiff(names(beside), names(own_results(object)))
  held[more] <- beside[more]
  held
}

# Provenance of the assays that the object itself has; without that of altExp "scvi", and without
# that of matrices that were removed.
own_results <- function(object) {
  held <- by_quantity(record_of(object)) %||% list()
  held[names(held) %in% c(SummarizedExperiment::assayNames(object), "latent")]
}

# Whether the object's own assays are a result, whatever altExp "scvi" has.
is_result_itself <- function(object) {
  any(result_assay_names %in% names(own_results(object)))
}

# Provenance of altExp "scvi". Objects of former versions have it in their own metadata.
results_beside <- function(object) {
  if (!"scvi" %in% alternative_names(object)) {
    return(list())
  }
  beside <- SingleCellExperiment::altExp(object, "scvi")
  held <- own_results(beside)
  if (length(held)) {
    return(held)
  }
  held <- by_quantity(record_of(object)) %||% list()
  others <- setdiff(SummarizedExperiment::assayNames(beside), names(own_results(object)))
  held[names(held) %in% others]
}

# Assays of an object with results that have the name of a result but no record: the user's own.
# Without a record of what the object has, names are all that is known.
unrecorded_assays <- function(object) {
  if (!length(own_results(object)) && !length(results_beside(object))) {
    return(character())
  }
  present <- intersect(result_assay_names, SummarizedExperiment::assayNames(object))
  held <- by_quantity(record_of(object)) %||% list()
  setdiff(present, names(with_record_of_normalized(held, present)))
}

# Flags of cells or genes from scvibridge, without the columns that came from the object.
own_flags <- function(table) {
  table[, startsWith(colnames(table), "scvibridge_"), drop = FALSE]
}

without_own_flags <- function(table) {
  table[, !startsWith(colnames(table), "scvibridge_"), drop = FALSE]
}

# Seurat's merge() drops Misc() of the object. It keeps Misc() of an assay that only one of the
# objects has.
seurat_results <- function(object) {
  held <- by_quantity(object@misc[["scvibridge"]]) %||% list()
  for (quantity in names(own_seurat_assays)) {
    name <- own_seurat_assays[[quantity]]
    if (is.null(held[[quantity]]) && name %in% names(object@assays)) {
      held[[quantity]] <- object@assays[[name]]@misc[["scvibridge"]]
    }
  }
  held
}

# Assay of a Seurat object with the counts used for its results; NULL if unknown or removed since.
origin_of_results <- function(object) {
  recorded <- recorded_origin(object)
  if (isTRUE(recorded %in% names(object@assays))) recorded
}

# The same, even if the object no longer has this assay. After RenameAssays() only the reduction has
# the new name. Another function may have created the reduction, from another assay.
recorded_origin <- function(object) {
  origin <- record_of_counts(object)$scvibridge_counts
  if (isTRUE(origin %in% names(object@assays))) {
    return(origin)
  }
  if ("scvi" %in% SeuratObject::Reductions(object)) {
    return(SeuratObject::DefaultAssay(object[["scvi"]]))
  }
  origin
}

# Misc() of the first assay that records where the raw counts were.
record_of_counts <- function(object) {
  for (name in intersect(own_seurat_assays, names(object@assays))) {
    misc <- object@assays[[name]]@misc
    if (!is.null(misc[["scvibridge_counts"]])) {
      return(misc)
    }
  }
  NULL
}

# Parts of the counts used for the results of a Seurat object, from its assay `origin`.
parts_of_origin <- function(object, origin) {
  layer <- record_of_counts(object)$scvibridge_layer
  is_present <- length(layer) && length(layers_named(present_layers(object[[origin]]), layer))
  object_parts(object, assay = origin, layer = if (is_present) layer else "counts")
}

# The same of a result, NULL without an assay.
raw_parts_of_result <- function(object, origin) {
  if (is.null(origin)) {
    return(NULL)
  }
  parts <- parts_of_origin(object, origin)
  if (isTRUE(parts$origin$result)) {
    stop_corrected_as_raw(paste("the assay", origin))
  }
  parts
}

# Explains an object that has lost the record of how its results were computed.
lost_record_hint <- function(object) {
  if (!inherits(object, "Seurat") || !any(own_seurat_assays %in% names(object@assays))) {
    return("")
  }
  present <- intersect(own_seurat_assays, names(object@assays))
  paste0(
    ". It has the assay ", present[1], ", but not the record of how it was computed: merge() ",
    "drops it if both objects have results. If their settings were the same, copy it from one: ",
    "merged[[\"", present[1], "\"]]@misc <- first[[\"", present[1], "\"]]@misc"
  )
}

# Whether a matrix is the value of a function that was called with a matrix first.
is_result_matrix <- function(x) !is.null(attr(x, "scvibridge", exact = TRUE))

# Whether an assay of a Seurat object is a result: RenameAssays() keeps its Misc(), and merge() the
# flags of the cells.
is_result_of_seurat <- function(object, name) {
  is_named <- name %in% own_seurat_assays
  (is_named && (length(results_of(object)) > 0 || has_lost_record(object))) ||
    !is.null(object@assays[[name]]@misc[["scvibridge"]])
}

# Whether an experiment was such an assay: as.SingleCellExperiment() keeps its name and the flags.
is_result_of_seurat_assay <- function(object) {
  methods::is(object, "SingleCellExperiment") &&
    isTRUE(SingleCellExperiment::mainExpName(object) %in% own_seurat_assays) &&
    has_lost_record(object)
}

# Whether an object has the flags of a result, but no record of it.
has_lost_record <- function(object) {
  cells <- if (inherits(object, "Seurat")) {
    object@meta.data
  } else {
    SummarizedExperiment::colData(object)
  }
  length(own_flags(cells)) > 0 && !length(results_of(object))
}

# -- a result as a SingleCellExperiment ----------------------------------------------------------

# Whether the results belong to the object's own genes, so that nothing else is left out.
is_whole_result <- function(object) {
  if (!length(results_of(object))) {
    return(FALSE)
  }
  if (!inherits(object, "Seurat")) {
    return(has_result_assays(object))
  }
  present <- intersect(own_seurat_assays, names(object@assays))
  if (!length(present) || is.null(recorded_origin(object))) {
    return(FALSE)
  }
  origin <- origin_of_results(object)
  has_all_genes <- is.null(origin) ||
    setequal(rownames(object[[present[1]]]), rownames(object[[origin]]))
  has_all_genes && setequal(colnames(object[[present[1]]]), colnames(object))
}

# Whether a result is in the object's own assays, not in altExp "scvi".
has_result_assays <- function(object) {
  is_beside <- "scvi" %in% alternative_names(object)
  is_result_itself(object) ||
    !is_beside && any(result_assay_names %in% SummarizedExperiment::assayNames(object))
}

# Restores the SingleCellExperiment that corrected_counts(model) returned from a converted object.
sce_of_result <- function(object) {
  check_object_packages("sce")
  if (!inherits(object, "Seurat")) {
    check_one_record(object)
  }
  held <- results_of(object)
  if (!length(held)) {
    stop_scvibridge(
      "x holds no result of scvibridge", lost_record_hint(object),
      if (!inherits(object, "Seurat")) ": metadata(x)$scvibridge, its record, is missing"
    )
  }
  sce <- if (inherits(object, "Seurat")) {
    sce_of_seurat(object, held)
  } else if (has_result_assays(object)) {
    with_checked_order(with_latent_reduction(object))
  } else if ("scvi" %in% alternative_names(object)) {
    announce_parts_left_out(
      setdiff(SummarizedExperiment::assayNames(object), c("counts", result_assay_names)),
      alternatives = own_alternatives(object)
    )
    sce_beside(object)
  } else {
    stop_scvibridge(
      "x has the record of a result, but none of the assays ",
      paste(result_assay_names, collapse = ", "), ", nor the alternative experiment scvi"
    )
  }
  announce_other_counts(sce)
  sce <- with_raw_counts(sce)
  check_raw_counts(sce)
  check_unchanged(known_matrices(sce), has_record = TRUE)
  sce
}

# A SummarizedExperiment has the latent means of its results in a column that is a matrix.
with_latent_reduction <- function(object) {
  sce <- methods::as(object, "SingleCellExperiment")
  latent <- SummarizedExperiment::colData(sce)$scvi
  if (methods::is(object, "SingleCellExperiment") || !is.matrix(latent) || !is.numeric(latent)) {
    return(sce)
  }
  SummarizedExperiment::colData(sce)$scvi <- NULL
  SingleCellExperiment::reducedDim(sce, "scvi", withDimnames = FALSE) <- latent
  sce
}

announce_other_counts <- function(sce) {
  name <- raw_counts_assay(sce)
  if (name != "counts" && "counts" %in% SummarizedExperiment::assayNames(sce)) {
    message(
      "the raw counts are those of the assay ", name, ", from which the result was computed; the ",
      "assay counts becomes other_counts"
    )
  }
}

# The result in altExp "scvi", with the cells of the object and its own record and flags.
sce_beside <- function(object) {
  beside <- with_checked_order(SingleCellExperiment::altExp(object, "scvi"))
  cells <- SummarizedExperiment::colData(object)
  if (length(own_results(beside)) || is_result_itself(object)) {
    cells <- cbind(without_own_flags(cells), own_flags(SummarizedExperiment::colData(beside)))
  }
  held <- results_beside(object)
  held$latent <- own_results(object)$latent
  sce <- SingleCellExperiment::SingleCellExperiment(
    assays = SummarizedExperiment::assays(beside),
    colData = cells,
    rowData = SummarizedExperiment::rowData(beside),
    reducedDims = SingleCellExperiment::reducedDims(object),
    metadata = list(scvibridge = held)
  )
  if ("proteins" %in% alternative_names(object)) {
    proteins <- SingleCellExperiment::altExp(object, "proteins")
    SingleCellExperiment::altExp(sce, "proteins") <- proteins
  }
  sce
}

sce_of_seurat <- function(object, held) {
  check_object_packages("seurat")
  present <- own_seurat_assays[own_seurat_assays %in% names(object@assays)]
  if (!length(present)) {
    stop_scvibridge(
      "x has the record of a result, but none of the assays ",
      paste(own_seurat_assays, collapse = ", ")
    )
  }
  main <- object_parts(object, assay = present[[1]], layer = result_layer(names(present)[1]))
  fits <- vapply(present, assay_fits, logical(1), object = object, main = main)
  announce_other_genes(present[!fits], present[[1]])
  held <- held[setdiff(names(held), names(present)[!fits])]
  present <- present[fits]
  origin <- origin_of_results(object)
  raw <- raw_parts_of_result(object, origin)
  if (is.null(raw) && !is.null(recorded_origin(object))) {
    message(
      "the result has no raw counts: the assay ", recorded_origin(object), ", which they were in, ",
      "has been removed from the object"
    )
  }
  announce_left_out_of_results(object, raw)
  matrices <- list()
  if (!is.null(raw) && all(main$genes %in% raw$genes) && all(main$cells %in% raw$cells)) {
    matrices$counts <- matrix_of_parts(raw, main)
  } else if (!is.null(raw)) {
    message(
      "the result has no raw counts: the assay ", origin, ", which they are in, lacks some of its ",
      "genes or cells"
    )
  }
  for (quantity in names(present)) {
    matrices[[quantity]] <- seurat_matrix(object, present[[quantity]], quantity, main)
  }
  genes <- original_names(main$var, main$genes) %||% main$genes
  table <- without_original_names(main$var, main$genes)
  matrices <- lapply(matrices, `dimnames<-`, list(genes, main$cells))
  sce <- SingleCellExperiment::SingleCellExperiment(
    assays = matrices, colData = table_of(main$obs, main$cells),
    rowData = table_of(joined_detection(table, genes), genes),
    reducedDims = main$reductions, metadata = list(scvibridge = held)
  )
  with_proteins(sce, object)
}

# Whether an assay has the same genes and all cells: it has no values for any other.
assay_fits <- function(name, object, main) {
  assay <- object@assays[[name]]
  setequal(rownames(assay), main$genes) && all(main$cells %in% colnames(assay))
}

announce_other_genes <- function(names, main) {
  for (name in names) {
    message(
      "the assay ", name, " has other genes or cells than the assay ", main, " and is left out. ",
      "To get it, remove that one first: x[[\"", main, "\"]] <- NULL"
    )
  }
}

result_layer <- function(quantity) {
  if (quantity == "corrected") "counts" else "data"
}

# Returns counts as sparse matrices and the rest as dense ones, without log1p.
seurat_matrix <- function(object, assay, quantity, main) {
  parts <- object_parts(object, assay = assay, layer = result_layer(quantity))
  values <- matrix_of_parts(parts, main)
  if (quantity == "corrected") values else expm1(as.matrix(values))
}

# Reorders cells and genes to match other parts.
matrix_of_parts <- function(parts, main) {
  parts$read(match(main$cells, parts$cells), match(main$genes, parts$genes))
}

# Seurat's tables cannot hold matrices: those were split into columns.
joined_detection <- function(table, genes) {
  columns <- grep("^scvibridge_detection_[0-9]+$", names(table), value = TRUE)
  values <- do.call(cbind, unname(as.list(table[columns])))
  table[columns] <- NULL
  table <- S4Vectors::DataFrame(table, check.names = FALSE)
  if (length(columns)) {
    table$scvibridge_detection <- `dimnames<-`(values, list(genes, NULL))
  }
  table
}

table_of <- function(table, rows) {
  table <- S4Vectors::DataFrame(table, check.names = FALSE)
  rownames(table) <- rows
  table
}

# Adds the normalized proteins, unless the assay is the user's own: no record has its proteins.
with_proteins <- function(sce, object) {
  recorded <- recorded_proteins(results_of(object))
  if (is.null(recorded) || !"proteins" %in% names(object@assays)) {
    return(sce)
  }
  assay <- object[["proteins"]]
  renamed <- rownames(seurat_features(recorded))
  is_own <- any(renamed %in% rownames(assay))
  if (!is_own || !"data" %in% SeuratObject::Layers(assay)) {
    return(sce)
  }
  values <- as.matrix(layer_matrix(assay, "data"))
  values <- expm1(values[, colnames(sce), drop = FALSE])
  original <- original_names(assay[[]], rownames(assay)) %||%
    recorded[match(rownames(assay), renamed)]
  original <- original[match(rownames(values), rownames(assay))]
  rownames(values) <- ifelse(is.na(original), rownames(values), original)
  SingleCellExperiment::altExp(sce, "proteins") <- SummarizedExperiment::SummarizedExperiment(
    assays = list(normalized = values)
  )
  sce
}
