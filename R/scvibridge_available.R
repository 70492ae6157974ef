#' Check whether Python can decode models
#'
#' Checks whether Python and the packages that scvibridge needs are available. Starts Python.
#'
#' @return `TRUE` or `FALSE`.
#' @seealso [scvibridge_status()] reports the reason if it is `FALSE`.
#' @examples
#' \donttest{
#' scvibridge_available()
#' }
#' @export
scvibridge_available <- function() {
  tryCatch(
    {
      python_module()
      # Searched for, not imported: see blas.py.
      find <- reticulate::import("importlib.util")$find_spec
      !any(vapply(c("torch", "scvi"), function(name) is.null(find(name)), logical(1)))
    },
    error = function(e) FALSE
  )
}
