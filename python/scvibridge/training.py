"""Small models, trained in seconds: for the demo and the examples."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData


def train(
    cells: AnnData,
    folder: Path,
    *,
    batch_key: str,
    epochs: int,
    seed: int,
    batch_size: int,
    learning_rate: float,
    **model_arguments: Any,
) -> Any:
    """Train a small negative binomial SCVI on counts, save it (without its data), and return it.

    Labels are no part of the model: they come in when counts are corrected.
    """
    import scvi  # takes seconds

    with quiet(), one_thread():
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
        model = scvi.model.SCVI(cells, gene_likelihood="nb", **model_arguments)
        model.train(
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=batch_size,
            plan_kwargs={"lr": learning_rate},
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
