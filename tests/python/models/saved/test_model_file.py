"""The file of a model: other formats and damaged files are refused."""

from __future__ import annotations

import copy
import io
import os
import pickle
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_pickles import Call, change_pickle, load_trusting, refusal_of, rewrite
from saved_models import assert_same

import scvibridge as sb
from scvibridge.models.saved import model_file


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
    assert "its members are compressed" in refusal_of(victim)


def test_archive_that_is_smaller_than_its_parts_is_refused(victim):
    path = victim / "model.pt"
    with zipfile.ZipFile(path, "a") as file:
        entry = max(file.infolist(), key=lambda e: e.file_size)
        again = [copy.copy(entry) for _ in range(100)]
        for number, one in enumerate(again):
            one.filename = f"again{number}"
        file.filelist.extend(again)
        file._didModify = True
    assert "its members are larger than the file" in refusal_of(victim)


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
    assert "it has no model_state_dict, var_names, attr_dict" in refusal_of(victim)
