# The way to Python: one module (scvibridge.from_r), one function that calls, errors as conditions.

python_state <- new.env(parent = emptyenv())

python_module <- function() {
  if (is.null(python_state$module)) {
    python_state$module <- import_python_module()
  }
  python_state$module
}

import_python_module <- function() {
  tryCatch(
    reticulate::import_from_path("scvibridge.from_r", python_code()),
    error = function(e) {
      stop_scvibridge(
        "the Python code of scvibridge could not be loaded: ", first_line(conditionMessage(e)),
        ". Install what it needs with scvibridge::install_scvibridge() and restart R, or set ",
        "RETICULATE_PYTHON to a Python that has it"
      )
    }
  )
}

# The Python package that this package carries.
python_code <- function() {
  system.file("python", package = "scvibridge", mustWork = TRUE)
}

# Calls a Python function by its name in from_r.FUNCTIONS. `reporter`: see progress.R.
call_python <- function(name, arguments, reporter = NULL) {
  outcome <- python_module()$call(name, arguments, reporter)
  for (text in unlist(outcome$warnings)) {
    warning(text, call. = FALSE)
  }
  if (!is.null(outcome$error)) {
    stop_python(outcome$error)
  }
  outcome$value
}

# The condition has Python's message and nothing else; its traceback is in the field `traceback`.
stop_python <- function(error) {
  python_class <- paste0("python.builtin.", error$type)
  stop(errorCondition(
    error$message,
    class = c("scvibridge_error", python_class), traceback = error$traceback
  ))
}

first_line <- function(text) {
  sub("[. ]+$", "", strsplit(text, "\n", fixed = TRUE)[[1]][1])
}
