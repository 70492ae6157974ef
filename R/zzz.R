# Declares which Python reticulate uses once it is needed, without starting it. RETICULATE_PYTHON
# and a running Python take precedence. Otherwise it is the environment of install_scvibridge(), or
# one that reticulate creates from the packages declared here ("managed" requests that by name).
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
