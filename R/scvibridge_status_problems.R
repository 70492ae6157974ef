# The problems of scvibridge_status(), each with the command that fixes it.

all_problems <- function(status, python, looked) {
  found <- list(
    no_python_problem(python), failed_problem(python, looked), old_python_problem(status),
    package_problem(status$packages, python$path), broken_problem(status, python$path, looked),
    version_problem(status), gpu_problem(status$torch)
  )
  found <- Filter(Negate(is.null), found)
  data.frame(
    problem = vapply(found, function(one) one[[1]], character(1)),
    command = vapply(found, function(one) one[[2]], character(1))
  )
}

no_python_problem <- function(python) {
  if (is.null(python$error)) {
    return(NULL)
  }
  if (python$chosen_by == "RETICULATE_PYTHON") {
    return(list(
      paste0("the Python that RETICULATE_PYTHON is set to does not work: ", python$error),
      paste(
        "Sys.unsetenv(\"RETICULATE_PYTHON\"); scvibridge::install_scvibridge() # then restart R,",
        "without that line in .Renviron"
      )
    ))
  }
  list(
    paste0("no working Python was found: ", python$error),
    "scvibridge::install_scvibridge() # then restart R"
  )
}

failed_problem <- function(python, looked) {
  if (!is.null(looked$failed)) {
    list(
      paste0(python$path, " could not be checked: ", looked$failed[[1]][2]),
      "scvibridge::install_scvibridge() # then restart R"
    )
  }
}

old_python_problem <- function(status) {
  version <- status$python$version
  needed <- sub(">=", "", python_version, fixed = TRUE)
  if (!is.na(version) && !is_recent_enough(version, needed)) {
    list(
      paste0("Python ", version, " is older than ", needed),
      paste0(
        "scvibridge::install_scvibridge(\"r-scvibridge-new\", ",
        "python = reticulate::install_python(\"3.12:latest\"))"
      )
    )
  }
}

package_problem <- function(packages, path) {
  if (is.null(packages) || all(packages$ok)) {
    return(NULL)
  }
  bad <- packages[!packages$ok, , drop = FALSE]
  is_missing <- is.na(bad$version)
  old <- paste0(bad$package, " ", bad$version, " (needed: ", bad$needed, ")")[!is_missing]
  parts <- c(
    if (any(is_missing)) paste0("missing: ", paste(bad$package[is_missing], collapse = ", ")),
    if (length(old)) paste0("too old: ", paste(old, collapse = ", "))
  )
  list(
    paste0("Python packages are ", paste(parts, collapse = "; ")),
    install_python_command(path, paste0(bad$package, ">=", bad$needed))
  )
}

# Packages that are installed, but cannot be imported.
broken_problem <- function(status, path, looked) {
  packages <- c(torch = "torch", scvi = "scvi-tools", anndata = "anndata")
  there <- status$packages$package[!is.na(status$packages$version)]
  broken <- Filter(function(field) packages[[field[2]]] %in% there, looked$broken)
  if (!length(broken)) {
    return(NULL)
  }
  first <- broken[[1]]
  list(
    paste0("Python's ", first[2], " cannot be imported: ", first[3]),
    install_python_command(path, packages[[first[2]]], "--force-reinstall")
  )
}

install_python_command <- function(path, packages, options = NULL) {
  if (is_ours() && same_path(path, reticulate::virtualenv_python(python_environment))) {
    options <- if (!is.null(options)) paste0("pip_options = \"", options, "\"")
    return(paste0("scvibridge::install_scvibridge(", options, ") # then restart R"))
  }
  command <- c(
    shQuote(path, "sh"), "-m pip install", if (is.null(options)) "--upgrade" else options,
    shQuote(packages, "cmd")
  )
  paste(command, collapse = " ")
}

same_path <- function(one, other) {
  identical(normalizePath(one, mustWork = FALSE), normalizePath(other, mustWork = FALSE))
}

version_problem <- function(status) {
  ours <- status$versions[["scvibridge"]]
  if (!identical(status$python_code, ours)) {
    list(
      paste0(
        "this is scvibridge ", ours, ", but Python has already imported scvibridge ",
        status$python_code
      ),
      paste(upgrade_command(ours), "# then restart R")
    )
  }
}

gpu_problem <- function(torch) {
  gpus <- if (identical(torch$build, "CPU")) nvidia_gpus()
  if (length(gpus)) {
    list(
      paste0("there is a GPU (", gpus[1], "), but torch is the build for CPUs"),
      "scvibridge::install_scvibridge(torch = \"cuda\") # then restart R"
    )
  }
}
