#' Check the installation
#'
#' Checks R, the Python that reticulate uses or would use, and the Python packages that scvibridge
#' needs, and suggests a command for each problem. It never raises an error, even if Python does not
#' work.
#'
#' The Python packages are tested in a separate process, which takes some seconds and does not
#' affect R's process.
#'
#' @param start Whether to start Python in this R session, if it is not running, to see which one
#'   is used. With `FALSE`, only reports where reticulate would look.
#' @return A list of class `scvibridge_status`, which is printed as text:
#'   * `versions`: of `R`, `scvibridge` and `reticulate`;
#'   * `python`: a list of `path`, `version`, `chosen_by` (what selected it) and `running`; `path`
#'     and `version` are `NA` if there is no Python;
#'   * `packages`: a data.frame of the Python packages, their `version` (`NA` if missing), the
#'     minimum version that is `needed`, and `ok`; `NULL` if no Python could be checked;
#'   * `python_code`: version of the Python code of scvibridge that this session uses;
#'   * `torch`: a list of `version`, `build` (`"CPU"` or `"CUDA 12.8"`), the `gpus` that it finds
#'     and `threads`; `NULL` if it is missing;
#'   * `isolate`: whether the option `scvibridge.isolate` is set;
#'   * `problems`: a data.frame with each `problem` and the `command` that fixes it, in R or, if it
#'     names a program, in a shell.
#' @seealso [install_scvibridge()]
#' @examples
#' scvibridge_status(start = FALSE)
#' @export
scvibridge_status <- function(start = TRUE) {
  start <- as_flag(start, "start")
  python <- found_python(start)
  looked <- if (python$usable) checked_python(python$path)
  status <- list(
    versions = c(
      R = as.character(getRversion()),
      scvibridge = unname(getNamespaceVersion("scvibridge")),
      reticulate = unname(getNamespaceVersion("reticulate"))
    ),
    python = list(
      path = python$path, version = found_version(looked), chosen_by = python$chosen_by,
      running = reticulate::py_available(initialize = FALSE)
    ),
    packages = package_table(looked),
    python_code = python_code_version(),
    torch = torch_table(looked),
    isolate = isTRUE(getOption("scvibridge.isolate"))
  )
  status$problems <- all_problems(status, python, looked)
  structure(status, class = "scvibridge_status")
}

# -- which Python ------------------------------------------------------------------------------

# `usable`: whether Python was found. `error`: why it was not.
found_python <- function(start) {
  if (start || reticulate::py_available(initialize = FALSE)) {
    error <- tried({
      config <- reticulate::py_config()
      NULL
    })
    path <- if (is.null(error)) config$executable %||% config$python else named_python()
    return(list(
      path = path, usable = is.null(error), chosen_by = python_chooser(), error = error
    ))
  }
  path <- named_python()
  missing <- !is.na(path) && !file.exists(path)
  list(
    path = path, usable = FALSE, chosen_by = python_chooser(),
    error = if (missing) paste("there is no file", path)
  )
}

# Returns the message of an error, or NULL without one.
tried <- function(expression) {
  tryCatch(expression, error = function(e) first_line(conditionMessage(e)))
}

is_ours <- function() {
  isTRUE(tryCatch(reticulate::virtualenv_exists(python_environment), error = function(e) FALSE))
}

# The Python that is set before any starts; NA if reticulate chooses.
named_python <- function() {
  chosen <- Sys.getenv("RETICULATE_PYTHON")
  if (!chosen %in% c("", "managed")) {
    return(path.expand(chosen))
  }
  if (chosen == "" && is_ours()) {
    return(reticulate::virtualenv_python(python_environment))
  }
  NA_character_
}

python_chooser <- function() {
  chosen <- Sys.getenv("RETICULATE_PYTHON")
  if (chosen != "") {
    return("RETICULATE_PYTHON")
  }
  if (is_ours()) paste("the environment", python_environment) else "reticulate"
}

# -- contents ----------------------------------------------------------------------------------

# Returns the findings of environment.py, as vectors of fields by kind; `failed` is the last line of
# a script that did not finish.
checked_python <- function(path) {
  script <- file.path(python_code(), "scvibridge", "r", "environment.py")
  names <- sub(">=.*", "", python_requirements)
  log <- tempfile()
  on.exit(unlink(log))
  lines <- tryCatch(
    suppressWarnings(system2(
      path, shQuote(c(script, python_code(), names)),
      stdout = TRUE, stderr = log
    )),
    error = function(e) structure(character(), status = 127L)
  )
  found <- strsplit(as.character(lines), "\t", fixed = TRUE)
  looked <- split(found, vapply(found, function(fields) fields[1], character(1)))
  if (!is.null(attr(lines, "status"))) {
    words <- if (file.exists(log)) readLines(log, warn = FALSE)
    looked$failed <- list(c("failed", utils::tail(c("it could not be run", words), 1)))
  }
  looked
}

# Returns one field of all findings of a kind.
fields <- function(looked, kind, which) {
  vapply(looked[[kind]], function(field) field[which], character(1))
}

found_version <- function(looked) {
  if (length(looked$python)) looked$python[[1]][2] else NA_character_
}

package_table <- function(looked) {
  if (!length(looked$package)) {
    return(NULL)
  }
  names <- fields(looked, "package", 2)
  version <- fields(looked, "package", 3)
  needed <- sub(".*>=", "", python_requirements)[match(names, sub(">=.*", "", python_requirements))]
  data.frame(
    package = names, version = version, needed = needed,
    ok = mapply(is_recent_enough, version, needed, USE.NAMES = FALSE)
  )
}

is_recent_enough <- function(version, needed) {
  numbers <- regmatches(version, regexpr("^[0-9]+([.][0-9]+)*", version))
  !is.na(version) && length(numbers) == 1 && numeric_version(numbers) >= numeric_version(needed)
}

torch_table <- function(looked) {
  if (!length(looked$torch)) {
    return(NULL)
  }
  list(
    version = looked$torch[[1]][2], build = looked$torch[[1]][3],
    gpus = fields(looked, "gpu", 2),
    threads = thread_option_or(as.integer(looked$threads[[1]][2]))
  )
}

thread_option_or <- function(threads) {
  chosen <- tryCatch(thread_option(), error = function(e) NULL)
  if (is.null(chosen)) threads else chosen
}

# Version of the running Python code or, if none has been imported, of the code that would run.
python_code_version <- function() {
  imported <- if (reticulate::py_available(initialize = FALSE)) {
    code <- "getattr(__import__('sys').modules.get('scvibridge'), '__version__', '')"
    tryCatch(reticulate::py_eval(code), error = function(e) "")
  }
  if (length(imported) && nzchar(imported)) {
    return(imported)
  }
  lines <- readLines(file.path(python_code(), "scvibridge", "_version.py"))
  sub("^__version__ = \"(.*)\"$", "\\1", grep("^__version__", lines, value = TRUE))
}

# -- as text -----------------------------------------------------------------------------------

#' @exportS3Method print scvibridge_status
print.scvibridge_status <- function(x, ...) {
  cat(paste(names(x$versions), x$versions, collapse = ", "), "\n", sep = "")
  path <- if (is.na(x$python$path)) "none yet" else x$python$path
  version <- if (is.na(x$python$version)) "" else paste0(" ", x$python$version)
  cat(
    "Python", version, ": ", path, " (chosen by ", x$python$chosen_by,
    if (!x$python$running) ", not running", ")\n",
    "  Python code of scvibridge ", x$python_code, if (x$isolate) ", in separate processes", "\n",
    sep = ""
  )
  cat_packages(x$packages)
  cat_torch(x$torch)
  cat_problems(x)
  invisible(x)
}

cat_packages <- function(packages) {
  if (is.null(packages)) {
    return(invisible())
  }
  version <- ifelse(is.na(packages$version), "missing", packages$version)
  note <- ifelse(packages$ok, "", paste0("  needed: ", packages$needed))
  cat(paste0("  ", format(packages$package), "  ", format(version), note, "\n"), sep = "")
}

cat_torch <- function(torch) {
  if (!is.null(torch)) {
    gpus <- if (length(torch$gpus)) paste(torch$gpus, collapse = ", ") else "none"
    cat(
      "torch ", torch$version, ": build for ", torch$build, ", GPUs: ", gpus, ", threads: ",
      torch$threads, "\n",
      sep = ""
    )
  }
}

cat_problems <- function(status) {
  problems <- status$problems
  if (nrow(problems)) {
    cat(paste0("! ", problems$problem, "\n    ", problems$command, "\n"), sep = "")
  } else if (is.null(status$packages)) {
    cat("Python was not checked: scvibridge_status() starts it.\n")
  } else {
    cat("No problems found.\n")
  }
}
