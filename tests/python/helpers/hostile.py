"""Files and matrices that harm whoever reads them: `python hostile.py MODEL DATA FOLDER`.

Each case is tried under a limit of memory and of time for the whole process, and one line of JSON
is printed for each: its name, the kind and the message of the error, and the seconds of the
processor. A case that ends the process is the one whose line is missing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import mudata
import numpy as np
import scipy.sparse as sp
import torch
import zarr

import scvibridge as sb
from scvibridge.cli.main import main as package_main
from scvibridge.io import backed, h5ad, row_reader, ten_x
from scvibridge.models import cell_data
from scvibridge.models.load import load
from scvibridge.r import to_anndata, to_r

MOST_MEMORY, MOST_SECONDS = 3 * 2**30, 240
SECRET = "root:x:0:0"


class Place:
    """Where a case makes its files."""

    def __init__(self, model: Path, data: Path, folder: Path) -> None:
        self.model, self.data, self.folder = model, data, folder
        self.secret = folder.parent / "secret"
        self.secret.write_bytes(SECRET.encode() * 100)
        self.secret_h5ad = folder.parent / "secret.h5ad"
        shutil.copy(data, self.secret_h5ad)

    def copied_model(self) -> Path:
        shutil.copytree(self.model, self.folder / "model")
        return self.folder / "model"

    def h5ad(self, change) -> Path:
        """The data with a change to the open file."""
        path = self.folder / "data.h5ad"
        shutil.copy(self.data, path)
        with h5py.File(path, "r+") as file:
            change(file, self)
        return path

    def zarr(self, change) -> Path:
        path = self.folder / "data.zarr"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small().write_zarr(path)
        change(path, self)
        return path


def small() -> ad.AnnData:
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(1, (20, 10)).astype(np.float32))
    made = ad.AnnData(counts, layers={"columns": counts.tocsc()})
    made.obs["number"] = np.arange(20)
    return made


# ---- files that lead elsewhere ---------------------------------------------------------------


def external_storage(file, place):
    n = file["obs/n_counts"].shape[0]
    del file["obs/n_counts"]
    kept = [(str(place.secret), 0, h5py.h5f.UNLIMITED)]
    made = file.create_dataset("obs/n_counts", (n,), "u1", external=kept)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def external_link(file, place):
    del file["obs/n_counts"]
    file["obs/n_counts"] = h5py.ExternalLink(str(place.secret_h5ad), "/obs/n_counts")


def external_link_below_a_name(file, place):
    file["uns/elsewhere"] = h5py.ExternalLink(str(place.secret_h5ad), "/")
    file["layers/stolen"] = h5py.SoftLink("/uns/elsewhere/X")


def virtual_dataset(file, place):
    n = file["obs/n_counts"].shape[0]
    dtype = file["obs/n_counts"].dtype
    del file["obs/n_counts"]
    layout = h5py.VirtualLayout(shape=(n,), dtype=dtype)
    layout[:] = h5py.VirtualSource(str(place.secret_h5ad), "obs/n_counts", shape=(n,))
    made = file.create_virtual_dataset("obs/n_counts", layout)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def external_counts(file, place):
    """Dense counts, each of them a byte of another file."""
    shape = file["obs/n_counts"].shape[0], file["var/symbol"].shape[0]
    place.secret.write_bytes(bytes(range(1, 11)) * (shape[0] * shape[1] // 10))
    del file["X"]
    kept = [(str(place.secret), 0, h5py.h5f.UNLIMITED)]
    made = file.create_dataset("X", shape, "u1", external=kept)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def external_10x(place) -> Path:
    path = place.folder / "counts.h5"
    ten_x.write_10x_h5(small(), path)
    with h5py.File(path, "r+") as file:
        n = file["matrix/data"].shape[0]
        del file["matrix/data"]
        kept = [(str(place.secret), 0, h5py.h5f.UNLIMITED)]
        file["matrix"].create_dataset("data", (n,), "u1", external=kept)
    return path


def behind_a_reference(place) -> Path:
    """A dataset without a name, referred to as anndata before 0.8 referred to categories."""
    path = place.folder / "data.h5ad"
    shutil.copy(place.data, path)
    with h5py.File(path, "r+") as file:
        kept = [(str(place.secret), 0, h5py.h5f.UNLIMITED)]
        hidden = file.create_dataset(None, (10,), "u1", external=kept)
        file["obs/n_counts"].attrs["categories"] = hidden.ref
        file.flush()
        # HDF5 removes it when it closes the file.
        return Path(shutil.copy(path, place.folder / "copy.h5ad"))


def holds_itself(file, _):
    file["uns/again"] = file["uns"]


def holds_itself_by_name(file, _):
    file["uns/again"] = h5py.SoftLink("/uns")


def doubling(link):
    def change(file, _):
        for level in range(40):
            group = file.require_group(f"uns/level{level}")
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        for level in range(39):
            for name in "ab":
                target = f"/uns/level{level + 1}"
                file[f"uns/level{level}/{name}"] = link(file, target)

    return change


def endless_fill(file, _):
    made = file.create_dataset("obsm/endless", (file["X"].attrs["shape"][0], 2**34), "f8")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


H5AD = {
    "external storage": external_storage,
    "external link": external_link,
    "external link below a name": external_link_below_a_name,
    "virtual dataset": virtual_dataset,
    "holds itself": holds_itself,
    "holds itself by name": holds_itself_by_name,
    "doubling": doubling(lambda file, target: file[target]),
    "doubling by name": doubling(lambda _, target: h5py.SoftLink(target)),
    "endless fill": endless_fill,
}


def chunk_of(path: Path) -> Path:
    return max((path / "obs" / "number").rglob("*[0-9]"), key=lambda p: len(p.parts))


def linked_chunk(path, place):
    chunk = chunk_of(path)
    chunk.unlink()
    chunk.symlink_to(place.secret)


def linked_group(path, place):
    shutil.move(path / "layers", place.folder / "elsewhere")
    (path / "layers").symlink_to(place.folder / "elsewhere")


def group_linked_above(path, _):
    (path / "uns" / "above").symlink_to("..")


def pipe(path, _):
    chunk = chunk_of(path)
    chunk.unlink()
    os.mkfifo(chunk)


def claims(path, _):
    for description in (path / "obs" / "number").glob("*"):
        if description.name in (".zarray", "zarr.json"):
            described = json.loads(description.read_text())
            described["shape"] = [2**40]
            description.write_text(json.dumps(described))
    zarr.consolidate_metadata(str(path))


def names_above(path, _):
    """A description of all elements that has one outside of the folder."""
    zarr.consolidate_metadata(str(path))
    for name in (".zmetadata", "zarr.json"):
        if (path / name).is_file():
            described = json.loads((path / name).read_text())
            entries = described.get("consolidated_metadata", described)["metadata"]
            entries["../secret/.zarray"] = next(iter(entries.values()))
            (path / name).write_text(json.dumps(described))


ZARR = {
    "names above": names_above,
    "linked chunk": linked_chunk,
    "linked group": linked_group,
    "group linked above": group_linked_above,
    "pipe": pipe,
    "claims": claims,
}


def written_result(place: Place, change) -> Path:
    """A result of corrected counts with a change to its file."""
    path = place.folder / "result.h5ad"
    model = load(place.model, adata=place.data)
    sb.corrected_counts(model, transform_batch="V3", out=path, progress=False)
    with h5py.File(path, "r+") as file:
        change(file, place)
    return path


def mudata_with(place: Place) -> Path:
    path = place.folder / "data.h5mu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.MuData({"rna": small()}).write(path)
    with h5py.File(path, "r+") as file:
        del file["mod/rna/obs/number"]
        file["mod/rna/obs/number"] = h5py.ExternalLink(str(place.secret_h5ad), "/obs/n_counts")
    return path


def linked_in_model(name):
    def case(place):
        folder = place.copied_model()
        outside = place.folder / "outside"
        shutil.copy(place.model / "model.pt" if name == "model.pt" else place.data, outside)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
        return load(folder)

    return case


def run_cli(*words) -> None:
    """Run a command, whose one line on standard error becomes the error."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = package_main([str(word) for word in words])
    if code:
        raise ValueError(f"code {code}: {told.getvalue()}")


# ---- matrices that are none ------------------------------------------------------------------


def with_index(value):
    return lambda m: m.indices.__setitem__(len(m.indices) // 2, value)


def with_pointer(value):
    return lambda m: m.indptr.__setitem__(len(m.indptr) // 2, value)


def too_short(matrix):
    matrix.indptr = matrix.indptr[:-1]


def ends_early(matrix):
    matrix.indptr[-1] -= 1


MATRICES = {
    "index at the end": lambda m: with_index(m.shape[m.format == "csr"])(m),
    "index below 0": with_index(-1),
    "index of 2**30": with_index(2**30),
    "pointer of 2**30": with_pointer(2**30),
    "pointer below 0": with_pointer(-7),
    "pointers do not start at 0": lambda m: m.indptr.__setitem__(0, 3),
    "too few pointers": too_short,
    "pointers end early": ends_early,
}


def bad(matrix, name):
    copy = matrix.copy()
    MATRICES[name](copy)
    return copy


def data_of(place: Place) -> ad.AnnData:
    return ad.read_h5ad(place.data)


def with_x(place, name, form):
    data = data_of(place)
    data.X = getattr(data.X, f"to{form}")()
    MATRICES[name](data.X)
    return data


def correct(place, data, **how):
    model = load(place.model, adata=False)
    return sb.corrected_counts(
        model, adata=data, transform_batch="V3", library_size="observed", progress=False, **how
    )


def stored(place, name, form):
    """A file with the matrix."""
    path = place.folder / "data.h5ad"
    good = data_of(place)
    good.X = getattr(good.X, f"to{form}")()
    good.write_h5ad(path)
    matrix = good.X
    MATRICES[name](matrix)
    with h5py.File(path, "r+") as file:
        for part in ("indices", "indptr"):
            del file[f"X/{part}"]
            file[f"X/{part}"] = getattr(matrix, part)
    return path


def vectors(name):
    matrix = bad(small().X, name)
    return {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}


def tables():
    names = {"cells": [f"c{i}" for i in range(20)], "genes": [f"g{i}" for i in range(10)]}
    return {**names, "obs": [], "var": [], "obsm": []}


def bad_coo(place):
    data = data_of(place)
    coo = data.X.tocoo()
    coo.coords[1][5] = 10**6
    return cell_data.canonical_counts(coo, None)


def bad_10x(place, name):
    path = place.folder / "counts.h5"
    ten_x.write_10x_h5(small()[:, :].copy(), path)
    matrix = bad(small().X, name)
    with h5py.File(path, "r+") as file:
        for part in ("indices", "indptr"):
            del file[f"matrix/{part}"]
            file[f"matrix/{part}"] = getattr(matrix, part)
    return cell_data.canonical_counts(
        row_reader.RowReader(backed.open_anndata(path).X).read(slice(0, 20)), None
    )


def in_obsm(place):
    data = data_of(place)
    data.obsm["extra"] = data.X.copy()
    with_index(2**30)(data.obsm["extra"])
    return sb.train_scvi(data, batch_key="batch", n_top_genes=None, max_epochs=1, progress=False)


def random_bytes(seed):
    def case(place):
        path = place.folder / "data.h5ad"
        content = bytearray(place.data.read_bytes())
        rng = np.random.default_rng(seed)
        # Past the first kilobytes, which are HDF5's own tables.
        for at in rng.integers(8192, len(content), 400):
            content[at] = rng.integers(256)
        path.write_bytes(content)
        return correct(place, path)

    return case


# ---- models that are too much ----------------------------------------------------------------


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
    np.savez(folder / "extension.npz", weights=array, allow_pickle=True)
    return load(folder, adata=place.data)


# ---- all of them -----------------------------------------------------------------------------


def cases():
    yield from boundary_cases()
    yield from matrix_cases()
    for name, change in MODELS.items():
        yield f"model: {name}", lambda p, c=change: load(rewritten(p, c), adata=False)
    yield "model: nested key", nested_key
    yield "model: long number", long_number
    yield "extension: inflating", inflating_extension
    yield "extension: claiming", claiming_extension
    yield "extension: of objects", extension_of_objects


def boundary_cases():
    for name, change in H5AD.items():
        yield f"h5ad: {name}", lambda p, c=change: h5ad.read_anndata(p.h5ad(c))
    yield "h5ad: behind a reference", lambda p: h5ad.read_anndata(behind_a_reference(p))
    yield "h5ad: opened", lambda p: backed.open_anndata(p.h5ad(external_storage))
    yield "h5ad: loaded", lambda p: load(p.model, adata=p.h5ad(external_link))
    yield "h5ad: trained", lambda p: sb.train_scvi(p.h5ad(virtual_dataset), batch_key="batch")
    yield "h5ad: damage", lambda p: sb.damage(p.h5ad(external_link), "batch")
    yield "h5ad: report", lambda p: sb.report(written_result(p, external_link))
    yield (
        "h5ad: command",
        lambda p: run_cli(
            "correct", p.model, "--adata", p.h5ad(external_storage), "--transform-batch", "V3",
            "--out", p.folder / "out.h5ad",
        ),
    )  # fmt: skip
    yield (
        "h5ad: backed",
        lambda p: correct(p, ad.read_h5ad(p.h5ad(external_counts), backed="r")),
    )
    yield "h5ad: 10x", lambda p: backed.open_anndata(external_10x(p))
    yield "h5mu: external link", lambda p: h5ad.read_mudata(mudata_with(p))
    for name, change in ZARR.items():
        yield f"zarr: {name}", lambda p, c=change: h5ad.read_anndata(p.zarr(c))
    yield "zarr: opened", lambda p: backed.open_anndata(p.zarr(linked_chunk))
    for name in ("model.pt", "adata.h5ad", "extension.npz"):
        yield f"folder: linked {name}", linked_in_model(name)


def matrix_cases():
    for name in MATRICES:
        for form in ("csr", "csc"):
            yield (
                f"memory: {form}, {name}",
                lambda p, n=name, f=form: cell_data.canonical_counts(with_x(p, n, f).X, None),
            )
            yield (
                f"file: {form}, {name}",
                lambda p, n=name, f=form: correct(p, stored(p, n, f)),
            )
            yield (
                f"streamed: {form}, {name}",
                lambda p, n=name, f=form: correct(p, stored(p, n, f), out=p.folder / "out.h5ad"),
            )
        yield (
            f"r: {name}",
            lambda _, n=name: to_anndata.assemble_anndata(vectors(n), tables()),
        )
        yield f"10x: {name}", bad_10x_case(name)
    index = "index of 2**30"
    yield "memory: corrected", lambda p: correct(p, with_x(p, index, "csr"))
    yield "memory: loaded", lambda p: load(p.model, adata=with_x(p, index, "csr"))
    yield (
        "memory: loaded and cut",
        lambda p: load(p.model, adata=with_x(p, index, "csr")[:, ::-1]),
    )
    yield "memory: a view", lambda p: correct(p, with_x(p, index, "csr")[:, ::-1])
    yield (
        "memory: a view for training",
        lambda p: sb.train_scvi(with_x(p, index, "csr")[:, ::-1], batch_key="batch"),
    )
    yield "memory: coo", bad_coo
    yield "memory: obsm of a training", in_obsm
    yield "memory: handed over", lambda _: to_r.genes_by_cells(bad(small().X, index))
    yield (
        "memory: written as 10x",
        lambda p: ten_x.write_10x_h5(ad.AnnData(bad(small().X, index)), p.folder / "x.h5"),
    )
    for seed in range(4):
        yield f"random bytes: {seed}", random_bytes(seed)


def bad_10x_case(name):
    return lambda place: bad_10x(place, name)


def main(model: Path, data: Path, folder: Path) -> None:
    limit_resources()
    for number, (name, case) in enumerate(cases()):
        own = folder / f"case{number}"
        own.mkdir()
        place = Place(model, data, own)
        started, kind, message = time.process_time(), None, None
        try:
            case(place)
        except BaseException as error:  # noqa: BLE001 - told to the test
            kind, message = type(error).__name__, str(error)
        seconds = time.process_time() - started
        sys.stdout.write(json.dumps([name, kind, message, seconds]) + "\n")
        sys.stdout.flush()
        shutil.rmtree(own)


def limit_resources() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*map(Path, sys.argv[1:]))
