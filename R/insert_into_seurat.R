# Adds a result to a Seurat object with Seurat's `[[<-` and AddMetaData(), so that everything else
# is unchanged.

insert_into_seurat <- function(object, sce, origin, dropped) {
  if (length(dropped)) {
    object <- subset(object, cells = setdiff(colnames(object), dropped))
  }
  # Before assays are replaced, whose Misc() may be the only record.
  present <- names(own_seurat_assays)[own_seurat_assays %in% names(object@assays)]
  earlier <- results_of(object)
  held <- with_provenance(earlier, sce, present)
  object <- add_seurat_assays(object, sce, origin)
  if ("scvi" %in% reduced_names(sce)) {
    taken <- SeuratObject::Key(object)
    key <- free_key("scvi_", taken[names(taken) != "scvi"])
    object <- add_seurat_reduction(object, seurat_reduction(sce, "scvi", origin$assay, key))
  }
  object <- add_seurat_flags(object, sce, earlier[names(earlier) %in% present])
  # Misc<- warns if the entry already exists.
  object@misc$scvibridge <- held
  for (quantity in intersect(names(own_seurat_assays), names(held))) {
    object@assays[[own_seurat_assays[[quantity]]]]@misc$scvibridge <- held[[quantity]]
  }
  with_more_marks(object, own_marks(sce))
}

# Assays and reductions share their names.
check_names_free <- function(object, assays) {
  held <- list(assay = names(object@assays), reduction = names(object@reductions))
  check <- function(name, as, other) {
    if (name %in% setdiff(names(object), held[[as]])) {
      what <- if (name %in% held[[other]]) other else class(object[[name]])[1]
      stop_scvibridge(
        "the result is stored as the ", as, " ", name, ", but the object has ",
        if (what == "assay") "an " else "a ", what, " of that name, ",
        "which Seurat does not allow: give it another name first, object[[\"my_",
        name, "\"]] <- object[[\"", name, "\"]], and remove it, object[[\"", name, "\"]] <- NULL"
      )
    }
  }
  for (name in assays) check(name, "assay", "reduction")
  check("scvi", "reduction", "assay")
}

# As with_flags(): flags of cells describe the corrected counts if there are any.
add_seurat_flags <- function(object, sce, held) {
  flags <- plain_data_frame(own_flags(SummarizedExperiment::colData(sce)), colnames(sce))
  if (!"corrected" %in% result_assays(sce)) {
    if (!length(flags) || "corrected" %in% names(held)) {
      return(object)
    }
  }
  stale <- names(own_flags(object@meta.data))
  if (setequal(rownames(flags), colnames(object))) {
    stale <- setdiff(stale, names(flags)) # others keep their place
  }
  for (name in stale) {
    object@meta.data[[name]] <- NULL
  }
  if (length(flags)) SeuratObject::AddMetaData(object, flags) else object
}

add_seurat_assays <- function(object, sce, origin) {
  version <- seurat_assay_version()
  made <- list()
  if (length(result_assays(sce))) {
    features <- seurat_features(rownames(sce))
    table <- SummarizedExperiment::rowData(sce)
    announce_renaming(features, column_of_names(table, rownames(sce)))
    original <- original_names(table, rownames(sce))
    features$original_name <- original %||% features$original_name
    made <- seurat_assays(sce, features, intersect(known_assays(sce), result_assays(sce)), version)
    if (version == "v5") {
      announce_version_3(made)
    }
    made <- with_records(made, record_of(sce), origin$assay, origin$layer)
  }
  made$proteins <- protein_assay(sce)
  for (name in names(made)) {
    object <- replace_in_seurat(object, name, made[[name]], "assay")
  }
  object
}

# Keeps an existing one with these values: other functions of the same model return the same.
add_seurat_reduction <- function(object, reduction) {
  if ("scvi" %in% SeuratObject::Reductions(object)) {
    held <- SeuratObject::Embeddings(object, reduction = "scvi")
    if (is_same_latent(held, SeuratObject::Embeddings(reduction))) {
      return(object)
    }
  }
  replace_in_seurat(object, "scvi", reduction, "reduction")
}

# The same choice as in Seurat's own functions.
seurat_assay_version <- function() {
  if (identical(getOption("Seurat.object.assay.version"), "v3")) "v3" else "v5"
}

# Seurat warns if it replaces something with other features or of another version. It computes the
# totals of the cells that an assay has: others would keep those of the assay that is replaced.
replace_in_seurat <- function(object, name, value, what) {
  if (!name %in% names(object)) {
    object[[name]] <- value
    return(object)
  }
  announce_replacing(what, name)
  if (what == "assay" && !setequal(colnames(value), colnames(object))) {
    object@meta.data[paste0(c("nCount_", "nFeature_"), name)] <- NULL
  }
  suppressWarnings(object[[name]] <- value)
  object
}
