#' Create a small example model
#'
#' Simulates 150 cells of three batches (`V1`, `V2`, `V3` in the column `batch`) and three types
#' (column `cell_type`), trains a small SCVI model on them, which takes seconds, and writes both.
#' The model is only meant for trying out the functions.
#'
#' @param dir Folder to write to. It must not have a `model` or a `data.h5ad` yet.
#' @return A list of two paths: `model`, the model's folder, and `adata`, the data (h5ad).
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' load_scvi(files$model, adata = files$adata)
#' @export
example_scvi <- function(dir = tempfile("scvi")) {
  with_scvibridge_errors({
    call_python("write_example", list(folder = as_python_path(dir, "dir")))
  })
}
