# Names what a conversion leaves out of an object, in one message. What scvibridge itself stored in
# the object is not named.

# `assays`, `layers` (of the assay `of`) and `alternatives` are names of what is left out.
announce_parts_left_out <- function(assays = NULL, layers = NULL, of = NULL, alternatives = NULL) {
  named <- function(what, names) {
    if (length(names)) {
      paste0("the ", what, if (length(names) > 1) "s", " ", paste(names, collapse = ", "))
    }
  }
  parts <- c(
    named("assay", assays),
    if (length(layers)) paste0(named("layer", layers), " of the assay ", of),
    named("alternative experiment", alternatives)
  )
  if (length(parts)) {
    message("not converted, and left out: ", paste(parts, collapse = "; "))
  }
}

# Alternative experiments of the user's own.
own_alternatives <- function(sce) {
  is_result <- length(results_beside(sce)) || !is.null(alternative_results(sce))
  setdiff(alternative_names(sce), c(
    if ("scvi" %in% alternative_names(sce) && is_result) "scvi",
    if (!is.null(own_proteins(sce))) "proteins"
  ))
}

# What as_seurat() does not convert.
announce_left_out_of_seurat <- function(sce) {
  converted <- known_assays(sce)
  raw <- raw_counts_assay(sce)
  if (raw != "counts") {
    converted <- c(setdiff(converted, "counts"), raw)
  }
  beside <- if (!is.null(alternative_results(sce))) {
    held <- SingleCellExperiment::altExp(sce, "scvi")
    setdiff(SummarizedExperiment::assayNames(held), known_assays(held))
  }
  announce_parts_left_out(
    assays = c(
      setdiff(SummarizedExperiment::assayNames(sce), converted),
      if (length(beside)) paste(beside, "(in altExp scvi)")
    ),
    alternatives = own_alternatives(sce)
  )
}

# What is left out if only the counts of an object are converted. `origin`: see object_parts().
announce_left_out_of_counts <- function(x, origin) {
  if (inherits(x, "Seurat")) {
    used <- c(origin$assay, if (length(results_of(x))) own_seurat_assays)
    announce_parts_left_out(seurat_assays_but(x, used), origin$others, origin$assay)
    if (has_lost_record(x)) {
      message("only raw counts are written: x has no record of a result", lost_record_hint(x))
    }
  } else if (methods::is(x, "SummarizedExperiment")) {
    results <- if (length(results_of(x))) setdiff(result_assay_names, unrecorded_assays(x))
    announce_parts_left_out(setdiff(origin$others, results), alternatives = own_alternatives(x))
  }
}

# What is left out of a Seurat object if its results are taken. `raw`: the parts with the raw
# counts, or NULL.
announce_left_out_of_results <- function(x, raw) {
  used <- c(raw$origin$assay, own_seurat_assays)
  announce_parts_left_out(seurat_assays_but(x, used), raw$origin$others, raw$origin$assay)
}

# Assays of the user's own, without those that are used.
seurat_assays_but <- function(x, used) {
  recorded <- recorded_proteins(results_of(x))
  found <- names(x@assays)
  is_own <- "proteins" %in% found && length(recorded) &&
    any(rownames(seurat_features(recorded)) %in% rownames(x@assays$proteins))
  setdiff(found, c(used, if (is_own) "proteins"))
}
