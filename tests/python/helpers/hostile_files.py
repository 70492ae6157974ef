"""Files that lead elsewhere, hold themselves or claim more than there is."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import mudata
import zarr
from hostile_matrices import correct
from hostile_place import Place, small

import scvibridge as sb
from scvibridge.cli.main import main as package_main
from scvibridge.io import backed, h5ad, ten_x
from scvibridge.models.load import load


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
    shape = tuple(int(size) for size in file["X"].attrs["shape"])
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
