"""Values in models: those that scvi-tools saves are read, all others are refused."""

from __future__ import annotations

import shutil
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hostile_pickles import Call, change_pickle, copied, refusal_of, rewrite
from saved_models import assert_same

from scvibridge.models.saved import model_file

# The functions that numpy names in its pickles, whose module differs between numpy 1 and 2.
RECONSTRUCT, SCALAR = (value.__reduce__()[0] for value in (np.zeros(1), np.float64(0)))
MODULES = [b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"]


def test_arrays_of_another_numpy_are_read(saved, tmp_path):
    folder = copied(saved("SCVI with covariates"), tmp_path)
    rewrite(folder, lambda c: c["attr_dict"].update(mine_=np.float64(0.5)))
    own = model_file.read_model_file(folder / "model.pt")
    here = f"c{RECONSTRUCT.__module__}\n".encode()
    (elsewhere,) = set(MODULES) - {here}
    found = []

    def change(pickled: bytes) -> bytes:
        found.append(pickled.count(here))
        return pickled.replace(here, elsewhere)

    change_pickle(folder, change)
    assert found[0] >= 2
    assert_same(model_file.read_model_file(folder / "model.pt"), own)


def array_of(*dtype, state=None, shape=(1,), content=b"\1" * 8):
    """An array as numpy pickles it, of a dtype that is given by what it is made of."""
    return Call(
        RECONSTRUCT,
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
    "a number of objects": Call(SCALAR, np.dtype("O"), b"\1" * 8),
    "too many arguments": Call(np.dtype, "f8", "f8", state=(1,)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_numpy_would_not_have_written_are_refused(name, victim):
    # Not tried with trust: some of them end the process.
    rewrite(victim, lambda c: c["attr_dict"].update(train_indices_=ARRAYS[name]))
    message = refusal_of(victim)
    assert "attr_dict['train_indices_']" in message
    assert "in a way that scvi-tools does not" in message or "not of numbers" in message


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
    assert "model_state_dict['px_r'] refers to torch._utils._rebuild_tensor_v2 in a way" in (
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


def test_attributes_and_methods_that_scvi_tools_does_not_save_are_refused(victim, saved):
    rewrite(victim, lambda c: c["attr_dict"].update(__class__="x"))
    assert "attr_dict['__class__'] is not an attribute that scvi-tools saves" in refusal_of(victim)
    shutil.copy(saved("SCVI") / "model.pt", victim / "model.pt")
    rewrite(victim, lambda c: c["attr_dict"]["registry_"].update(setup_method_name="load"))
    assert "attr_dict['registry_'] requests the method 'load'" in refusal_of(victim)
