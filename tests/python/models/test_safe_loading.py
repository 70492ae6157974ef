"""Models load as by scvi-tools' own load, and nothing that their files hold runs."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import json
import logging
import operator
import os
import pickle
import re
import shutil
import struct
import subprocess
import tarfile
import threading
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.models.saved import model_file

UNREAD = ("history_", "semisupervised_history_", "unsupervised_history_")
N_GENES, N_REGIONS = 30, 20
PROTEINS = [f"protein_{i}" for i in range(5)]


# ---- models of all classes -------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells(simulate):
    """Make the cells anew: scvi-tools writes to those that it trains on."""

    def make(seed: int = 1) -> ad.AnnData:
        adata = simulate(60, N_GENES, seed=seed)
        rng = np.random.default_rng(seed)
        adata.obs["site"] = pd.Categorical(rng.choice(["x", "y"], 60))
        adata.obs["flag"] = rng.random(60) < 0.5
        adata.obs["age"] = rng.normal(size=60)
        counts = rng.poisson(5, (60, len(PROTEINS))).astype(np.float32)
        adata.obsm["proteins"] = pd.DataFrame(counts, index=adata.obs_names, columns=PROTEINS)
        return adata

    return make


@pytest.fixture(scope="module")
def multimodal(cells):
    def make() -> mudata.MuData:
        rna = cells()
        open_regions = np.random.default_rng(0).poisson(0.5, (60, N_REGIONS)).astype(np.float32)
        modalities = {
            "rna": rna,
            "atac": ad.AnnData(open_regions),
            "protein": ad.AnnData(rna.obsm["proteins"].to_numpy()),
        }
        modalities["atac"].var_names = [f"region_{i}" for i in range(N_REGIONS)]
        modalities["protein"].var_names = PROTEINS
        for part in modalities.values():
            part.obs_names = rna.obs_names
        return mudata.MuData(modalities)

    return make


@pytest.fixture(autouse=True)
def quiet_mudata():
    """Say nothing of what MuData will do in its next version."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "From 0.4", FutureWarning)
        yield


def fit(model, **plan):
    scvi.settings.verbosity = logging.ERROR
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, plan_kwargs=plan)
    return model


def plain(name):
    """A model of a class that takes the cells as SCVI does."""

    def make(cells, _):
        model_class = getattr(scvi.model, name)
        adata = cells()
        model_class.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
        return fit(model_class(adata, n_latent=3))

    return make


def scvi_covariates(cells, _):
    adata = cells()
    scvi.model.SCVI.setup_anndata(
        adata,
        batch_key="batch",
        labels_key="cell_type",
        categorical_covariate_keys=["site", "flag"],
        continuous_covariate_keys=["age"],
    )
    return fit(scvi.model.SCVI(adata, n_latent=3, gene_likelihood="nb"))


def scanvi(cells, _):
    adata = cells()
    scvi.model.SCANVI.setup_anndata(adata, "cell_type", "NK", batch_key="batch")
    return fit(scvi.model.SCANVI(adata, n_latent=3))


def scanvi_of_scvi(cells, _):
    return fit(scvi.model.SCANVI.from_scvi_model(plain("SCVI")(cells, _), "NK"))


def totalvi(cells, _):
    adata = cells()
    scvi.model.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    return fit(scvi.model.TOTALVI(adata, n_latent=3))


def totalvi_of_mudata(_, multimodal):
    data = multimodal()
    scvi.model.TOTALVI.setup_mudata(
        data,
        rna_layer=None,
        protein_layer=None,
        batch_key="batch",
        modalities={"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"},
    )
    return fit(scvi.model.TOTALVI(data, n_latent=3))


def totalanvi(cells, _):
    adata = cells()
    scvi.external.TOTALANVI.setup_anndata(
        adata, "proteins", batch_key="batch", labels_key="cell_type", unlabeled_category="NK"
    )
    return fit(scvi.external.TOTALANVI(adata, n_latent=3))


def multivi(_, multimodal):
    data = multimodal()
    scvi.model.MULTIVI.setup_mudata(
        data,
        rna_layer=None,
        atac_layer=None,
        protein_layer=None,
        batch_key="batch",
        modalities={
            "rna_layer": "rna",
            "atac_layer": "atac",
            "protein_layer": "protein",
            "batch_key": "rna",
        },
    )
    return fit(scvi.model.MULTIVI(data, n_genes=N_GENES, n_regions=N_REGIONS, n_latent=3))


def minified(cells, _):
    model = plain("SCVI")(cells, _)
    adata = model.adata
    adata.obsm["mean"], adata.obsm["variance"] = model.get_latent_representation(return_dist=True)
    model.minify_adata(use_latent_qzm_key="mean", use_latent_qzv_key="variance")
    return model


def query(cells, _):
    """A model that was carried over to cells of a batch that it had not seen (scArches)."""
    adata = cells(seed=2)
    adata.obs["batch"] = pd.Categorical(["V9"] * 60)
    reference = plain("SCVI")(cells, _)
    return fit(scvi.model.SCVI.load_query_data(adata, reference), weight_decay=0.0)


# By the class of the model, and what is special of it.
MODELS = {
    "SCVI": plain("SCVI"),
    "SCVI with covariates": scvi_covariates,
    "SCVI minified": minified,
    "SCVI of a query": query,
    "LinearSCVI": plain("LinearSCVI"),
    "AUTOZI": plain("AUTOZI"),
    "CondSCVI": plain("CondSCVI"),
    "SCANVI": scanvi,
    "SCANVI of SCVI": scanvi_of_scvi,
    "TOTALVI": totalvi,
    "TOTALVI of MuData": totalvi_of_mudata,
    "TOTALANVI": totalanvi,
    "MULTIVI": multivi,
}


@pytest.fixture(scope="module")
def saved(cells, multimodal, tmp_path_factory):
    """The folder of a model that scvi-tools trained and saved with its data."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp("saved") / "model"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MODELS[name](cells, multimodal).save(str(folder), save_anndata=True)
        return folder

    return folder_of


def upstream(folder: Path, model_class, adata=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model_class.load(str(folder), adata=adata, accelerator="cpu")


def assert_same(a, b, where="") -> None:
    """The same values of the same types, in the same order."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.stride() == b.stride(), where
        assert torch.equal(a, b), where
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        assert np.array_equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        assert getattr(a, "default_factory", None) == getattr(b, "default_factory", None), where
        assert getattr(a, "_metadata", None) == getattr(b, "_metadata", None), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for one, other in zip(a, b, strict=True):
            assert_same(one, other, where)
    else:
        assert a == b, where


@pytest.mark.parametrize("name", MODELS)
def test_models_load_as_by_scvi_tools(name, saved):
    folder = saved(name)
    before = sorted(folder.iterdir())
    loaded = sb.load(folder, device="cpu")
    reference = upstream(folder, type(loaded))
    assert type(loaded).__name__ == name.split()[0]
    assert_same(loaded.module.state_dict(), reference.module.state_dict())
    assert_same(loaded.registry, reference.registry)
    assert_same(loaded.init_params_, reference.init_params_)
    assert loaded.is_trained
    assert not loaded.module.training
    assert np.array_equal(loaded.get_latent_representation(), reference.get_latent_representation())
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("name", MODELS)
def test_all_that_the_file_holds_is_read_but_the_history(name, saved):
    path = saved(name) / "model.pt"
    reference = torch.load(path, weights_only=False)
    reference["model_state_dict"].pop("pyro_param_store")
    assert reference["attr_dict"]["history_"]
    for attribute in UNREAD:
        if attribute in reference["attr_dict"]:
            reference["attr_dict"][attribute] = None
    assert_same(model_file.read_model_file(path), reference)


def test_history_is_left_out_and_comes_with_trust(saved):
    folder = saved("SCVI")
    assert sb.load(folder).history is None
    assert len(sb.load(folder, trust=True).history["train_loss"]) == 2


def test_loaded_model_can_be_trained_and_saved_again(saved, tmp_path):
    model = fit(sb.load(saved("SCVI"), device="cpu"))
    before = sb.load(saved("SCVI")).module.state_dict()["px_r"]
    assert not torch.equal(model.module.state_dict()["px_r"], before)
    model.save(str(tmp_path / "again"), save_anndata=True)
    again = sb.load(tmp_path / "again")
    assert_same(again.module.state_dict(), model.module.state_dict())


def test_model_without_data(saved):
    model = sb.load(saved("SCVI"), adata=False)
    assert model.adata is None
    assert_same(model.module.state_dict(), sb.load(saved("SCVI")).module.state_dict())


def test_class_that_scvi_tools_cannot_load_without_data_says_so(saved):
    folder = saved("LinearSCVI")
    try:
        theirs = scvi.model.LinearSCVI.load(str(folder), adata=False)
    except (ValueError, AttributeError):
        with pytest.raises(ValueError, match=r"of class LinearSCVI without data .*pass adata="):
            sb.load(folder, adata=False)
    else:  # since scvi-tools 1.5
        ours = sb.load(folder, adata=False)
        assert_same(ours.module.state_dict(), theirs.module.state_dict())


def test_loading_in_several_threads(saved):
    """Nothing of scvi-tools is replaced meanwhile: other loads are not touched."""
    folders = [saved("SCVI"), saved("LinearSCVI")] * 3
    data = [ad.read_h5ad(folder / "adata.h5ad") for folder in folders]
    models: dict = {}
    threads = [
        threading.Thread(target=lambda i=i, f=f: models.update({i: sb.load(f, adata=data[i])}))
        for i, f in enumerate(folders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(models[i]).__name__ for i in range(6)] == ["SCVI", "LinearSCVI"] * 3


def test_tensors_of_a_gpu_load_on_the_cpu(saved, tmp_path):
    """The file says where each tensor lay, here as if on a GPU; it is read to the CPU."""
    folder = copied(saved("SCVI"), tmp_path)
    change_pickle(folder, lambda pickled: pickled.replace(text("cpu"), text("cuda:0")))
    model = sb.load(folder, device="cpu")
    assert {tensor.device.type for tensor in model.module.state_dict().values()} == {"cpu"}
    assert_same(model.module.state_dict(), sb.load(saved("SCVI")).module.state_dict())


def test_arrays_of_numpy_1_are_read(saved, tmp_path):
    folder = copied(saved("SCVI with covariates"), tmp_path)
    rewrite(folder, lambda c: c["attr_dict"].update(mine_=np.float64(0.5)))
    newer = model_file.read_model_file(folder / "model.pt")
    found = []

    def change(pickled: bytes) -> bytes:
        found.append(pickled.count(b"cnumpy._core.multiarray\n"))
        return pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")

    change_pickle(folder, change)
    assert found[0] >= 2
    assert_same(model_file.read_model_file(folder / "model.pt"), newer)


def test_failure_of_another_version_names_both(saved, tmp_path):
    folder = copied(saved("SCVI"), tmp_path)

    def change(contents):
        contents["attr_dict"]["registry_"]["scvi_version"] = "9.8.7"
        del contents["attr_dict"]["init_params_"]

    rewrite(folder, change)
    with pytest.raises(ValueError, match=re.escape("which scvi-tools 9.8.7 saved (ValueError: No")):
        sb.load(folder)


# ---- data ------------------------------------------------------------------------------------


def test_modalities_are_aligned_by_name(saved, multimodal, tmp_path):
    folder = saved("MULTIVI")
    rng = np.random.default_rng(3)
    shuffled = {}
    for name, part in multimodal().mod.items():
        extra = part[:, :2].copy()
        extra.var_names = [f"more_{name}_{i}" for i in range(2)]
        wider = ad.concat([part, extra], axis=1, merge="first")
        shuffled[name] = wider[:, rng.permutation(wider.n_vars)].copy()
    shuffled["other"] = shuffled["rna"][:, :3].copy()
    shuffled["other"].var_names = ["o1", "o2", "o3"]
    data = mudata.MuData(shuffled)
    data.obs["mine"] = np.arange(60)
    data.obsm["map"] = np.ones((60, 2))
    data.write(tmp_path / "data.h5mu")

    expected = sb.load(folder).get_latent_representation()
    for given in (data, tmp_path / "data.h5mu", str(tmp_path / "data.h5mu")):
        model = sb.load(folder, adata=given)
        assert np.array_equal(model.get_latent_representation(), expected)
        assert set(model.adata.mod) == {"rna", "atac", "protein"}
        assert model.adata.obs["mine"].tolist() == list(range(60))
        assert model.adata.obsm["map"].shape == (60, 2)
    assert data["rna"].n_vars == N_GENES + 2


def test_data_as_they_were_are_not_copied(saved, multimodal):
    data = multimodal()
    assert sb.load(saved("MULTIVI"), adata=data).adata is data


def test_data_of_the_other_kind_are_refused(saved, cells, multimodal, tmp_path):
    with pytest.raises(TypeError, match=re.escape("must be a MuData or the path of an h5mu file")):
        sb.load(saved("MULTIVI"), adata=cells())
    with pytest.raises(TypeError, match="there are rna, atac, protein"):
        sb.load(saved("SCVI"), adata=multimodal())
    with pytest.raises(ValueError, match=re.escape("ends in .h5ad, expected .h5mu")):
        sb.load(saved("MULTIVI"), adata="data.h5ad")
    with pytest.raises(ValueError, match=re.escape("ends in .h5mu, expected .h5ad or .zarr")):
        sb.load(saved("SCVI"), adata="data.h5mu")
    (tmp_path / "data.h5mu").write_text("nonsense")
    with pytest.raises(ValueError, match="could not be read as an h5mu file"):
        sb.load(saved("MULTIVI"), adata=tmp_path / "data.h5mu")


def test_data_that_lack_something_are_refused(saved, multimodal, tmp_path):
    parts = multimodal().mod
    with pytest.raises(ValueError, match=r"lack the modality atac, .* there are rna, protein"):
        sb.load(saved("MULTIVI"), mudata.MuData({m: parts[m] for m in ("rna", "protein")}))
    fewer = {**parts, "atac": parts["atac"][:, 3:].copy()}
    with pytest.raises(ValueError, match="modality atac: the data lack 3 of the model's 20"):
        sb.load(saved("MULTIVI"), mudata.MuData(fewer))
    folder = copied(saved("MULTIVI"), tmp_path)
    (folder / "mdata.h5mu").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("(mdata.h5mu): pass adata=")):
        sb.load(folder)


def test_variables_in_one_row_must_lie_as_they_were(saved, multimodal, tmp_path):
    """Saves in the format before modalities had their own names."""
    model = sb.load(saved("MULTIVI"), adata=multimodal())
    folder = tmp_path / "model"
    model.save(str(folder), save_anndata=False, legacy_mudata_format=True)
    assert sb.load(folder, adata=multimodal()).adata.n_vars == N_GENES + N_REGIONS + len(PROTEINS)
    parts = multimodal().mod
    reversed_genes = {**parts, "rna": parts["rna"][:, ::-1].copy()}
    with pytest.raises(ValueError, match="not those of the model in the same order"):
        sb.load(folder, adata=mudata.MuData(reversed_genes))


# ---- hostile files ---------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function, whose result it is once it is unpickled."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Callable, so that pickle takes the result of one call as the function of another."""


def pickled_touch(marker: Path) -> bytes:
    return pickle.dumps(Call(os.system, f"touch {marker}"))


def array_file(marker: Path) -> str:
    path = marker.with_suffix(".npy")
    np.save(path, np.array([Call(os.system, f"touch {marker}")], dtype=object), allow_pickle=True)
    return str(path)


def tensor_file(marker: Path) -> io.BytesIO:
    content = io.BytesIO()
    torch.save(Call(os.system, f"touch {marker}"), content)
    content.seek(0)
    return content


PAYLOADS = {
    "os.system": lambda m: Call(os.system, f"touch {m}"),
    "subprocess": lambda m: Call(subprocess.call, ["touch", str(m)]),
    "eval": lambda m: Call(eval, f"__import__('pathlib').Path({str(m)!r}).touch()"),
    "exec": lambda m: Call(exec, f"open({str(m)!r}, 'w').close()"),
    "open": lambda m: Call(open, str(m), "w"),
    "Path.touch": lambda m: Call(Path.touch, m),
    "getattr": lambda m: Call(Call(getattr, m, "touch")),
    "methodcaller": lambda m: Call(operator.methodcaller("touch"), m),
    "attrgetter": lambda m: Call(Call(operator.attrgetter("touch"), m)),
    "partial": lambda m: Call(functools.partial(Path.touch, m)),
    "partial's state": lambda m: Call(
        Call(functools.partial, print, state=(Path.touch, (m,), {}, None))
    ),
    "map": lambda m: Call(list, Call(map, Path.touch, [m])),
    "importlib": lambda m: Call(
        Call(getattr, Call(importlib.import_module, "os"), "system"), f"touch {m}"
    ),
    "pickle.loads": lambda m: Call(pickle.loads, pickled_touch(m)),
    "numpy.load": lambda m: Call(np.load, array_file(m), None, True),
    "torch.load": lambda m: Call(functools.partial(torch.load, weights_only=False), tensor_file(m)),
    "torch's bytes": lambda m: Call(torch.storage._load_from_bytes, tensor_file(m).getvalue()),
}


def in_registry(contents, payload):
    contents["attr_dict"]["registry_"]["setup_args"]["layer"] = payload


def in_keys(contents, payload):
    contents["attr_dict"]["init_params_"] = {"non_kwargs": {payload: 1}, "kwargs": {}}


def in_factory(contents, payload):
    contents["attr_dict"]["registry_"]["field_registries"] = {
        "X": defaultdict(payload, {"a": 1}),
    }


def in_object_array(contents, payload):
    contents["attr_dict"]["train_indices_"] = np.array([1, payload], dtype=object)


def in_metadata(contents, payload):
    state = OrderedDict(contents["model_state_dict"])
    state._metadata = {"": payload}
    contents["model_state_dict"] = state


def in_hooks(contents, payload):
    """Among the arguments of a function that is allowed."""
    tensor = next(iter(contents["model_state_dict"].values()))
    function, arguments = tensor.__reduce_ex__(2)
    contents["model_state_dict"]["px_r"] = Call(function, *arguments[:-1], {"hook": payload})


def in_dtype(contents, payload):
    contents["var_names"] = Call(
        np._core.multiarray._reconstruct,
        np.ndarray,
        (0,),
        b"b",
        state=(1, (1,), Call(np.dtype, payload, False, True), False, b"\0" * 8),
    )


def in_dtype_state(contents, payload):
    contents["var_names"] = Call(np.dtype, "f8", state=(3, "<", payload, None, None, -1, -1, 0))


PLACES = {
    "attr_dict['mine_']": lambda c, p: c["attr_dict"].update(mine_=p),
    "attr_dict['is_trained_']": lambda c, p: c["attr_dict"].update(is_trained_=p),
    "attr_dict['registry_']['setup_args']['layer']": in_registry,
    "attr_dict['init_params_']['non_kwargs']": in_keys,
    "the default of attr_dict['registry_']['field_registries']['X']": in_factory,
    "attr_dict['train_indices_']": in_object_array,
    "var_names": lambda c, p: c.update(var_names=p),
    "model_state_dict['px_r']": lambda c, p: c["model_state_dict"].update(px_r=p),
    "model_state_dict": in_metadata,
    "a hook of a tensor": in_hooks,
    "a dtype": in_dtype,
    "a state of a dtype": in_dtype_state,
}


def copied(folder: Path, into: Path) -> Path:
    new = into / "copied"
    shutil.copytree(folder, new)
    return new


def rewrite(folder: Path, change, **how) -> None:
    """Change what the file of a model holds, and save it as torch does."""
    path = folder / "model.pt"
    contents = torch.load(path, weights_only=False)
    change(contents)
    torch.save(contents, path, **how)


def change_pickle(folder: Path, change, compression=zipfile.ZIP_STORED) -> None:
    """Change the pickle in the file of a model, byte by byte."""
    path = folder / "model.pt"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in parts.items():
            file.writestr(name, change(content) if name.endswith("data.pkl") else content)


def text(value: str) -> bytes:
    """A text as protocol 2 has it."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def refusal_of(folder: Path) -> str:
    with pytest.raises(ValueError, match="trust=True") as refused:
        sb.load(folder, adata=False)
    assert type(refused.value) is ValueError
    return str(refused.value)


def load_trusting(folder: Path) -> None:
    """Whatever becomes of it: what the code gives in place of data is of no use."""
    with contextlib.suppress(Exception):
        sb.load(folder, adata=False, trust=True)


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "marker"


@pytest.fixture
def victim(saved, tmp_path) -> Path:
    return copied(saved("SCVI"), tmp_path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_is_refused_and_does_not_run(name, protocol, victim, marker):
    payload = PAYLOADS[name](marker)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=payload), pickle_protocol=protocol)
    assert "was not loaded: attr_dict['mine_'] asks for " in refusal_of(victim)
    assert not marker.exists()
    load_trusting(victim)
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", PLACES)
def test_code_anywhere_is_refused_and_does_not_run(place, protocol, victim, marker):
    payload = Call(os.system, f"touch {marker}")
    rewrite(victim, lambda c: PLACES[place](c, payload), pickle_protocol=protocol)
    message = refusal_of(victim)
    assert "asks for posix.system" in message
    assert place in message or place.startswith("a ")
    assert not marker.exists()
    load_trusting(victim)
    assert marker.exists()


INERT_PLACES = {
    "history": lambda c, p: c["attr_dict"].update(history_={"elbo": p}),
    "history itself": lambda c, p: c["attr_dict"].update(history_=p),
    "history of SCANVI": lambda c, p: c["attr_dict"].update(semisupervised_history_=[p]),
    "Pyro": lambda c, p: c["model_state_dict"].update(pyro_param_store={"params": p}),
    "beside": lambda c, p: c.update(more=p),
}


@pytest.mark.parametrize("place", INERT_PLACES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_in_what_is_not_needed_does_not_run(name, place, victim, marker):
    payload = PAYLOADS[name](marker)
    rewrite(victim, lambda c: INERT_PLACES[place](c, payload))
    assert sb.load(victim, adata=False).history is None
    assert not marker.exists()
    load_trusting(victim)
    assert marker.exists()


class Sink(dict):
    """Takes what lists take, too, and pickles so that it gets all of it."""

    def __reduce_ex__(self, _):
        return Sink, (), {"state": 1}, iter([1, 2]), iter([("a", 1)])

    def extend(self, _):
        pass

    def append(self, _):
        pass


def test_members_of_unknown_things_do_nothing(victim):
    rewrite(victim, lambda c: c["attr_dict"]["history_"].update(more=Sink()))
    assert sb.load(victim, adata=False).history is None
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=Sink()))
    assert f"attr_dict['mine_'] asks for {Sink.__module__}.Sink" in refusal_of(victim)


def in_protocol_4(opcodes: bytes) -> bytes:
    """Opcodes amid a pickle of protocol 2 that are read as protocol 4."""
    return b"\x80\x04" + opcodes + b"\x80\x02"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "serialization.os.system"),
        ("collections", "_sys.modules"),
        ("torch._utils", "torch.serialization.os.system"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("os", "system"),
        ("nt", "system"),
    ],
)
def test_names_with_dots_are_refused(module, name, victim, marker):
    """From protocol 4 on, a name may lead from an allowed module to any other."""
    rewrite(victim, lambda c: c["attr_dict"].update(mine_="EVIL"))
    call = text(module) + text(name) + b"\x93" + text(f"touch {marker}") + b"\x85R"
    change_pickle(victim, lambda p: p.replace(text("EVIL"), in_protocol_4(call)))
    assert f"attr_dict['mine_'] asks for {module}.{name}" in refusal_of(victim)
    assert not marker.exists()
    if name.endswith("os.system"):
        load_trusting(victim)
        assert marker.exists()


def test_classes_that_are_allowed_cannot_be_changed(victim):
    """By setting a state on the class in place of an object of it."""
    rewrite(victim, lambda c: c["attr_dict"].update(mine_="EVIL"))
    function = text("torch._utils") + text("_rebuild_tensor_v2") + b"\x93"
    change = function + b"N}" + text("__kwdefaults__") + b"}s\x86b"
    change_pickle(victim, lambda p: p.replace(text("EVIL"), in_protocol_4(change)))
    refusal_of(victim)
    assert torch._utils._rebuild_tensor_v2.__kwdefaults__ is None
    load_trusting(victim)
    assert torch._utils._rebuild_tensor_v2.__kwdefaults__ == {}
    torch._utils._rebuild_tensor_v2.__kwdefaults__ = None


# ---- data that are none ----------------------------------------------------------------------


def array_of(*dtype, state=None, shape=(1,), content=b"\1" * 8):
    """An array as numpy pickles it, of a dtype that is given by what it is made of."""
    return Call(
        np._core.multiarray._reconstruct,
        np.ndarray,
        (0,),
        b"b",
        state=(1, shape, Call(np.dtype, *dtype, state=state), False, content),
    )


ARRAYS = {
    # Bytes that would be taken for the address of an object.
    "a field of objects": array_of(
        "V8", False, True, state=(3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
    ),
    "fields of numbers": array_of(
        "f8", False, True, state=(3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
    ),
    "a subarray": array_of(
        "f8", False, True, state=(3, "<", (np.dtype("O"), (1,)), None, None, 8, 1, 0)
    ),
    "fields by their text": array_of("O,O", False, True),
    "many numbers by their text": array_of("(1000000,1000000)f8", False, True),
    "times": array_of("M8[ns]", False, True),
    "bytes for objects": array_of("O8", False, True),
    "too few numbers": array_of("f8", False, True, shape=(2,)),
    "a shape below zero": array_of("f8", False, True, shape=(-1,)),
    "a number of objects": Call(np._core.multiarray.scalar, np.dtype("O"), b"\1" * 8),
    "too many arguments": Call(np.dtype, "f8", "f8", state=(1,)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_numpy_would_not_have_written_are_refused(name, victim):
    # Not tried with trust: some of them end the process.
    rewrite(victim, lambda c: c["attr_dict"].update(train_indices_=ARRAYS[name]))
    message = refusal_of(victim)
    assert "attr_dict['train_indices_']" in message
    assert "in a way that scvi-tools does not" in message or "which is none of numbers" in message


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [((10**6,), (1,), 0), ((2,), (10**9,), 0), ((1,), (1,), 10**9), ((2,), (-1,), 5)],
)
def test_tensors_beyond_their_numbers_are_refused(size, stride, offset, victim):
    def change(contents):
        function, arguments = contents["model_state_dict"]["px_r"].__reduce_ex__(2)
        contents["model_state_dict"]["px_r"] = Call(
            function, arguments[0], offset, size, stride, *arguments[4:]
        )

    rewrite(victim, change)
    assert "model_state_dict['px_r'] asks for torch._utils._rebuild_tensor_v2 in a way" in (
        refusal_of(victim)
    )


def test_numbers_of_numpy_and_sets_are_read(victim):
    values = {
        "number": np.float32(2.5),
        "truth": np.bool_(True),
        "text": np.str_("a\nb"),
        "texts": np.array([["x", "longer"], ["", "\u00e9"]], order="F"),
        "objects": np.array([[1], "a", None, [2, [3]], np.int64(4)], dtype=object),
        "big endian": np.arange(3, dtype=">i2"),
        "bytes": b"\x00\xff",
        "set": {1, "a"},
        "frozen": frozenset([2]),
        "nested": defaultdict(list, {1: [(1, 2), {"a": 1j}]}),
        "ordered": OrderedDict(b=1, a=2),
        "dtype": torch.float16,
        "device": torch.device("cuda:1"),
        "parameter": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T),
        "halves": torch.arange(4).to(torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }
    for protocol in (2, 4):
        rewrite(victim, lambda c: c["attr_dict"].update(mine_=values), pickle_protocol=protocol)
        read = model_file.read_model_file(victim / "model.pt")["attr_dict"]["mine_"]
        objects = read.pop("objects")
        assert objects.tolist() == values["objects"].tolist()
        assert type(objects[4]) is np.int64
        assert_same(read, {key: value for key, value in values.items() if key != "objects"})


def test_what_is_there_twice_is_one_value(victim):
    shared = ["one"]
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=shared, yours_=shared))
    attributes = model_file.read_model_file(victim / "model.pt")["attr_dict"]
    assert attributes["mine_"] is attributes["yours_"]


def test_what_holds_itself_or_is_endless_is_refused(victim):
    endless: list = []
    endless.append(endless)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=endless))
    assert "attr_dict['mine_'] holds itself" in refusal_of(victim)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_="EVIL"))
    deep = b"]" * 100_000 + b"a" * 99_999
    change_pickle(victim, lambda pickled: pickled.replace(text("EVIL"), deep))
    assert "nested too deeply" in refusal_of(victim)


def test_attributes_and_methods_that_scvi_tools_does_not_save_are_refused(victim, saved):
    rewrite(victim, lambda c: c["attr_dict"].update(__class__="x"))
    assert "attr_dict['__class__'] is no attribute that scvi-tools saves" in refusal_of(victim)
    shutil.copy(saved("SCVI") / "model.pt", victim / "model.pt")
    rewrite(victim, lambda c: c["attr_dict"]["registry_"].update(setup_method_name="load"))
    assert "attr_dict['registry_'] asks for the method 'load'" in refusal_of(victim)


def test_message_shows_no_characters_that_a_terminal_obeys(victim):
    rewrite(victim, lambda c: c["attr_dict"].update({"a\x1b[2J\n_": Call(os.system, "true")}))
    message = refusal_of(victim)
    assert message.isprintable()
    assert r"attr_dict['a\x1b[2J\n_'] asks for posix.system" in message


# ---- files that are none ---------------------------------------------------------------------


def as_one_pickle(path: Path, payload) -> None:
    path.write_bytes(pickle.dumps(payload))


def as_before_zip(path: Path, payload) -> None:
    torch.save({"attr_dict": payload}, path, _use_new_zipfile_serialization=False)


def as_tar(path: Path, payload) -> None:
    """The oldest format of torch."""
    with tarfile.open(path, "w") as file:
        for name, content in {"storages": payload, "tensors": 0, "pickle": payload}.items():
            pickled = pickle.dumps(content)
            entry = tarfile.TarInfo(name)
            entry.size = len(pickled)
            file.addfile(entry, io.BytesIO(pickled))


@pytest.mark.parametrize("write", [as_one_pickle, as_before_zip, as_tar])
def test_older_formats_are_refused_and_do_not_run(write, victim, marker):
    write(victim / "model.pt", Call(os.system, f"touch {marker}"))
    assert "could not be read as a model saved by scvi-tools" in refusal_of(victim)
    assert not marker.exists()
    load_trusting(victim)
    assert marker.exists()


def test_older_format_loads_with_trust(saved, victim):
    rewrite(victim, lambda _: None, _use_new_zipfile_serialization=False)
    refusal_of(victim)
    model = sb.load(victim, trust=True)
    assert_same(model.module.state_dict(), sb.load(saved("SCVI")).module.state_dict())


def test_compressed_archive_is_refused(victim):
    change_pickle(victim, lambda pickled: pickled, zipfile.ZIP_DEFLATED)
    assert "its parts are compressed" in refusal_of(victim)


def test_archive_that_is_smaller_than_its_parts_is_refused(victim):
    path = victim / "model.pt"
    with zipfile.ZipFile(path, "a") as file:
        entry = max(file.infolist(), key=lambda e: e.file_size)
        again = [copy.copy(entry) for _ in range(100)]
        for number, one in enumerate(again):
            one.filename = f"again{number}"
        file.filelist.extend(again)
        file._didModify = True
    assert "its parts are larger than the file is" in refusal_of(victim)


def test_pickles_that_would_take_all_memory_are_refused(victim):
    change_pickle(victim, lambda _: b"\x80\x02}r" + struct.pack("<I", 2**31) + b".")
    assert "LONG_BINPUT 2147483648" in refusal_of(victim)
    change_pickle(victim, lambda _: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".")
    refusal_of(victim)


@pytest.mark.parametrize("end", [0, 1, 100, -10])
def test_pickles_that_are_cut_off_are_refused(end, victim):
    change_pickle(victim, lambda pickled: pickled[:end])
    refusal_of(victim)


@pytest.mark.parametrize("part", ["the pickle", "the file"])
def test_damaged_files_are_refused_or_read(part, victim):
    """No other error, and no code: bytes at random are what no one thought of."""
    path, rng = victim / "model.pt", np.random.default_rng(0)
    whole, refused = path.read_bytes(), 0

    def damage(content: bytes) -> bytes:
        damaged = bytearray(content)
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.integers(256)
        return bytes(damaged)

    for _ in range(200):
        path.write_bytes(whole if part == "the pickle" else damage(whole))
        if part == "the pickle":
            change_pickle(victim, damage)
        message = refusal_or_none(path)
        refused += message is not None
        assert message is None or re.search(r"trust=True|are not supported", message)
    assert refused > 20


def refusal_or_none(path: Path) -> str | None:
    try:
        model_file.read_model_file(path)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("contents", [[], {}, {"attr_dict": {}}, {"attr_dict": []}, 7])
def test_what_is_no_model_is_refused(contents, victim):
    torch.save(contents, victim / "model.pt")
    assert "it holds no model_state_dict, var_names, attr_dict" in refusal_of(victim)


# ---- where models are loaded -----------------------------------------------------------------


@pytest.mark.parametrize("trust", ["no", 1, None])
def test_trust_is_true_or_false(trust, saved):
    with pytest.raises(TypeError, match="trust must be True or False, got"):
        sb.load(saved("SCVI"), trust=trust)


def test_class_that_is_not_supported_is_told_before_all_else(victim):
    def change(contents):
        contents["attr_dict"]["registry_"]["model_name"] = "PEAKVI"
        contents["attr_dict"]["mine_"] = Call(os.system, "true")

    rewrite(victim, change)
    with pytest.raises(TypeError, match="models of class PEAKVI are not supported"):
        sb.load(victim)


COMMANDS = {
    "correct": ["{model}", "--adata", "{data}", "--transform-batch", "V1", "--out", "{out}.h5ad"],
    "normalize": ["{model}", "--adata", "{data}", "--out", "{out}.h5ad"],
    "denoise": ["{model}", "--adata", "{data}", "--out", "{out}.h5ad"],
    "support": ["{model}", "--adata", "{data}", "--transform-batch", "V1", "--out", "{out}.csv"],
    "calibration": ["{model}", "--adata", "{data}", "--out", "{out}.csv"],
    "damage": ["{data}", "--batch-key", "batch", "--model", "{model}", "--out", "{out}.csv"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_code_with_trust_alone(command, victim, marker, tmp_path, capsys):
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=Call(os.system, f"touch {marker}")))
    places = {"model": victim, "data": victim / "adata.h5ad", "out": tmp_path / "out"}
    arguments = [command, *(word.format(**places) for word in COMMANDS[command]), "--quiet"]
    assert main.main(arguments) == 2
    told = capsys.readouterr().err
    assert "attr_dict['mine_'] asks for posix.system" in told
    assert "(--trust)" in told
    assert told.count("\n") == 1
    assert not marker.exists()
    main.main([*arguments, "--trust"])
    assert marker.exists()


def test_report_runs_code_with_trust_alone(victim, marker, tmp_path, capsys):
    data, result = str(victim / "adata.h5ad"), tmp_path / "result.h5ad"
    target = ["--transform-batch", "V1", "--out", str(result), "--quiet"]
    assert main.main(["correct", str(victim), "--adata", data, *target]) == 0
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=Call(os.system, f"touch {marker}")))
    arguments = ["report", str(result), "--model", str(victim), "--adata", data, "--quiet"]
    assert main.main(arguments) == 2
    assert "attr_dict['mine_'] asks for posix.system" in capsys.readouterr().err
    assert not marker.exists()
    main.main([*arguments, "--trust"])
    assert marker.exists()


def test_zarr_folder_with_pickles_does_not_run(saved, marker, tmp_path, cells):
    """Zarr knows a filter that unpickles chunks."""
    path = tmp_path / "data.zarr"
    with ad.settings.override(zarr_write_format=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells().write_zarr(path)
    array = path / "var" / "symbol"
    if not (array / ".zarray").is_file():
        pytest.skip("anndata writes format 3 of zarr, which knows no such filter")
    settings = json.loads((array / ".zarray").read_text())
    settings["filters"].append({"id": "pickle"})
    settings["compressor"] = None
    (array / ".zarray").write_text(json.dumps(settings))
    (path / ".zmetadata").unlink(missing_ok=True)
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Call(os.system, f"touch {marker}")))
    with pytest.raises(ValueError, match="could not be read as a zarr folder"):
        sb.load(saved("SCVI"), adata=path)
    assert not marker.exists()
