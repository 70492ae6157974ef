# Tells reticulate which Python to use once it is needed, and starts none. RETICULATE_PYTHON, and a
# Python that runs already, go first.
.onLoad <- function(libname, pkgname) { # nolint: object_name_linter. R calls it so.
  if (nzchar(Sys.getenv("RETICULATE_PYTHON")) || reticulate::py_available(initialize = FALSE)) {
    return(invisible())
  }
  if (reticulate::virtualenv_exists(python_environment)) {
    reticulate::use_virtualenv(python_environment, required = FALSE)
  } else if ("py_require" %in% getNamespaceExports("reticulate")) {
    reticulate::py_require(python_requirements, python_version = python_version)
  }
  invisible()
}
