"""Where the cases of `hostile.py` make their files."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp

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
