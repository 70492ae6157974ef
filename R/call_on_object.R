# Model functions called with the data first: corrected_counts(object, model, ...). as_anndata()
# converts the data for Python, the method for models does the work, and insert_result.R adds the
# result to the object.

#' Call model functions with the data first
#'
#' [corrected_counts()], [normalized_expression()], [denoised_expression()] and [add_latent()] take
#' the data first and the model second, and return the data with the result added:
#' `seurat <- corrected_counts(seurat, model, transform_batch = "V3")`. [batch_support()],
#' [choose_batch()], [scvi_calibration()] and [extend_genes()] take both in the same order, and
#' [scvi_damage()] also accepts such data.
#'
#' The cells can be the training cells, a subset, or other cells of batches that the model knows, in
#' any order. Effects are estimated on the model's own data if it has them. The metadata of the
#' object must have the column of the model's batches. Genes are matched by name, even if Seurat has
#' replaced `_` with `-`; `gene_list`, `genes_kept` and `dispersion` take the names of the object,
#' too. To correct some cells, subset the object first. Proteins or regions that the model also
#' encodes are looked up in the other assays of a Seurat object or the alternative experiments of a
#' SingleCellExperiment: one of them must have the counts of all of them.
#'
#' Everything else in the object is unchanged: other assays, reductions, graphs, images, metadata,
#' the default assay. Anything with the name of a result is replaced, with a message, except for the
#' raw counts that the result is computed from: rename their assay first. Results have the model's
#' genes (all genes of an extended model), or those of `gene_list`. Each matrix keeps the record of
#' the call that computed it, also after other calls; flags describe the corrected counts if there
#' are any. With `unsupported = "drop"` the unsupported cells are removed from the object, with a
#' message.
#'
#' @section Seurat:
#' * Assay `corrected`: layer `counts`, and the same counts after LogNormalize as `data`. Assays
#'   `scvi_normalized` and `scvi_denoised`: only log1p as `data`, for plots. All are created as by
#'   [as_seurat()], with the object's gene names, and with the flags of genes in their feature
#'   metadata. Their version is that of the option `Seurat.object.assay.version`, v5 by default.
#' * Reduction `scvi`, with the key `scvi_`.
#' * Assay `proteins`, if the model has them: log1p of their normalized values as `data`.
#' * Flags of cells (`scvibridge_...`) in the metadata.
#' * `Misc(object, "scvibridge")`: how the results were computed, a list by quantity: `corrected`,
#'   `normalized`, `denoised`, `latent`.
#'
#' @section SingleCellExperiment:
#' * Assays `corrected`, `normalized`, `denoised`, in the object's gene order, if the object and the
#'   result have the same genes. Otherwise the object's assays are unchanged, and the result is
#'   altExp `scvi`, with the raw `counts` of its genes, and its own flags and record in its
#'   `colData`, `rowData` and `metadata`.
#' * altExp `proteins`, if the model has them: their normalized values.
#' * reducedDim `scvi`; flags of cells in `colData` and of genes in the `rowData` that belongs to
#'   the new assays; `metadata(object)$scvibridge`, a list by quantity as above. If only altExp
#'   `scvi` has results, the object's `colData` has their flags too.
#' * With `out` the new assays stay in the file, as in [read_corrected()].
#'
#' @section AnnData of anndataR:
#' An `InMemoryAnnData`, `HDF5AnnData` or `ZarrAnnData` is converted, and returned as a
#' SingleCellExperiment; the object itself is not changed. `X`, or `layer`, is the assay `counts`;
#' other layers keep their names as assays. If the model was trained on a layer that the object
#' has, the counts are read from it. `anndataR::as_AnnData()` converts the result back.
#'
#' @section SummarizedExperiment:
#' As for a SingleCellExperiment, but an object with more genes is subset to those of the result,
#' with a message; the latent means are a matrix column `scvi` of `colData`.
#'
#' @section Matrix:
#' Returns the matrix of corrected counts (a dgCMatrix) or of the expression (dense), genes x cells;
#' its attribute `scvibridge` records how it was computed. The flags are not returned.
#'
#' @return The object, of the class that it had, with the result added as described above; for a
#'   matrix, the matrix of the result.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' sce <- denoised_expression(model) # for an object with counts
#' cells <- sce[, sce$condition == "ctrl"]
#' cells <- corrected_counts(cells, model, transform_batch = "V3", labels_key = "cell_type")
#' SummarizedExperiment::assayNames(cells)
#' @name data_first
NULL

# `given`: the arguments in `...`, passed to the method for models. `source`: location of the counts
# in the object, as arguments of as_anndata().
add_result <- function(name, object, model, given, source) {
  given <- with_full_names(given, name)
  plain <- plain_data(object, with_assay_type(source, given), layer_of_model(model))
  object <- plain$object
  given$assay.type <- NULL
  check_data_first(name, object, model, given, plain$source)
  check_can_insert(object, given, name)
  check_proteins_stay(object, model)
  data <- data_for_model(object, model, plain$source, made = names_of_made(object, given, name))
  sce <- call_for_model(name, model, data$adata, with_genes_of_model(given, data$renamed))
  sce <- with_names_of_object(sce, data$renamed)
  insert_result(object, sce, data$origin, setdiff(data$cells, colnames(sce)))
}

# The same for a function whose result is not added to the object.
call_on_data <- function(name, object, model, given, source, all_genes = FALSE) {
  given <- with_full_names(given, name)
  plain <- plain_data(object, with_assay_type(source, given), layer_of_model(model))
  given$assay.type <- NULL
  check_data_first(name, plain$object, model, given, plain$source)
  data <- data_for_model(plain$object, model, plain$source, all_genes)
  call_for_model(name, model, data$adata, given)
}

call_for_model <- function(name, model, adata, given) {
  do.call(method_for_model(name), c(list(model, adata = adata), given), quote = TRUE)
}

method_for_model <- function(name) {
  get(paste0(name, ".scvi_model"), envir = asNamespace("scvibridge"), mode = "function")
}

# -- checks --------------------------------------------------------------------------------------

check_data_first <- function(name, object, model, given, source) {
  check_is_data(object, name)
  if (is.null(model)) {
    stop_scvibridge(
      "if the data come first, the second argument, model, must be a model from load_scvi(): ",
      name, "(object, model)"
    )
  }
  as_python_model(model, "model")
  if (length(given)) {
    check_given(given, name)
  }
  check_cell_data(object, source)
  check_batch_column(object, model, source)
}

check_cell_data <- function(object, source) {
  if (!is.null(source[["cell_data"]]) && !is_matrix_kind(data_kind(object))) {
    stop_scvibridge(
      "cell_data is only for a matrix: a ", data_kind(object), " object has its own cell metadata"
    )
  }
}

check_is_data <- function(object, name) {
  if (!is.na(data_kind(object))) {
    return(invisible())
  }
  if (is.character(object) || inherits(object, anndata_classes)) {
    stop_scvibridge(
      "object must be a model or an R object; a path or an AnnData follows the model: ", name,
      "(model, adata = ...)"
    )
  }
  stop_scvibridge(
    "object must be a model from load_scvi(), or data followed by the model (a Seurat object, a ",
    "SingleCellExperiment, a SummarizedExperiment or a matrix of genes x cells), not an object of ",
    "class ", class(object)[1],
    if (is.data.frame(object) || methods::is(object, "DataFrame")) ": convert it with as.matrix()"
  )
}

# Expands abbreviated names as R does, since checks look for the full ones.
with_full_names <- function(given, name) {
  if (is.null(names(given))) {
    return(given)
  }
  known <- setdiff(names(formals(method_for_model(name))), c("object", "..."))
  full <- known[pmatch(names(given), known, duplicates.ok = TRUE)]
  names(given)[!is.na(full)] <- full[!is.na(full)]
  given
}

# Reports misspelt names before the data are converted.
check_given <- function(given, name) {
  if ("adata" %in% names(given)) {
    stop_scvibridge(
      "adata cannot be set if the data come first, since it is the object: omit it, or call ", name,
      "(model, adata = ...)"
    )
  }
  known <- setdiff(names(formals(method_for_model(name))), c("object", "adata", "..."))
  named <- names(given)[nzchar(names(given))]
  unknown <- setdiff(named, known)
  if (length(unknown)) {
    check_no_more_arguments(given[unknown[1]], c(known, "assay", "layer", "cell_data"))
  }
  if (!is.null(given$indices)) {
    stop_scvibridge(
      "indices cannot be set if the data come first: subset the object instead, ",
      "object[, cells]"
    )
  }
  # Before the data are converted, which can take long.
  python_arguments(given[intersect(names(given), names(python_converters))])
}

check_can_insert <- function(object, given, name) {
  kind <- data_kind(object)
  in_experiment <- kind %in% c("SingleCellExperiment", "SummarizedExperiment")
  if (kind == "Seurat") {
    check_object_packages("seurat")
    check_names_free(object, names_of_made(object, given, name))
  }
  if (!is.null(given$out) && !in_experiment) {
    stop_scvibridge(
      "out keeps the matrices in a file, which a ", kind, " object does not support: omit out, or ",
      "pass a SingleCellExperiment; read_corrected() opens such a file"
    )
  }
  check_keeps_files(given$out, object)
  if (isTRUE(given$normalized) && is_matrix_kind(kind)) {
    stop_scvibridge(
      "normalized = TRUE adds a second matrix, which a matrix cannot store: call ",
      "normalized_expression(), or pass a SingleCellExperiment"
    )
  }
}

# Names of the assays that the result of a function adds to the object.
names_of_made <- function(object, given, name) {
  made <- c(
    corrected_counts = "corrected", normalized_expression = "normalized",
    denoised_expression = "denoised"
  )
  made <- c(made[names(made) == name], if (isTRUE(given$normalized)) "normalized")
  unname(switch(data_kind(object),
    Seurat = own_seurat_assays[made],
    SingleCellExperiment = ,
    SummarizedExperiment = made
  ))
}

# A result must not replace the counts that it is computed from: they would be lost, and the result
# be taken for them. With other genes it goes to an alternative experiment. `origin`: the location
# of the counts; `made`: the names of the result's assays.
check_counts_stay <- function(object, origin, made, has_other_genes) {
  kind <- data_kind(object)
  is_beside <- kind == "SingleCellExperiment" && has_other_genes
  if (is_beside || !isTRUE(origin$assay %in% made)) {
    return(invisible())
  }
  stop_scvibridge(
    "the raw counts are in the assay ", origin$assay, " of the object, which the result would ",
    "replace: rename it first, ", if (kind == "Seurat") "RenameAssays()" else "assayNames()",
    ", and pass its new name, assay = ..."
  )
}

check_batch_column <- function(object, model, source) {
  column <- model$summary$batch_key
  present <- cell_columns(object, source)
  if (is.null(column) || column %in% present) {
    return(invisible())
  }
  place <- switch(data_kind(object),
    Seurat = "the object's metadata",
    SingleCellExperiment = ,
    SummarizedExperiment = "the object's colData",
    "cell_data"
  )
  stop_scvibridge(
    "the model's batches are in the column ", column, ", which is missing from ", place,
    if (length(present)) {
      paste0("; did you mean ", nearest(column, present), "? Rename it to ", column)
    }
  )
}

cell_columns <- function(object, source) {
  switch(data_kind(object),
    Seurat = names(object@meta.data),
    SingleCellExperiment = ,
    SummarizedExperiment = names(SummarizedExperiment::colData(object)),
    names(source$cell_data)
  )
}

# -- data ----------------------------------------------------------------------------------------

# The layer that a model reads, or NULL.
layer_of_model <- function(model) {
  if (inherits(model, "scvi_model")) model$summary$layer
}

# Location of the counts in the object, from the arguments of a function.
source_of <- function(assay, layer, cell_data) {
  list(assay = assay, layer = layer, cell_data = cell_data)
}

# Of results that were copied to another object.
warn_of_lost_record <- function(object) {
  if (is_matrix_kind(data_kind(object)) || has_named_result(object) || !has_lost_record(object)) {
    return(invisible())
  }
  warning(
    "the cells have columns of a result of scvibridge (scvibridge_...), but the object has no ",
    "record of it. If the counts passed are corrected ones, pass the raw ones; if they are raw, ",
    "remove these columns",
    call. = FALSE
  )
}

# Whether a part of an object has the name of a result, to which flags without a record belong.
has_named_result <- function(object) {
  if (inherits(object, "Seurat")) {
    return(any(own_seurat_assays %in% names(object@assays)))
  }
  names <- c(SummarizedExperiment::assayNames(object), alternative_names(object))
  any(c(result_assay_names, own_seurat_assays) %in% names)
}

# The assay of a Seurat object that has the counts is determined from the reductions, before
# without_results() drops them.
parts_of_data <- function(object, source) {
  warn_of_lost_record(object)
  if (data_kind(object) == "Seurat") {
    source$assay <- checked_seurat_assay(object, source$assay)
  }
  given <- c(list(without_results(object)), Filter(Negate(is.null), source))
  do.call(object_parts, given, quote = TRUE)
}

# Returns `adata`, with the model's gene names and the counts in the layer that the model reads;
# `cells`, their names; `origin`, as in object_parts(); and `renamed`, the object's names named by
# the model's names where they differ. Genes unknown to the model are not converted, unless
# `all_genes`. `made`: the names of assays that the result adds to the object.
data_for_model <- function(object, model, source, all_genes = FALSE, made = NULL) {
  about <- model$summary
  parts <- parts_of_data(object, source_for_model(object, about, source))
  known <- known_variables(about)
  names <- names_of_model(parts$genes, known)
  is_known <- names %in% known
  check_counts_stay(object, parts$origin, made, has_other_genes = !all(is_known))
  # If no gene is known, Python's error names some of both.
  if (!all_genes && any(is_known) && !all(is_known)) {
    parts <- parts_of_genes(parts, which(is_known))
    names <- names[is_known]
  }
  differ <- names != parts$genes
  adata <- call_python("fit_to_model", list(
    adata = anndata_of(parts), genes = if (any(differ)) as.list(names),
    layer = about$layer, modalities = modalities_for_model(object, about, parts$cells)
  ))
  list(
    adata = adata, cells = parts$cells, origin = parts$origin,
    renamed = stats::setNames(parts$genes[differ], names[differ])
  )
}

# Genes, and regions that are stored among them.
known_variables <- function(about) {
  among <- Filter(function(part) is.null(part$key), about$modalities)
  c(as_text(about$genes), unlist(lapply(among, function(part) as_text(part$names))))
}

# Seurat replaces "_" and "|" with "-". The model may know the original names.
names_of_model <- function(genes, known) {
  if (all(known %in% genes)) {
    return(genes)
  }
  features <- seurat_features(known)
  original <- features$original_name[match(genes, rownames(features))]
  renamed <- !genes %in% known & !is.na(original) & !original %in% genes
  ifelse(renamed, original, genes)
}

# Converts genes that are given under the object's names, which are not names of the model.
with_genes_of_model <- function(given, renamed) {
  original <- function(genes) {
    place <- match(genes, renamed)
    genes[!is.na(place)] <- names(renamed)[place[!is.na(place)]]
    genes
  }
  is_given <- !vapply(given, is.null, logical(1))
  for (name in intersect(c("gene_list", "genes_kept"), names(given)[is_given])) {
    genes <- as_selection(given[[name]], name)
    if (is.character(genes)) {
      genes <- original(unname(genes))
    } else {
      names(genes) <- original(names(genes))
    }
    given[[name]] <- genes
  }
  theta <- given$dispersion
  if (is.data.frame(theta) || is.matrix(theta)) {
    rownames(given$dispersion) <- original(rownames(theta))
  } else if (is.numeric(theta)) {
    names(given$dispersion) <- original(names(theta))
  }
  given
}

# Restores the object's names; the model's names are stored in rowData.
with_names_of_object <- function(sce, renamed) {
  genes <- rownames(sce)
  if (any(genes %in% names(renamed))) {
    rownames(sce) <- ifelse(genes %in% names(renamed), renamed[genes], genes)
    column <- column_of_names(SummarizedExperiment::rowData(sce), rownames(sce))
    SummarizedExperiment::rowData(sce)[[column]] <- genes
    sce <- with_entry(sce, marks_entry, with_genes_of_marks(own_marks(sce), function(marked) {
      ifelse(marked %in% names(renamed), renamed[marked], marked)
    }))
  }
  sce
}

# Drops columns that an earlier call added: the result would have them twice, and no model uses
# them.
without_results <- function(object) {
  kind <- data_kind(object)
  if (kind == "Seurat") {
    object@reductions <- list()
    object@meta.data <- without_own(object@meta.data)
  } else if (!is_matrix_kind(kind)) {
    if (kind == "SingleCellExperiment") {
      SingleCellExperiment::reducedDims(object) <- list()
    }
    SummarizedExperiment::colData(object) <- without_own(SummarizedExperiment::colData(object))
    SummarizedExperiment::rowData(object) <- without_own(SummarizedExperiment::rowData(object))
  }
  object
}

# The latent means of a SummarizedExperiment are a matrix in its colData.
without_own <- function(table) {
  is_vector <- mapply(
    function(column, name) {
      is_vector_as_matrix(column, name) || length(dim(column)) < 2 && !is.list(column)
    },
    as.list(table), names(table)
  )
  without_own_flags(table[, as.logical(is_vector), drop = FALSE])
}
