"""Estimates and blocks made by the worker processes of a real Dask cluster."""

import os
import signal
import threading
import time

import lazy
import numpy as np
import pytest
import scipy.sparse as sp
from pandas.testing import assert_frame_equal
from preloaded import small_cluster

import scvibridge as sb
from scvibridge._utils.grouped import GroupSums, fold_sums
from scvibridge.io import blocks, merging, shard_store, shards, stores

distributed = pytest.importorskip("distributed")

ARGUMENTS = {"transform_batch": "V3", "effect": "global", "batch_size": 16, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:confounding was not checked")


@pytest.fixture(scope="module")
def started_client(tmp_path_factory):
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with small_cluster(tmp_path_factory.mktemp("dask"), n_workers=2) as client:
        yield client
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def client(started_client):
    """The client, once both workers are there: an earlier test may have killed one."""
    started_client.wait_for_workers(2, timeout=60)
    return started_client


@pytest.fixture
def small_blocks(monkeypatch, model):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 8 * model.adata.n_vars)


@pytest.fixture(scope="module")
def model(simulate, train):
    return train(simulate(), max_epochs=2)


@pytest.fixture(scope="module")
def donors(simulate, train):
    """A zero-inflated model of cells of four donors in each batch."""
    cells = simulate()
    place = cells.obs.groupby("batch", observed=True).cumcount() % 4
    cells.obs["donor"] = cells.obs["batch"].astype(str) + place.astype(str)
    return train(cells, max_epochs=2, gene_likelihood="zinb")


def with_text_as_objects(table):
    """With pandas 3, anndata reads text as pandas' strings from h5ad, as objects from zarr."""
    return table.astype({name: object for name in table if table[name].dtype == "string"})


def assert_same(left, right):
    """Check that two results are equal, to the last bit."""
    left, right = left.to_memory(), right.to_memory()
    for name in ("X", *left.layers):
        one, other = (a.X if name == "X" else a.layers[name] for a in (left, right))
        assert one.dtype == other.dtype
        for part in ("data", "indices", "indptr") if sp.issparse(one) else ():
            assert np.array_equal(getattr(one, part), getattr(other, part))
        assert sp.issparse(one) or np.array_equal(one, other)
    assert np.array_equal(left.obsm["X_scvi"], right.obsm["X_scvi"])
    assert_frame_equal(with_text_as_objects(left.obs), with_text_as_objects(right.obs))
    assert_frame_equal(with_text_as_objects(left.var), with_text_as_objects(right.var))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("on_disk", [False, True])
def test_workers_give_the_local_result(client, model, tmp_path, on_disk):
    adata = None
    if on_disk:
        adata = tmp_path / "cells.h5ad"
        cells = model.adata.copy()
        cells.X = cells.X.tocsc()  # sorted by cells first, in files that the workers read
        cells.write_h5ad(adata)
    here = sb.corrected_counts(model, adata, out=tmp_path / "here.h5ad", **ARGUMENTS)
    there = sb.corrected_counts(
        model, adata, out=tmp_path / "there.zarr", client=client, **ARGUMENTS
    )
    assert_same(here, there)
    assert not (tmp_path / "there.zarr.parts").exists()


@pytest.mark.usefixtures("small_blocks")
def test_workers_read_lazily(client, model, tmp_path):
    """A task that waited for others would wait forever: those wait for it."""
    model.adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = lazy.read(tmp_path / "cells.h5ad")
    cells.X = cells.X.rechunk((50, cells.n_vars))
    here = sb.corrected_counts(model, tmp_path / "cells.h5ad", **ARGUMENTS)
    out = tmp_path / "there.zarr"
    assert_same(here, sb.corrected_counts(model, cells, out=out, client=client, **ARGUMENTS))
    cells.X = cells.X.persist()
    assert_same(here, sb.corrected_counts(model, cells, out=tmp_path / "x.h5ad", **ARGUMENTS))
    with pytest.raises(TypeError, match=r"in the memory of workers.*pass adata as the path"):
        sb.corrected_counts(model, cells, out=tmp_path / "y.zarr", client=client, **ARGUMENTS)


EFFECTS = {
    "label": {"effect": "label", "labels_key": "cell_type", "normalized": True},
    "local": {"effect": "local", "condition_key": "condition"},
    "cell": {"effect": "cell"},
    "samples": {"effect": "global", "sample_key": "donor", "residual": "always"},
    "dropped": {"effect": "global", "unsupported": "drop"},
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("name", "ending"), zip(EFFECTS, ["zarr", "h5ad"] * 3, strict=False))
def test_every_effect_is_that_of_a_local_run(client, donors, tmp_path, name, ending, monkeypatch):
    """The ranges of a zarr folder have many chunks, which begin and end within blocks."""
    monkeypatch.setattr(stores, "_ZARR_LENGTH", 128)
    monkeypatch.setattr(stores, "_ZARR_CELLS", 7)
    given = {**ARGUMENTS, **EFFECTS[name]}
    here = sb.corrected_counts(donors, **given)
    there = sb.corrected_counts(donors, out=tmp_path / f"there.{ending}", client=client, **given)
    assert_same(here, there)


@pytest.mark.usefixtures("small_blocks")
def test_the_number_of_workers_changes_nothing(client, donors, tmp_path):
    """With residual effects of a zero-inflated model, whose sums have three tables."""
    given = {**ARGUMENTS, **EFFECTS["samples"]}
    path = tmp_path / "cells.h5ad"
    donors.adata.write_h5ad(path)
    here = sb.corrected_counts(donors, path, **given)
    try:
        for n_workers in (3, 1):
            client.cluster.scale(n_workers)
            wait_for(lambda n=n_workers: len(client.nthreads()) == n)
            out = tmp_path / f"{n_workers}.zarr"
            assert_same(here, sb.corrected_counts(donors, path, out=out, client=client, **given))
    finally:
        client.cluster.scale(2)
        client.wait_for_workers(2)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sums_are_added_in_the_given_order():
    """In any other order, the last digits of a sum of 1e16 and ones would differ."""
    parts = [
        GroupSums(np.array([2]), (np.array([[1e16]]), None)),
        GroupSums(np.array([0, 2]), (np.array([[5.0], [1.0]]), None)),
        GroupSums(np.array([1, 2]), (np.array([[7.0], [-1e16]]), None)),
    ]
    forward, backward = (fold_sums(iter(some)) for some in (parts, parts[::-1]))
    assert forward.groups.tolist() == backward.groups.tolist() == [0, 1, 2]
    assert forward.tables[1] is None
    assert forward.tables[0].ravel().tolist() == [5.0, 7.0, 0.0]
    assert backward.tables[0].ravel().tolist() == [5.0, 7.0, 0.0 + (-1e16 + 1.0) + 1e16]
    totals = np.zeros((4, 1))
    forward.add_to([totals, None])
    assert totals.ravel().tolist() == [5.0, 7.0, 0.0, 0.0]


@pytest.mark.usefixtures("small_blocks")
def test_values_that_are_not_counts_are_described_as_in_a_local_run(client, model, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells = model.adata.copy()
    cells.layers["kept"] = cells.X.copy()
    cells.X.data[-1] = 0.5
    cells.write_h5ad(path)
    messages = []
    for some in (None, client):
        with pytest.raises(ValueError, match=r"X must hold raw counts.*kept") as raised:
            sb.corrected_counts(model, path, out=tmp_path / "x.zarr", client=some, **ARGUMENTS)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ending", ["zarr", "h5ad"])
def test_a_damaged_block_is_computed_again(client, model, tmp_path, ending, monkeypatch):
    """A block is truncated after the workers have written it, and found when it is merged."""
    out = tmp_path / f"counts.{ending}"
    folder, damaged = tmp_path / f"counts.{ending}.parts", []
    kind = merging.InRanges if ending == "zarr" else merging.AsFinished
    finished = kind.finished

    def truncate(self, index):
        if index == 2 and not damaged:
            path = shards.shard_path(folder, index)
            damaged.append(path.stat().st_size)
            os.truncate(path, damaged[0] // 2)
        finished(self, index)

    monkeypatch.setattr(kind, "finished", truncate)
    there = sb.corrected_counts(model, out=out, client=client, **ARGUMENTS)
    assert damaged
    assert_same(sb.corrected_counts(model, **ARGUMENTS), there)
    assert not folder.exists()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("ending", ["zarr", "h5ad"])
def test_a_lost_worker_costs_nothing_but_time(client, model, tmp_path, ending):
    """One of the two worker processes is killed when some blocks are there."""
    out = tmp_path / f"counts.{ending}"
    killed = []

    def kill_one():
        parts = tmp_path / f"counts.{ending}.parts"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if len(list(parts.glob("block-*.npz"))) >= 1:
                victim = next(iter(client.run(os.getpid).values()))
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    there = sb.corrected_counts(model, out=out, client=client, **ARGUMENTS)
    killer.join()
    assert killed
    # Until the scheduler knows of the loss, it still counts the worker.
    wait_for(lambda: killed[0] not in client.run(os.getpid, on_error="return").values())
    here = sb.corrected_counts(model, **ARGUMENTS)
    assert_same(here, there)


def test_each_worker_holds_the_job_only_while_it_runs(client, model, tmp_path):
    sb.corrected_counts(model, out=tmp_path / "counts.h5ad", client=client, **ARGUMENTS)

    def jobs():
        from scvibridge.io import dask_workers as module

        return len(module._jobs)

    assert set(client.run(jobs).values()) == {0}


def test_what_a_cluster_needs_is_said_before_any_work(client, model, tmp_path):
    with pytest.raises(ValueError, match="client= needs out="):
        sb.corrected_counts(model, client=client, **ARGUMENTS)
    with pytest.raises(TypeError, match=r"must be a dask\.distributed\.Client, got str"):
        sb.corrected_counts(model, client="tcp://x", out=tmp_path / "x.h5ad", **ARGUMENTS)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        distributed.Client(cluster) as idle,
        pytest.raises(ValueError, match="no workers"),
    ):
        sb.corrected_counts(model, client=idle, out=tmp_path / "x.h5ad", **ARGUMENTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_blocks")
def test_an_error_in_a_worker_arrives_and_keeps_what_is_finished(client, model, tmp_path):
    """Each worker can write two blocks."""
    out = tmp_path / "counts.zarr"

    def fill_disk():
        from scvibridge.io import dask_workers as module

        def write(*given, left=[2], original=module.write_shard):  # noqa: B006
            if not left[0]:
                raise OSError("the disk is gone")
            left[0] -= 1
            original(*given)

        module.kept, module.write_shard = module.write_shard, write

    def free_disk():
        from scvibridge.io import dask_workers as module

        module.write_shard = module.kept

    client.run(fill_disk)
    with pytest.raises(OSError, match="the disk is gone") as raised:
        sb.corrected_counts(model, out=out, client=client, **ARGUMENTS)
    client.run(free_disk)
    assert "4 of 10 blocks are finished" in raised.value.__notes__[0]
    assert not out.exists()
    resumed = sb.corrected_counts(model, out=out, resume=True, client=client, **ARGUMENTS)
    assert_same(sb.corrected_counts(model, **ARGUMENTS), resumed)


@pytest.mark.usefixtures("small_blocks")
def test_workers_resume_a_local_run(client, model, tmp_path, monkeypatch):
    out = tmp_path / "counts.h5ad"
    write = shard_store.Shards.write

    def stopping(self, index, block):
        if index == 3:
            raise KeyboardInterrupt
        write(self, index, block)

    with monkeypatch.context() as patch:
        patch.setattr(shard_store.Shards, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            sb.corrected_counts(model, out=out, **ARGUMENTS)
    folder = tmp_path / "counts.h5ad.parts"
    assert [path.name for path in sorted(folder.glob("block-*.npz"))] == [
        f"block-{index:06d}.npz" for index in range(3)
    ]
    resumed = sb.corrected_counts(model, out=out, resume=True, client=client, **ARGUMENTS)
    assert_same(sb.corrected_counts(model, **ARGUMENTS), resumed)
    assert not folder.exists()
