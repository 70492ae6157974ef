# Seurat objects of former versions, which lack slots that current functions read.

is_seurat_2 <- function(x) inherits(x, "seurat")

check_seurat_version <- function(x) {
  if (is_seurat_2(x)) {
    stop_old_seurat("2", "")
  }
  parts <- c(list(x), attr(x, "assays"), attr(x, "reductions"))
  missing <- unique(unlist(lapply(parts, missing_slots)))
  if (length(missing)) {
    version <- tryCatch(as.character(x@version), error = function(e) "3")
    if (!length(version)) {
      version <- "3"
    }
    stop_old_seurat(version, paste0(" (no slot ", paste(missing, collapse = ", "), ")"))
  }
}

missing_slots <- function(x) {
  if (!isS4(x)) {
    return(NULL)
  }
  names <- methods::slotNames(class(x))
  names[!vapply(names, function(name) methods::.hasSlot(x, name), logical(1))]
}

stop_old_seurat <- function(version, detail) {
  stop_scvibridge(
    "x is an object of Seurat ", version, detail, ", which the installed version of Seurat cannot ",
    "read: update it first, x <- SeuratObject::UpdateSeuratObject(x)"
  )
}
