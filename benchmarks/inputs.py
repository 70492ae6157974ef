"""Files that the contenders use, created once and kept in a folder outside the checkout."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.simulation import Simulation, write_cells

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Training:
    """Training settings of a model: an SCVI (nb, one layer) on simulated cells.

    Attributes
    ----------
    cells
        The cells to train on.
    n_genes
        Number of their genes, starting with the first; all if None.
    epochs, batch_size, learning_rate, n_latent, n_hidden, seed
        As in scvi-tools.
    """

    cells: Simulation
    epochs: int
    n_genes: int | None = None
    batch_size: int = 128
    learning_rate: float = 4e-3
    n_latent: int = 10
    n_hidden: int = 128
    seed: int = 1


@contextlib.contextmanager
def working_folder(cache: Path | None, *, keep: bool) -> Iterator[Path]:
    """Yield a folder for temporary files, and remove it at the end unless it is to be kept.

    It is in `cache`, else in the folder named by ``SCVIBRIDGE_CACHE``, else a temporary one.
    """
    named = cache or os.environ.get("SCVIBRIDGE_CACHE")
    parent = Path(named or tempfile.mkdtemp(prefix="scvibridge-")).absolute()
    folder = parent / "benchmarks"
    try:
        yield folder
    finally:
        if keep:
            _say(f"kept {folder}")
        else:
            shutil.rmtree(folder if named else parent, ignore_errors=True)


# Files in which the cells are also written, and their description.
KINDS_OF_FILES = {"zarr": "zarr", "csc.h5ad": "h5ad by gene"}


class Inputs:
    """Simulated cells and trained models in a folder, by their settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def cells(self, simulation: Simulation) -> str:
        """Return the path of an h5ad file of simulated cells."""
        path = self.folder / f"cells-{_name_of(simulation)}.h5ad"
        if not path.is_file():
            _say(f"simulating {simulation.n_cells} cells x {simulation.n_genes} genes")
            write_cells(simulation, path)
        return str(path)

    def converted(self, cells: str, kind: str) -> str:
        """Return the path of the same cells in another kind of file, a key of `KINDS_OF_FILES`."""
        import anndata as ad
        import scipy.sparse as sp

        path = Path(cells).with_suffix(f".{kind}")
        if not path.exists():
            adata = ad.read_h5ad(cells)
            if kind == "zarr":
                adata.write_zarr(path)
            else:
                adata.X = sp.csc_matrix(adata.X)
                adata.write_h5ad(path)
        return str(path)

    def model(self, training: Training) -> str:
        """Return the path of the folder of a trained model, saved without its data."""
        folder = self.folder / f"model-{_name_of(training)}"
        if not (folder / "model.pt").is_file():
            _say(f"training on {training.cells.n_cells} cells x {training.cells.n_genes} genes")
            self._train(training, folder)
        return str(folder)

    def _train(self, training: Training, folder: Path) -> None:
        import anndata as ad

        from scvibridge.models.training.trainer import train

        train(
            ad.read_h5ad(self.cells(training.cells))[:, : training.n_genes].copy(),
            folder,
            batch_key="batch",
            epochs=training.epochs,
            seed=training.seed,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            n_latent=training.n_latent,
            n_hidden=training.n_hidden,
            n_layers=1,
        )


def _name_of(made_from: Simulation | Training) -> str:
    described = json.dumps([type(made_from).__name__, asdict(made_from)], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=6).hexdigest()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
