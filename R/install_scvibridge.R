# What pyproject.toml asks for (a test compares them).
python_requirements <- c(
  "anndata>=0.12.19", "h5py>=3.16", "mudata>=0.3.10", "numba>=0.68.1", "numpy>=2.4.6",
  "pandas>=2.3.3", "scikit-learn>=1.9.1", "scipy>=1.17.1", "scvi-tools>=1.4.2",
  "torch>=2.13", "tqdm>=4.70.1"
)
python_version <- ">=3.11"
python_environment <- "r-scvibridge"

#' Install the Python packages that scvibridge needs
#'
#' Makes a virtual environment for Python and installs scvi-tools and what else the package's
#' Python code needs into it. The package finds the environment called `r-scvibridge` by itself
#' from the next R session on. With a recent reticulate this is optional: without that environment
#' reticulate gets the packages by itself when Python is first needed.
#'
#' torch comes with support for CUDA, some gigabytes, unless `pip_options` (`--extra-index-url`)
#' names PyTorch's index of CPU builds, whose address is on PyTorch's page on installation.
#'
#' To use a Python of your own instead, set the environment variable `RETICULATE_PYTHON` to it
#' before R starts; it takes precedence.
#'
#' @param envname Name or path of the virtual environment.
#' @param pip_options Further options of pip, a character vector.
#' @param python Python 3.11 or later to make the environment with; found by reticulate if `NULL`.
#' @return The path of the environment's Python, invisibly.
#' @section Errors:
#'   reticulate's, where there is no such Python or pip fails.
#' @examples
#' \dontrun{
#' install_scvibridge()
#' }
#' @export
install_scvibridge <- function(envname = "r-scvibridge", pip_options = character(), python = NULL) {
  if (!reticulate::virtualenv_exists(envname)) {
    python <- if (is.null(python)) reticulate::virtualenv_starter(python_version) else python
    if (is.null(python)) {
      stop_scvibridge(
        "no Python ", python_version, " was found: install one, for example with ",
        "reticulate::install_python(\"3.12:latest\"), or name it with python="
      )
    }
    reticulate::virtualenv_create(envname, python = python, packages = NULL)
  }
  reticulate::virtualenv_install(envname, python_requirements, pip_options = pip_options)
  message("Done. Restart R before loading scvibridge.")
  invisible(reticulate::virtualenv_python(envname))
}

#' Can Python decode models here?
#'
#' Says whether Python with the packages that scvibridge needs is at hand. Starts Python.
#'
#' @return `TRUE` or `FALSE`.
#' @examples
#' \donttest{
#' scvibridge_available()
#' }
#' @export
scvibridge_available <- function() {
  tryCatch(
    {
      python_module()
      TRUE
    },
    error = function(e) FALSE
  )
}
