"""Blocks made by the workers of a real Dask cluster of two processes."""

import os
import signal
import threading
import time

import anndata as ad
import numpy as np
import pytest
from numpy.testing import assert_allclose

import scvibridge as sb
from conftest import differing
from scvibridge.io import blocks

distributed = pytest.importorskip("distributed")

ARGUMENTS = {"transform_batch": "V3", "effect": "global", "batch_size": 16, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:confounding was not checked")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    environment = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def small_blocks(monkeypatch, model):
    monkeypatch.setattr(blocks, "_ENTRIES_PER_BLOCK", 8 * model.adata.n_vars)


@pytest.fixture(scope="module")
def model(simulate, train):
    return train(simulate(), max_epochs=2)


def same(left, right):
    """Whether two results agree: counts up to what another order of sums may change."""
    left, right = left.to_memory(), right.to_memory()
    assert (left.layers["raw_counts"] != right.layers["raw_counts"]).nnz == 0
    assert_allclose(left.obsm["X_scvi"], right.obsm["X_scvi"], rtol=1e-5, atol=1e-6)
    assert left.obs.equals(right.obs)
    return differing(left.X, right.X) <= 1e-5


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
    assert same(here, there)
    assert not (tmp_path / "there.zarr.parts").exists()


@pytest.mark.usefixtures("small_blocks")
def test_workers_use_the_residual_effects_of_samples(client, model, tmp_path):
    place = model.adata.obs.groupby("batch", observed=True).cumcount() % 4
    model.adata.obs["donor"] = model.adata.obs["batch"].astype(str) + place.astype(str)
    given = {**ARGUMENTS, "sample_key": "donor", "residual": "always"}
    here = sb.corrected_counts(model, **given)
    there = sb.corrected_counts(model, out=tmp_path / "there.h5ad", client=client, **given)
    assert same(here, there)
    plain = sb.corrected_counts(model, **{**given, "residual": "never"})
    assert (plain.X != here.X).nnz > 0.01 * here.X.nnz


@pytest.mark.usefixtures("small_blocks")
def test_a_lost_worker_costs_nothing_but_time(client, model, tmp_path):
    """One of the two worker processes is killed when some blocks are there."""
    out = tmp_path / "counts.h5ad"
    killed = []

    def kill_one():
        parts = tmp_path / "counts.h5ad.parts"
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
    here = sb.corrected_counts(model, **ARGUMENTS)
    assert same(here, there)


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
    """Counts that vanish from the disk while the workers read them."""
    path, out = tmp_path / "cells.h5ad", tmp_path / "counts.h5ad"
    model.adata.write_h5ad(path)
    from scvibridge.io import dask_workers as module

    original = module._plugin

    def plugin_without_data(name, job):
        plugin = original(name, job)
        path.unlink()
        return plugin

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_plugin", plugin_without_data)
        with pytest.raises(FileNotFoundError):
            sb.corrected_counts(model, path, out=out, client=client, **ARGUMENTS)
    assert not out.exists()
    model.adata.write_h5ad(path)
    resumed = sb.corrected_counts(model, path, out=out, resume=True, client=client, **ARGUMENTS)
    assert same(ad.read_h5ad(out), resumed)
    assert resumed.n_obs == model.adata.n_obs
    assert np.asarray(resumed.X[:].sum()) > 0
