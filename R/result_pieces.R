# A result in an R object on its way to Python. Python also runs this file through rpy2.

# Pieces from which to_anndata.py builds an AnnData: `matrices`, functions that read cells (by
# position), by place in the AnnData; the tables; and the provenance, of the quantity in `X` and, as
# `others`, of those that separate calls added.
result_pieces <- function(object) {
  sce <- sce_of_result(object)
  held <- own_results(sce)
  announce_parts_left_out(alternatives = own_alternatives(sce))
  present <- SummarizedExperiment::assayNames(sce)
  check_free_place(present)
  main <- intersect(result_assay_names, intersect(present, names(held)))[1]
  if (is.na(main)) {
    stop_scvibridge(
      "x has the record of ", paste(names(results_of(sce)), collapse = ", "), ", but not its assay"
    )
  }
  parts <- object_parts(sce, assay = main)
  places <- stats::setNames(paste0("layers/", present), present)
  places[names(places) == "counts"] <- "layers/raw_counts"
  places[[main]] <- "X"
  means <- intersect(c("normalized", "denoised"), names(with_record_of_normalized(held, present)))
  readers <- lapply(names(places), function(name) {
    values_reader(aligned_assay(sce, name), single = name %in% means)
  })
  parts$origin <- NULL
  provenance <- held[[main]]
  others <- held[names(held) != main]
  provenance$others <- if (length(others)) others
  list(
    parts = parts, matrices = stats::setNames(readers, unlist(places)),
    proteins = protein_values(sce, recorded_proteins(held)),
    provenance = python_settings(provenance)
  )
}

# Before anything is written: names are paths in the file.
check_free_place <- function(present) {
  wrong <- present[!nzchar(present) | grepl("/", present, fixed = TRUE) | duplicated(present)]
  if (length(wrong)) {
    stop_scvibridge(
      "assays cannot be written under these names: ", some_of(wrong), ". Give each another name ",
      "first, without \"/\", with assayNames()"
    )
  }
  if (all(c("counts", "raw_counts") %in% present)) {
    stop_scvibridge(
      "the assay raw_counts has the name that an AnnData uses for the assay counts: rename it ",
      "first, with assayNames()"
    )
  }
}

# Returns counts and sparse matrices as CSR vectors, others as dense; genes x cells in R. `single`:
# whether dense values were computed in single precision.
values_reader <- function(matrix, single = FALSE) {
  sparse <- methods::is(matrix, "sparseMatrix") || methods::is(matrix, "SVT_SparseMatrix") ||
    methods::is(matrix, "DelayedArray") && DelayedArray::is_sparse(matrix)
  if (sparse) {
    read <- matrix_reader(matrix)
    return(function(positions) csr_vectors(read(positions)))
  }
  function(positions) {
    values <- unname(as.matrix(matrix[, positions, drop = FALSE])) + 0
    c(list(values = values), if (single) list(single = TRUE))
  }
}

# Returns them in the order of `names`, under which Python has them; NULL if there are none.
protein_values <- function(sce, names) {
  proteins <- own_proteins(sce)
  if (is.null(proteins) || is.null(names)) {
    return(NULL)
  }
  rows <- match(names, rownames(proteins))
  if (anyNA(rows)) {
    stop_scvibridge(
      "altExp(x, \"proteins\") lacks ", sum(is.na(rows)), " of the ", length(names),
      " proteins of the result: ", some_of(names[is.na(rows)]),
      ". Restore them, or remove it: altExp(x, \"proteins\") <- NULL"
    )
  }
  values <- aligned_assay(proteins, "normalized")[rows, , drop = FALSE]
  unname(t(as.matrix(values))) + 0
}

# Names of the proteins that the results include, from their records; NULL if there are none.
recorded_proteins <- function(held) {
  held <- held[intersect(result_assay_names, names(held))]
  proteins <- Filter(length, lapply(held, function(record) record[["proteins"]]))
  if (length(proteins)) as.character(proteins[[1]])
}

# The normalized proteins of a result. Returns NULL if it has none, whatever the user keeps in an
# alternative experiment of that name.
own_proteins <- function(sce) {
  recorded <- recorded_proteins(results_of(sce))
  if (is.null(recorded) || !"proteins" %in% alternative_names(sce)) {
    return(NULL)
  }
  proteins <- SingleCellExperiment::altExp(sce, "proteins")
  is_own <- any(recorded %in% rownames(proteins)) &&
    "normalized" %in% SummarizedExperiment::assayNames(proteins)
  if (is_own) proteins
}

# Tables of a result: obs, var and obsm as for any data, and the proteins under their own name.
result_tables <- function(pieces) {
  tables <- python_tables(pieces$parts)
  if (!is.null(pieces$proteins)) {
    entry <- list(name = "protein_normalized", values = pieces$proteins)
    tables$obsm <- c(tables$obsm, list(entry))
  }
  tables
}

# Converts settings for Python: vectors of several values to arrays, tables to data.frames.
python_settings <- function(value) {
  if (methods::is(value, "DataFrame")) {
    return(plain_data_frame(value, rownames(value) %||% as.character(seq_len(nrow(value)))))
  }
  if (is.list(value) && !is.data.frame(value)) lapply(value, python_settings) else value
}
