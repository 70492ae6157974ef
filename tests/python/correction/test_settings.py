"""Each setting of corrected counts arrives wherever it has to be known by name."""

from __future__ import annotations

import inspect
import re
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path

import pytest

import scvibridge as sb
from scvibridge.cli import correct, main
from scvibridge.correction import corrected_counts as engine
from scvibridge.correction.findings import NOTHING
from scvibridge.correction.provenance import Findings, describe
from scvibridge.correction.records import CheckResults
from scvibridge.correction.reference import choose_reference
from scvibridge.correction.request import check_request
from scvibridge.correction.settings import CorrectionSettings
from scvibridge.expression.records import Running
from scvibridge.models.adapters import adapter_for

NAMES = [some.name for some in fields(CorrectionSettings)]
PARAMETERS = list(inspect.signature(sb.corrected_counts).parameters)
R_CODE = Path(__file__).parents[3] / "R"


@pytest.fixture(scope="module")
def request_of(trained_model):
    running = Running(batch_size=None, device="cpu", progress=False)
    settings = CorrectionSettings.of(method="sample")
    made = check_request(adapter_for(trained_model), settings, running, transform_batch="V3")
    return made, choose_reference(made)


def described(request, reference):
    return describe(request, reference, Findings(CheckResults(), NOTHING, NOTHING), NOTHING)


@pytest.mark.parametrize("name", NAMES)
def test_runs_that_differ_in_a_setting_are_different_runs(request_of, name):
    request, reference = request_of
    changed = replace(request, settings=replace(request.settings, **{name: "another"}))
    first, second = (engine._fingerprint(some, reference) for some in (request, changed))
    assert {key for key in first if first[key] != second[key]} == {name}


@pytest.mark.parametrize("name", sorted({*NAMES} - {"normalized", "shrinkage", "residual"}))
def test_the_provenance_shows_each_setting(request_of, name):
    request, reference = request_of
    changed = replace(request, settings=replace(request.settings, **{name: "another"}))
    assert described(changed, reference)[name] == "another"


def test_a_further_field_arrives_without_further_code(request_of):
    request, reference = request_of
    wider = make_dataclass(
        "Wider", [("fresh", int, field(default=3))], bases=(CorrectionSettings,), frozen=True
    )
    changed = replace(request, settings=wider(**vars(request.settings)))
    assert engine._fingerprint(changed, reference)["fresh"] == 3
    assert described(changed, reference)["fresh"] == 3


def test_settings_are_arguments_with_the_same_defaults():
    given = inspect.signature(sb.corrected_counts).parameters
    resolved = inspect.signature(CorrectionSettings.of).parameters
    assert set(resolved) == set(NAMES)
    for name, parameter in resolved.items():
        assert parameter.default == given[name].default, name


# `client` is an object of Python, and `indices` an option of Python and R alone.
@pytest.mark.parametrize("name", sorted({*PARAMETERS} - {"model", "indices", "client", "progress"}))
def test_the_command_line_passes_each_argument(name):
    options = main.parser().parse_args(["correct", "folder", "--out", "a.h5ad"])
    assert name in correct.arguments_of(options)


@pytest.mark.parametrize("name", sorted({*PARAMETERS} - {"model", "client"}))
def test_r_has_each_argument(name):
    code = (R_CODE / "corrected_counts.R").read_text(encoding="utf-8")
    formals = re.search(r"corrected_counts\.scvi_model <- function\((.*?)\) \{", code, re.DOTALL)
    assert re.search(rf"\b{name} =", formals[1])


@pytest.mark.parametrize("name", sorted({*PARAMETERS} - {"model", "client", "adata", "indices"}))
def test_r_converts_each_argument(name):
    code = (R_CODE / "python_arguments.R").read_text(encoding="utf-8")
    converters = re.search(r"python_converters <- list\((.*?)\n\)", code, re.DOTALL)
    assert re.search(rf"^  {name} = as_", converters[1], re.MULTILINE)
