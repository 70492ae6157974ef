# Packages that only some functions need are suggested, not imported. One error names all missing
# packages and the command that installs them.
check_requires <- function(packages, purpose) {
  installed <- vapply(packages, requireNamespace, logical(1), quietly = TRUE)
  if (all(installed)) {
    return(invisible(TRUE))
  }
  missing <- packages[!installed]
  message <- paste0(
    purpose, " needs the R package", if (length(missing) > 1) "s", " ",
    paste(missing, collapse = ", "), "; install with ", install_command(missing)
  )
  stop(errorCondition(message, class = "scvibridge_missing_package"))
}

# Checks the packages that an object needs, by the name that Python's write_rds() uses for it.
check_object_packages <- function(kind) {
  experiment <- c("SingleCellExperiment", "SummarizedExperiment", "S4Vectors", "Matrix")
  switch(kind,
    sce = check_requires(experiment, "a SingleCellExperiment"),
    backed = check_requires(c("HDF5Array", experiment), "a SingleCellExperiment of a file"),
    seurat = check_requires(c("Seurat", "SeuratObject", experiment), "a Seurat object")
  )
}

# BiocManager also installs CRAN packages, in versions that match the release.
install_command <- function(packages) {
  quoted <- paste0("\"", packages, "\"", collapse = ", ")
  if (length(packages) > 1) {
    quoted <- paste0("c(", quoted, ")")
  }
  command <- paste0("BiocManager::install(", quoted, ")")
  if (nzchar(system.file(package = "BiocManager"))) {
    return(command)
  }
  paste0("install.packages(\"BiocManager\"); ", command)
}
