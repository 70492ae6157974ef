#' scvibridge: batch-corrected counts from trained scVI models
#'
#' Turns a trained scVI model into batch-corrected counts and expression matrices: [load_scvi()]
#' reads the model, [corrected_counts()], [normalized_expression()] and [denoised_expression()]
#' return SingleCellExperiment objects, and [as_seurat()] converts these to Seurat objects.
#' [train_scvi()] trains a model, and [install_scvibridge()] installs the Python packages that
#' decode it.
#'
#' If the batch is the replicate (each donor or sample is a separate batch), correction removes the
#' condition and the variance between replicates: use raw counts.
#'
#' @section Names:
#' Functions and arguments have the names that they have in the Python package. R attaches the
#' functions of all packages to one search path, so names that do not mention scVI and that other
#' packages also use are extended: verbs end in `_scvi` ([load_scvi()]), nouns begin with `scvi_`
#' ([scvi_calibration()], [scvi_damage()], [scvi_report()]).
#'
#' @importClassesFrom Matrix dgCMatrix
#' @keywords internal
"_PACKAGE"
