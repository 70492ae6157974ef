#' scvibridge: batch-corrected counts from trained scVI models
#'
#' From a trained scVI model to count and expression matrices that R's count-based tools can use:
#' [load_scvi()] reads the model, [corrected_counts()], [normalized_expression()] and
#' [denoised_expression()] give SingleCellExperiment objects, and [as_seurat()] turns those into
#' Seurat objects. [install_scvibridge()] installs the Python packages that decode the model.
#'
#' If the batch is the replicate (each donor or sample its own batch), correction removes the
#' condition and the variance between replicates: use raw counts.
#'
#' @keywords internal
"_PACKAGE"
