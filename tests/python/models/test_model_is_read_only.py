"""The user's model, data and process are left as they are, and threads share a model."""

from __future__ import annotations

import copy
import logging
import random
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import families
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scvibridge as sb
from scvibridge._utils.process_state import WhileNeeded, warnings_ignored
from scvibridge._utils.torch_threads import one_thread
from scvibridge.models.adapters import adapter_for
from scvibridge.models.adapters.private_module import PrivateRandomNumbers
from scvibridge.models.training.trainer import own_random_numbers, quiet

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def cells(simulate) -> ad.AnnData:
    adata = simulate(150, 30, mean_total=300.0)
    adata.obs["site"] = pd.Categorical(["x", "y"] * 75)
    return adata


@pytest.fixture(scope="module", params=families.FAMILIES)
def family(request, cells):
    """A model of each class; submodules in different modes, as a user may have left them."""
    model, _ = families.make(request.param, cells, epochs=1)
    return model


@pytest.fixture(scope="module")
def model(cells, train):
    setup = {"categorical_covariate_keys": ["site"]}
    return train(cells.copy(), max_epochs=2, setup=setup, gene_likelihood="zinb")


@pytest.fixture(scope="module")
def extended(train, cells):
    own = train(cells[:, :20].copy(), max_epochs=2)
    return sb.extend_genes(own, cells, max_epochs=2, **QUIET)


# ---- what is looked at -----------------------------------------------------------------------


def structure(module):
    """What a module is: its parts, their places, modes and hooks, and the very tensors."""
    found = {}
    for name, part in module.named_modules():
        for key, value in part.__dict__.items():
            if key in ("_parameters", "_buffers"):
                for weight, tensor in value.items():
                    if tensor is not None:
                        found[name, key, weight] = (
                            id(tensor),
                            tensor.data_ptr(),
                            tensor._version,
                            tensor.requires_grad,
                            tensor.device,
                            tensor.grad is None,
                        )
            elif key == "_modules":
                found[name, key] = {child: id(one) for child, one in value.items()}
            else:
                found[name, key] = (
                    value if isinstance(value, bool | int | float | str) else id(value)
                )
    return found


def process():
    """State of the process that nobody but the user is to change."""
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()[1:]],  # noqa: NPY002
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "logging": (logging.root.manager.disable, logging.getLogger("scvi").level),
        "filters": list(warnings.filters),
        "errors": np.geterr(),
    }


def table(data):
    """The contents of data, as bytes."""
    if not isinstance(data, ad.AnnData):
        return {name: table(part) for name, part in data.mod.items()}
    found = {"obs": data.obs.to_csv(), "var": data.var.to_csv(), "uns": repr(dict(data.uns))}
    matrices = {"X": data.X, **data.layers, **data.obsm}
    for name, matrix in matrices.items():
        parts = [matrix.data, matrix.indices, matrix.indptr] if sp.issparse(matrix) else [matrix]
        found[name] = [np.asarray(part).tobytes() for part in parts]
    return found


def unsettle(module):
    """Leave parts of a module in different modes, as an interrupted training may do."""
    for number, part in enumerate(module.modules()):
        part.training = number % 2 == 0
    for number, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(number % 2 == 0)


def same(one: ad.AnnData, other: ad.AnnData) -> bool:
    def entries(matrix):
        return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)

    # anndata 0.13 lists X among the layers, under None.
    names = [f"layers/{name}" for name in one.layers if name is not None]
    names += [f"obsm/{name}" for name in one.obsm]
    pairs = [(one.X, other.X)]
    for name in names:
        kind, key = name.split("/")
        pairs.append((getattr(one, kind)[key], getattr(other, kind)[key]))
    return all(np.array_equal(entries(a), entries(b)) for a, b in pairs)


# ---- one thread ------------------------------------------------------------------------------


def test_nothing_of_a_model_changes(family):
    """Of any class, with its parts in different modes, and while it works as well."""
    expected = sb.corrected_counts(family, transform_batch="V2", effect="cell", **QUIET)
    module, modes = family.module, {p: p.training for p in family.module.modules()}
    trained = [parameter.requires_grad for parameter in module.parameters()]
    unsettle(module)
    before, about, data = structure(module), process(), table(family.adata)
    during = []
    encoder = adapter_for(family)._latent_encoder()
    assert not encoder.training
    try:
        stop = threading.Event()

        def watch():
            while not stop.is_set():
                during.append(structure(module) == before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            counts = sb.corrected_counts(family, transform_batch="V2", effect="cell", **QUIET)
            means = sb.normalized_expression(family, transform_batch="V1", n_samples=2, **QUIET)
        finally:
            stop.set()
            watcher.join()
        assert structure(module) == before
        assert process() == about
        assert table(family.adata) == data
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, value in zip(module.parameters(), trained, strict=True):
            parameter.requires_grad_(value)
    assert during
    assert all(during)
    assert same(counts, expected)
    assert np.isfinite(means.X).all()


@pytest.mark.parametrize(
    "name", ["calibration", "batch_support", "extend_genes", "report", "damage"]
)
def test_functions_leave_model_data_and_process(name, model, extended, cells, tmp_path):
    chosen = {"extend_genes": extended.model}.get(name, model)
    unsorted = cells.copy()
    unsorted.X = sp.csr_matrix(unsorted.X)
    unsorted.X.indices[:2] = unsorted.X.indices[:2][::-1].copy()
    unsorted.X.data[:2] = unsorted.X.data[:2][::-1].copy()
    before, about, data = structure(chosen.module), process(), table(unsorted)
    if name == "calibration":
        sb.calibration(chosen, adata=unsorted, n_references=5, **QUIET)
    elif name == "batch_support":
        sb.batch_support(chosen, adata=unsorted, transform_batch="V1", **QUIET)
    elif name == "extend_genes":
        sb.extend_genes(chosen, unsorted, max_epochs=1, **QUIET)
    elif name == "report":
        result = sb.corrected_counts(chosen, adata=unsorted, transform_batch="V1", **QUIET)
        sb.report(result, tmp_path / "report.html", model=chosen, progress=False)
    else:
        big = ad.concat([unsorted] * 4, index_unique="-")
        data = table(big)
        sb.damage(big, "batch", model=chosen, max_epochs=1, **QUIET)
        unsorted = big
    assert structure(chosen.module) == before
    assert process() == about
    assert table(unsorted) == data


def test_loading_takes_no_random_numbers(model, tmp_path):
    model.save(str(tmp_path / "m"), save_anndata=True)
    about = process()
    loaded = sb.load(tmp_path / "m", device="cpu")
    assert process() == about
    assert torch.equal(loaded.module.px_r, model.module.px_r)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(3),
        lambda: torch.empty(3).normal_(),
        lambda: torch.rand(3),
        lambda: torch.randint(0, 9, (3,)),
        lambda: torch.distributions.Gamma(torch.ones(3), 1.0).rsample(),
        lambda: torch.bernoulli(torch.full((3,), 0.5)),
        lambda: torch.nn.init.kaiming_uniform_(torch.empty(3, 3)),
    ],
)
def test_private_random_numbers(draw):
    before = torch.get_rng_state()
    with PrivateRandomNumbers(), torch.inference_mode():
        drawn = draw()
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn.shape[0] == 3


# ---- hooks -----------------------------------------------------------------------------------


def hooked(parts, hook):
    return [part.register_forward_hook(hook) for part in parts]


def scales_of_scvi_tools(model):
    """Frequencies by scvi-tools' own module at the posterior means, which no draw enters."""
    counts = torch.tensor(model.adata.X.toarray())
    batch = torch.tensor(model.adata_manager.get_from_registry("batch")).long()
    sites = model.adata_manager.get_from_registry("extra_categorical_covs").to_numpy()
    given = {"batch_index": batch, "cat_covs": torch.tensor(sites).long()}
    with torch.inference_mode():
        found = model.module.inference(x=counts, **given)
        decoded = model.module.generative(z=found["qz"].loc, library=found["library"], **given)
    return decoded["px"].scale.numpy()


@pytest.mark.parametrize(
    "place",
    [
        "z_encoder",
        "z_encoder.encoder",
        "z_encoder.encoder.fc_layers.Layer 0.0",
        "z_encoder.mean_encoder",
        "decoder.px_decoder",
        "decoder.px_scale_decoder.0",
    ],
)
def test_hooks_are_honoured(place, model):
    """What a hook makes of a layer's output counts, as in scvi-tools' own functions."""
    plain = sb.denoised_expression(model, library_size=1.0, **QUIET)

    def double(_module, _inputs, output):
        if isinstance(output, tuple):
            return torch.distributions.Normal(2 * output[0].loc, output[0].scale), output[1]
        return 2 * output

    handles = hooked([model.module.get_submodule(place)], double)
    try:
        ours = sb.denoised_expression(model, library_size=1.0, **QUIET)
        theirs = scales_of_scvi_tools(model)
    finally:
        [handle.remove() for handle in handles]
    assert np.allclose(ours.X, theirs, rtol=1e-4)
    assert not np.allclose(ours.X, plain.X, rtol=1e-2)
    assert np.allclose(plain.X, scales_of_scvi_tools(model), rtol=1e-4)


def test_hook_on_an_encoder_sees_all_genes(model):
    seen = []
    handles = hooked([model.module.z_encoder], lambda _m, given, _o: seen.append(given[0].shape[1]))
    try:
        sb.denoised_expression(model, **QUIET)
    finally:
        [handle.remove() for handle in handles]
    assert set(seen) == {30}


@pytest.mark.parametrize("place", ["", "decoder", "decoder.px_scale_decoder"])
def test_hooks_that_would_not_run_are_refused(place, model):
    handles = hooked([model.module.get_submodule(place)], lambda *_: None)
    try:
        with pytest.raises(ValueError, match=f"hooks on {place or 'the module'}, which .*remove"):
            sb.corrected_counts(model, transform_batch="V1", **QUIET)
    finally:
        [handle.remove() for handle in handles]


def test_hooks_run_or_are_refused_in_all_classes(family):
    """No part that scvi-tools' own functions call has hooks that are skipped in silence."""
    if not hasattr(family, "get_normalized_expression"):
        pytest.skip("this scvi-tools has no such function for the class")
    rows = np.arange(20)
    parts = {name: part for name, part in family.module.named_modules() if name}
    theirs = set()
    counting = [
        part.register_forward_hook(lambda *_, name=name: theirs.add(name))
        for name, part in parts.items()
    ]
    try:
        family.get_normalized_expression(indices=rows, transform_batch="V1")
    except NotImplementedError:
        pytest.skip("scvi-tools decodes this class in no other batch")
    finally:
        [handle.remove() for handle in counting]
    assert theirs
    for name, part in parts.items():
        calls = []
        handles = hooked([part], lambda *_: calls.append(1))  # noqa: B023
        try:
            sb.normalized_expression(family, indices=rows, transform_batch="V1", **QUIET)
        except ValueError as error:
            assert f"hooks on {name}" in str(error)  # noqa: PT017
            continue
        finally:
            [handle.remove() for handle in handles]
        # Proteins, regions and the zeros of a ZINB are decoded by parts that no mean rests on.
        apart = (
            "py_",
            "back",
            "fore",
            "sigmoid",
            "dropout",
            "accessib",
            "z_decoder_pro",
            "l_encoder",
        )
        assert name not in theirs or calls or any(word in name for word in apart), name


# ---- threads ---------------------------------------------------------------------------------


def test_threads_share_a_model(model, extended, cells):
    """Different calls at a time on one model, each with the values that it has alone."""
    jobs = [
        lambda: sb.corrected_counts(model, transform_batch="V1", labels_key="condition", **QUIET),
        lambda: sb.corrected_counts(model, transform_batch="V2", normalized=True, **QUIET),
        lambda: sb.corrected_counts(
            model, transform_batch=["V1", "V3"], transform_covariates={"site": "x"}, **QUIET
        ),
        lambda: sb.corrected_counts(model, cells[::-1], "V3", method="sample", **QUIET),
        lambda: sb.corrected_counts(
            model, transform_batch="V1", dispersion=pd.Series(3.0, cells.var_names), **QUIET
        ),
        lambda: sb.normalized_expression(model, transform_batch="V2", n_samples=2, **QUIET),
        lambda: sb.denoised_expression(model, indices=np.arange(17), **QUIET),
        lambda: sb.corrected_counts(extended, transform_batch="V2", **QUIET),
        lambda: sb.batch_support(model, transform_batch="V1", **QUIET),
        lambda: sb.calibration(model, n_references=5, **QUIET),
    ]
    expected = [job() for job in jobs]
    before, about = structure(model.module), process()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: job(), jobs * 3))
    for one, alone in zip(found, expected * 3, strict=True):
        if isinstance(alone, ad.AnnData):
            assert same(one, alone)
            targets = [str(a.uns["scvibridge"].get("transform_batch")) for a in (one, alone)]
            assert targets[0] == targets[1]
            continue
        tables = ("cells", "by_label") if hasattr(alone, "cells") else ("batches", "genes")
        for name in tables:
            pd.testing.assert_frame_equal(getattr(one, name), getattr(alone, name))
    assert structure(model.module) == before
    assert process() == about


def test_settings_of_the_process_outlive_overlapping_blocks():
    """The first to begin is the first to end: what it saved must not be what the other set."""
    about, done, value = process(), [], [0]
    setting = WhileNeeded(lambda: value.append(1) or 0, value.append)
    torch.set_num_threads(3)
    started, ended = threading.Event(), threading.Event()

    def first():
        with quiet(), one_thread(), warnings_ignored(), setting:
            started.set()
            second_started.wait(10)
        ended.set()

    second_started = threading.Event()

    def second():
        started.wait(10)
        with quiet(), one_thread(), warnings_ignored(), setting:
            second_started.set()
            ended.wait(10)
            done.append(value[-1])

    try:
        threads = [threading.Thread(target=job) for job in (first, second)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert torch.get_num_threads() == 3
        numbers = []
        later = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert numbers == [3]
        assert (done, value) == ([1], [0, 1, 0])
    finally:
        torch.set_num_threads(about["threads"])
    assert process() == about


def test_warnings_of_other_threads_are_shown():
    def warn_in_both():
        with warnings_ignored():
            warnings.warn("ours", UserWarning, stacklevel=1)
            other = threading.Thread(target=warnings.warn, args=("theirs", UserWarning))
            other.start()
            other.join()

    with pytest.warns(UserWarning, match="theirs") as caught:
        warn_in_both()
    assert len(caught) == 1


def test_trainings_in_threads_are_those_of_one(cells):
    """scvi-tools trains with the generators of the process: one training at a time."""

    def train(seed):
        made = sb.train_scvi(
            cells, batch_key="batch", max_epochs=1, n_top_genes=None, seed=seed, **QUIET
        )
        return made.module.px_r.detach().numpy()

    expected, about = [train(seed) for seed in (1, 2)], process()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(train, [1, 2]))
    assert process() == about
    for one, alone in zip(found, expected, strict=True):
        assert np.array_equal(one, alone)


def test_random_numbers_are_put_back_after_an_error():
    about = process()

    def fail():
        with own_random_numbers(3):
            torch.randn(2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert process() == about


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16, torch.float16])
def test_a_converted_module_gives_the_counts_of_its_weights(precision, model, cells):
    """Computed in single precision, whatever the user has done to the module."""
    rounded = copy.deepcopy(model)
    rounded.module.to(precision)
    alike = copy.deepcopy(rounded)
    alike.module.float()  # the same weights
    expected = sb.corrected_counts(alike, adata=cells, transform_batch="V1", **QUIET)
    found = sb.corrected_counts(rounded, adata=cells, transform_batch="V1", **QUIET)
    assert (found.X != expected.X).nnz == 0
    assert {weight.dtype for weight in rounded.module.parameters()} == {precision}


def test_autocast_of_the_caller_changes_nothing(model, cells):
    expected = sb.corrected_counts(model, adata=cells, transform_batch="V1", **QUIET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sb.corrected_counts(model, adata=cells, transform_batch="V1", **QUIET)
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (found.X != expected.X).nnz == 0
