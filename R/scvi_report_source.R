# Converts the subject of a report or plot for Python: a file, or a result in an R object, from
# which Python builds the AnnData that it would have read from the file.

report_source <- function(result, out) {
  if (is.character(result)) {
    return(as_python_path(result, "result"))
  }
  found <- result_parts(result)
  if (is.null(out)) {
    stop_scvibridge("out must be the path of the HTML file if result is an R object")
  }
  assembled_result(found, "scvi_report(\"corrected.h5ad\", out)")
}

effect_source <- function(result) {
  if (is.character(result)) {
    return(as_python_path(result, "result"))
  }
  assembled_result(result_parts(result), "plot_batch_effect(\"corrected.h5ad\")")
}

# The AnnData of a result. `call` is what to call where its counts are in a file.
assembled_result <- function(found, call) {
  if (found$corrected$on_disk) {
    stop_scvibridge(
      "the corrected counts of result are in a file, or too many for a dgCMatrix: pass the path ",
      "of the file, ", call
    )
  }
  found$corrected$origin <- NULL
  vectors <- object_vectors(found$corrected)
  raw <- csr_vectors(found$raw$read(seq_along(found$raw$cells)))
  check_unchanged_counts(vectors$counts$data, "corrected")
  check_unchanged_counts(raw$data, "counts")
  call_python("assemble_result", list(
    counts = as_arrays(vectors$counts), tables = vectors$tables, raw = as_arrays(raw),
    provenance = python_settings(found$provenance), normalized = found$read_normalized()
  ))
}

# Returns parts of the corrected and the raw counts, with the same genes; the provenance; and a
# function that returns the normalized expression stored with the counts, genes x cells, or NULL.
result_parts <- function(result) {
  kind <- data_kind(result)
  found <- switch(if (is.na(kind)) "" else kind,
    Seurat = parts_of_seurat_result(result),
    SingleCellExperiment = ,
    SummarizedExperiment = parts_of_experiment_result(result),
    stop_scvibridge(
      "result must be the path of an h5ad file or a zarr folder, or a Seurat object, ",
      "SingleCellExperiment or SummarizedExperiment with corrected counts, not an object of class ",
      class(result)[1]
    )
  )
  if (isTRUE(found$raw$origin$result)) {
    stop_scvibridge(
      "a report compares raw with corrected counts: ", found$raw_place, " holds corrected counts, ",
      "not the raw ones"
    )
  }
  genes <- found$corrected$genes
  missing <- setdiff(genes, found$raw$genes)
  if (length(missing)) {
    stop_scvibridge(
      "a report compares raw with corrected counts: ", found$raw_place, " lacks ", length(missing),
      " of the ", length(genes), " corrected genes: ", some_of(missing)
    )
  }
  if (!identical(found$raw$cells, found$corrected$cells)) {
    stop_scvibridge(found$raw_place, " and the corrected counts do not have the same cells")
  }
  found$raw <- parts_of_genes(found$raw, match(genes, found$raw$genes))
  # The model's names, if those of the object differ.
  found$corrected$genes <- original_names(found$corrected$var, genes) %||% genes
  found
}

parts_of_experiment_result <- function(result) {
  check_one_record(result)
  result <- with_raw_counts(result)
  # The object's own corrected counts, before those of altExp "scvi".
  if (!"corrected" %in% names(own_results(result)) && length(results_beside(result))) {
    result <- sce_beside(result)
  }
  held <- results_of(result)
  provenance <- corrected_provenance(held, result)
  held <- own_results(result)
  for (name in c("corrected", "counts")) {
    if (!name %in% SummarizedExperiment::assayNames(result)) {
      stop_scvibridge("a report requires the assay ", name, ", which result lacks")
    }
  }
  corrected <- object_parts(result, assay = "corrected")
  if (methods::is(result, "SingleCellExperiment")) {
    is_there <- "scvi" %in% reduced_names(result)
    latent <- if (is_there) aligned_reduction(result, "scvi")
  } else {
    latent <- corrected$obs$scvi
    corrected$obs$scvi <- NULL
  }
  corrected$reductions <- Filter(Negate(is.null), list(scvi = latent))
  list(
    corrected = corrected, raw = object_parts(result, assay = "counts"),
    raw_place = "the assay counts", provenance = provenance,
    read_normalized = function() {
      if (is_same_call(held) && "normalized" %in% SummarizedExperiment::assayNames(result)) {
        unname(as.matrix(aligned_assay(result, "normalized")))
      }
    }
  )
}

# Whether normalized expression is from the call that computed the counts, neither from a separate
# one, which may have had another target batch, nor the user's own.
is_same_call <- function(held) is.null(held$normalized) && stored_normalized(held$corrected)

parts_of_seurat_result <- function(result) {
  check_object_packages("seurat")
  held <- results_of(result)
  provenance <- corrected_provenance(held, result)
  # Both the reduction and the assay record which assay the counts came from.
  origin <- origin_of_results(result)
  removed <- setdiff(recorded_origin(result), origin)
  if (length(removed)) {
    stop_scvibridge(
      "a report compares raw with corrected counts: the assay ", removed, ", which the raw counts ",
      "were in, has been removed from result"
    )
  }
  if (!"corrected" %in% names(result) || is.null(origin)) {
    stop_scvibridge(
      "a report requires the assay corrected and the reduction scvi, which result lacks"
    )
  }
  corrected <- object_parts(result, assay = "corrected")
  corrected$reductions <- corrected$reductions[intersect("scvi", names(corrected$reductions))]
  list(
    corrected = corrected,
    raw = parts_of_cells(parts_of_origin(result, origin), corrected$cells),
    raw_place = paste("the assay", origin), provenance = provenance,
    read_normalized = function() {
      stored <- "scvi_normalized" %in% names(result)
      if (stored && is_same_call(held) && assay_fits("scvi_normalized", result, corrected)) {
        unname(seurat_matrix(result, "scvi_normalized", "normalized", corrected))
      }
    }
  )
}

# After a merge() the raw counts may include other cells.
parts_of_cells <- function(parts, cells) {
  positions <- match(cells, parts$cells)
  if (anyNA(positions) || identical(positions, seq_along(parts$cells))) {
    return(parts)
  }
  read <- parts$read
  parts$read <- function(chosen, ...) read(positions[chosen], ...)
  parts$cells <- cells
  parts
}

corrected_provenance <- function(held, result) {
  found <- held$corrected
  if (is.null(found)) {
    stop_scvibridge(
      "result has no corrected counts: it must be the value of corrected_counts()",
      lost_record_hint(result)
    )
  }
  found
}
