"""Requests for corrected counts as the engine takes them."""

from __future__ import annotations

from scvibridge.correction.request import check_request
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}


def make_request(model, **arguments):
    defaults = {
        "adata": None,
        "transform_batch": "V3",
        "method": "quantile",
        "effect": None,
        "labels_key": None,
        "condition_key": None,
        "library_size": None,
        "shrinkage": 0,
        "zero_inflation": True,
        "normalized": False,
        "gene_list": None,
        "indices": None,
        "seed": 0,
        "batch_size": None,
        "device": "cpu",
        "out": None,
        "progress": False,
    }
    return check_request(adapter_for(model), **{**defaults, **arguments})
