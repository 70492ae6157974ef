# Records of how results were computed, in the metadata of an experiment. Python also runs this file
# through rpy2.

# Record of an experiment, as one call stores it or by quantity. cbind() keeps those of all objects
# that it joins: a quantity whose records differ has them all, as `several`.
record_of <- function(object) {
  records <- entries_of_metadata(object, "scvibridge")
  if (length(records) > 1) {
    return(joined_records(lapply(records, by_quantity)))
  }
  if (length(records)) records[[1]]
}

joined_records <- function(records) {
  quantities <- unique(unlist(lapply(records, names)))
  joined <- lapply(quantities, function(quantity) {
    found <- unique(lapply(records, `[[`, quantity))
    if (length(found) == 1) found[[1]] else list(several = found)
  })
  stats::setNames(joined, quantities)
}

is_several <- function(record) "several" %in% names(record)

# Rejects an object with results that differ in their settings or cells, before it is handed on.
check_one_record <- function(object) {
  if (any(vapply(c(own_results(object), results_beside(object)), is_several, logical(1)))) {
    stop_joined()
  }
}

stop_joined <- function() {
  stop_scvibridge(
    "the object was joined from results that had other settings or cells, and has the record of ",
    "each: compute the result of all cells in one call, or use each result by itself. If one ",
    "record is right for all cells, keep only that: metadata(joined) <- metadata(first)"
  )
}

entries_of_metadata <- function(object, name) {
  entries <- S4Vectors::metadata(object)
  unique(unname(entries[names(entries) %in% name]))
}

# Sets an entry of the metadata, also in place of several of the same name.
with_entry <- function(object, name, value) {
  entries <- S4Vectors::metadata(object)
  if (is.null(value) && !name %in% names(entries)) {
    return(object)
  }
  first <- match(name, names(entries))
  entries <- entries[setdiff(seq_along(entries), setdiff(which(names(entries) == name), first))]
  entries[[name]] <- value
  S4Vectors::metadata(object) <- entries
  object
}

# corrected_counts(normalized = TRUE) stores one record for both matrices. Returns one for each.
with_record_of_normalized <- function(held, present) {
  if ("normalized" %in% present && is.null(held$normalized) && stored_normalized(held$corrected)) {
    held$normalized <- held$corrected
  }
  held
}

# Whether the call with this record stored normalized expression. Former versions did not record it.
stored_normalized <- function(record) {
  if (is_several(record)) {
    return(any(vapply(record$several, stored_normalized, logical(1))))
  }
  !isFALSE(as.vector(record[["normalized"]]))
}

# Converts provenance, as one call stores it or by quantity, to provenance by quantity.
by_quantity <- function(provenance) {
  kind <- provenance[["kind"]]
  if (!is.character(kind)) {
    return(provenance)
  }
  quantity <- c(
    corrected_counts = "corrected", normalized_expression = "normalized",
    denoised_expression = "denoised", latent = "latent"
  )[[kind]]
  others <- provenance$others
  provenance$others <- NULL
  c(stats::setNames(list(provenance), quantity), others)
}
