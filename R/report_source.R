# What a report is about: a file, or a result in an object of R, of which Python makes the AnnData
# that it would have read from the file.

report_source <- function(result, out) {
  if (is.character(result)) {
    return(as_python_path(result, "result"))
  }
  found <- result_parts(result)
  if (is.null(out)) {
    stop_scvibridge("out names the HTML file, which an object of R does not tell")
  }
  if (found$corrected$on_disk) {
    stop_scvibridge(
      "the corrected counts of result lie in a file: give its path, ",
      "scvi_report(\"corrected.h5ad\", out)"
    )
  }
  vectors <- object_vectors(found$corrected)
  raw <- csr_vectors(found$raw$read(seq_along(found$raw$cells)))
  call_python("assemble_result", list(
    counts = as_arrays(vectors$counts), tables = vectors$tables, raw = as_arrays(raw),
    provenance = python_settings(found$provenance), normalized = found$read_normalized()
  ))
}

# Parts of the corrected and of the raw counts, of the same genes; the provenance; and a function
# that gives the normalized expression that came with the counts, genes x cells, or NULL.
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
  genes <- found$corrected$genes
  missing <- setdiff(genes, found$raw$genes)
  if (length(missing)) {
    stop_scvibridge(
      "a report compares raw with corrected counts: ", found$raw_place, " lacks ", length(missing),
      " of the ", length(genes), " corrected genes: ", some_of(missing)
    )
  }
  if (!identical(found$raw$cells, found$corrected$cells)) {
    stop_scvibridge(found$raw_place, " and the corrected counts are not of the same cells")
  }
  found$raw <- parts_of_genes(found$raw, match(genes, found$raw$genes))
  # The model's names, where the object has others.
  found$corrected$genes <- as.character(found$corrected$var$original_name %||% genes)
  found
}

parts_of_experiment_result <- function(result) {
  held <- by_quantity(S4Vectors::metadata(result)$scvibridge)
  provenance <- corrected_provenance(held)
  holder <- result
  is_beside <- !"corrected" %in% SummarizedExperiment::assayNames(result)
  if (is_beside && "scvi" %in% holders_of(result)) {
    holder <- SingleCellExperiment::altExp(result, "scvi")
  }
  for (name in c("corrected", "counts")) {
    if (!name %in% SummarizedExperiment::assayNames(holder)) {
      stop_scvibridge("a report needs the assay ", name, ", which result lacks")
    }
  }
  corrected <- object_parts(holder, assay = "corrected")
  corrected$obs <- SummarizedExperiment::colData(result)
  if (methods::is(result, "SingleCellExperiment")) {
    latent <- as.list(SingleCellExperiment::reducedDims(result))$scvi
  } else {
    latent <- corrected$obs$scvi
    corrected$obs$scvi <- NULL
  }
  corrected$reductions <- Filter(Negate(is.null), list(scvi = latent))
  list(
    corrected = corrected, raw = object_parts(holder, assay = "counts"),
    raw_place = "the assay counts", provenance = provenance,
    read_normalized = function() {
      if (came_along(held) && "normalized" %in% SummarizedExperiment::assayNames(holder)) {
        unname(as.matrix(aligned_assay(holder, "normalized")))
      }
    }
  )
}

# Not by a call of its own, perhaps towards another batch.
came_along <- function(held) is.null(held$normalized)

parts_of_seurat_result <- function(result) {
  check_object_packages("seurat")
  held <- by_quantity(result@misc$scvibridge)
  provenance <- corrected_provenance(held)
  if (!all(c("corrected", "scvi") %in% names(result))) {
    stop_scvibridge("a report needs the assay corrected and the reduction scvi, which result lacks")
  }
  # The reduction knows the assay that the counts came from.
  origin <- SeuratObject::DefaultAssay(result[["scvi"]])
  corrected <- object_parts(result, assay = "corrected")
  corrected$reductions <- corrected$reductions["scvi"]
  list(
    corrected = corrected, raw = object_parts(result, assay = origin),
    raw_place = paste("the assay", origin), provenance = provenance,
    read_normalized = function() {
      if (came_along(held) && "scvi_normalized" %in% names(result)) {
        expm1(unname(as.matrix(layer_matrix(result[["scvi_normalized"]], "data"))))
      }
    }
  )
}

corrected_provenance <- function(held) {
  found <- held$corrected
  if (is.null(found)) {
    stop_scvibridge(
      "result holds no corrected counts: a report is about what corrected_counts() gave"
    )
  }
  found
}

# As reticulate takes it: tables as data.frames.
python_settings <- function(value) {
  if (methods::is(value, "DataFrame")) {
    return(plain_data_frame(value, rownames(value) %||% as.character(seq_len(nrow(value)))))
  }
  if (is.list(value) && !is.data.frame(value)) lapply(value, python_settings) else value
}
