"""Requests for corrected counts as the engine takes them."""

from __future__ import annotations

from scvibridge.correction.request import check_request
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.expression.records import Running
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}


def make_request(model, **arguments):
    settings = CorrectionSettings.of(**{"shrinkage": 0, **arguments})
    running = Running(batch_size=None, device="cpu", progress=False)
    return check_request(adapter_for(model), settings, running, transform_batch="V3")
