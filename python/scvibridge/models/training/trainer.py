"""Shared code for training: random numbers, device, silence; and training of small models."""

from __future__ import annotations

import math
import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from scvibridge._utils.devices import resolve_device
from scvibridge._utils.interrupts import staying_interrupts
from scvibridge._utils.process_state import (
    lock,
    logging_disabled,
    numpy_numbers_kept,
    warnings_ignored,
)
from scvibridge._utils.progress import counting
from scvibridge._utils.torch_threads import one_thread
from scvibridge.models.adapters.registered_columns import as_categories
from scvibridge.models.training_cells import with_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData


# scvi-tools holds out a tenth of the cells, rounded down: with fewer cells, none are held out.
FEWEST_CELLS = 10

# Warm-up epochs of the prior: this fraction of the training, up to a maximum.
_WARMUP_SHARE, _LONGEST_WARMUP = 4, 400


def check_enough_cells(n_cells: int, purpose: str) -> None:
    """Check that there are enough cells for fitting and for holding out.

    Raises
    ------
    ValueError
        If there are fewer than `FEWEST_CELLS`.
    """
    if n_cells < FEWEST_CELLS:
        raise ValueError(
            f"{purpose} needs at least {FEWEST_CELLS} cells with counts, so that one of them can "
            f"be held out; the data have {n_cells}"
        )


_one_training = lock()

# Environment variables that scvi-tools and Lightning set together with the seed.
_SET_WITH_SEED = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "XLA_FLAGS")


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

    The model has no labels: they are used when counts are corrected.
    """
    import scvi  # takes seconds

    with training_session(seed):
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
        model = scvi.model.SCVI(cells, gene_likelihood="nb", **model_arguments)
        _fit(
            model,
            max_epochs=epochs,
            accelerator="cpu",
            batch_size=batch_size,
            plan_kwargs={"lr": learning_rate},
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
    progress: bool = False,
) -> Any:
    """Train an SCVI of a given architecture, with the defaults of :func:`scvibridge.train_scvi`.

    The caller's random number state is unaffected.

    Parameters
    ----------
    cells
        Counts; scvi-tools modifies them.
    batch_key
        Column of ``obs`` with the batches.
    max_epochs
        Maximum number of epochs, scvi-tools' default if None.
    seed
        Seed of weights, split and minibatches.
    device
        Device to train on, as for :func:`scvibridge.load`.
    architecture
        Arguments of the model.
    progress
        Whether to show progress.
    """
    check_enough_cells(cells.n_obs, "training")
    total = n_epochs(cells.n_obs, max_epochs)
    how = {
        "early_stopping": True,
        "plan_kwargs": {"n_epochs_kl_warmup": default_warmup(total)},
        **placed(device),
    }
    with training_session(seed):
        return fit_scvi(cells, {"batch_key": batch_key}, architecture, total, progress, how)


def fit_scvi(
    cells: AnnData,
    keys: dict[str, Any],
    architecture: dict[str, Any],
    total: int,
    progress: bool,
    how: dict[str, Any],
) -> Any:
    """Set up and train an SCVI.

    Parameters
    ----------
    cells
        Counts; scvi-tools modifies them.
    keys, architecture, how
        Arguments of ``setup_anndata``, of the model and of ``train``.
    total
        Maximum number of epochs.
    progress
        Whether to show progress.
    """
    import scvi  # takes seconds

    with as_categories(cells, keys):
        scvi.model.SCVI.setup_anndata(cells, **keys)
    model = scvi.model.SCVI(cells, **architecture)
    with counting(total, "Training", "epochs", progress) as update:
        _fit(
            model,
            _epoch_counter(update),
            max_epochs=total,
            batch_size=minibatch(cells.n_obs),
            # Required for the history to contain the loss of held-out cells.
            check_val_every_n_epoch=1,
            **how,
        )
    return model


def n_epochs(n_cells: int, max_epochs: int | None) -> int:
    """Return the number of epochs: `max_epochs`, or scvi-tools' default for the number of cells."""
    from scvi.model._utils import get_max_epochs_heuristic

    return get_max_epochs_heuristic(n_cells) if max_epochs is None else int(max_epochs)


def default_warmup(total: int) -> int:
    """Return the number of warm-up epochs for the prior of the latent variables."""
    return max(1, min(_LONGEST_WARMUP, total // _WARMUP_SHARE))


def _fit(model: Any, *callbacks: Any, **how: Any) -> None:
    """Train a model without output.

    Raises
    ------
    KeyboardInterrupt
        After an interrupt. Older versions of Lightning end the training as if it were complete.
    """
    from lightning.pytorch.callbacks import Callback

    class Interrupts(Callback):
        def __init__(self) -> None:
            self.found: list[BaseException] = []

        def on_exception(self, _trainer: Any, _module: Any, exception: BaseException) -> None:
            if isinstance(exception, KeyboardInterrupt):
                self.found.append(exception)

    interrupts = Interrupts()
    model.train(
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, interrupts],
        **how,
    )
    if interrupts.found:
        raise interrupts.found[0]


def _epoch_counter(update: Callable[[int], object]) -> Any:
    from lightning.pytorch.callbacks import Callback

    class EpochCounter(Callback):
        def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
            update(trainer.current_epoch + 1)

    return EpochCounter()


def placed(device: str) -> dict[str, Any]:
    """Return the training arguments for a device in the format of :func:`scvibridge.load`."""
    where = resolve_device(device)
    if where.type == "cpu":
        return {"accelerator": "cpu"}
    return {"accelerator": "gpu", "devices": [where.index or 0]}


def minibatch(n_cells: int) -> int:
    """Return a minibatch size whose last minibatch has more than two cells, for batch norm."""
    n_trained = math.ceil(0.9 * n_cells)
    return next(size for size in range(128, 256) if n_trained % size not in (1, 2))


@contextmanager
def training_session(seed: int) -> Iterator[None]:
    """Train silently, on one thread, with seeded random numbers."""
    with quiet(), own_random_numbers(seed), staying_interrupts(), one_thread():
        yield


@contextmanager
def own_random_numbers(seed: int) -> Iterator[None]:
    """Seed all generators that training uses, and restore them afterwards.

    scvi-tools trains with the generators of the process, so only one training runs at a time.
    """
    import scvi

    with _one_training, torch.random.fork_rng(), numpy_numbers_kept(), _settings_of_seed_kept():
        before = scvi.settings.seed
        plain = random.getstate()
        scvi.settings.seed = seed
        try:
            yield
        finally:
            scvi.settings.seed = before
            random.setstate(plain)


@contextmanager
def _settings_of_seed_kept() -> Iterator[None]:
    """Restore what setting scvi-tools' seed changes besides random numbers.

    Lightning would take the seed in the environment for the user's own trainings, and deterministic
    cuDNN would slow them down.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    variables = {name: os.environ.get(name) for name in _SET_WITH_SEED}
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = flags
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs and warnings of a training, which are about hardware and settings."""
    with logging_disabled, warnings_ignored():
        yield
