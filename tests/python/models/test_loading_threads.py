"""Models load in several threads at a time, each with its own data."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pytest
import scvi
import torch

import scvibridge as sb


@pytest.fixture(scope="module")
def folder(simulate, train, tmp_path_factory):
    made = tmp_path_factory.mktemp("loading") / "model"
    train(simulate(60, 30), max_epochs=1).save(str(made), save_anndata=True)
    return made


@pytest.fixture
def slow_setup(monkeypatch):
    """Have threads meet between scvi-tools' setting data up and its looking that up again."""
    setup = scvi.model.SCVI.setup_anndata.__func__

    def slowly(cls, *arguments, **keywords):
        setup(cls, *arguments, **keywords)
        time.sleep(0.05)

    monkeypatch.setattr(scvi.model.SCVI, "setup_anndata", classmethod(slowly))


def loaded(folder, data):
    with ThreadPoolExecutor(len(data)) as pool:
        return list(pool.map(lambda one: sb.load(folder, adata=one, device="cpu"), data))


@pytest.mark.usefixtures("slow_setup")
def test_copies_of_data_load_at_a_time(folder):
    """Copies share the id by which scvi-tools knows data: it looked one up and found another."""
    data = [ad.read_h5ad(folder / "adata.h5ad")[np.roll(np.arange(60), i)].copy() for i in range(4)]
    assert len({one.uns["_scvi_uuid"] for one in data}) == 1
    models = loaded(folder, data)
    for model, one in zip(models, data, strict=True):
        assert model.adata is one
        assert model.adata_manager.adata is one
        alone = model.get_latent_representation()
        assert np.array_equal(alone, sb.load(folder, adata=one.copy()).get_latent_representation())


@pytest.mark.usefixtures("slow_setup")
def test_one_object_loads_at_a_time(folder):
    data = ad.read_h5ad(folder / "adata.h5ad")
    models = loaded(folder, [data] * 4)
    expected = sb.load(folder, device="cpu").get_latent_representation()
    for model in models:
        assert model.adata is data
        assert np.array_equal(model.get_latent_representation(), expected)


def test_other_threads_draw_as_if_nothing_was_loaded(folder):
    """The generator of torch is not put back to where it was: it is left alone."""
    torch.manual_seed(5)
    expected = [torch.randn(1).item() for _ in range(40)]
    torch.manual_seed(5)
    drawn, stop = [], threading.Event()

    def draw():
        while len(drawn) < 40 and not stop.is_set():
            drawn.append(torch.randn(1).item())
            time.sleep(0.002)

    drawing = threading.Thread(target=draw)
    drawing.start()
    sb.load(folder, device="cpu")
    stop.set()
    drawing.join()
    assert drawn == expected[: len(drawn)]
    assert drawn
