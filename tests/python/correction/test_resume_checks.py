"""What a resumed run takes up: blocks of the same cells, counts and settings, and no others."""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import streamed

import scvibridge as sb
from scvibridge._utils.digests import CountsDigest
from scvibridge._utils.failures import WriteError
from scvibridge.io import block_writer, blocks, shard_store, shards, streaming
from scvibridge.io.scratch import Scratch, clear_abandoned
from scvibridge.models.cell_data import CountsInMemory, summarise

KEYS = {"labels_key": "cell_type", "condition_key": "condition", "sample_key": "donor"}
QUIET = {"transform_batch": "V3", "progress": False, "batch_size": 16}


@pytest.fixture
def data(simulated):
    adata = simulated.copy()
    adata.obs["donor"] = pd.Categorical(np.array(["d1", "d2", "d3"])[np.arange(adata.n_obs) % 3])
    return adata


class StoppedError(Exception):
    """Ends a run in a test."""


def correct(model, data, out, stop_at=None, **arguments):
    """Correct counts in small blocks; stop before one of them."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(blocks, "_ENTRIES_PER_BLOCK", 16 * 120)
        if stop_at is not None:
            compute = streaming.compute_missing

            def stopping(opened, make, **how):
                def until(index):
                    if index == stop_at:
                        raise StoppedError
                    return make(index)

                compute(opened, until, **how)

            patch.setattr(streaming, "compute_missing", stopping)
        return sb.corrected_counts(model, data, out=out, **{**KEYS, **QUIET, **arguments})


@pytest.fixture
def interrupted(trained_model, data, tmp_path):
    """A run on data in memory that was stopped after two blocks."""
    out = tmp_path / "x.h5ad"
    with pytest.raises(StoppedError) as stopped:
        correct(trained_model, data, out, stop_at=2)
    assert "continue with the same call and resume=True" in stopped.value.__notes__[0]
    assert len(list((tmp_path / "x.h5ad.parts").glob("block-*.npz"))) == 2
    return out


def permuted_within_a_cell(adata):
    """The same totals and the same genes seen, in another order."""
    counts = sp.csr_matrix(adata.X).copy()
    row = slice(*counts.indptr[:2])
    counts.data[row] = counts.data[row][::-1].copy()
    assert (counts != sp.csr_matrix(adata.X)).nnz > 0
    adata.X = counts


def renamed_label(adata):
    names = {name: f"{name}_2" for name in adata.obs["cell_type"].cat.categories[:1]}
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(names)


def other(column):
    def change(adata):
        values = adata.obs[column].astype(str).to_numpy().copy()
        values[0], values[1:3] = values[np.flatnonzero(values != values[0])[0]], values[:2]
        adata.obs[column] = pd.Categorical(values)

    return change


CHANGES = {
    "counts": permuted_within_a_cell,
    "columns": other("cell_type"),
    "names of labels": renamed_label,
    "conditions": other("condition"),
    "samples": other("donor"),
    "covariates": other("batch"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_data_are_refused(trained_model, data, interrupted, what):
    changed = data.copy()
    CHANGES[what](changed)
    with pytest.raises(ValueError, match="with other settings") as refused:
        correct(trained_model, changed, interrupted, resume=True)
    if what in ("counts", "covariates"):
        assert f"data_0.{what}: " in str(refused.value)
    if what in ("conditions", "samples"):
        assert f"columns.{'condition' if what == 'conditions' else 'sample'}_key" in str(
            refused.value
        )
    assert not interrupted.exists()
    expected = correct(trained_model, data, interrupted.with_name("whole.h5ad"))
    found = correct(trained_model, data, interrupted, resume=True)
    assert (found.to_memory().X != expected.to_memory().X).nnz == 0


def test_other_held_out_cells_are_refused(trained_model, data, interrupted, monkeypatch):
    split = trained_model.validation_indices, trained_model.train_indices
    monkeypatch.setattr(type(trained_model), "validation_indices", split[1][: len(split[0])])
    monkeypatch.setattr(
        type(trained_model),
        "train_indices",
        np.concatenate([split[1][len(split[0]) :], split[0]]),
    )
    with pytest.raises(ValueError, match="held_out: "):
        correct(trained_model, data, interrupted, resume=True)


def test_counts_have_one_digest_wherever_they_lie(simulated):
    counts = sp.csr_matrix(simulated.X, dtype=np.int32)
    whole, pieces = CountsDigest(), CountsDigest()
    whole.update(counts)
    for start in range(0, counts.shape[0], 37):
        pieces.update(counts[start : start + 37])
    assert whole.hexdigest() == pieces.hexdigest()
    changed = counts.copy()
    changed.data[[0, 1]] += [1, -1]
    other_one = CountsDigest()
    other_one.update(changed)
    assert other_one.hexdigest() != whole.hexdigest()
    summary = summarise(CountsInMemory(counts), np.zeros(counts.shape[0], dtype=np.int64), 1, False)
    assert summary.digest is None


# ---- blocks ----------------------------------------------------------------------------------


def part(folder, index):
    return folder / f"block-{index:06d}.npz"


def exchange(folder):
    part(folder, 0).rename(folder / "held")
    part(folder, 1).rename(part(folder, 0))
    (folder / "held").rename(part(folder, 1))


def of_another_run(folder):
    other_plan = streamed.plan_of(seed=5)
    made = streamed.block(other_plan, 1)
    shards.write_shard(folder, 0, other_plan.fields, made, other_plan.seal(0))


def copied(folder):
    shutil.copy(part(folder, 1), part(folder, 0))


def truncated(folder):
    content = part(folder, 0).read_bytes()
    part(folder, 0).write_bytes(content[: len(content) // 2])


def flipped(folder):
    content = bytearray(part(folder, 0).read_bytes())
    content[len(content) // 2] ^= 4
    part(folder, 0).write_bytes(content)


def rewritten(folder):
    """A well-formed file with the right seal and other contents."""
    with np.load(part(folder, 0)) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["X/data"] = arrays["X/data"] + 1
    np.savez(part(folder, 0).with_suffix(""), **arrays)


def emptied(folder):
    part(folder, 0).write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [exchange, of_another_run, copied, truncated, flipped, rewritten, emptied]
)
def test_blocks_that_do_not_belong_there_are_made_again(tmp_path, damage):
    out, result = tmp_path / "x.h5ad", streamed.plan_of()
    expected = streamed.run(tmp_path / "whole.h5ad", result).read_bytes()

    def stop(index):
        if index == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        streamed.run(out, result, before=stop)
    damage(tmp_path / "x.h5ad.parts")
    made = []
    streamed.run(out, result, resume=True, before=made.append)
    assert 0 in made
    assert 2 not in made
    assert out.read_bytes() == expected


def test_estimates_of_another_run_are_made_again(tmp_path):
    out = tmp_path / "x.h5ad"

    def begin():
        with shard_store.Shards(out, streamed.plan_of()) as opened:
            opened.remember("depth", lambda: {"k": np.ones(3)})
            raise StoppedError

    with pytest.raises(StoppedError):
        begin()
    other_plan = streamed.plan_of(seed=5)
    path = tmp_path / "x.h5ad.parts" / "estimate-depth.npz"
    shards.write_arrays(path, {"k": np.zeros(3)}, other_plan.seal("estimate-depth"))
    with shard_store.Shards(out, streamed.plan_of(), resume=True) as opened:
        assert opened.remember("depth", lambda: {"k": np.full(3, 2.0)})["k"].tolist() == [2, 2, 2]


def test_each_block_has_a_seal_of_its_own():
    one, other_plan = streamed.plan_of(), streamed.plan_of(seed=5)
    seals = {p.seal(index) for p in (one, other_plan) for index in range(len(one.blocks))}
    assert len(seals) == 2 * len(one.blocks)
    assert one.result != other_plan.result
    assert one.result == streamed.plan_of(step=30).result


# ---- ends ------------------------------------------------------------------------------------


def test_where_the_end_fails_the_blocks_are_kept(tmp_path):
    out, result = tmp_path / "x.h5ad", streamed.plan_of()

    def bad_column():
        made = streamed.skeleton(result)
        made.obs["bad"] = [[1]] * made.n_obs
        return made

    kept = (
        r"x\.h5ad could not be written: obs\['bad'\] .* drop it\. 6 of 6 blocks are finished and "
        r"kept in .*x\.h5ad\.parts: continue with the same call and .* once this is fixed"
    )
    with pytest.raises(WriteError, match=kept), shard_store.Shards(out, result) as opened:
        streaming.stream(opened, lambda index: streamed.block(result, index), bad_column)
    made = []
    streamed.run(out, result, resume=True, before=made.append)
    assert made == [6]  # the tables alone


def test_a_result_that_cannot_be_read_does_not_replace_an_older_one(tmp_path, monkeypatch):
    out = streamed.run(tmp_path / "x.h5ad", streamed.plan_of(seed=3))
    before = out.read_bytes()
    write = block_writer.write

    def break_it(path, *rest):
        write(path, *rest)
        with path.open("r+b") as file:
            file.truncate(2000)

    monkeypatch.setattr(block_writer, "write", break_it)
    with pytest.raises(WriteError, match=r"could not be read back .* 6 of 6 blocks are finished"):
        streamed.run(out, streamed.plan_of())
    assert out.read_bytes() == before


def test_a_folder_that_is_removed_meanwhile_is_said(tmp_path):
    out = tmp_path / "x.h5ad"

    def remove(index):
        parts = tmp_path / "x.h5ad.parts"
        while index == 3 and parts.exists():  # an earlier block may still be written
            shutil.rmtree(parts, ignore_errors=True)

    with pytest.raises(WriteError, match=r"x\.h5ad\.parts, .* was removed in the meantime"):
        streamed.run(out, streamed.plan_of(), before=remove)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "x.h5ad"
    result = streamed.plan_of()

    def appear():
        out.write_text("mine")
        return streamed.skeleton(result)

    with (
        pytest.raises(WriteError, match="exists"),
        shard_store.Shards(out, result, overwrite=False) as opened,
    ):
        streaming.stream(opened, lambda index: streamed.block(result, index), appear)
    assert out.read_text() == "mine"
    streamed.run(out, result, resume=True)
    assert out.read_text(errors="replace") != "mine"


def test_a_folder_that_holds_anything_else_stays(tmp_path):
    folder = tmp_path / "x.h5ad.parts"
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "notes.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="contains something else"):
            streamed.run(tmp_path / "x.h5ad", streamed.plan_of(), resume)
    assert (folder / "notes.txt").read_text() == "mine"


def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "x.h5ad"
    with pytest.raises(EOFError):
        streamed.in_child(streamed.die_while_writing, path).result()
    assert len(list(tmp_path.iterdir())) == 1
    mine = Scratch(path)
    assert [*tmp_path.iterdir()] == [mine.folder]
    clear_abandoned(path)
    assert mine.folder.exists()  # in use
    mine.remove()
    with pytest.raises(EOFError):
        streamed.in_child(streamed.take_scratch_and_die, path).result()
    streamed.run(path, streamed.plan_of())
    assert [*tmp_path.iterdir()] == [path]
