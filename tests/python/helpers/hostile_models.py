"""Models that ask for more than their file holds."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch

from scvibridge.models.load import load


def doubled(levels=40):
    made: list = ["x"]
    for _ in range(levels):
        made = [made, made]
    return made


def rewritten(place, change) -> Path:
    folder = place.copied_model()
    contents = torch.load(folder / "model.pt", weights_only=False)
    change(contents)
    torch.save(contents, folder / "model.pt")
    return folder


def in_registry(key, value):
    return lambda c: c["attr_dict"]["registry_"].update({key: value})


def asks_for(name, value):
    return lambda c: c["attr_dict"]["init_params_"]["non_kwargs"].update({name: value})


def batches(c):
    c["attr_dict"]["registry_"]["field_registries"]["batch"]["summary_stats"]["n_batch"] = 10**9


def wide_and_thin(c):
    """A tensor as long as the layer that is asked for, but of one column."""
    c["model_state_dict"]["more"] = torch.zeros(10**6, 1)
    c["attr_dict"]["init_params_"]["non_kwargs"].update(n_hidden=10**6)


def expanded(c):
    name = next(iter(c["model_state_dict"]))
    c["model_state_dict"][name] = torch.zeros(1).expand(10**10)


def many_times(c):
    shared = torch.zeros(10**6)
    c["model_state_dict"].update({f"more{i}": shared for i in range(1000)})


def long_and_empty(c):
    c["attr_dict"]["registry_"]["field_registries"]["batch"]["state_registry"].update(
        categorical_mapping=np.empty((10**17, 0))
    )


MODELS = {
    "model_name": in_registry("model_name", doubled()),
    "scvi_version": in_registry("scvi_version", doubled()),
    "setup_method_name": in_registry("setup_method_name", doubled()),
    "setup_args": in_registry("setup_args", {"layer": doubled()}),
    "var_names": lambda c: c.update(var_names=doubled()),
    "mapping": lambda c: c["attr_dict"]["registry_"]["field_registries"]["batch"][
        "state_registry"
    ].update(categorical_mapping=doubled()),
    "long and empty": long_and_empty,
    "n_layers of 10**5": asks_for("n_layers", 10**5),
    "n_layers of 10**9": asks_for("n_layers", 10**9),
    "n_hidden of 10**9": asks_for("n_hidden", 10**9),
    "n_hidden of 1e18": asks_for("n_hidden", 1e18),
    "n_latent of 10**9": asks_for("n_latent", 10**9),
    "n_batch of 10**9": batches,
    "wide and thin": wide_and_thin,
    "expanded tensor": expanded,
    "the same tensor many times": many_times,
}


def nested_key(place):
    """A dictionary whose key is forty tuples within each other, each twice in the next."""
    folder = rewritten(place, lambda c: c["attr_dict"].update(mine_="EVIL"))
    key = b"K\x01" + 40 * b"2\x86"
    put = b"X" + struct.pack("<I", 4) + b"EVIL"
    path = folder / "model.pt"
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content.replace(put, b"}" + key + b"K\x01s"))
    return load(folder, adata=False)


def long_number(place):
    folder = rewritten(place, lambda c: c["attr_dict"].update(mine_={1 << 8_000_000: 1}))
    return load(folder, adata=False)


def inflating_extension(place):
    folder = place.copied_model()
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (2**29,)}
    np.lib.format.write_array_header_1_0(header, described)
    with (
        zipfile.ZipFile(folder / "extension.npz", "w", zipfile.ZIP_DEFLATED) as file,
        file.open("weights.npy", "w", force_zip64=True) as part,
    ):
        part.write(header.getvalue())
        for _ in range(512):
            part.write(bytes(2**20))
    return load(folder, adata=place.data)


def claiming_extension(place):
    folder = place.copied_model()
    header = io.BytesIO()
    described = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(folder / "extension.npz", "w") as file:
        file.writestr("weights.npy", header.getvalue())
    return load(folder, adata=place.data)


def extension_of_objects(place):
    folder = place.copied_model()
    array = np.array([print], dtype=object)
    np.savez(folder / "extension.npz", weights=array)
    return load(folder, adata=place.data)
