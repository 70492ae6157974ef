#' Convert a result to a Seurat object
#'
#' Converts the SingleCellExperiment that [corrected_counts()], [normalized_expression()],
#' [denoised_expression()] or [as_sce()] returns, or any other one whose assays have these names, to
#' a Seurat v5 object.
#'
#' Assays of the Seurat object:
#' \describe{
#'   \item{`RNA`}{layer `counts`: the raw counts (assay `counts`, or the one that was corrected).
#'     The default assay.}
#'   \item{`corrected`}{layer `counts`: the corrected counts (assay `corrected`); layer `data`: the
#'     same counts after LogNormalize by [Seurat::NormalizeData()], which `FindMarkers()` tests.}
#'   \item{`scvi_normalized`}{only layer `data`: log1p of the normalized expression (assay
#'     `normalized`). For plots: these are smoothed means, which must not be tested.}
#'   \item{`scvi_denoised`}{only layer `data`: log1p of the denoised expression (assay
#'     `denoised`). Also for plots.}
#'   \item{`proteins`}{only layer `data`: log1p of the proteins' normalized values (altExp
#'     `proteins`, if the model has proteins). Also for plots.}
#' }
#' If the model has fewer genes than the object, [corrected_counts()] stores its results in altExp
#' `scvi`: these become the assays `corrected`, `scvi_normalized` and `scvi_denoised`, with the
#' genes of the model. The last three assays above are version 3 assays, since
#' [Seurat::AggregateExpression()] fails on version 5 assays without counts. All assays are version
#' 3 if there is only one gene or one cell, which version 5 cannot hold.
#'
#' If `sce` has the record of results (`metadata(sce)$scvibridge`), an assay `corrected`,
#' `normalized` or `denoised` without a record is the user's own, not a result. Without any record,
#' the names alone count, which a message reports.
#'
#' Assays that `sce` lacks are left out; without raw counts the first remaining assay is the
#' default. Reduced dimensions keep their values; their names are converted to lower case, with a
#' key such as `scvi_`. A name that an assay or another reduction has (`corrected`; `PCA` and `pca`)
#' gets a suffix, such as `corrected_1`, with a message. The columns of `colData` become cell
#' metadata, those of `rowData` the feature metadata of each assay (dates and times as text), and
#' `metadata(sce)$scvibridge` is available as `Misc(object, "scvibridge")`.
#'
#' Other assays, and alternative experiments other than `scvi` and `proteins`, are left out, with a
#' message that names them.
#'
#' Seurat does not allow `_` or `|` in feature names and replaces them with `-`. `as_seurat()` does
#' the same for all assays and reports it in one message. The feature metadata of each assay keeps
#' the original names in the column `original_name`, or `original_name_scvibridge` if `rowData` has
#' another column of that name, which is kept. If two genes would get the same name (`a_b` and
#' `a-b`), the renamed one gets a suffix (`a-b.1`).
#'
#' Assays on disk ([read_corrected()] with `backed = TRUE`, from h5ad) stay there as BPCells
#' matrices if that package is installed and no subset was taken. Otherwise they are read into
#' memory, with a message.
#'
#' @param sce A SingleCellExperiment, genes x cells, with row and column names.
#' @param project Name of the Seurat project.
#' @return A Seurat object with the same cells and genes in the same order.
#' @section Errors:
#'   Conditions of class `scvibridge_error` if `sce` is not a SingleCellExperiment, has none of the
#'   assays above, has missing or duplicated names, was joined by `cbind()` from results with other
#'   settings, or if a package is missing (with the command that installs it). Errors of Seurat
#'   itself also have the class.
#' @examplesIf requireNamespace("Seurat", quietly = TRUE)
#' raw <- matrix(rpois(60, 2), 6, 10,
#'   dimnames = list(paste0("gene", 1:6), paste0("cell", 1:10))
#' )
#' sce <- SingleCellExperiment::SingleCellExperiment(
#'   assays = list(counts = raw, corrected = raw + 1)
#' )
#' seurat <- as_seurat(sce)
#' seurat
#' SeuratObject::LayerData(seurat, "counts", assay = "corrected")[1:2, 1:3]
#' @export
as_seurat <- function(sce, project = "scvibridge") {
  check_required("as_seurat(sce)")
  with_scvibridge_errors({
    project <- as_string(project, "project")
    check_object_packages("seurat")
    check_seurat_source(sce)
    check_one_record(sce)
    announce_left_out_of_seurat(sce)
    sce <- with_raw_counts(sce)
    features <- seurat_features(rownames(sce))
    genes <- SummarizedExperiment::rowData(sce)
    announce_renaming(features, column_of_names(genes, rownames(sce)))
    announce_left_out(genes, "genes")
    announce_left_out(SummarizedExperiment::colData(sce), "cells")
    announce_taken_by_name(sce)
    check_unchanged(known_matrices(sce), has_record = length(results_of(sce)) > 0)
    assays <- c(
      seurat_assays(without_delay(sce), features),
      assays_of_alternative(sce, features)
    )
    announce_version_3(assays)
    held <- records_for_seurat(sce)
    assays <- with_records(assays, held, intersect("RNA", names(assays)))
    object <- NULL
    for (name in names(assays)) {
      object <- add_assay(object, name, assays[[name]], project)
    }
    object <- add_cell_metadata(object, SummarizedExperiment::colData(sce))
    if (!"corrected" %in% known_assays(sce) && "corrected" %in% names(held)) {
      # Flags of cells belong to the corrected counts.
      flags <- own_flags(SummarizedExperiment::colData(alternative_results(sce)))
      object <- add_cell_metadata(object, flags)
    }
    object <- add_proteins(object, sce)
    object <- add_reductions(object, sce)
    SeuratObject::Misc(object, "scvibridge") <- held
    with_more_marks(object, with_genes_of_marks(known_marks(sce), function(marked) {
      rownames(features)[match(marked, features$original_name)]
    }))
  })
}

announce_taken_by_name <- function(sce) {
  taken <- intersect(result_assay_names, known_assays(sce))
  if (length(taken) && !length(results_of(sce))) {
    message(
      "taken for results of scvibridge by their names alone, since sce has no record of them: ",
      paste(taken, collapse = ", "), ". Rename assays of your own first, with assayNames()"
    )
  }
}

# Results for only some of the object's genes are in an alternative experiment. Returns those that
# the object itself lacks.
assays_of_alternative <- function(sce, features) {
  beside <- alternative_results(sce)
  if (is.null(beside)) {
    return(list())
  }
  which <- setdiff(known_assays(beside), known_assays(sce))
  twice <- setdiff(intersect(known_assays(beside), known_assays(sce)), "counts")
  if (length(twice)) {
    message(
      "left out are the assays ", paste(twice, collapse = ", "), " of the alternative experiment ",
      "scvi: the object has assays of the same names"
    )
  }
  check_unchanged(known_matrices(beside)[which], has_record = TRUE)
  own <- rownames(features)[match(rownames(beside), features$original_name)]
  renamed <- seurat_features(rownames(beside))
  rownames(renamed) <- ifelse(is.na(own), rownames(renamed), own)
  seurat_assays(without_delay(beside), renamed, which)
}

# The records of the assays that assays_of_alternative() adds, and of the object's own.
records_for_seurat <- function(sce) {
  beside <- alternative_results(sce)
  if (is.null(beside)) {
    return(record_of(sce))
  }
  added <- setdiff(known_assays(beside), known_assays(sce))
  records <- with_record_of_normalized(results_beside(sce), added)
  held <- own_results(sce)
  more <- intersect(names(records), added)
  held[more] <- records[more]
  if (length(held)) held
}

# Unnamed cells of the alternative experiment are those of the object, in the same order.
alternative_results <- function(sce) {
  if (!"scvi" %in% alternative_names(sce)) {
    return(NULL)
  }
  beside <- SingleCellExperiment::altExp(sce, "scvi")
  if (is.null(rownames(beside)) || !length(known_assays(beside))) {
    return(NULL)
  }
  colnames(beside) <- colnames(sce)
  beside
}

announce_version_3 <- function(assays) {
  is_count_assay <- names(assays) %in% c("RNA", "corrected")
  old <- vapply(assays, methods::is, logical(1), "Assay") & is_count_assay
  if (any(old)) {
    message(
      paste(names(assays)[old], collapse = " and "), " created as version 3 assay",
      if (sum(old) > 1) "s", ": a version 5 assay cannot hold a single gene or a single cell"
    )
  }
}

check_seurat_source <- function(sce) {
  if (!methods::is(sce, "SingleCellExperiment")) {
    stop_scvibridge("sce must be a SingleCellExperiment, not ", class(sce)[1])
  }
  present <- SummarizedExperiment::assayNames(sce)
  if (!any(names(seurat_assay_names) %in% present) && is.null(alternative_results(sce))) {
    stop_scvibridge(
      "sce has none of the assays ", paste(names(seurat_assay_names), collapse = ", "),
      "; its assays: ", if (length(present)) paste(present, collapse = ", ") else "none"
    )
  }
  check_unique_names(rownames(sce), "genes (row names)")
  check_unique_names(colnames(sce), "cells (column names)")
}

known_matrices <- function(sce) {
  as.list(SummarizedExperiment::assays(sce, withDimnames = FALSE)[known_assays(sce)])
}

check_unique_names <- function(names, what) {
  if (is.null(names)) {
    stop_scvibridge("sce has no names for its ", what, ", which Seurat requires")
  }
  duplicates <- unique(names[duplicated(names)])
  if (length(duplicates)) {
    stop_scvibridge(
      length(duplicates), " names of the ", what, " occur more than once, the first: ",
      paste(utils::head(duplicates, 5), collapse = ", "), "; see make.unique()"
    )
  }
}

# Not in DESCRIPTION: it is in no repository of R packages.
bpcells <- "BPCells"

# Seurat does not support the matrices that read_corrected(backed = TRUE) leaves on disk. They are
# converted to BPCells matrices, which stay on disk, or read into memory.
without_delay <- function(sce) {
  assays <- SummarizedExperiment::assays(sce, withDimnames = FALSE)[known_assays(sce)]
  delayed <- Filter(function(values) methods::is(values, "DelayedMatrix"), as.list(assays))
  if (!length(delayed)) {
    return(sce)
  }
  stay <- vapply(delayed, is_in_h5ad, logical(1)) & requireNamespace(bpcells, quietly = TRUE)
  if (any(!stay)) {
    message(
      "read into memory: ", paste(names(delayed)[!stay], collapse = ", "), "; with the package ",
      "BPCells, assays of an h5ad file stay on disk if no subset was taken"
    )
  }
  for (name in names(delayed)) {
    read <- if (stay[[name]]) bpcells_matrix else load_matrix
    values <- read(delayed[[name]])
    dimnames(values) <- dimnames(delayed[[name]])
    assays[[name]] <- values
  }
  SummarizedExperiment::assays(sce, withDimnames = FALSE) <- assays
  sce
}

# Whether the matrix is unchanged from the file: no subset, no delayed operation.
is_in_h5ad <- function(values) {
  DelayedArray::isPristine(values, ignore.dimnames = TRUE) &&
    methods::is(DelayedArray::seed(values), "H5ADMatrixSeed")
}

bpcells_matrix <- function(values) {
  seed <- DelayedArray::seed(values)
  place <- if (methods::is(seed, "H5SparseMatrixSeed")) seed@group else seed@name
  open_matrix <- getExportedValue(bpcells, "open_matrix_anndata_hdf5")
  open_matrix(HDF5Array::path(values), group = sub("^/", "", place))
}

load_matrix <- function(values) {
  if (!DelayedArray::is_sparse(values)) {
    return(as.matrix(values))
  }
  if (is_in_h5ad(values) && HDF5Array::nzcount(DelayedArray::seed(values)) > most_values_of_dgc) {
    stop_too_many()
  }
  methods::as(values, "dgCMatrix")
}

add_assay <- function(object, name, assay, project) {
  if (!is.null(object)) {
    object[[name]] <- assay
    return(object)
  }
  create <- function() {
    SeuratObject::CreateSeuratObject(assay, assay = name, project = project)
  }
  if ("counts" %in% SeuratObject::Layers(assay)) create() else without_totals(create())
}

# Keeps Seurat's columns (orig.ident, nCount_RNA, ...) unless the cells have a column of that name.
add_cell_metadata <- function(object, table) {
  metadata <- plain_data_frame(table, colnames(object))
  for (name in names(metadata)) {
    object@meta.data[[name]] <- metadata[[name]]
  }
  object
}

add_reductions <- function(object, sce) {
  assay <- SeuratObject::DefaultAssay(object)
  names <- reductions_with_dimensions(sce)
  free <- free_names(names, names(object))
  announce_renamed_reductions(names, free)
  taken <- SeuratObject::Key(object)
  for (i in seq_along(names)) {
    key <- free_key(reduction_key(names[i]), taken)
    object[[free[i]]] <- seurat_reduction(sce, names[i], assay, key)
    taken <- c(taken, key)
  }
  object
}

# Seurat cannot hold a reduction without dimensions.
reductions_with_dimensions <- function(sce) {
  names <- numeric_reductions(sce)
  is_empty <- vapply(names, function(name) ncol(stored_reduction(sce, name)) == 0, logical(1))
  if (any(is_empty)) {
    message("reduced dimensions without columns are left out: ", toString(names[is_empty]))
  }
  names[!is_empty]
}

# In lower case, with the characters that Seurat allows.
reduction_names <- function(names) {
  make.names(tolower(ifelse(nzchar(names), names, "reduction")))
}

# Names in lower case for those of reductions, with a suffix where one is taken, by an assay or by
# another reduction. One that is unchanged comes first: scvi before SCVI.
free_names <- function(before, taken) {
  found <- reduction_names(before)
  first <- order(found != before)
  found[first] <- utils::tail(make.unique(c(taken, found[first]), sep = "_"), length(found))
  found
}

announce_renamed_reductions <- function(before, after) {
  changed <- which(tolower(before) != after)
  if (length(changed)) {
    message(
      "reductions whose names in Seurat would be taken, or not allowed, get others: ",
      paste0(shQuote(before[changed], "sh"), " becomes ", after[changed], collapse = ", ")
    )
  }
}

add_proteins <- function(object, sce) {
  assay <- protein_assay(sce)
  if (!is.null(assay)) {
    object[["proteins"]] <- assay
  }
  object
}
