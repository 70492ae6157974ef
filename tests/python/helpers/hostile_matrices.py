"""Sparse matrices whose vectors do not fit, in memory and in files."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
from hostile_place import Place, small

import scvibridge as sb
from scvibridge.io import backed, row_reader, ten_x
from scvibridge.models import cell_data
from scvibridge.models.load import load
from scvibridge.r import to_anndata, to_r


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
    coo.col[5] = 10**6
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
