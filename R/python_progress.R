# Shows the progress of Python work in R: with progressr if the user has handlers for it, otherwise
# as a cli bar. Without either, Python writes lines to standard error. Python calls the three
# functions of a reporter: start, update and finish (scvibridge._utils.progress.Reporter).

progress_reporter <- function() {
  if (is_in_with_progress()) {
    return(quiet_reporter(progressr_reporter()))
  }
  if (requireNamespace("cli", quietly = TRUE) && cli::is_dynamic_tty()) {
    return(quiet_reporter(cli_reporter()))
  }
  NULL
}

# Whether with_progress() is among the callers, or the handlers are global. (In scripts progressr is
# off unless enabled.)
is_in_with_progress <- function() {
  if (!isNamespaceLoaded("progressr") || !isTRUE(getOption("progressr.enable", TRUE))) {
    return(FALSE)
  }
  callers <- lapply(seq_len(sys.nframe()), sys.function)
  any(vapply(callers, identical, logical(1), progressr::with_progress)) ||
    isTRUE(progressr::handlers(global = NA))
}

# A terminal that cannot be written to must not stop the work.
quiet_reporter <- function(reporter) {
  lapply(reporter, function(report) {
    force(report)
    function(...) {
      try(report(...), silent = TRUE)
      NULL
    }
  })
}

# In steps of a thousandth: a progressor stores a time for each of its steps.
progressr_reporter <- function(steps = 1000) {
  state <- new.env(parent = emptyenv())
  list(
    start = function(description, total, unit) {
      state$steps <- 0
      state$steps_of <- function(done) floor(steps * done / total)
      state$text <- function(done) paste0(description, ": ", in_words(done, total, unit))
      state$report <- progressr::progressor(
        steps,
        message = description, auto_finish = FALSE, on_exit = FALSE
      )
    },
    update = function(done) {
      before <- state$steps
      state$steps <- state$steps_of(done)
      state$report(state$text(done), amount = state$steps - before)
    },
    finish = function() state$report(type = "finish")
  )
}

# Fits into 80 columns with the longest description.
cli_format <- "{cli::pb_name}{cli::pb_bar} {cli::pb_percent} {cli::pb_rate} {cli::pb_eta_str}"

cli_reporter <- function() {
  state <- new.env()
  list(
    start = function(description, total, unit) {
      state$bar <- cli::cli_progress_bar(
        description,
        total = total, format = cli_format, current = FALSE, .auto_close = FALSE, .envir = state
      )
    },
    update = function(done) cli::cli_progress_update(set = done, id = state$bar, .envir = state),
    finish = function() cli::cli_progress_done(id = state$bar, .envir = state)
  )
}

in_words <- function(done, total, unit) {
  paste(format(done, big.mark = ","), "of", format(total, big.mark = ","), unit)
}
