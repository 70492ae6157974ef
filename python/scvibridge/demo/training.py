"""A small model for the demo, trained in seconds."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scvibridge.demo.cells import DemoCells


def train(cells: DemoCells, folder: Path, epochs: int, seed: int = 0) -> Any:
    """Train a small SCVI on the counts, save it to `folder` (without its data), return it."""
    import scvi

    with quiet(), one_thread():
        scvi.settings.seed = seed
        # Labels are no part of the model: they come in when counts are corrected.
        scvi.model.SCVI.setup_anndata(cells.adata, batch_key=cells.batch_key)
        model = scvi.model.SCVI(cells.adata, n_hidden=64, n_latent=10, gene_likelihood="nb")
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=64 if cells.adata.n_obs < 2000 else 128,
            plan_kwargs={"lr": 3e-3},
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        model.save(str(folder), overwrite=True, save_anndata=False)
    return model


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread.

    A model this small gains nothing from more; where the machine has other work to do, they wait
    for each other.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log and the warnings of a training, which speak of hardware and settings."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
