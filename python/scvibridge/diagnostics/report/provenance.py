"""Show what was done: the settings of a result, and how to reproduce it in each language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils.wording import python_literal, r_argument, shell_words
from scvibridge.correction.batch_effects import AUTO
from scvibridge.correction.chosen_cells import BY_CELL
from scvibridge.correction.given_dispersion import OWN
from scvibridge.diagnostics.report.blocks import Cell, Code, Table, as_text, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvibridge.diagnostics.report.reading import Result


_MEANINGS = {
    "batch_is_replicate": "why the batch looks like the replicate",
    "batch_key": "column of obs with the batch",
    "batches": "batches of the model",
    "condition_key": "column with the condition of interest",
    "confounding": "whether batch and condition can be separated",
    "confounding_cramers_v": "association of batch and condition (0: balanced, 1: confounded)",
    "confounding_variance_inflation": "of an effect of the condition, by the batch in the design",
    "corrected_cells": "cells whose batch effect was removed",
    "dispersion": "dispersion of the model",
    "effect": "batch effect that was removed",
    "estimate_on": "columns and values that selected the cells to estimate on",
    "estimate_on_cells": "number of these cells",
    "estimated_on": "cells from which effects and depth were estimated",
    "gene_likelihood": "likelihood of the model",
    "genes_kept": "genes with unchanged counts",
    "kind": "kind of result",
    "labels_key": "column with the cell types",
    "labels_missing_from_target": "labels whose own batch effect is unknown",
    "library_size": "depth of the counts",
    "method": "how counts were computed",
    "model_class": "class of the model",
    "model_digest": "digest of the model's weights",
    "scvi_tools_version": "version of scvi-tools",
    "scvibridge_version": "version of scvibridge",
    "sample_key": "column with the replicate, whose differences were preserved",
    "seed": "seed of the random numbers",
    "residual": "whether to remove batch effects that the decoder misses",
    "residual_from": "samples from which they were estimated",
    "residual_sd_batch": "their standard deviation over genes (log), for batches",
    "residual_sd_label": "the same, for differences between labels and their batch",
    "shrinkage": "number of counts at which a batch effect is shrunk by half",
    "shrinkage_batch": "the same, for effects of batches",
    "shrinkage_from": "what it was estimated from",
    "shrinkage_kept": "share of the decoder's batch effects that was removed",
    "shrinkage_label": "the same, for differences between labels and their batch",
    "theta_added_from": "the same, for added genes",
    "theta_from": "source of the inverse dispersions",
    "transform_batch": "target batch",
    "transform_covariates": "values of other covariates in the target",
    "strata_key": "column of obs with the combinations of values used as batches",
    "targets": "combinations of values that were the target",
    "extension": "how genes were added to the model",
    "proteins": "proteins whose normalized values are in obsm['protein_normalized']",
    "partly_corrected_batches": "batches that keep much of their batch effect",
    "uncorrected_batches": "batches whose effect could not be estimated",
    "unsupported": "what was done with cells without support in the target",
    "unlabeled_category": "value of the labels that is no cell type",
    "zero_inflation": "whether zero inflation is included",
}

# Reported in separate sections.
_ELSEWHERE = ("normalized", "notes", "support_by_label")

_MOST_NAMES = 20

# In the order of the functions' arguments. Values that equal the defaults are left out.
_ARGUMENTS = (
    "method",
    "effect",
    "labels_key",
    "condition_key",
    "sample_key",
    "library_size",
    "unsupported",
    "shrinkage",
    "residual",
)

_DEFAULTS = {
    "method": ("quantile",),
    "unsupported": ("keep",),
    "shrinkage": (AUTO,),
    "residual": ("never",),
}


def provenance_table(result: Result) -> Table:
    """Tabulate all settings, one per row."""
    entries = {name: value for name, value in result.provenance.items() if name not in _ELSEWHERE}
    first = [name for name in ("kind", "transform_batch", *_ARGUMENTS, "seed") if name in entries]
    names = list(dict.fromkeys([*first, *sorted(entries)]))
    rows = [
        [Cell(name, "name"), Cell(_shown(entries[name])), Cell(_MEANINGS.get(name, ""))]
        for name in names
    ]
    return Table("How the result was computed", ["setting", "value", "meaning"], rows)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{as_text(key)}: {_shown(entry)}" for key, entry in value.items())
    if isinstance(value, np.ndarray | list | tuple):
        names = [as_text(name) for name in np.asarray(value, dtype=object).ravel()]
        rest = len(names) - _MOST_NAMES
        return ", ".join(names[:_MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")
    return plain(value, 200) if isinstance(value, str) else as_text(value)


def reproduction(result: Result) -> list[Code]:
    """Return one line in each language that reproduces the result.

    There is no shell command if a name cannot be expressed in command-line options.
    """
    settings = _settings(result)
    lines = [Code("Python", _python(settings)), Code("R", _r(settings))]
    if _fits_options(settings):
        lines.append(Code("Shell", _shell(settings)))
    return lines


def is_reproducible(result: Result) -> bool:
    """Return whether the provenance has all that such a line needs."""
    return not given_apart(result)


def given_apart(result: Result) -> list[str]:
    """Return the arguments whose values are not in the provenance."""
    made = result.provenance
    sources = (made.get(name, OWN) for name in ("theta_from", "theta_added_from"))
    given = []
    if any(str(source) != OWN for source in sources):
        given.append("inverse dispersions (dispersion=)")
    if str(made.get("estimate_on")) == BY_CELL:
        given.append("cells (estimate_on=)")
    return given


def _settings(result: Result) -> dict[str, Any]:
    """Return the arguments of the function with their values, without those left at the default."""
    made = result.provenance
    method = made.get("method", "quantile")
    settings: dict[str, Any] = asked_for(result)
    for name in _ARGUMENTS:
        value = made.get(name)
        if value is not None and value not in _defaults_of(name, method, made):
            settings[name] = value
    if "allowed by the user" in str(made.get("confounding", "")):
        settings["allow_confounded"] = True
    if method == "sample" and made.get("zero_inflation") in (False, np.False_):
        settings["zero_inflation"] = False
    if result.has_normalized:
        settings["normalized"] = True
    chosen = made.get("estimate_on")
    if isinstance(chosen, Mapping):
        settings["estimate_on"] = _lists(chosen)
    if "genes_kept" in made:
        settings["genes_kept"] = [str(name) for name in np.atleast_1d(made["genes_kept"])]
    settings["seed"] = int(made.get("seed", 0))
    return settings


def asked_for(result: Result) -> dict[str, Any]:
    """Return the target as requested: batches, and values of other covariates."""
    made = result.provenance
    changed = made.get("transform_covariates")
    if changed is None:
        return {"transform_batch": result.targets}
    asked: dict[str, Any] = {}
    batches = [str(name) for name in np.atleast_1d(made.get("transform_batch", []))]
    if batches:
        asked["transform_batch"] = batches
    asked["transform_covariates"] = _lists(changed)
    return asked


def _lists(given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return values by name as plain lists."""
    return {
        str(key): [value.item() if isinstance(value, np.generic) else value for value in values]
        for key, values in ((key, np.atleast_1d(values)) for key, values in given.items())
    }


def _defaults_of(name: str, method: str, made: dict[str, Any]) -> tuple[Any, ...]:
    if name == "library_size":
        return ("scaled",) if method == "quantile" else ("median",)
    if name == "effect":
        return ("global",) if made.get("labels_key") is None else ("label",)
    return _DEFAULTS.get(name, ())


def _python(settings: dict[str, Any]) -> str:
    given = _single(settings)
    if "genes_kept" in settings:
        given["genes_kept"] = settings["genes_kept"]  # a list, also of one name
    arguments = ", ".join(f"{name}={python_literal(v)}" for name, v in given.items())
    return (
        f'scvibridge.corrected_counts(scvibridge.load("MODEL_DIR", adata="DATA.h5ad"), {arguments})'
    )


def _r(settings: dict[str, Any]) -> str:
    arguments = ", ".join(r_argument(name, value) for name, value in _single(settings).items())
    return f'corrected_counts(load_scvi("MODEL_DIR", adata = "DATA.h5ad"), {arguments})'


def _single(value: Any) -> Any:
    """Replace lists of one value by the value, also within dictionaries."""
    if isinstance(value, dict):
        return {key: _single(entry) for key, entry in value.items()}
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _shell(settings: dict[str, Any]) -> str:
    words = ["scvibridge", "correct", "MODEL_DIR", "--adata", "DATA.h5ad"]
    for name, value in settings.items():
        words.extend(_options(name, value))
    return shell_words([*words, "--out", "corrected.h5ad"])


def _fits_options(settings: dict[str, Any]) -> bool:
    """Return whether the command line can express these values."""
    covariates = [
        *settings.get("transform_covariates", {}),
        *settings.get("estimate_on", {}),
    ]
    kept = settings.get("genes_kept", [])
    # With several values, one that starts with a dash would be parsed as an option.
    batches = settings.get("transform_batch", [])
    dashed = [
        name.startswith("-") for some in (batches, kept) if len(some) > 1 for name in map(str, some)
    ]
    return not (any(dashed) or any("=" in key or key.startswith("-") for key in covariates))


def _options(name: str, value: Any) -> Sequence[str]:
    if name == "zero_inflation":
        return ["--no-zero-inflation"]
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    if isinstance(value, dict):
        return [option, *(f"{key}={v}" for key, values in value.items() for v in values)]
    values = value if isinstance(value, list) else [value]
    words = [str(v) for v in values]
    if len(words) == 1 and words[0].startswith("-"):
        # It would be parsed as an option.
        return [f"{option}={words[0]}"]
    return [option, *words]
