# The requirements of pyproject.toml (a test compares them).
python_requirements <- c(
  "anndata>=0.11", "h5py>=3.10", "lightning>=2.2", "mudata>=0.3.1", "numba>=0.60", "numpy>=1.26",
  "pandas>=2.2", "pooch>=1.8.2", "scanpy>=1.10", "scikit-learn>=1.4", "scikit-misc>=0.3.1",
  "scipy>=1.11.1", "scvi-tools>=1.2.2", "torch>=2.1", "tqdm>=4.66", "zarr>=2.18"
)

python_version <- ">=3.11"
python_environment <- "r-scvibridge"

# PyTorch's index of builds without CUDA, which are some gigabytes smaller.
cpu_index <- "https://download.pytorch.org/whl/cpu"

#' Install the Python packages that scvibridge needs
#'
#' Creates a virtual environment for Python and installs scvi-tools and the other dependencies of
#' the package's Python code. The package finds the environment `r-scvibridge` automatically from
#' the next R session on. Without that environment, reticulate creates a separate one when Python is
#' first needed, with the same packages and torch for CUDA.
#'
#' At the end, the compiled parts of scvibridge are built for this machine, so that the first call
#' of a function does not have to wait for them.
#'
#' To use another Python instead, set the environment variable `RETICULATE_PYTHON` to it before R
#' starts; it takes precedence.
#'
#' @param envname Name or path of the virtual environment.
#' @param pip_options Additional options for pip, a character vector. A package index among them
#'   (`--index-url`, `--extra-index-url`) replaces PyTorch's.
#' @param python Python 3.11 or later for the environment; found by reticulate if `NULL`.
#' @param torch Build of torch: `"cuda"`, for NVIDIA GPUs, some gigabytes; `"cpu"`, from PyTorch's
#'   index of CPU builds (macOS has only one build); `"auto"` uses `"cuda"` if `nvidia-smi` finds a
#'   GPU, otherwise `"cpu"`. If another build is already installed, `"cuda"` and `"cpu"` replace it
#'   and `"auto"` keeps it. torch is installed first, separately, and its build is checked at the
#'   end.
#' @return The path of the environment's Python, invisibly.
#' @section Errors:
#'   Conditions of class `scvibridge_error` if Python is not found, pip fails, or pip installed
#'   another build of torch than `torch` selects.
#' @seealso [scvibridge_status()] reports what is installed and what is missing.
#' @examples
#' \dontrun{
#' install_scvibridge()
#' install_scvibridge(torch = "cpu")
#' }
#' @export
install_scvibridge <- function(envname = "r-scvibridge", pip_options = character(), python = NULL,
                               torch = "auto") {
  with_scvibridge_errors({
    torch <- as_choice(torch, "torch", c("auto", "cpu", "cuda"))
    envname <- as_string(envname, "envname")
    if (!is.character(pip_options) || anyNA(pip_options)) {
      stop_scvibridge("pip_options must be a character vector, got ", shown(pip_options))
    }
    python <- if (!is.null(python)) as_string(python, "python")
    if (!reticulate::virtualenv_exists(envname)) {
      python <- if (is.null(python)) reticulate::virtualenv_starter(python_version) else python
      if (is.null(python)) {
        stop_scvibridge(
          "no Python ", python_version, " was found: install one, for example with ",
          "reticulate::install_python(\"3.12:latest\"), or pass its path as python"
        )
      }
      reticulate::virtualenv_create(envname, python = python, packages = NULL)
    }
    python <- reticulate::virtualenv_python(envname)
    build <- chosen_torch(torch, torch_in(python))
    install_torch(envname, python, build, pip_options)
    reticulate::virtualenv_install(envname, python_requirements, pip_options = pip_options)
    check_torch(torch_in(python), build, pip_options)
    compile_kernels(python)
    message("Done. Restart R before loading scvibridge.")
    invisible(python)
  })
}

# Returns the requested build, the installed one, or the one that fits the machine, with a message.
chosen_torch <- function(asked, found = NULL) {
  build <- asked
  reason <- "as requested"
  if (asked == "auto" && !is.null(found)) {
    build <- found$build
    reason <- paste0("torch ", found$version, " is already installed and is kept")
  } else if (asked == "auto") {
    gpus <- nvidia_gpus()
    build <- if (length(gpus)) "cuda" else "cpu"
    reason <- if (length(gpus)) paste("nvidia-smi found", gpus[1]) else "no NVIDIA GPU was found"
  }
  message("torch: the build for ", build_name(build), " (", reason, ")")
  build
}

build_name <- function(build) c(cpu = "CPUs", cuda = "CUDA")[[build]]

# Returns version and build of a Python's torch, without importing it; NULL if it has none.
torch_in <- function(python) {
  code <- paste(
    "import importlib.util, os, runpy",
    "spec = importlib.util.find_spec('torch')",
    "facts = runpy.run_path(os.path.join(os.path.dirname(spec.origin), 'version.py'))",
    "print(facts['__version__'], 'cuda' if facts.get('cuda') or facts.get('hip') else 'cpu')",
    sep = "; "
  )
  found <- tryCatch(
    suppressWarnings(system2(python, c("-c", shQuote(code)), stdout = TRUE, stderr = FALSE)),
    error = function(e) character() # no such program
  )
  if (length(found) != 1 || !is.null(attr(found, "status"))) {
    return(NULL)
  }
  words <- strsplit(found, " ", fixed = TRUE)[[1]]
  list(version = words[1], build = words[2])
}

# Installs torch separately and before the rest, which then finds it. pip takes the highest version
# of all indexes, so the index of CPU builds must be the only one.
install_torch <- function(envname, python, build, pip_options) {
  found <- torch_in(python)
  if (!is.null(found) && found$build != build) {
    message(
      "torch ", found$version, " is the build for ", build_name(found$build), " and is replaced"
    )
    system2(python, c("-m", "pip", "uninstall", "--yes", "torch"))
  }
  wanted <- grep("^torch>", python_requirements, value = TRUE)
  options_of_torch <- with_torch_index(pip_options, build)
  if (!identical(options_of_torch, pip_options)) {
    withr::local_envvar(PIP_EXTRA_INDEX_URL = NA)
  }
  reticulate::virtualenv_install(envname, wanted, pip_options = options_of_torch)
}

# Checks that the announced build is installed; otherwise the error says how to fix it.
check_torch <- function(found, build, pip_options) {
  if (is.null(found)) {
    stop_scvibridge("torch was not installed: see the output of pip above")
  }
  if (found$build == build) {
    return(invisible())
  }
  stop_scvibridge(
    "torch ", found$version, " was installed, the build for ", build_name(found$build),
    ", instead of the one for ", build_name(build), ". ",
    if (names_index(pip_options)) {
      "The index in pip_options does not have that build: omit it, or pass one that does"
    } else {
      paste0(
        "Pass the index of that build (see https://pytorch.org/get-started/locally): ",
        "install_scvibridge(torch = \"", build, "\", pip_options = \"--index-url=...\")"
      )
    }
  )
}

# What fails here is compiled, and reported, by the first call that needs it.
compile_kernels <- function(python) {
  message("Compiling for this machine, which may take half a minute")
  code <- paste0(
    "import sys; sys.path.insert(0, r'", python_code(), "'); ",
    "from scvibridge.likelihood.warm_up import compile_kernels; compile_kernels()"
  )
  status <- system2(python, c("-c", shQuote(code)), stdout = FALSE, stderr = FALSE)
  if (status != 0) {
    message("That did not work; the first calls will compile what they need")
  }
}

# Returns the names of the GPUs that NVIDIA's driver reports; empty without the driver.
nvidia_gpus <- function() {
  if (!nzchar(Sys.which("nvidia-smi"))) {
    return(character())
  }
  listed <- tryCatch(
    suppressWarnings(system2("nvidia-smi", "-L", stdout = TRUE, stderr = FALSE)),
    error = function(e) character()
  )
  sub("^GPU [0-9]+: (.*?)( \\(UUID.*)?$", "\\1", grep("^GPU [0-9]+: ", listed, value = TRUE))
}

# macOS has only one build.
with_torch_index <- function(pip_options, build, system = Sys.info()[["sysname"]]) {
  if (build != "cpu" || names_index(pip_options) || system == "Darwin") {
    return(pip_options)
  }
  c(paste0("--index-url=", cpu_index), pip_options)
}

names_index <- function(pip_options) {
  any(grepl("^(-i($|[^a-z])|--((extra-)?index-url|no-index|find-links))", pip_options))
}
