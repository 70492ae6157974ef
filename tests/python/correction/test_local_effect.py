"""Batch effects that vary over the latent space equal those of a second implementation."""

import anndata as ad
import numpy as np
import oracle
import pandas as pd
import pytest
import scipy.sparse as sp
from extension import added_parameters
from numpy.testing import assert_allclose, assert_array_equal
from preloaded import small_cluster

import scvibridge as sb
from conftest import differing
from scvibridge.cli import main as cli
from scvibridge.correction.landmarks import Landmarks
from scvibridge.io import blocks

GIVEN = {
    "transform_batch": "V3",
    "effect": "local",
    "library_size": "observed",
    "progress": False,
    "device": "cpu",
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:confounding"),
    pytest.mark.filterwarnings("ignore:support"),  # models of few epochs mix no batches
]


@pytest.fixture(scope="module")
def cells(simulate):
    """Cells that mostly have a condition, and whose types are unequal."""
    adata = simulate(n_cells=420, n_genes=60)
    condition = adata.obs["condition"].astype(object)
    condition.iloc[::17] = None
    adata.obs["condition"] = condition
    return adata


@pytest.fixture(scope="module")
def models(cells, train):
    return {
        likelihood: train(cells.copy(), max_epochs=20, seed=4, gene_likelihood=likelihood)
        for likelihood in ("nb", "zinb")
    }


def of_model(model, with_condition):
    """Codes of the batch, names of the condition, and the decoder's log ratios and means."""
    obs = model.adata.obs
    batch = obs["batch"].cat.codes.to_numpy()
    condition = np.full(len(obs), None)
    if with_condition:
        known = obs["condition"].astype(object)
        condition = known.where(known.notna(), None).to_numpy()
    own, there = oracle.generative(model, None), oracle.generative(model, 2)
    return batch, condition, np.log(there["scale"]) - np.log(own["scale"]), own


def expected_deviations(model, with_condition):
    batch, condition, ratio, _ = of_model(model, with_condition)
    z, names = oracle.latent_means(model), list(model.adata.obs_names)
    return oracle.local_deviations(z, ratio, names, batch, condition, 2)


def counts_of(model):
    return model.adata.X.toarray().astype(int)


def kept(model, kappa):
    """The share of the deviations of each cell's batch that is kept."""
    counts, batch = counts_of(model), model.adata.obs["batch"].cat.codes.to_numpy()
    target = counts[batch == 2].sum(axis=0)
    return np.stack([oracle.believed(counts[batch == b].sum(axis=0), target, kappa) for b in batch])


def same_counts(ours, expected, most=2e-4):
    counts, comparable = expected
    assert comparable.mean() > 0.6
    assert (ours.X.toarray() != counts)[comparable].mean() < most


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
@pytest.mark.parametrize("with_condition", [True, False])
def test_unshrunk_counts_equal_a_second_implementation(models, likelihood, with_condition):
    model = models[likelihood]
    given = {"condition_key": "condition"} if with_condition else {}
    ours = sb.corrected_counts(model, **GIVEN, **given, shrinkage=0)
    batch, condition, _, _ = of_model(model, with_condition)
    # Cells without a condition have no weight in the mean of their batch.
    among = np.array([c is not None for c in condition]) if with_condition else True
    deviations, _ = expected_deviations(model, with_condition)
    depth = np.ones(ours.n_obs)
    arguments = {"condition": condition, "deviations": deviations, "mean_of": among}
    same_counts(ours, oracle.quantile(model, [2], depth, "global", **arguments))
    others = oracle.quantile(model, [2], depth, "global", condition=condition, mean_of=among)[0]
    assert (ours.X.toarray() != others)[batch != 2].mean() > 0.02
    assert ours.uns["scvibridge"]["landmarks"] == 14  # one for 20 of the 270 cells of V1 and V2


@pytest.mark.parametrize("given", ["auto", 25])
def test_shrunk_counts_equal_a_second_implementation(models, given):
    model = models["nb"]
    ours = sb.corrected_counts(model, **GIVEN, shrinkage=given)
    made = ours.uns["scvibridge"]
    deviations, nearest = expected_deviations(model, False)
    kappas = {"batch": 25, "local": 25}
    if given == "auto":
        kappas = {level: made[f"shrinkage_{level}"] for level in kappas}
        batch, _, _, own = of_model(model, False)
        counts = counts_of(model)
        low = oracle.low_detection(counts, batch, [2])
        told = np.where(low, 0, deviations), nearest, batch, 2, model.validation_indices
        expected = oracle.local_kappa(counts, own["mean"], *told)
        # Both look on a grid: of steps of .1, and of .05, in powers of ten.
        assert_allclose(np.log10(kappas["local"]), np.log10(expected), atol=0.11)
    deviations = deviations * kept(model, kappas["local"])
    arguments = {"kappas": [kappas["batch"], None], "deviations": deviations}
    depth = np.ones(ours.n_obs)
    same_counts(ours, oracle.quantile(model, [2], depth, "global", **arguments))


def test_the_target_may_have_conditions_that_no_other_batch_has(models, monkeypatch):
    """Also those whose names come last."""
    model = models["nb"]
    batch = model.adata.obs["batch"].cat.codes.to_numpy()
    rng = np.random.default_rng(6)
    arm = np.where(batch == 2, rng.choice(["a", "b", "c", "d"], len(batch)), "a").astype(object)
    arm[batch == 1] = rng.choice(["a", "b"], (batch == 1).sum())
    monkeypatch.setitem(model.adata.obs, "arm", arm)
    given = {"condition_key": "arm", "allow_confounded": True}
    ours = sb.corrected_counts(model, **GIVEN, **given, shrinkage=0)
    _, _, ratio, _ = of_model(model, False)
    z, names = oracle.latent_means(model), list(model.adata.obs_names)
    deviations, _ = oracle.local_deviations(z, ratio, names, batch, arm, 2)
    arguments = {"condition": arm, "deviations": deviations}
    same_counts(ours, oracle.quantile(model, [2], np.ones(len(batch)), "global", **arguments))
    # Only the depth of the target's cells changes, and held-out cells are among them.
    median = {**GIVEN, **given, "library_size": "median"}
    local = sb.corrected_counts(model, **median)
    whole = sb.corrected_counts(model, **{**median, "effect": "global"})
    assert differing(local[batch == 2].X, whole[batch == 2].X) <= 1e-5


def test_the_condition_of_the_cells_is_needed_before_any_work(models, cells, monkeypatch):
    without = cells.copy()
    del without.obs["condition"]
    monkeypatch.setattr(Landmarks, "place", None)  # where the estimate begins
    with pytest.raises(ValueError, match="condition_key='condition' is not a column of obs"):
        sb.corrected_counts(models["nb"], without, **GIVEN, condition_key="condition")


def test_counts_do_not_depend_on_order_subset_minibatch_or_genes(models, cells):
    model, given = models["nb"], {"condition_key": "condition", "sample_key": "cell_type"}
    whole = sb.corrected_counts(model, **GIVEN, **given)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    shuffled = sb.corrected_counts(model, adata=cells[order].copy(), **GIVEN, **given)
    assert differing(shuffled[whole.obs_names].X, whole.X) <= 1e-5
    some = sb.corrected_counts(model, indices=np.arange(0, 420, 7), batch_size=9, **GIVEN, **given)
    assert differing(some.X, whole[some.obs_names].X) <= 1e-5
    names = list(cells.var_names[[30, 2, 5]])
    few = sb.corrected_counts(model, gene_list=names, **GIVEN, **given)
    assert differing(few.X, whole[:, names].X) == 0


def test_streamed_counts_equal_those_in_memory(models, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 50 * 60)
    model, path = models["nb"], tmp_path / "counts.h5ad"
    given = {"condition_key": "condition", "batch_size": 20}
    expected = sb.corrected_counts(model, **GIVEN, **given)
    streamed = sb.corrected_counts(model, **GIVEN, **given, out=path).to_memory()
    assert differing(streamed.X, expected.X) <= 1e-5
    assert streamed.uns["scvibridge"]["shrinkage_local"] == pytest.approx(
        expected.uns["scvibridge"]["shrinkage_local"]
    )
    sb.corrected_counts(model, **GIVEN, **given, out=path, resume=True)  # the same request
    with pytest.raises(FileExistsError):
        sb.corrected_counts(model, **{**GIVEN, "effect": "global"}, out=path, resume=True)


def test_the_command_line_and_workers_give_the_same_counts(models, tmp_path):
    model, folder, out = models["nb"], tmp_path / "model", tmp_path / "counts.h5ad"
    model.save(str(folder), save_anndata=True)
    words = ["correct", str(folder), "--transform-batch", "V3", "--effect", "local"]
    more = ["--condition-key", "condition", "--library-size", "observed", "--quiet"]
    assert cli.main([*words, *more, "--out", str(out)]) == 0
    here = sb.corrected_counts(model, **GIVEN, condition_key="condition")
    assert differing(ad.read_h5ad(out).X, here.X) <= 1e-5
    with small_cluster(tmp_path) as client:
        path = tmp_path / "counts.zarr"
        given = {"condition_key": "condition", "out": path, "client": client}
        there = sb.corrected_counts(model, **GIVEN, **given).to_memory()
    assert differing(there.X, here.X) <= 1e-5


def test_added_genes_have_deviations_at_the_same_landmarks(models):
    model = models["nb"]
    own, rng = model.adata, np.random.default_rng(3)
    counts = sp.csr_matrix(rng.permutation(own.X.toarray().T)[:20].T)
    names = [f"added_{g:02d}" for g in range(20)]
    wide = ad.AnnData(
        sp.hstack([own.X, counts]).tocsr(),
        obs=own.obs,
        var=pd.DataFrame(index=[*own.var_names, *names]),
    )
    extended = sb.extend_genes(model, wide, max_epochs=3, progress=False)
    both = sb.corrected_counts(extended, **GIVEN, shrinkage=30)
    alone = sb.corrected_counts(model, **GIVEN, shrinkage=30)
    assert differing(both[:, own.var_names].X, alone.X) <= 1e-5
    table = wide[:, extended.head.genes].copy()
    parameters = added_parameters(extended, wide)
    batch = wide.obs["batch"].cat.codes.to_numpy()
    source, there = parameters(model, None), parameters(model, 2)
    ratio = np.log(there["scale"]) - np.log(source["scale"])
    z, names = oracle.latent_means(model), list(wide.obs_names)
    nobody = np.full(len(batch), None)
    deviations, _ = oracle.local_deviations(z, ratio, names, batch, nobody, 2)
    counts = table.X.toarray().astype(int)
    target = counts[batch == 2].sum(axis=0)
    share = np.stack([oracle.believed(counts[batch == b].sum(0), target, 30) for b in batch])
    expected, comparable = oracle.quantile(
        model,
        [2],
        np.ones(wide.n_obs),
        "global",
        kappas=[30, None],
        adata=table,
        parameters=parameters,
        renormalise=False,
        deviations=deviations * share,
    )
    ours = both[:, extended.head.genes].X.toarray()
    assert comparable.mean() > 0.6
    assert (ours != expected)[comparable].mean() < 5e-4


def test_few_cells_have_the_effect_of_their_batch(models, cells):
    batch = cells.obs["batch"].astype(str)
    chosen = np.concatenate([np.flatnonzero(batch == "V1")[:20], np.flatnonzero(batch == "V3")])
    given = {"estimate_on": list(cells.obs_names[chosen]), "indices": batch == "V1"}
    local = sb.corrected_counts(models["nb"], **GIVEN, **given)
    assert local.uns["scvibridge"]["landmarks"] == 1
    whole = sb.corrected_counts(models["nb"], **{**GIVEN, "effect": "global"}, **given)
    assert (local.X != whole.X).nnz == 0


def test_effects_that_differ_by_type_are_removed_without_labels(simulate, train):
    rng = np.random.default_rng(5)
    adata = simulate(n_cells=900, n_genes=80)
    counts = adata.X.toarray()
    batch, kind = (adata.obs[name].astype(str).to_numpy() for name in ("batch", "cell_type"))
    for number, one in enumerate(np.unique(kind)):  # in V1, other genes of each type are thinned
        thinned = np.ix_((batch == "V1") & (kind == one), np.arange(80) % 6 == number)
        counts[thinned] = rng.binomial(counts[thinned].astype(int), 0.3)
    adata.X = sp.csr_matrix(counts)
    model = train(adata, max_epochs=80, seed=1)
    left = {}
    for effect in ("global", "local"):
        result = sb.corrected_counts(model, **{**GIVEN, "effect": effect})
        logs = []
        for one in np.unique(kind):
            cells = [(batch == b) & (kind == one) for b in ("V1", "V3")]
            sums = [np.asarray(result.X[rows].sum(axis=0)).ravel() + 1 for rows in cells]
            logs.append(np.diff(np.log([s / s.sum() for s in sums]), axis=0))
        left[effect] = np.sqrt(np.mean(np.square(logs)))
    assert left["local"] < 0.9 * left["global"]


def test_memberships_are_shares_that_one_landmark_leaves_alone():
    rng = np.random.default_rng(0)
    location, names = rng.normal(size=(200, 3)), np.array([f"c{i}" for i in range(200)])
    landmarks = Landmarks.place(location, names)
    shares = landmarks.memberships(location)
    assert shares.shape == (200, 10)
    assert_allclose(shares.sum(axis=1), 1)
    # A cell far from everything belongs to the landmarks nearest to it.
    far = landmarks.memberships(np.full((1, 3), 1e3))
    assert np.isfinite(far).all()
    order = rng.permutation(200)
    again = Landmarks.place(location[order], names[order])
    assert_array_equal(again.points, landmarks.points)
    assert Landmarks.place(location[:0], names[:0]).memberships(location).shape == (200, 0)
