"""What trainings share: random numbers, device, silence; and small models, trained in seconds."""

from __future__ import annotations

import math
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from scvibridge.devices import resolve_device
from scvibridge.interrupts import staying_interrupts
from scvibridge.process_state import lock, logging_disabled, numpy_numbers_kept, warnings_ignored
from scvibridge.torch_threads import one_thread
from scvibridge.training_cells import with_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData

_one_training = lock()


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

    with quiet(), one_thread(), staying_interrupts():
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
        with_names(model).save(str(folder), overwrite=True, save_anndata=False)
    return model


def train_like(
    cells: AnnData,
    batch_key: str,
    max_epochs: int | None,
    seed: int,
    device: str,
    architecture: dict[str, Any],
) -> Any:
    """Train an SCVI of a given architecture; the caller's random numbers go on as if it had not.

    Parameters
    ----------
    cells
        Counts; scvi-tools writes to it.
    batch_key
        Column of ``obs`` with the batches.
    max_epochs
        Epochs, scvi-tools' own choice if None.
    seed
        Seed of weights, split and minibatches.
    device
        Where to train, as :func:`scvibridge.load` takes it.
    architecture
        Arguments of the model.
    """
    import scvi  # takes seconds

    where = placed(device)
    with quiet(), own_random_numbers(seed), staying_interrupts():
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
        model = scvi.model.SCVI(cells, **architecture)
        model.train(
            max_epochs=max_epochs,
            batch_size=minibatch(cells.n_obs),
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            **where,
        )
    return model


def placed(device: str) -> dict[str, Any]:
    """Arguments of a training that say where, of a device as :func:`scvibridge.load` takes it."""
    where = resolve_device(device)
    if where.type == "cpu":
        return {"accelerator": "cpu"}
    return {"accelerator": "gpu", "devices": [where.index or 0]}


def minibatch(n_cells: int) -> int:
    """Size of minibatches that leaves no last one of a cell or two, which no norm can be had of."""
    n_trained = math.ceil(0.9 * n_cells)
    return next(size for size in range(128, 256) if n_trained % size not in (1, 2))


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed all generators that a training takes numbers from, and put them back afterwards.

    scvi-tools trains with the generators of the process, so that one training runs at a time.
    """
    import scvi

    with _one_training, torch.random.fork_rng(), numpy_numbers_kept():
        before = scvi.settings.seed
        plain = random.getstate()
        scvi.settings.seed = seed
        try:
            yield
        finally:
            scvi.settings.seed = before
            random.setstate(plain)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log and the warnings of a training, which speak of hardware and settings."""
    with logging_disabled, warnings_ignored():
        yield
