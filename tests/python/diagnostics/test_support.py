"""Support of the target batch: scores against a plain second implementation, and what they do."""

from __future__ import annotations

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.spatial.distance import cdist

import scvibridge as sb
from conftest import differing
from scvibridge.cli import main
from scvibridge.correction.count_blocks import Correction
from scvibridge.correction.support import neighbours, tables
from scvibridge.correction.support.neighbours import TargetNeighbours, sample_cells
from scvibridge.io import blocks
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.models.adapters import adapter_for

QUIET = {"progress": False}
ARGUMENTS = {"transform_batch": "V3", "labels_key": "cell_type", **QUIET}

pytestmark = [
    pytest.mark.filterwarnings("ignore:confounding was not checked"),
    pytest.mark.filterwarnings("ignore:.*more than 2 times their own depth"),
    pytest.mark.filterwarnings("ignore:labels. the target"),
]


# -- a second implementation -----------------------------------------------------------------------


def plain_scores(latent, in_target, asked=None, own=None):
    """Share and p-value as they are defined, cell by cell.

    `asked` are other cells than those of `latent`, and `own` where each of them is among those.
    """
    asked = latent if asked is None else asked
    own = np.arange(len(asked)) if own is None else own
    overall = in_target.mean()
    k = max(30, int(np.ceil(10 / overall)))
    among_targets = [tenth(latent, in_target, latent[c], c) for c in np.flatnonzero(in_target)]
    share, p_value = [], []
    for cell, place in zip(asked, own, strict=True):
        others = np.setdiff1d(np.arange(len(latent)), [place])
        nearest = others[np.argsort(cdist([cell], latent[others])[0])[:k]]
        share.append(in_target[nearest].mean() / overall)
        d = tenth(latent, in_target, cell, place)
        p_value.append((1 + (np.array(among_targets) >= d).sum()) / (len(among_targets) + 1))
    return np.array(share), np.array(p_value)


def tenth(latent, in_target, cell, place):
    """Distance to the 10th nearest target cell, itself excluded."""
    others = np.setdiff1d(np.flatnonzero(in_target), [place])
    return np.sort(cdist([cell], latent[others])[0])[9]


def fitted(latent, in_target, names=None, most=None):
    names = names_of(latent) if names is None else names
    rows, weight = sample_cells(in_target.astype(int), hash_names(names), most)
    return TargetNeighbours(latent[rows], hash_names(names[rows]), weight, in_target[rows])


def names_of(latent):
    return np.array([f"cell {i}" for i in range(len(latent))], dtype=object)


def unsupported(latent, in_target, most=None, asked=slice(None)):
    """Whether each of the asked cells is unsupported, and what they were compared with."""
    found = fitted(latent, in_target, most=most)
    return ~found.supported(found.scores(hash_names(names_of(latent)[asked]), latent[asked])), found


def mixture(n_cells, seed, n_types=6):
    """Latent means of some types of unequal sizes and widths, and the types."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.5, (n_types, 10))
    types = rng.choice(n_types, p=[0.3, 0.25, 0.2, 0.12, 0.08, 0.05], size=n_cells)
    widths = np.linspace(0.15, 0.5, n_types)[types, None]
    return (centres[types] + widths * rng.normal(size=(n_cells, 10))).astype(np.float32), types


# -- scores ----------------------------------------------------------------------------------------


def test_scores_equal_a_second_implementation():
    latent, _ = mixture(700, seed=1)
    in_target = np.random.default_rng(2).random(700) < 0.3
    found = fitted(latent, in_target)
    scores = found.scores(hash_names(names_of(latent)), latent)
    share, p_value = plain_scores(latent, in_target)
    assert_allclose(scores.share, share)
    assert_allclose(scores.p_value, p_value)
    # Cells that are not among the reference cells are compared with all of those.
    new, _ = mixture(40, seed=3)
    strangers = np.array([f"new {i}" for i in range(40)], dtype=object)
    scores = found.scores(hash_names(strangers), new)
    share, p_value = plain_scores(latent, in_target, new, own=np.full(40, -1))
    assert_allclose(scores.share, share)
    assert_allclose(scores.p_value, p_value)
    # Known ones are recognised by their names, in whatever order they come.
    order = np.random.default_rng(4).permutation(700)
    again = found.scores(hash_names(names_of(latent)[order]), latent[order])
    assert_allclose(again.share, plain_scores(latent, in_target)[0][order])


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("most", [None, 2000])
def test_well_mixed_batches_are_supported(share, most):
    shares = []
    for seed in range(4):
        latent, _ = mixture(6000, seed)
        in_target = np.random.default_rng(seed).random(6000) < share
        # A third of the cells tell a share of .005 to .001 (standard error of four seeds).
        asked = np.flatnonzero(~in_target)[::3]
        flagged, found = unsupported(latent, in_target, most, asked)
        shares.append(flagged.mean())
        assert found.can_tell
    assert np.mean(shares) <= 0.005
    assert max(shares) <= 0.01


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("most", [None, 2000])
def test_types_that_the_target_lacks_are_found(share, most):
    latent, types = mixture(6000, seed=5)
    in_target = (np.random.default_rng(6).random(6000) < share) & (types != 1)
    flagged, _ = unsupported(latent, in_target, most)
    assert flagged[types == 1].mean() >= 0.95
    assert flagged[(types != 1) & ~in_target].mean() <= 0.01


def test_types_of_fewer_cells_than_a_neighbourhood_are_found():
    latent, types = mixture(4000, seed=7)
    rare = np.flatnonzero(types == 5)[:25]
    keep = np.sort(np.r_[np.flatnonzero(types != 5), rare])
    latent, types = latent[keep], types[keep]
    in_target = (np.random.default_rng(8).random(len(keep)) < 0.5) & (types != 5)
    flagged, found = unsupported(latent, in_target)
    assert (types == 5).sum() == 25 < found.n_neighbours
    assert flagged[types == 5].all()


def test_types_of_few_target_cells_are_no_missing_types():
    """A fifth of the usual density is low a share, but there are target cells near by."""
    latent, types = mixture(6000, seed=9)
    rng = np.random.default_rng(10)
    in_target = rng.random(6000) < np.where(types == 0, 0.04, 0.5)
    found = fitted(latent, in_target)
    scores = found.scores(hash_names(names_of(latent)), latent)
    of_type = (types == 0) & ~in_target
    assert (scores.share[of_type] < neighbours.LOW_SHARE).mean() > 0.8
    assert (~found.supported(scores))[of_type].mean() < 0.05


def test_a_limited_reference_flags_the_same_cells():
    latent, types = mixture(9000, seed=11)
    in_target = (np.random.default_rng(12).random(9000) < 0.15) & (types != 2)
    whole, _ = unsupported(latent, in_target, most=10**6)
    some, found = unsupported(latent, in_target, most=1500)
    assert len(found.latent) < 2000
    assert whole[~in_target].mean() > 0.15
    assert (whole == some)[~in_target].mean() >= 0.99


def test_few_target_cells_tell_nothing():
    latent, types = mixture(3000, seed=13)
    for n_target in (5, 60):
        in_target = np.zeros(3000, dtype=bool)
        in_target[np.flatnonzero(types != 0)[:n_target]] = True
        flagged, found = unsupported(latent, in_target)
        assert not flagged.any()
        assert not found.can_tell
        assert found.n_neighbours is None


def test_sampled_cells_stand_for_all():
    names = np.array([f"c{i}" for i in range(5000)], dtype=object)
    strata = np.r_[np.zeros(4000, int), np.ones(960, int), np.full(40, 2)]
    rows, weight = sample_cells(strata, hash_names(names), most=600)
    sizes = np.bincount(strata[rows])
    assert_array_equal(sizes, [480, 115, 40])
    assert_allclose(np.bincount(strata[rows], weight), [4000, 960, 40])
    order = np.random.default_rng(0).permutation(5000)
    again, _ = sample_cells(strata[order], hash_names(names[order]), most=600)
    assert set(names[order][again]) == set(names[rows])
    everything, ones = sample_cells(strata, hash_names(names), most=5000)
    assert_array_equal(everything, np.arange(5000))
    assert (ones == 1).all()


# -- a batch that lacks a type ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(simulate):
    adata = simulate(n_cells=900, n_genes=100, batch_sd=0.2, type_sd=1.2)
    lacking = (adata.obs["batch"] == "V3") & (adata.obs["cell_type"] == "NK")
    return adata[~lacking].copy()


@pytest.fixture(scope="module")
def model(data, train):
    return train(data, labels_key=None, max_epochs=30, kl_warmup=10, batch_size=128)


@pytest.fixture(scope="module")
def found(model):
    return sb.batch_support(model, condition_key="condition", **ARGUMENTS)


def test_batch_support_scores_the_models_latent_means(model, found):
    latent = model.get_latent_representation()
    obs = model.adata.obs
    share, p_value = plain_scores(latent, (obs["batch"] == "V3").to_numpy())
    assert_array_equal(found.cells.index, obs.index)
    # Where distances all but agree, single precision may take another neighbour.
    assert (np.abs(found.cells["share"] - share) < 1e-9).mean() > 0.99
    assert (np.abs(found.cells["p_value"] - p_value) < 1e-9).mean() > 0.99
    expected = ~(((share < 0.25) & (p_value <= 0.2)) | (p_value <= 0.001)) | (obs["batch"] == "V3")
    assert (found.cells["supported"] == expected).mean() > 0.99
    assert_array_equal(found.cells["label"].astype(str), obs["cell_type"].astype(str))


def test_cell_types_that_the_target_lacks_are_told(model, found):
    cells, obs = found.cells, model.adata.obs
    assert not cells["supported"][obs["cell_type"] == "NK"].any()
    of_v1 = (obs["batch"] == "V1") & (obs["cell_type"] != "NK")
    assert cells["supported"][of_v1].mean() > 0.9
    table = found.labels.set_index(["label", "batch"])
    others = cells[cells["batch"] != "V3"]
    for (label, batch), group in others.groupby(["label", "batch"], observed=True):
        row = table.loc[(label, batch)]
        assert row["n_cells"] == len(group)
        assert row["n_target"] == ((obs["batch"] == "V3") & (obs["cell_type"] == label)).sum()
        assert_allclose(row["unsupported"], (~group["supported"]).mean())
        assert_allclose(row["share"], group["share"].median())
    assert len(table) == 6
    assert set(table.loc["NK", "verdict"]) == {tables.NO_SUCH_CELLS}
    assert table.loc[("T", "V1"), "verdict"] == tables.SUPPORTED
    by_label = found.by_label.set_index("label")
    assert by_label.loc["NK", "n_cells"] == table.loc["NK", "n_cells"].sum()
    assert f"NK: {tables.NO_SUCH_CELLS} (100% of" in found.summary()


def test_conditions_are_counted_and_checked(model, found):
    expected = model.adata.obs.groupby(["cell_type", "batch", "condition"], observed=False).size()
    table = found.conditions.set_index(["label", "batch", "condition"])["n_cells"]
    assert_array_equal(table.to_numpy(), expected.to_numpy())
    assert found.confounding == "balanced"
    confounded = sb.batch_support(model, transform_batch="V3", condition_key="batch", **QUIET)
    assert confounded.confounding.startswith("confounded: overall: ")
    assert "label" not in confounded.conditions
    without = sb.batch_support(model, transform_batch="V3", **QUIET)
    assert without.conditions is None
    assert "Batch and condition: not checked." in without.summary()
    assert list(without.labels["label"]) == [tables.ALL_CELLS] * 2


def test_some_cells_or_other_data_are_scored_as_the_whole_is(model, found):
    rows = np.random.default_rng(0).permutation(model.adata.n_obs)[:60]
    some = sb.batch_support(model, indices=rows, **ARGUMENTS)
    other = sb.batch_support(model, model.adata[rows].copy(), **ARGUMENTS)
    for part in (some, other):
        assert_array_equal(part.cells.index, model.adata.obs_names[rows])
        expected = found.cells.iloc[rows]
        assert_allclose(part.cells["share"], expected["share"], atol=0.2)
        assert (part.cells["supported"] == expected["supported"]).mean() > 0.95
        assert set(part.labels["n_target"]) == set(found.labels["n_target"])


def test_equally_distant_cells_are_chosen_in_any_order(model, data):
    """Cells without counts are encoded alike: some of them are neighbours, the same ones always."""
    cells = data.copy()
    counts = cells.X.toarray()
    counts[::8] = 0
    cells.X = sp.csr_matrix(counts)
    found = []
    for order in (1, -1):
        other = copy.copy(model)
        other.adata = cells[::order].copy()
        found.append(sb.batch_support(other, **ARGUMENTS).cells.loc[cells.obs_names])
    assert len(set(found[0]["share"][::8])) > 1
    assert_allclose(found[0]["share"], found[1]["share"])


def test_several_targets_are_pooled(model):
    pooled = sb.batch_support(model, transform_batch=["V3", "V1"], **QUIET)
    in_target = model.adata.obs["batch"].isin(["V1", "V3"]).to_numpy()
    share, _ = plain_scores(model.get_latent_representation(), in_target)
    assert (np.abs(pooled.cells["share"] - share) < 1e-9).mean() > 0.99
    assert pooled.cells["supported"][in_target].all()


def test_bad_requests_say_what_is_wrong(model, data, train):
    with pytest.raises(ValueError, match="transform_batch is required"):
        sb.batch_support(model, **QUIET)
    with pytest.raises(ValueError, match="did you mean 'V3'"):
        sb.batch_support(model, transform_batch="v3", **QUIET)
    with pytest.raises(ValueError, match="all batches are targets"):
        sb.batch_support(model, transform_batch=["V1", "V2", "V3"], **QUIET)
    with pytest.raises(ValueError, match="'drop!' is not among 'keep', 'mask', 'drop'"):
        sb.corrected_counts(model, unsupported="drop!", **ARGUMENTS)
    one = train(data[data.obs["batch"] == "V1"].copy(), batch_key=None, max_epochs=1)
    with pytest.raises(ValueError, match="a single batch"):
        sb.choose_batch(one, **QUIET)


def test_without_cells_of_the_target_nothing_is_told(model, tmp_path):
    model.save(str(tmp_path / "model"))
    alone = sb.load(tmp_path / "model", adata=False)
    others = model.adata[model.adata.obs["batch"] != "V3"].copy()
    with pytest.raises(ValueError, match="have no cells of the target"):
        sb.batch_support(alone, others, transform_batch="V3", **QUIET)
    given = {"transform_batch": "V3", "method": "sample", "library_size": "observed", **QUIET}
    counts = sb.corrected_counts(alone, others, **given)
    assert "scvibridge_supported" not in counts.obs
    with pytest.raises(ValueError, match="unsupported='drop' needs cells of the target"):
        sb.corrected_counts(alone, others, unsupported="drop", **given)


# -- in corrected counts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(model):
    with pytest.warns(UserWarning, match="support: .* Most affected: 'NK' \\(100%\\)"):
        return sb.corrected_counts(model, **ARGUMENTS)


def test_counts_carry_what_batch_support_tells(kept, found):
    assert_array_equal(kept.obs["scvibridge_supported"], found.cells["supported"])
    assert_allclose(kept.obs["scvibridge_support"], found.cells["share"])
    provenance = kept.uns["scvibridge"]
    assert provenance["unsupported"] == "keep"
    others = kept.obs["batch"] != "V3"
    flagged = ~kept.obs["scvibridge_supported"]
    assert provenance["unsupported_cells"] == flagged.sum() == flagged[others].sum()
    assert_allclose(provenance["unsupported_share"], flagged[others].mean())
    by_batch = flagged.groupby(kept.obs["batch"], observed=False).mean()
    assert_allclose(provenance["unsupported_by_batch"], by_batch)
    table = pd.DataFrame(provenance["support_by_label"])
    columns = ["label", "batch", "n_cells", "n_target", "share", "unsupported", "verdict"]
    assert_array_equal(table[columns].astype(str), found.labels[columns].astype(str))
    assert sum(note.startswith("support: ") for note in provenance["notes"]) == 1


@pytest.mark.filterwarnings("ignore:support")
@pytest.mark.parametrize("method", ["quantile", "sample"])
def test_unsupported_cells_are_masked_or_dropped(model, method):
    given = {**ARGUMENTS, "method": method}
    whole, masked, dropped = (
        sb.corrected_counts(model, unsupported=how, **given) for how in ("keep", "mask", "drop")
    )
    supported = whole.obs["scvibridge_supported"].to_numpy()
    assert 0.5 < supported.mean() < 0.9
    assert masked.X[~supported].nnz == 0
    assert whole.X[~supported].nnz > 0
    assert differing(masked.X[supported], whole.X[supported]) <= 1e-5
    assert (masked.layers["raw_counts"] != whole.layers["raw_counts"]).nnz == 0
    assert_array_equal(masked.obs_names, whole.obs_names)
    assert_array_equal(dropped.obs_names, whole.obs_names[supported])
    assert differing(dropped.X, whole.X[supported]) <= 1e-5
    assert dropped.obs["scvibridge_supported"].all()
    for result, how in ((masked, "mask"), (dropped, "drop")):
        provenance = result.uns["scvibridge"]
        assert provenance["unsupported"] == how
        assert provenance["unsupported_cells"] == (~supported).sum()
        if method == "quantile":
            corrected = supported & (whole.obs["batch"] != "V3").to_numpy()
            assert provenance["corrected_cells"] == corrected.sum()


@pytest.mark.filterwarnings("ignore:support")
@pytest.mark.parametrize("how", ["keep", "mask", "drop"])
def test_streamed_counts_are_those_in_memory(model, tmp_path, how):
    given = {**ARGUMENTS, "unsupported": how, "batch_size": 128, "indices": slice(None, None, -1)}
    expected = sb.corrected_counts(model, **given)
    for ending in ("h5ad", "zarr"):
        out = tmp_path / f"x.{ending}"
        sb.corrected_counts(model, out=out, **given)
        written = ad.read_h5ad(out) if ending == "h5ad" else ad.read_zarr(out)
        assert_array_equal(written.obs_names, expected.obs_names)
        assert differing(written.X, expected.X) <= 1e-5
        for column in ("scvibridge_support", "scvibridge_supported"):
            assert_allclose(written.obs[column], expected.obs[column])
        assert list(written.obsm) == ["X_scvi"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5ad", "x.zarr"]


@pytest.mark.filterwarnings("ignore:support")
@pytest.mark.parametrize("how", ["mask", "drop"])
def test_interrupted_runs_go_on(model, tmp_path, monkeypatch, how):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 32 * 100)
    given = {**ARGUMENTS, "unsupported": how, "batch_size": 128, "out": tmp_path / "x.h5ad"}
    whole = sb.corrected_counts(model, **{**given, "out": tmp_path / "whole.h5ad"}).to_memory()
    made, original = [], Correction.pieces

    def pieces(self, selection):
        made.append(selection)
        if len(made) == 3:
            raise KeyboardInterrupt
        return original(self, selection)

    monkeypatch.setattr(Correction, "pieces", pieces)
    with pytest.raises(KeyboardInterrupt):
        sb.corrected_counts(model, **given)
    with pytest.raises(ValueError, match=r"unsupported: '.*' then, 'keep' now"):
        sb.corrected_counts(model, **{**given, "unsupported": "keep"}, resume=True)
    found = sb.corrected_counts(model, resume=True, **given).to_memory()
    assert (found.X != whole.X).nnz == 0
    pd.testing.assert_frame_equal(found.obs, whole.obs)


@pytest.mark.filterwarnings("ignore:support")
@pytest.mark.parametrize("how", ["keep", "mask", "drop"])
@pytest.mark.parametrize("most", [20_000, 200])
def test_each_cell_is_encoded_once(model, monkeypatch, how, most):
    encoded = []
    original = type(adapter_for(model)).encode

    def counting(self, counts, covariates):
        encoded.append(counts.shape[0])
        return original(self, counts, covariates)

    monkeypatch.setattr(neighbours, "MOST_REFERENCE_CELLS", most)
    monkeypatch.setattr(type(adapter_for(model)), "encode", counting)
    sb.corrected_counts(model, unsupported=how, **ARGUMENTS)
    assert sum(encoded) == model.adata.n_obs


def test_without_other_batches_nothing_is_scored(model):
    every = sb.corrected_counts(
        model, transform_batch=["V1", "V2", "V3"], unsupported="drop", **QUIET
    )
    assert every.n_obs == model.adata.n_obs
    assert "scvibridge_supported" not in every.obs
    assert "unsupported_cells" not in every.uns["scvibridge"]


def test_nothing_is_warned_of_where_few_cells_are_unsupported(model):
    few = np.flatnonzero(model.adata.obs["cell_type"] == "NK")[: tables.WARNING_CELLS - 1]
    result = sb.corrected_counts(model, indices=few, **ARGUMENTS)  # a warning would be an error
    assert not result.obs["scvibridge_supported"].any()
    with pytest.raises(ValueError, match="would leave no cell"):
        sb.corrected_counts(model, indices=few, unsupported="drop", **ARGUMENTS)


def test_a_target_of_few_cells_tells_nothing_and_says_so(model):
    adata = model.adata.copy()
    few = adata.obs_names[adata.obs["batch"] == "V3"][:40]
    adata = adata[(adata.obs["batch"] != "V3") | adata.obs_names.isin(few)].copy()
    adata.obs["type"] = adata.obs["cell_type"]  # not in the model's own data: these are compared
    given = {"transform_batch": "V3", "labels_key": "type", **QUIET}
    result = sb.corrected_counts(model, adata, **given)
    assert result.obs["scvibridge_supported"].all()
    assert result.obs["scvibridge_support"].isna().all()
    assert any("too few cells to determine" in note for note in result.uns["scvibridge"]["notes"])
    told = sb.batch_support(model, adata, **given)
    is_nk = told.labels["label"] == "NK"
    assert set(told.labels.loc[is_nk, "verdict"]) == {tables.NO_SUCH_CELLS}
    assert set(told.labels.loc[~is_nk, "verdict"]) == {tables.TOO_FEW}
    assert "too few cells to determine which cells it supports" in told.summary()


# -- which batch to pick ---------------------------------------------------------------------------


def test_choose_batch_ranks_by_support(model):
    table = sb.choose_batch(model, labels_key="cell_type", condition_key="condition", **QUIET)
    assert table.index[-1] == "V3"
    assert table.index.name == "batch"
    for batch in ("V1", "V2", "V3"):
        one = sb.batch_support(model, transform_batch=batch, labels_key="cell_type", **QUIET)
        others = one.cells[one.cells["batch"] != batch]
        assert_allclose(table.loc[batch, "supported"], others["supported"].mean())
        worst = 1 - one.by_label["unsupported"].max()
        assert_allclose(table.loc[batch, "worst_supported"], worst)
        supported = (one.by_label["verdict"] == tables.SUPPORTED).sum()
        assert table.loc[batch, "labels_supported"] == supported
        own = model.adata[model.adata.obs["batch"] == batch].X.toarray()
        assert table.loc[batch, "n_cells"] == own.shape[0]
        assert table.loc[batch, "median_depth"] == np.median(own.sum(axis=1))
        assert table.loc[batch, "genes_detected"] == ((own > 0).sum(axis=0) >= 5).sum()
    assert list(table["supported"]) == sorted(table["supported"], reverse=True)
    assert dict(table["labels_missing"]) == {"V1": "", "V2": "", "V3": "NK"}
    assert table.loc["V3", "worst_label"] == "NK"
    assert (table["conditions_missing"] == "").all()


def test_batches_of_few_cells_are_ranked_last(model):
    obs = model.adata.obs
    few = obs.index[obs["batch"] == "V1"][:30]
    adata = model.adata[(obs["batch"] != "V1") | obs.index.isin(few)].copy()
    table = sb.choose_batch(model, adata, **QUIET)
    assert list(table.index) == ["V2", "V3", "V1"]
    assert np.isnan(table.loc["V1", "supported"])
    with pytest.raises(ValueError, match="cells of a single batch"):
        sb.choose_batch(model, adata[adata.obs["batch"] == "V2"].copy(), **QUIET)


# -- the command -----------------------------------------------------------------------------------


def test_command(model, data, found, tmp_path, capsys):
    model.save(str(tmp_path / "model"))
    data.write_h5ad(tmp_path / "data.h5ad")
    files = [str(tmp_path / "model"), "--adata", str(tmp_path / "data.h5ad")]
    given = ["--transform-batch", "V3", "--labels-key", "cell_type"]
    assert main.main(["support", *files, *given]) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 + len(found.labels)
    assert tables.NO_SUCH_CELLS in shown.out
    assert "cells of other batches" in shown.err
    out = tmp_path / "support.csv"
    assert main.main(["support", *files, *given, "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr() == (f"{out}\n", "")
    pd.testing.assert_frame_equal(pd.read_csv(out), found.labels, check_dtype=False)
    assert main.main(["support", *files, *given, "--out", str(tmp_path / "x.txt")]) == 2
    assert "--out" in capsys.readouterr().err
    dropped = str(tmp_path / "dropped.h5ad")
    command = ["correct", *files, *given, "--unsupported", "drop", "--out", dropped, "--quiet"]
    assert main.main(command) == 0
    assert_array_equal(ad.read_h5ad(dropped).obs_names, found.cells.index[found.cells["supported"]])


# -- real cells ------------------------------------------------------------------------------------


def test_fake_batches_of_real_cells(shared_data, train):
    """Random batches are supported; of a type that one lacks, the others' cells are not."""
    adata = ad.read_h5ad(shared_data("kang_ifnb_pbmc_4k"))
    detected = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    adata = adata[:, np.argsort(-detected)[:800]].copy()
    shares = {"half": 0.5, "tenth": 0.1, "fiftieth": 0.03, "lacking": 0.37}
    batch = np.random.default_rng(0).choice(list(shares), p=list(shares.values()), size=adata.n_obs)
    adata.obs["type"] = (
        adata.obs["cell_type_coarse"]
        .astype(str)
        .replace(["CD14 Mono", "CD16 Mono", "DC"], "myeloid")
    )
    lost = (batch == "lacking") & (adata.obs["type"] == "myeloid").to_numpy()
    adata.obs["fake"] = pd.Categorical(batch)
    adata = adata[~lost].copy()
    model = train(
        adata, "fake", None, max_epochs=12, kl_warmup=5, batch_size=128, lr=2e-3, n_latent=10
    )
    of_type = (adata.obs["type"] == "myeloid").to_numpy()
    for target in ("half", "tenth", "fiftieth"):
        found = sb.batch_support(model, transform_batch=target, **QUIET)
        assert found.settings["can_tell"]
        others = (adata.obs["fake"] != target).to_numpy()
        assert (~found.cells["supported"])[others].mean() <= 0.01
    lacking = sb.batch_support(model, transform_batch="lacking", labels_key="type", **QUIET)
    supported = lacking.cells["supported"].to_numpy()
    others = (adata.obs["fake"] != "lacking").to_numpy()
    assert supported[of_type].mean() < 0.1
    assert supported[~of_type & others].mean() > 0.9
    verdict = lacking.by_label.set_index("label").loc["myeloid", "verdict"]
    assert verdict == tables.NO_SUCH_CELLS
