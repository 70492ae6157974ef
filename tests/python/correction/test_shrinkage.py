"""Batch effects are believed as far as held-out cells bear them out."""

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose

import scvibridge as sb
from scvibridge.correction import shrinkage
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report.reading import open_result
from scvibridge.models.adapters import Adapter

QUIET = {"progress": False}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.fixture(scope="module")
def models(simulate, train):
    adata = simulate(n_cells=400, n_genes=80)
    return {
        likelihood: train(adata.copy(), max_epochs=12, seed=4, gene_likelihood=likelihood)
        for likelihood in ("nb", "zinb")
    }


@pytest.fixture(scope="module")
def null_model(simulate, train):
    """A model of one batch that was split at random into two."""
    cells = simulate(n_cells=900, n_genes=80)
    cells = cells[cells.obs["batch"] == "V3"].copy()
    cells.obs["half"] = np.random.default_rng(0).permutation(np.arange(cells.n_obs) % 2).astype(str)
    cells.obs["half"] = cells.obs["half"].astype("category")
    return train(cells, batch_key="half", max_epochs=60, seed=2)


def same_counts(ours, expected):
    counts, comparable = expected
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("effect", ["label", "global"])
@pytest.mark.parametrize("given", ["auto", 25])
def test_shrunk_counts_equal_a_second_implementation(models, likelihood, effect, given):
    model = models[likelihood]
    ours = sb.corrected_counts(
        model,
        transform_batch="V3",
        effect=effect,
        labels_key="cell_type",
        library_size="observed",
        shrinkage=given,
        **QUIET,
    )
    labels = model.adata.obs["cell_type"].cat.codes.to_numpy()
    made = ours.uns["scvibridge"]
    kappas = [25, 25]
    if given == "auto":
        kappas = [made["shrinkage_batch"], made.get("shrinkage_label")]
        expected = oracle.kappas(model, 2, labels, model.validation_indices)
        # Both look on a grid: of steps of .1, and of .05, in powers of ten.
        assert_allclose(np.log10(kappas[0]), np.log10(expected[0]), atol=0.051)
        if effect == "label":
            assert_allclose(np.log10(kappas[1]), np.log10(expected[1]), atol=0.11)
        assert made["shrinkage_from"] == f"{len(model.validation_indices)} held-out cells"
    assert made["shrinkage"] == given
    depth = np.ones(ours.n_obs)
    same_counts(ours, oracle.quantile(model, [2], depth, effect, labels, kappas=kappas))
    decoders = oracle.quantile(model, [2], depth, effect, labels)[0]
    if given != "auto":  # of these models, most is believed
        assert (ours.X.toarray() != decoders).mean() > 0.002


@pytest.mark.parametrize("kappa", [1.0, 30.0, 1000.0])
def test_kappa_is_found_where_it_is_known(kappa):
    rng = np.random.default_rng(3)
    information = 10 ** rng.uniform(0, 4, 20_000)
    true = rng.normal(0, 0.5, 20_000)
    # The noise for which the best share of an effect to believe is P / (P + kappa).
    decoded = true + rng.normal(0, 0.5 * np.sqrt(kappa / information))
    precision = information / 9
    delta = true - decoded + rng.normal(0, 1 / np.sqrt(precision))
    tally = shrinkage.KappaTally()
    tally.add(decoded, delta, precision, information)
    found = tally.kappa()
    assert abs(np.log10(found / kappa)) < 0.2


def test_nothing_is_learnt_from_nothing():
    nothing = np.zeros((3, 4))
    tally = shrinkage.KappaTally()
    tally.add(nothing, nothing, nothing, nothing)
    assert tally.kappa() == pytest.approx(10)


def changed(model, **arguments):
    """Share of the nonzero counts of the other half that change at their own depth."""
    result = sb.corrected_counts(
        model, transform_batch="1", labels_key="cell_type", library_size="observed",
        **arguments, **QUIET,
    )  # fmt: skip
    other = (result.obs["half"] == "0").to_numpy()
    raw, new = (sp.csr_matrix(m)[other].toarray() for m in (result.layers["raw_counts"], result.X))
    return (raw != new)[raw > 0].mean()


def test_little_is_changed_where_batches_do_not_differ(null_model):
    assert changed(null_model) < 0.4 * changed(null_model, shrinkage=0)


def test_that_hardly_anything_is_removed_is_said(null_model, models):
    result = sb.corrected_counts(null_model, transform_batch="1", **QUIET)
    made = result.uns["scvibridge"]
    assert made["shrinkage_kept"] < 0.1
    assert any("hardly any batch effect is removed" in note for note in made["notes"])
    verdict = report.judge(report._evidence(open_result(result), None, None, 0, False))
    assert any("Hardly any batch effect was removed" in found.text for found in verdict.findings)
    other = sb.corrected_counts(models["nb"], transform_batch="V3", **QUIET)
    assert other.uns["scvibridge"]["shrinkage_kept"] > 0.5


def test_what_differs_between_batches_is_still_removed(simulate, train):
    cells = simulate(n_cells=900, n_genes=80)
    model = train(cells, max_epochs=60, seed=1)
    effect = cells.varm["batch_effect"]
    left = {}
    for given in ("auto", 0):
        result = sb.corrected_counts(
            model, transform_batch="V3", labels_key="cell_type", shrinkage=given, **QUIET
        )
        means = [
            np.log(np.asarray(matrix[(result.obs["batch"] == b).to_numpy()].mean(axis=0)).ravel())
            for b in ("V1", "V3")
            for matrix in (result.layers["raw_counts"], result.X)
        ]
        wanted = effect[:, 0] - effect[:, 2]
        before, after = means[0] - means[2], means[1] - means[3]
        left[given] = np.polyfit(wanted, after, 1)[0] / np.polyfit(wanted, before, 1)[0]
    assert abs(left["auto"]) < 0.25
    assert abs(left["auto"] - left[0]) < 0.1


def test_without_held_out_cells_the_default_is_taken(models, monkeypatch):
    monkeypatch.setattr(Adapter, "training_cells", None)
    arguments = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}
    ours = sb.corrected_counts(models["nb"], **arguments)
    made = ours.uns["scvibridge"]
    assert made["shrinkage_from"].startswith("held-out cells unknown")
    assert made["shrinkage_batch"] == made["shrinkage_label"] == 10
    assert (ours.X != sb.corrected_counts(models["nb"], shrinkage=10, **arguments).X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shrinkage": -1}, "0 or more, got -1"),
        ({"shrinkage": float("nan")}, "0 or more, got nan"),
        ({"shrinkage": True}, "shrinkage must be a number.*, got True"),
        ({"shrinkage": "atuo"}, "did you mean 'auto'"),
        ({"shrinkage": 5, "effect": "cell"}, "other effects are not shrunk"),
        ({"shrinkage": "auto", "method": "sample"}, "requires method='quantile'"),
    ],
)
def test_bad_values_are_refused(models, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sb.corrected_counts(models["nb"], transform_batch="V3", **arguments, **QUIET)
