# Tells reticulate which Python to use once it is needed, and starts none. RETICULATE_PYTHON, and a
# Python that runs already, go first. Otherwise it is the environment of install_scvibridge(), or
# one that reticulate makes of the packages declared here ("managed" asks for that by name).
.onLoad <- function(libname, pkgname) { # nolint: object_name_linter. R calls it so.
  chosen <- Sys.getenv("RETICULATE_PYTHON")
  if (!chosen %in% c("", "managed") || reticulate::py_available(initialize = FALSE)) {
    return(invisible())
  }
  if (chosen == "" && reticulate::virtualenv_exists(python_environment)) {
    reticulate::use_virtualenv(python_environment, required = FALSE)
  } else {
    reticulate::py_require(python_requirements, python_version = python_version)
  }
  invisible()
}
