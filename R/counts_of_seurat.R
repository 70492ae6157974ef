# Counts of a Seurat object, see object_parts().

#' @exportS3Method object_parts Seurat
object_parts.Seurat <- function(x, assay = NULL, layer = "counts", ...) {
  check_object_packages("seurat")
  check_no_more_arguments(list(...), known = c("assay", "layer"))
  name <- checked_seurat_assay(x, assay)
  assay <- x[[name]]
  layers <- seurat_layers(assay, name, as_string(layer, "layer"))
  # An assay may have fewer cells than the object, in a different order.
  cells <- intersect(colnames(x), colnames(assay))
  genes <- intersect(rownames(assay), unlist(lapply(layers, rownames)))
  check_layer_cells(layers, cells, name)
  lapply(layers, check_numbers)
  origin <- origin_in_seurat(name, layer, layers, present_layers(assay), x)
  # With a separate reader: each announces missing genes once.
  quietly <- function(...) suppressMessages(layers_reader(layers, genes, cells)(...))
  origin$result <- origin$result || is_marked(x, genes, cells, quietly)
  list(
    origin = origin,
    genes = genes, cells = cells, read = layers_reader(layers, genes, cells),
    on_disk = any(vapply(layers, is_on_disk, logical(1))),
    obs = x[[]][cells, , drop = FALSE], var = assay[[]][genes, , drop = FALSE],
    reductions = seurat_embeddings(x, cells)
  )
}

# Location of the counts, for Python's messages and for a model's record of its training. `result`,
# `raw`: whether they are a result, or the raw counts of one.
origin_in_seurat <- function(name, layer, layers, present, object) {
  list(
    object = "Seurat", assay = name, layer = layer, others = setdiff(present, names(layers)),
    result = is_result_of_seurat(object, name),
    raw = length(results_of(object)) > 0 && identical(name, origin_of_results(object)) &&
      layer == (record_of_counts(object)$scvibridge_layer %||% "counts")
  )
}

checked_seurat_assay <- function(x, assay) {
  if (is.null(assay)) {
    return(assay_with_raw_counts(x))
  }
  name <- as_string(assay, "assay")
  present <- SeuratObject::Assays(x)
  if (!name %in% present) {
    stop_scvibridge(
      "there is no assay ", name, "; the object has ", paste(present, collapse = ", ")
    )
  }
  name
}

# Returns the default assay; if that is a result of this package, the assay it was computed from.
assay_with_raw_counts <- function(x) {
  name <- SeuratObject::DefaultAssay(x)
  if (inherits(x[[name]], "SCTAssay")) {
    stop_scvibridge(
      "the default assay ", name, " was created by SCTransform(), so its counts are not raw: set ",
      "assay to the one with raw counts, such as assay = \"RNA\", or make that the default"
    )
  }
  if (!is_result_of_seurat(x, name)) {
    return(name)
  }
  origin <- origin_of_results(x)
  is_raw <- !is.null(origin) && !origin %in% own_seurat_assays && !is_result_of_seurat(x, origin)
  if (!is_raw) {
    stop_scvibridge(
      "the default assay ", name, " is a result of scvibridge, without raw counts: set assay to ",
      "the one that has them, such as assay = \"RNA\", or make that the default"
    )
  }
  message(
    "the default assay ", name, " is a result of scvibridge: raw counts are read from the assay ",
    origin
  )
  origin
}

# Returns the matrices of a layer: one, or the parts that it was split into.
seurat_layers <- function(assay, name, layer) {
  present <- present_layers(assay)
  chosen <- layers_named(present, layer)
  check_one_modality(assay, name, layer, chosen)
  if (!length(chosen)) {
    stop_scvibridge(
      "the assay ", name, " has no layer ", layer, "; its layers: ",
      if (length(present)) paste(present, collapse = ", ") else "none",
      ". Set layer to the one with raw counts, or choose another assay"
    )
  }
  layers <- lapply(chosen, function(part) layer_matrix(assay, part))
  stats::setNames(layers, chosen)
}

# LayerData() returns a vector for one gene or one cell of a version 3 assay, and fails for a layer
# of a version 5 assay that a subset left with one: Seurat keeps only the vector.
layer_matrix <- function(assay, layer) {
  if (methods::is(assay, "Assay") && layer %in% methods::slotNames(assay)) {
    return(methods::slot(assay, layer))
  }
  stored <- if (methods::.hasSlot(assay, "layers")) assay@layers[[layer]]
  if (!is.null(stored) && is.null(dim(stored))) {
    names <- list(
      SeuratObject::Features(assay, layer = layer), SeuratObject::Cells(assay, layer = layer)
    )
    return(matrix(stored, length(names[[1]]), length(names[[2]]), dimnames = names))
  }
  SeuratObject::LayerData(assay, layer = layer)
}

present_layers <- function(assay) {
  tryCatch(SeuratObject::Layers(assay), error = function(e) character())
}

# Returns the layer of this name, or the parts that it was split into.
layers_named <- function(present, layer) {
  chosen <- intersect(layer, present)
  if (length(chosen)) chosen else present[startsWith(present, paste0(layer, "."))]
}

# Read10X() returns a list if there are several modalities, which CreateSeuratObject() stores as
# layers of one assay with the same cells.
check_one_modality <- function(assay, name, layer, chosen) {
  if (length(chosen) < 2) {
    return(invisible())
  }
  layers <- lapply(chosen, function(part) layer_matrix(assay, part))
  cells <- lapply(layers, colnames)
  if (!length(intersect(cells[[1]], unlist(cells[-1])))) {
    return(invisible())
  }
  likely <- c(grep("gene|rna", chosen, ignore.case = TRUE, value = TRUE), chosen)[1]
  stop_scvibridge(
    "the layers ", paste(chosen, collapse = ", "), " of the assay ", name, " hold the same cells, ",
    "so they are several modalities: select the one with the counts, layer = ", shown(likely),
    ", or create an assay for each modality"
  )
}

check_layer_cells <- function(layers, cells, name) {
  found <- unlist(lapply(layers, colnames), use.names = FALSE)
  twice <- unique(found[duplicated(found)])
  missing <- setdiff(cells, found)
  if (length(twice)) {
    stop_scvibridge(
      length(twice), " cells are in several of the layers ", paste(names(layers), collapse = ", "),
      ": ", some_of(twice)
    )
  }
  if (length(missing)) {
    stop_scvibridge(
      "the layers ", paste(names(layers), collapse = ", "), " of the assay ", name, " lack ",
      length(missing), " of its ", length(cells), " cells: ", some_of(missing)
    )
  }
}

layers_reader <- function(layers, genes, cells) {
  if (length(layers) == 1 && identical(dimnames(layers[[1]]), list(genes, cells))) {
    return(reader_of(layers[[1]]))
  }
  announced <- FALSE
  function(positions, rows = NULL) {
    if (!announced) {
      announced <<- TRUE
      announce_absent_genes(layers, if (is.null(rows)) genes else genes[rows])
    }
    wanted <- cells[positions]
    parts <- lapply(layers, function(layer) {
      own <- intersect(wanted, colnames(layer))
      if (length(own)) with_all_genes(as_column_sparse(layer[, own, drop = FALSE]), genes)
    })
    joined <- do.call(cbind, unname(parts[lengths(parts) > 0]))
    if (!identical(colnames(joined), wanted)) {
      joined <- joined[, wanted, drop = FALSE]
    }
    some_rows(joined, rows)
  }
}

# Genes that were filtered in some samples before they were merged.
announce_absent_genes <- function(layers, genes) {
  absent <- lapply(layers, function(layer) setdiff(genes, rownames(layer)))
  absent <- absent[lengths(absent) > 0]
  if (length(absent)) {
    all_absent <- unique(unlist(absent, use.names = FALSE))
    message(
      length(all_absent), " of ", length(genes), " genes are missing from some layers (",
      paste(names(absent), collapse = ", "), ") and have 0 counts there: ", some_of(all_absent)
    )
  }
}

# Returns the same counts in the order of the genes, 0 for missing ones.
with_all_genes <- function(matrix, genes) {
  if (identical(rownames(matrix), genes)) {
    return(matrix)
  }
  rows <- match(rownames(matrix), genes)
  if (is.unsorted(rows)) {
    matrix <- matrix[order(rows), , drop = FALSE]
    rows <- sort(rows)
  }
  sparse_matrix(rows[matrix@i + 1L] - 1L, matrix@p, matrix@x, genes, colnames(matrix))
}

# Reductions of only some cells (of a sketch) are left out.
seurat_embeddings <- function(x, cells) {
  names <- SeuratObject::Reductions(x)
  embeddings <- lapply(names, function(name) SeuratObject::Embeddings(x, reduction = name))
  embeddings <- stats::setNames(embeddings, names)
  whole <- vapply(embeddings, function(values) all(cells %in% rownames(values)), logical(1))
  if (!all(whole)) {
    warning(
      "reductions that lack some of the cells are left out: ",
      paste(names[!whole], collapse = ", "),
      call. = FALSE
    )
  }
  lapply(embeddings[whole], function(values) values[cells, , drop = FALSE])
}
