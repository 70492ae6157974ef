"""Batch effects that the decoder misses are estimated from samples, and removed."""

from __future__ import annotations

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import patsy
import pytest
import scipy.sparse as sp
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy import optimize, special

import scvibridge as sb
from conftest import differing
from scvibridge.cli import main as cli
from scvibridge.correction.batch_effects import GroupEffects, Shift
from scvibridge.correction.residual_effects import SampleSums, add_residuals
from scvibridge.correction.residual_plan import ResidualPlan

KEYS = {"labels_key": "cell_type", "condition_key": "condition", "sample_key": "donor"}
GIVEN = {"transform_batch": "V3", **KEYS, "progress": False}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*times their own depth"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


def corrected(model, *data, **given):
    return sb.corrected_counts(model, *data, **{"residual": "auto", **given})


def with_donors(data, conditions="cscs"):
    """Give each batch a donor for each letter, all cells of which have one condition."""
    place = data.obs.groupby("batch", observed=True).cumcount().to_numpy() % len(conditions)
    batch = data.obs["batch"].astype(str).to_numpy()
    data.obs["donor"] = pd.Categorical([f"{b}-{n}" for b, n in zip(batch, place, strict=True)])
    letters = np.array(list(conditions))[place]
    data.obs["condition"] = pd.Categorical(np.where(letters == "s", "stim", "ctrl"))
    return data


@pytest.fixture(scope="module")
def data(simulate):
    return with_donors(simulate(n_cells=720, n_genes=40))


@pytest.fixture(scope="module")
def models(data, train):
    """Models that have learnt little of the batches."""
    return {
        likelihood: train(data.copy(), max_epochs=2, gene_likelihood=likelihood)
        for likelihood in ("nb", "zinb")
    }


# -- against a second implementation ---------------------------------------------------------------


def moderated(variances, df, abundance):
    """limma's moderated variances, with patsy's natural splines and scipy's root finding."""
    knots = np.quantile(abundance, [1 / 3, 2 / 3])
    spline = "cr(x, knots=knots, lower_bound=low, upper_bound=high) - 1"
    names = {"x": abundance, "knots": knots, "low": abundance.min(), "high": abundance.max()}
    basis = np.asarray(patsy.dmatrix(spline, names))
    logs = np.log(variances) - special.digamma(df / 2) + np.log(df / 2)
    fit = sm.OLS(logs, basis).fit()
    spread = fit.mse_resid - special.polygamma(1, df / 2)
    if spread <= 0:
        return np.exp(fit.fittedvalues)
    prior_df = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - spread, 1e-3, 1e6)
    prior = np.exp(fit.fittedvalues + special.digamma(prior_df / 2) - np.log(prior_df / 2))
    return (prior_df * prior + df * variances) / (prior_df + df)


def removed(values, table, source, targets, counts, abundance):
    """What is removed of the batch `source`, from the values of samples (rows of a table)."""
    batches = sorted(set(table["batch"]))
    columns = [table["batch"] == b for b in batches] + [table["condition"] == "stim"]
    design = np.stack(columns, axis=1).astype(float)
    goal = [b in targets for b in batches]
    wanted = np.array([g / sum(goal) - (b == source) for g, b in zip(goal, batches, strict=True)])
    own, there = (
        counts[table["batch"].isin(side).to_numpy()].sum(axis=0) for side in ([source], targets)
    )
    usable = np.flatnonzero((own >= 10) & (there >= 10))
    fits = [sm.OLS(values[:, gene], design).fit() for gene in usable]
    tests = [fit.t_test([*wanted, 0.0]) for fit in fits]
    estimate = np.array([test.effect.item() for test in tests])
    mse = np.array([fit.mse_resid for fit in fits])
    scale = np.array([test.sd.item() for test in tests]) ** 2 / mse
    error = np.sqrt(scale * moderated(mse, fits[0].df_resid, abundance[usable]))
    estimate = estimate - np.average(estimate, weights=error**-2)
    grid = np.concatenate([[0], 10.0 ** np.linspace(-3, 1, 161)])
    likelihood = [
        -np.sum(np.log(sd**2 + error**2) + estimate**2 / (sd**2 + error**2)) for sd in grid
    ]
    sd = grid[np.argmax(likelihood)]
    result = np.zeros(values.shape[1])
    result[usable] = estimate * (1 - error / np.sqrt(sd**2 + error**2))
    return result


def residual_of(obs, effect, targets):
    """Return a function that computes the residual effect of each cell: see `oracle.quantile`."""

    def compute(counts, source, shift):
        ratio = np.exp(shift["scale"])
        before = source["mean"].copy()
        after = before * ratio
        if source["logits"] is not None:
            before *= special.expit(-source["logits"])
            after *= special.expit(-source["logits"] - shift["logits"])
        tables, log_means, sums = {}, {}, {}
        for label in sorted(set(obs["cell_type"])):
            cells = (obs["cell_type"] == label).to_numpy()
            groups = obs[cells].groupby("donor", observed=True).indices
            place = [np.flatnonzero(cells)[rows] for rows in groups.values()]
            tables[label] = obs.iloc[[rows[0] for rows in place]].set_index("donor")
            sums[label] = np.stack([counts[rows].sum(axis=0) for rows in place])
            changed = sums[label] * np.stack([after[r].sum(0) / before[r].sum(0) for r in place])
            total = changed.sum(axis=1, keepdims=True)
            prior = 0.5 * total / total.mean()
            log_means[label] = np.log((changed + prior) / (total + 2 * prior))
        donors = sorted(set(obs["donor"]))
        table = obs.drop_duplicates("donor").set_index("donor").loc[donors]
        average = np.zeros((len(donors), counts.shape[1]))
        weights = np.zeros_like(average)
        for label, values in log_means.items():
            mean = sums[label].mean(axis=0)
            for donor, row in zip(tables[label].index, values - values.mean(axis=0), strict=True):
                average[donors.index(donor)] += mean / (1 + 0.02 * mean) * row
                weights[donors.index(donor)] += mean / (1 + 0.02 * mean)
        average /= weights
        everything = np.stack(
            [sum(sums[c][tables[c].index == d].sum(axis=0) for c in sums) for d in donors]
        )
        abundance = np.log(everything.sum(axis=0) + 0.5)
        result = np.zeros(counts.shape)
        for batch in set(obs["batch"]) - (set(targets) if len(targets) == 1 else set()):
            of_batch = removed(average, table, batch, targets, everything, abundance)
            result[obs["batch"] == batch] = of_batch
            for label, values in log_means.items() if effect == "label" else ():
                place = [donors.index(donor) for donor in tables[label].index]
                of_label = removed(
                    values - average[place],
                    tables[label],
                    batch,
                    targets,
                    sums[label],
                    values.mean(axis=0),
                )
                result[(obs["batch"] == batch) & (obs["cell_type"] == label)] += of_label
        return result

    return compute


@pytest.mark.parametrize(
    ("likelihood", "effect", "targets"),
    [
        ("nb", "label", ["V3"]),
        ("zinb", "label", ["V3"]),
        ("nb", "global", ["V3"]),
        ("nb", "label", ["V2", "V3"]),
    ],
)
def test_counts_equal_a_second_implementation(models, likelihood, effect, targets):
    model = models[likelihood]
    obs = model.adata.obs
    ours = corrected(
        model,
        **{**GIVEN, "transform_batch": targets},
        effect=effect,
        library_size="observed",
        shrinkage=0,
    )
    samples = list(zip(*(obs[c] for c in ("batch", "cell_type", "donor")), strict=True))
    labels = obs["cell_type"].cat.codes.to_numpy()
    codes = [list(obs["batch"].cat.categories).index(b) for b in targets]
    counts, comparable = oracle.quantile(
        model,
        codes,
        np.ones(len(obs)),
        effect,
        labels,
        samples=samples,
        residual=residual_of(obs, effect, targets),
        condition=obs["condition"].to_numpy(),
    )
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != counts)[comparable].mean() < 2e-4
    plain = corrected(
        model,
        **{**GIVEN, "transform_batch": targets},
        effect=effect,
        library_size="observed",
        shrinkage=0,
        residual="never",
    )
    assert (plain.X != ours.X).nnz > 0.05 * plain.X.nnz


# -- what is estimated -----------------------------------------------------------------------------


def estimated(sd, label_sd, seed=0, n_donors=6, n_genes=2000):
    """Residual effects of a batch and two labels in it, with those that are true and the spreads.

    Log frequencies of donors differ by .15 (and .08 in a label); counts are as of 200 cells.
    """
    rng = np.random.default_rng(seed)
    batch = np.repeat([0, 1], 2 * n_donors)
    donor = np.repeat(np.arange(2 * n_donors), 2)
    label = np.tile([0, 1], 2 * n_donors)
    keys = np.stack([batch, label, donor % 2, donor])
    true = rng.normal(0, sd, n_genes) + rng.normal(0, label_sd, (2, n_genes))
    own = rng.normal(0, 0.15, (2 * n_donors, n_genes))
    rate = rng.normal(0, 1.3, n_genes) + own[donor]
    rate = rate + rng.normal(0, 0.08, rate.shape) - (batch == 0)[:, None] * true[label]
    mean = 2e5 * np.exp(rate) / np.exp(rate).sum(axis=1, keepdims=True)
    counts = rng.poisson(mean).astype(float)
    label_rows = np.array([[2, 3], [4, 5]])
    groups = GroupEffects(Shift(np.zeros((6, n_genes))), label_rows)
    plan = ResidualPlan.of(keys, [1], has_labels=True, by_label=True, most_correlated=0.3)
    low = np.zeros((2, n_genes), dtype=bool)
    groups = add_residuals(groups, plan, SampleSums(counts, counts), low)
    table = groups.shift.log_ratio
    assert (table[[1, 4, 5]] == 0).all()  # of the target
    return table[[2, 3]], true - true.mean(axis=1, keepdims=True), groups.residual_sd


def test_known_effects_are_removed_but_for_what_chance_explains():
    found, true, sds = estimated(0.5, 0.2)
    assert_allclose(sds[0], 0.5, rtol=0.15)
    assert_allclose(sds[1], 0.2 / np.sqrt(2), rtol=0.25)  # of two labels, from their mean
    error = np.std(true - found)
    assert 0.15 * np.sqrt(2 / 6) < error < 0.4 * np.std(true)
    assert np.corrcoef(true.ravel(), found.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hardly_anything_is_removed_where_batches_differ_by_chance(seed):
    found, _, sds = estimated(0.0, 0.0, seed=seed)
    assert (sds < 0.03).all()
    assert np.std(found) < 0.01


def test_the_effect_that_a_short_training_misses_is_removed(simulate, train):
    data = with_donors(simulate(n_cells=900, n_genes=80))
    model = train(data, max_epochs=2)
    wanted = data.varm["batch_effect"][:, 0] - data.varm["batch_effect"][:, 2]
    left = {}
    for residual in ("auto", "never"):
        result = corrected(model, **GIVEN, residual=residual)
        difference = []
        for matrix in (result.layers["raw_counts"], result.X):
            of_batches = [
                np.asarray(matrix[(result.obs["batch"] == batch).to_numpy()].mean(axis=0)).ravel()
                for batch in ("V1", "V3")
            ]
            difference.append(np.log(of_batches[0]) - np.log(of_batches[1]))
        before, after = (np.polyfit(wanted, part, 1)[0] for part in difference)
        left[residual] = after / before
    assert left["never"] > 0.5
    assert abs(left["auto"]) < 0.2


# -- the same counts everywhere --------------------------------------------------------------------


def test_subsets_and_streams_have_the_same_counts(models, tmp_path):
    model = models["nb"]
    whole = corrected(model, **GIVEN)
    some = corrected(model, **GIVEN, indices=np.arange(50, 300), batch_size=37)
    assert differing(whole[some.obs_names].X, some.X) < 1e-5
    other = corrected(model, model.adata[::-3].copy(), **GIVEN)
    assert differing(whole[other.obs_names].X, other.X) < 1e-5
    path = tmp_path / "out.h5ad"
    streamed = corrected(model, **GIVEN, out=path, batch_size=100).to_memory()
    assert differing(whole.X, streamed.X) < 1e-5
    made = streamed.uns["scvibridge"]
    assert made["residual"] == "auto"
    assert made["residual_from"] == "12 samples"
    for level in ("batch", "label"):
        assert_allclose(
            made[f"residual_sd_{level}"], whole.uns["scvibridge"][f"residual_sd_{level}"]
        )


def test_the_command_line_estimates_them_as_well(models, tmp_path):
    model = models["nb"]
    model.save(str(tmp_path / "model"), save_anndata=True)
    keys = [word for key, value in KEYS.items() for word in (f"--{key.replace('_', '-')}", value)]
    out = tmp_path / "out.h5ad"
    words = ["correct", str(tmp_path / "model"), "--transform-batch", "V3", *keys]
    assert cli.main([*words, "--residual", "always", "--quiet", "--out", str(out)]) == 0
    written = ad.read_h5ad(out)
    assert written.uns["scvibridge"]["residual"] == "always"
    assert differing(written.X, corrected(model, **GIVEN, residual="always").X) < 1e-5


def test_added_genes_leave_the_counts_of_the_models_genes(data, models):
    model = models["nb"]
    more = sp.hstack([data.X, data.X[:, :5]]).tocsr()
    names = [*data.var_names, *(f"added_{i}" for i in range(5))]
    full = ad.AnnData(more, obs=data.obs, var=pd.DataFrame(index=names))
    extended = sb.extend_genes(model, full, max_epochs=2, progress=False)
    both = corrected(extended, **GIVEN)
    assert both.uns["scvibridge"]["residual_from"] == "12 samples"
    assert differing(both[:, data.var_names].X, corrected(model, **GIVEN).X) < 1e-5
    added = names[-5:]
    plain = corrected(extended, **GIVEN, residual="never")
    assert (both[:, added].X != plain[:, added].X).nnz > 0


def test_a_result_is_not_taken_up_with_another_setting(models, tmp_path):
    path = tmp_path / "out.h5ad"
    corrected(models["nb"], **GIVEN, out=path)
    written = path.stat().st_mtime_ns
    corrected(models["nb"], **GIVEN, residual="auto", out=path, resume=True)
    assert path.stat().st_mtime_ns == written
    with pytest.raises(FileExistsError):
        corrected(models["nb"], **GIVEN, residual="never", out=path, resume=True)


# -- where nothing is estimated --------------------------------------------------------------------


def unchanged(model, **given):
    """Whether "auto" gives the counts of "never"; and its provenance."""
    auto = corrected(model, **given)
    plain = corrected(model, **given, residual="never")
    assert "residual" not in plain.uns["scvibridge"]
    assert (auto.X != plain.X).nnz == 0
    return auto.uns["scvibridge"]


def test_without_conditions_nothing_is_estimated(models):
    given = {**GIVEN, "condition_key": None}
    made = unchanged(models["nb"], **given)
    assert made["residual_from"].startswith("not estimated: without condition_key=")
    assert any("without condition_key=" in note for note in made["notes"])
    forced = corrected(models["nb"], **given, residual="always")
    assert forced.uns["scvibridge"]["residual_from"] == "12 samples"


@pytest.mark.filterwarnings("ignore:.*conditions are unbalanced across")
def test_unbalanced_conditions_are_left_alone(models):
    model = models["nb"]
    obs = model.adata.obs
    kept = obs["condition"].copy()
    swapped = obs["donor"].isin(["V1-0", "V3-1", "V2-0"])
    obs["uneven"] = pd.Categorical(np.where(swapped ^ (kept == "stim"), "stim", "ctrl"))
    given = {**GIVEN, "condition_key": "uneven"}
    made = unchanged(model, **given)
    assert made["confounding"] == "unbalanced"
    assert "batch and condition are not balanced (unbalanced)" in made["residual_from"]
    forced = corrected(model, **given, residual="always")
    assert (forced.X != corrected(model, **given, residual="never").X).nnz > 0


@pytest.mark.filterwarnings("ignore:.*have no condition")
def test_missing_conditions_are_not_called_unbalanced(models):
    model = models["nb"]
    some = model.adata.obs["condition"].copy()
    some[np.arange(len(some)) % 10 == 0] = np.nan
    model.adata.obs["partly"] = some
    made = unchanged(model, **{**GIVEN, "condition_key": "partly"})
    assert made["confounding"] == "partly checked"
    assert "not balanced" not in made["residual_from"]
    assert "many cells, or all of a batch, have no condition" in made["residual_from"]


def test_too_few_samples(models):
    model = models["nb"]
    model.adata.obs["lane"] = model.adata.obs["batch"].astype(str)
    given = {**GIVEN, "sample_key": "lane"}
    with pytest.warns(UserWarning, match="each batch has a single sample"):
        made = unchanged(model, **given)
    assert "2 samples (sample_key='lane') of at least 10 cells" in made["residual_from"]
    with (
        pytest.warns(UserWarning, match="each batch has a single sample"),
        pytest.raises(ValueError, match=r"residual='always': .*2 samples .sample_key='lane'"),
    ):
        corrected(model, **given, residual="always")


def test_batches_of_too_few_samples_are_named(models):
    model = models["nb"]
    obs = model.adata.obs
    obs["pooled"] = np.where(obs["batch"] == "V2", "pool", obs["donor"].astype(str))
    made = corrected(model, **{**GIVEN, "sample_key": "pooled"}).uns["scvibridge"]
    assert any("residual batch effects are not estimated for 'V2'" in n for n in made["notes"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"residual": "atuo"}, "did you mean 'auto'"),
        ({"residual": 3}, "residual must be"),
        ({"residual": True}, "residual must be a single string"),
        ({"residual": "always", "sample_key": None}, "sample_key="),
        ({"residual": "always", "effect": "cell"}, "effect='label', 'global' or 'local'"),
        ({"residual": "always", "method": "sample"}, "method='quantile'"),
    ],
)
def test_bad_values_are_refused(models, given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        corrected(models["nb"], **{**GIVEN, **given})


def test_a_plan_of_nothing_has_no_effects():
    keys = np.array([[0, 1], [-1, -1], [0, 0], [0, 1]])
    plan = ResidualPlan.of(keys, [1], has_labels=True, by_label=True, most_correlated=1.0)
    assert plan.effects == ()


def test_donors_of_several_batches_are_compared_with_themselves():
    """Four donors in both batches: the differences within donors alone tell the batch's effect."""
    batch, donor = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
    keys = np.stack([batch, np.full(8, -1), donor % 2, donor])
    plan = ResidualPlan.of(keys, [1], has_labels=False, by_label=False, most_correlated=0.3)
    assert plan.common.df == 3
    rng = np.random.default_rng(0)
    values = rng.normal(0, 5, 4)[donor] + 0.5 * batch + rng.normal(0, 0.1, 8)
    difference = values[4:] - values[:4]
    weights = plan.effects[0].contrast.weights
    assert_allclose(weights @ values, difference.mean())
    variance = plan.common.variances(values[:, None])[0] * (weights @ weights)
    assert_allclose(variance, difference.var(ddof=1) / 4)


def test_sparse_counts_on_disk_are_summed_alike(models, tmp_path):
    model = models["zinb"]
    cells = model.adata.copy()
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    here = corrected(model, **GIVEN)
    there = corrected(
        model, tmp_path / "cells.h5ad", **GIVEN, out=tmp_path / "out.h5ad"
    ).to_memory()
    assert differing(here.X, there.X) < 1e-5
