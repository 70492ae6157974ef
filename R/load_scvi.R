#' Load a trained scVI model
#'
#' Reads the folder that scvi-tools' `model.save()` wrote, together with the data that the model
#' was trained on, and keeps both in Python.
#'
#' A saved scvi-tools model is a pickle: scvi-tools' `load()` runs any code in it. `load_scvi()`
#' runs none of it, and rejects a model that contains more than plain data (arrays, tensors,
#' strings, numbers, containers), unless you trust it.
#'
#' @param model_dir Folder with `model.pt`.
#' @param adata The data that the model was trained on: the path of an h5ad file or a zarr folder,
#'   or several (such as one for each sample), whose cells are joined; an AnnData held by
#'   reticulate, or an object that [as_anndata()] accepts; for a model set up by `setup_mudata`, an
#'   h5mu file or a MuData. `NULL` if the data were saved with the model. Genes are aligned by name.
#'   The counts of an object are read from the assay and layer that the model was trained on.
#' @param device `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#' @param trust `TRUE` loads the model with scvi-tools, which runs any code in the file. Use it for
#'   your own models that are rejected otherwise, never for a model from an untrusted source.
#' @param prefix The value passed to scvi-tools' `model.save(prefix=)`: the names of the model's
#'   files begin with it. `NULL` loads the model without a prefix, or the only one in the folder.
#' @param isolate `TRUE` keeps torch out of R's process, where its libraries may conflict with those
#'   of R packages: each function of the model, [corrected_counts()] to [scvi_report()], starts a
#'   separate Python process, which loads the model again, computes the result and exits. The values
#'   are the same. Each call takes longer: by about a second on Linux without a GPU, where a
#'   process that has imported torch stays until R ends, else by the seconds of that import. With
#'   `options(scvibridge.isolate = TRUE)` all calls that need torch are isolated.
#' @return An object of class `scvi_model`: a list with `python` (the scvi-tools model, as
#'   reticulate holds it, or with `isolate` where to load it from), `dir` and `summary`. It is only
#'   valid in the current R session: after [readRDS()] it has to be loaded again.
#' @section Errors:
#'   All errors of this package's functions are conditions of class `scvibridge_error`, and the
#'   message names the argument. A more specific class comes first:
#'   * `python.builtin.ValueError` and the like for errors from Python, with the message adapted to
#'     R; the fields `python_message` and `traceback` have Python's originals;
#'   * `scvibridge_missing_package` if a required package is not installed;
#'   * `scvibridge_wrapped_error` for errors of R or another package, such as Seurat; the field
#'     `parent` is the original condition.
#'
#'   `load_scvi()` raises an error if the folder has no model, its file may run code, the data are
#'   not found or do not match, or the class of the model is not supported.
#' @examplesIf scvibridge::scvibridge_available()
#' files <- example_scvi()
#' model <- load_scvi(files$model, adata = files$adata)
#' model
#' @export
load_scvi <- function(model_dir, adata = NULL, device = "auto", trust = FALSE, prefix = NULL,
                      isolate = getOption("scvibridge.isolate", FALSE)) {
  arguments <- arguments_of_call("load_scvi(\"model_dir\", adata = \"data.h5ad\")")
  arguments$isolate <- NULL
  with_scvibridge_errors({
    isolate <- as_flag(isolate, "isolate")
    about <- function() {
      saved <- arguments[c("model_dir", "trust", "prefix")]
      call_with("describe_saved", saved, isolate = isolate)
    }
    model <- call_with("load", arguments, adata = python_adata(adata, about), isolate = isolate)
    new_scvi_model(model, as_python_path(model_dir, "model_dir"))
  })
}

new_scvi_model <- function(model, dir) {
  structure(
    list(python = model, dir = dir, summary = described_model(model)),
    class = "scvi_model"
  )
}

# Loading or training has already raised the warnings about the model's data.
described_model <- function(model) {
  suppressWarnings(call_python("describe_model", list(model = model)))
}

#' @exportS3Method print scvi_model
print.scvi_model <- function(x, ...) {
  about <- x$summary
  batches <- length(about$batches)
  cat(printable(paste0(
    "<scvi_model> ", about$model_class, ", gene_likelihood \"", about$gene_likelihood,
    "\", dispersion \"", about$dispersion, "\"\n",
    "  trained on: ", about$n_cells, " cells, ", about$n_genes - about$n_added, " genes",
    if (about$n_added > 0) paste0("; ", about$n_added, " added"), "\n",
    "  batches", if (!is.null(about$batch_key)) paste0(" (", about$batch_key, ")"), ": ",
    paste(utils::head(about$batches, 10), collapse = ", "),
    if (batches > 10) paste0(" and ", batches - 10, " more"), "\n",
    if (!is.null(about$training)) training_line(about$training),
    "  folder: ", x$dir, "\n",
    if (!is_alive(x)) {
      if (is_saved(x)) {
        "  not loaded in this R session: load it again with load_scvi()\n"
      } else {
        "  not in this R session, and not saved\n"
      }
    }
  )))
  invisible(x)
}

training_line <- function(training) {
  losses <- c(training = training$training_loss, "held-out cells" = training$validation_loss)
  text <- paste0(names(losses), " ", format(losses, digits = 5), collapse = ", ")
  paste0(
    "  trained for ", training$n_epochs, " epochs",
    if (length(losses)) paste0("; last loss: ", text), "\n"
  )
}

# A model that was trained in this session may exist only in memory.
is_saved <- function(model) {
  !identical(model$dir, "none")
}

is_alive <- function(model) {
  !reticulate::py_is_null_xptr(model$python)
}

# Returns the scvi-tools model of an scvi_model; a pointer to Python does not survive saveRDS().
python_model <- function(model) {
  if (!is_alive(model) && !is_saved(model)) {
    stop_scvibridge(
      "this model was trained in another R session, is no longer in Python, and was not saved: ",
      "train it again, train_scvi(..., save = \"FOLDER\")"
    )
  }
  if (!is_alive(model)) {
    stop_scvibridge(
      "this model was loaded in another R session and is no longer in Python: load it again, ",
      "load_scvi(", encodeString(model$dir, quote = "\""), ", adata = ...)"
    )
  }
  model$python
}

# Class names of Python's AnnData in reticulate: since anndata 0.13, and before.
anndata_classes <- c("anndata.AnnData", "anndata._core.anndata.AnnData")
mudata_class <- "mudata._core.mudata.MuData"

# Returns a path for Python to read, or what reticulate holds. `about` returns the location of the
# model's counts (see source_for_model()); it is only called for R objects.
python_adata <- function(adata, about = function() NULL, argument = "adata") {
  if (is.character(adata) && is.null(dim(adata))) {
    return(data_paths(adata, argument))
  }
  if (is_anndatar(adata)) {
    data <- plain_data(adata, list(), about()$layer)
    return(anndata_for_model(data$object, about(), data$source))
  }
  if (is.null(adata)) {
    return(NULL)
  }
  if (!is.na(data_kind(adata))) {
    return(anndata_for_model(adata, about()))
  }
  if (!inherits(adata, c(anndata_classes, mudata_class))) {
    stop_scvibridge(
      argument, " must be the path of an h5ad or h5mu file or a zarr folder, an AnnData or MuData ",
      "held by reticulate, or an object that as_anndata() accepts, not an object of class ",
      class(adata)[1]
    )
  }
  adata
}

# Python joins several files, such as one per sample.
data_paths <- function(paths, argument) {
  if (length(paths) > 1) {
    return(lapply(unname(paths), data_path, argument))
  }
  data_path(paths, argument)
}

# Path of data with raw counts. (Results in 10x files are read by as_sce() and read_corrected().)
data_path <- function(path, argument) {
  path <- as_python_path(path, argument)
  if (grepl("[.]h5$", path, ignore.case = TRUE)) {
    stop_scvibridge(
      path, " ends in .h5, as 10x files do: read it with Seurat::Read10X_h5() or ",
      "DropletUtils::read10xCounts(), and pass the resulting matrix or object"
    )
  }
  path
}
