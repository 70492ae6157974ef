# Ctrl-C: a signal SIGINT to R's process while Python works ends the work, and the session goes on.

# Minutes that R CMD check spares: they do not depend on how the package was built.
testthat::skip_on_cran()

# An R process that loads the example's model, is interrupted at "READY" after some seconds, and
# then corrects a few cells. `prepare` runs before.
interrupted_session <- function(isolate, after, prepare = character()) {
  skip_on_os("windows")
  files <- example_files()
  folder <- tempfile("interrupted")
  dir.create(folder)
  script <- file.path(folder, "script.R")
  writeLines(c(
    "library(scvibridge)", prepare,
    sprintf(
      "model <- load_scvi(%s, %s, isolate = %s)",
      quoted(files$model), quoted(files$adata), isolate
    ),
    "correct <- function(...) suppressWarnings(corrected_counts(model, ..., progress = FALSE))",
    "options(scvibridge.threads = 1L)",
    sprintf("cells <- %s", quoted(many_cells())),
    "cat('READY\n')",
    "outcome <- tryCatch(",
    "  {",
    "    correct(cells, transform_batch = 'V3', labels_key = 'cell_type', batch_size = 1L)",
    "    'done'",
    "  },",
    "  interrupt = function(i) 'interrupt', error = conditionMessage)",
    "cat('outcome:', outcome, sprintf('%.2f', as.numeric(Sys.time())), '\n')",
    "cat('left:', list.files(tempdir(), 'scvibridge'), '\n')",
    "workers <- function(parent, which) {",
    "  suppressWarnings(system2('pgrep', c('-P', parent, '-f', shQuote(which)), TRUE))",
    "}",
    "server <- workers(Sys.getpid(), 'r[.]worker --serve')",
    "calls <- c(workers(Sys.getpid(), 'r[.]worker /'), if (length(server)) workers(server, '.'))",
    "cat('calls:', calls, '\n')",
    "cat('then:', dim(correct(transform_batch = 'V3', indices = 1:5)), '\n')"
  ), script)
  interrupt_at_ready(script, after)
}

# Cells that take minutes if each is a minibatch: the signal comes before the end on any machine.
many_cells <- function() {
  if (is.null(remembered$many)) {
    remembered$many <- tempfile(fileext = ".h5ad")
    example <- reticulate::import("scvibridge.r.example", convert = FALSE)
    example$simulated_cells(100000L)$write_h5ad(remembered$many)
  }
  remembered$many
}

# The script's lines, and the seconds from the signal to the end of the work.
interrupt_at_ready <- function(script, after) {
  output <- paste0(script, ".out")
  command <- sprintf(
    "%s %s >%s 2>&1 & echo $!", shQuote(file.path(R.home("bin"), "R")),
    paste("--no-echo --no-restore --file", shQuote(script), sep = "="), shQuote(output)
  )
  command <- sub("--no-echo=--no-restore", "--no-echo --no-restore", command, fixed = TRUE)
  command <- paste0("R_LIBS=", shQuote(paste(.libPaths(), collapse = ":")), " exec ", command)
  process <- as.integer(system2("sh", c("-c", shQuote(sub(" exec ", " ", command))), stdout = TRUE))
  wait_for(function() any(grepl("READY", lines_of(output))), 300)
  Sys.sleep(after)
  sent <- Sys.time()
  tools::pskill(process, tools::SIGINT)
  wait_for(function() any(grepl("^then|Error|halted", lines_of(output))), 300)
  lines <- lines_of(output)
  ended <- as.numeric(sub(".* ([0-9.]+) *$", "\\1", grep("^outcome:", lines, value = TRUE)))
  list(lines = lines, seconds = ended - as.numeric(sent))
}

lines_of <- function(file) if (file.exists(file)) readLines(file, warn = FALSE) else character()

wait_for <- function(is_so, seconds) {
  end <- Sys.time() + seconds
  while (!is_so() && Sys.time() < end) {
    Sys.sleep(0.1)
  }
}

expect_interrupted <- function(session) {
  lines <- paste(session$lines, collapse = "\n")
  expect_match(lines, "outcome: interrupt")
  expect_match(lines, "left: +\n")
  expect_match(lines, "then: 60 5")
  expect_lt(session$seconds, 3)
}

test_that("an interrupt ends the work in R's process, also after a training there", {
  training <- "example_scvi()"
  expect_interrupted(interrupted_session(isolate = FALSE, after = 4, prepare = training))
})

test_that("an interrupt ends the process of an isolated call", {
  session <- interrupted_session(isolate = TRUE, after = 8)
  expect_interrupted(session)
  expect_match(paste(session$lines, collapse = "\n"), "calls: +\n")
})

test_that("an interrupt that Python ignores in a finalizer ends the work all the same", {
  script <- tempfile(fileext = ".R")
  work <- c(
    "import time", "class Finalized:",
    "    def __del__(self):", "        end = time.monotonic() + 2",
    "        while time.monotonic() < end:", "            time.sleep(0.01)",
    "def work():", "    Finalized()", "    end = time.monotonic() + 60",
    "    while time.monotonic() < end:", "        time.sleep(0.01)"
  )
  writeLines(c(
    "library(scvibridge)", "module <- scvibridge:::python_module()",
    sprintf("python <- reticulate::py_run_string(%s)", quoted(paste(work, collapse = "\n"))),
    "functions <- reticulate::dict(load_assay = python$work)", # a function that needs no torch
    "work <- function() module$call('load_assay', list(), NULL, NULL, functions)",
    "cat('READY\n')",
    "outcome <- tryCatch({ work(); 'done' }, interrupt = function(i) 'interrupt')",
    "cat('outcome:', outcome, sprintf('%.2f', as.numeric(Sys.time())), '\n')",
    "cat('then:', 1 + 1, '\n')"
  ), script)
  session <- interrupt_at_ready(script, 1)
  expect_match(paste(session$lines, collapse = "\n"), "outcome: interrupt")
  expect_lt(session$seconds, 20)
})

test_that("an interrupt of the first call waits until torch is imported", {
  files <- example_files()
  script <- tempfile(fileext = ".R")
  writeLines(c(
    "library(scvibridge)", "invisible(reticulate::py_config())",
    sprintf(
      "load <- function() dim(corrected_counts(load_scvi(%s, %s), indices = 1:5,",
      quoted(files$model), quoted(files$adata)
    ),
    "  transform_batch = 'V3', progress = FALSE))",
    "cat('READY\n')",
    "outcome <- tryCatch(load(), interrupt = function(i) 'interrupt', error = conditionMessage)",
    "cat('outcome:', outcome, sprintf('%.2f', as.numeric(Sys.time())), '\n')",
    "cat('then:', suppressWarnings(load()), '\n')"
  ), script)
  lines <- paste(interrupt_at_ready(script, 2)$lines, collapse = "\n")
  expect_match(lines, "outcome: interrupt")
  expect_match(lines, "then: 60 5")
})
