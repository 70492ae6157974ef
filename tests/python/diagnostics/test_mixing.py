"""A model that has not mixed the batches is told from a target that lacks cells, everywhere."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.correction.support import tables
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report import evidence
from scvibridge.diagnostics.report.findings import _of_genes
from scvibridge.diagnostics.report.reading import open_result
from scvibridge.diagnostics.report.support import Support, support_of

QUIET = {"progress": False}
GIVEN = {"transform_batch": "V2", "labels_key": "cell_type", **QUIET}
UNMIXED = "The model has not mixed 'V1' with the target"


def judged(
    share_unsupported,
    n_target=(200, 200),
    *,
    labels=True,
    can_tell=True,
    n_cells=100,
    names=("a", "b"),
):
    """`n_cells` of each of labels "a" and "b" in V1, of which some shares are unsupported."""
    supported = np.concatenate(
        [np.arange(n_cells) >= round(share * n_cells) for share in share_unsupported]
    )
    n = len(supported)
    return tables.Judged(
        batch=np.zeros(n, dtype=int),
        in_target=np.zeros(n, dtype=bool),
        label=np.repeat([0, 1], n_cells) if labels else None,
        share=np.ones(n),
        supported=supported,
        can_tell=can_tell,
        batch_names=["V1", "V2"],
        label_names=list(names) if labels else [],
        n_target=np.array(n_target if labels else [sum(n_target)]),
    )


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share_unsupported", "n_target", "apart"),
    [
        ((0.8, 0.4), (200, 200), {"V1": 0.6}),
        ((0.5, 0.4), (200, 200), {}),
        ((0.8, 0.4), (200, 0), {"V1": 0.8}),  # the absent label has no say
        ((0.2, 1.0), (200, 0), {}),
        ((1.0, 1.0), (0, 0), {}),
        ((1.0, 1.0), (19, 19), {}),  # too few in the target to tell
    ],
)
def test_only_labels_that_the_target_has_count(share_unsupported, n_target, apart):
    found = judged(share_unsupported, n_target)
    assert tables.batches_apart(found.by_label_and_batch) == pytest.approx(apart)
    problem, warning = found.mixing_problem(), found.warning()
    assert (problem is not None) == bool(apart)
    if apart:
        assert f"{min(apart.values()):.0%} of the cells with these labels" in problem
        assert "max_epochs" in problem
        assert "n_epochs_kl_warmup" in problem
        assert problem in warning
        assert "extrapolated" not in warning
    elif warning is not None:
        assert "extrapolated" in warning


@pytest.mark.parametrize("share_unsupported", [(0.8, 0.4), (0.3, 0.3), (0.9, 0.0)])
@pytest.mark.parametrize("names", [("no label", "all cells"), ("all cells", "(no label)")])
def test_labels_may_have_any_name(share_unsupported, names):
    found, expected = judged(share_unsupported, names=names), judged(share_unsupported)
    assert found.mixing_problem() == expected.mixing_problem()
    assert tables.batches_apart(found.by_label_and_batch) == tables.batches_apart(
        expected.by_label_and_batch
    )
    for by_label in (False, True):
        told, wanted = (some.warning(by_label=by_label) for some in (found, expected))
        for name, plain in zip(names, ("a", "b"), strict=True):
            wanted = wanted and wanted.replace(f"'{plain}'", f"'{name}'")
        assert told == wanted


def test_each_source_batch_is_judged_by_itself():
    rows = {
        "label": ["a", "a"],
        "batch": ["V1", "V3"],
        "n_cells": [1000, 50],
        "n_target": [300, 300],
        "unsupported": [0.01, 0.9],
    }
    table = pd.DataFrame(rows)
    assert tables.batches_apart(table) == pytest.approx({"V3": 0.9})
    assert "not mixed 'V3' with the target" in tables.mixing_problem(table, by_label=True)


def test_a_label_that_the_target_lacks_is_never_partly_supported():
    for share in (0.0, 0.3, 0.7):
        table = judged((share, share), (0, 200)).by_label.set_index("label")
        assert table.loc["a", "verdict"] == tables.NO_SUCH_CELLS
        assert table.loc["b", "verdict"] != tables.NO_SUCH_CELLS
    few = judged((0, 0), (0, 60), can_tell=False).by_label.set_index("label")
    assert list(few["verdict"]) == [tables.NO_SUCH_CELLS, tables.TOO_FEW]


def test_without_labels_both_reasons_are_named():
    found = judged((0.8, 0.8), labels=False)
    assert "pass labels_key= to find out" in found.mixing_problem()
    assert "Either the target has no such cells, or the model" in found.warning()
    assert judged((0.4, 0.4), labels=False).mixing_problem() is None
    assert judged((0.9, 0.9), labels=False, can_tell=False).mixing_problem() is None


def test_few_unmixed_cells_are_warned_of():
    """A source of 40 cells is below the threshold of unsupported cells."""
    assert "not mixed 'V1'" in judged((1.0, 1.0), n_cells=20).warning()
    assert judged((1.0, 1.0), (0, 0), n_cells=20).warning() is None


@pytest.mark.parametrize(
    ("share_unsupported", "labels", "is_warned"),
    [
        ((0.2, 0.2), True, False),  # their labels' effects rest on the other cells
        ((0.5, 0.0), True, False),
        ((0.6, 0.0), True, True),
        ((0.2, 0.2), False, True),
    ],
)
def test_a_minority_of_unsupported_cells_uses_the_effect_of_its_label(
    share_unsupported, labels, is_warned
):
    found = judged(share_unsupported, labels=labels, n_cells=200)
    assert "extrapolated" in found.warning()
    assert (found.warning(by_label=True) is not None) == is_warned


def test_small_groups_and_cells_without_label_use_no_effect_of_a_label():
    unsupported = {"unsupported": [0.3, 0.3, 0.3, 0.6], "n_cells": [100, 10, 100, 100]}
    labels = ["a", "b", tables.UNLABELLED, "c"]
    table = pd.DataFrame({"label": labels, **unsupported})
    assert tables._n_extrapolated(table, tables.UNLABELLED) == 3 + 30 + 60
    assert tables._n_extrapolated(table, "(no label)") == 3 + 60  # a label is called so
    assert tables._n_extrapolated(table, None) == 30 + 3 + 30 + 60


# -- a model that was hardly trained ---------------------------------------------------------------


@pytest.fixture(scope="module")
def data(simulate):
    return simulate(n_cells=600, n_genes=60, batches=("V1", "V2"), batch_sd=1.0)


@pytest.fixture(scope="module")
def model(data, train):
    return train(data.copy(), labels_key=None, max_epochs=1, batch_size=128)


@pytest.fixture(scope="module")
def support(model):
    return sb.batch_support(model, **GIVEN)


def test_batch_support_blames_the_model(support, model):
    others = support.cells[support.cells["batch"] == "V1"]
    assert not others["supported"].mean() > 0.2
    assert UNMIXED in support.summary()
    assert support.mixing_problem in support.summary()
    assert set(support.by_label["verdict"]) == {tables.APART}
    alone = sb.batch_support(model, transform_batch="V2", **QUIET)
    assert "Either the target has no such cells" in alone.summary()


@pytest.fixture(scope="module")
def counts(model):
    with pytest.warns(UserWarning, match=f"support: .*{UNMIXED}"):
        return sb.corrected_counts(model, condition_key="condition", **GIVEN)


def test_counts_and_choose_batch_warn(counts, model):
    (note,) = [n for n in counts.uns["scvibridge"]["notes"] if n.startswith("support: ")]
    assert UNMIXED in note
    assert "unsupported='mask'" not in note
    with pytest.warns(UserWarning, match="no batch is a good target.*has not mixed") as warned:
        table = sb.choose_batch(model, labels_key="cell_type", **QUIET)
    first = sb.batch_support(model, transform_batch=table.index[0], labels_key="cell_type", **QUIET)
    (text,) = [str(w.message) for w in warned if "no batch" in str(w.message)]
    assert text.endswith(f"For the first one: {first.mixing_problem}")


def test_a_trained_model_is_not_blamed(data, train):
    mixed = train(
        data.copy(), labels_key=None, max_epochs=80, kl_warmup=10, batch_size=128, lr=1e-2
    )
    found = sb.batch_support(mixed, **GIVEN)
    assert found.mixing_problem is None
    assert "not mixed" not in found.summary()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb.choose_batch(mixed, labels_key="cell_type", **QUIET)


def test_the_report_stops(counts, support, tmp_path):
    opened = open_result(counts)
    for given in (None, support):  # from the provenance, and as given
        verdict = report.judge(report._evidence(opened, given, None, 0, False))
        assert verdict.level == "stop"
        assert verdict.headline.startswith("Do not use these counts as corrected")
        told = " ".join(finding.text for finding in verdict.findings)
        assert "The model has not mixed \N{LEFT DOUBLE QUOTATION MARK}V1" in told
        assert "max_epochs" in told
    page = sb.report(counts, tmp_path / "x.html", **QUIET).read_text()
    assert "Do not use these counts as corrected" in page


def test_command_line(model, data, tmp_path, capsys):
    model.save(str(tmp_path / "m"))
    data.write_h5ad(tmp_path / "data.h5ad")
    command = ["support", str(tmp_path / "m"), "--adata", str(tmp_path / "data.h5ad")]
    assert main.main([*command, "--transform-batch", "V2", "--labels-key", "cell_type"]) == 0
    shown = capsys.readouterr()
    assert UNMIXED in shown.err
    assert tables.APART in shown.out


# -- what is left of the batch effect --------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "level"),
    [(0.94, "stop"), (0.80, "stop"), (0.70, "caution"), (0.30, "good")],
)
def test_little_gone_is_not_corrected(after, level):
    """Before 1.09, as on cell lines by three protocols, of which 20 epochs left .94."""
    spread = evidence.Spread(1.09, after, 0.1, 1000, together=1.09 * after)
    (text,) = _of_genes(spread)
    assert text.level == level
    left = np.sqrt((after**2 - 0.01) / (1.09**2 - 0.01))
    assert f"{left:.1%}".replace("%", "\N{NO-BREAK SPACE}%") in text.text
    assert ("max_epochs" in text.text) == (level == "stop")


def test_errors_that_cancel_count_in_the_root_mean_square():
    """Half of the genes keep the effect, in the other half it is turned round: slope 0."""
    before = np.tile([1.0, -1.0, 1.0, -1.0], 50)
    after = np.tile([0.6, -0.6, -0.6, 0.6], 50)
    spread = evidence.spread(evidence.Folds(before, after, np.zeros(200)))
    assert spread.slope == pytest.approx(0.0)
    assert spread.left == pytest.approx(0.6)


def test_support_without_labels_knows_of_no_unmixed_batch():
    assert Support(np.zeros(3), 0.0).unmixed == {}
    table = judged((0.9, 0.9), labels=False).by_label_and_batch
    found = Support(np.ones(3), 0.9, table, by_label=False)
    assert found.unmixed == {}
    assert not found.has_labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["all cells", "no label"])
def test_support_by_a_single_label_of_any_name(name, model, support):
    adata = model.adata.copy()
    adata.obs["odd"] = name
    given = {**GIVEN, "adata": adata, "labels_key": "odd"}
    found = sb.batch_support(model, **given)
    assert found.mixing_problem == support.mixing_problem
    counts = sb.corrected_counts(model, **given)
    for known in (None, found):
        told = support_of(open_result(counts), known)
        assert told.has_labels
        assert list(told.unmixed) == ["V1"]
