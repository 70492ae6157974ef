"""Pickles in models: what would run code is refused, and does not run."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hostile_pickles import (
    PAYLOADS,
    Call,
    change_pickle,
    in_protocol_4,
    load_trusting,
    refusal_of,
    rewrite,
    text,
)

import scvibridge as sb
from scvibridge.models.saved import model_file


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
        np.zeros(1).__reduce__()[0],
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


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", PAYLOADS)
def test_code_is_refused_and_does_not_run(name, protocol, victim, marker):
    payload = PAYLOADS[name](marker)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=payload), pickle_protocol=protocol)
    assert "was not loaded: attr_dict['mine_'] refers to " in refusal_of(victim)
    assert not marker.exists()
    load_trusting(victim)
    assert marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", PLACES)
def test_code_anywhere_is_refused_and_does_not_run(place, protocol, victim, marker):
    payload = Call(os.system, f"touch {marker}")
    rewrite(victim, lambda c: PLACES[place](c, payload), pickle_protocol=protocol)
    message = refusal_of(victim)
    assert "refers to posix.system" in message
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
    assert f"attr_dict['mine_'] refers to {Sink.__module__}.Sink" in refusal_of(victim)


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
    assert f"attr_dict['mine_'] refers to {module}.{name}" in refusal_of(victim)
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


def test_what_is_there_twice_is_one_value(victim):
    shared = ["one"]
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=shared, yours_=shared))
    attributes = model_file.read_model_file(victim / "model.pt")["attr_dict"]
    assert attributes["mine_"] is attributes["yours_"]


def test_what_holds_itself_or_is_endless_is_refused(victim):
    endless: list = []
    endless.append(endless)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_=endless))
    assert "attr_dict['mine_'] contains itself" in refusal_of(victim)
    rewrite(victim, lambda c: c["attr_dict"].update(mine_="EVIL"))
    deep = b"]" * 100_000 + b"a" * 99_999
    change_pickle(victim, lambda pickled: pickled.replace(text("EVIL"), deep))
    assert "nested too deeply" in refusal_of(victim)


def test_message_shows_no_characters_that_a_terminal_obeys(victim):
    rewrite(victim, lambda c: c["attr_dict"].update({"a\x1b[2J\n_": Call(os.system, "true")}))
    message = refusal_of(victim)
    assert message.isprintable()
    assert r"attr_dict['a\x1b[2J\n_'] refers to posix.system" in message
