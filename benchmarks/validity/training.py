"""Models of the cells used to compare methods, trained once and kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scvibridge._utils.torch_threads import one_thread
from scvibridge.models.training.trainer import quiet
from scvibridge.models.training_cells import with_names

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

EPOCHS = 80
# SCVI's defaults except for the likelihood; design and figures: docs/validity.md.
MODEL = {"gene_likelihood": "nb", "n_latent": 10}
BATCH_SIZE, LEARNING_RATE = 128, 2e-3


def trained(
    cells: AnnData,
    folder: Path,
    *,
    batch_key: str,
    seed: int,
    epochs: int = EPOCHS,
    warmup: int = 400,
    **model_arguments: Any,
) -> Any:
    """Train SCVI on cells, or load the model of an earlier run from `folder`.

    The folder's name must identify the cells: they are not compared.
    """
    settings = {"epochs": epochs, "warmup": warmup, "seed": seed, **MODEL, **model_arguments}
    # Models stored earlier did not record the held-out cells, which are used to shrink effects.
    settings["names_held_out_cells"] = True
    arguments = {**MODEL, **model_arguments}
    plan = {"lr": LEARNING_RATE, "n_epochs_kl_warmup": warmup}
    return _trained(cells, folder, batch_key, settings, arguments, plan)


def trained_by_default(
    cells: AnnData, folder: Path, *, batch_key: str, seed: int, epochs: int, **arguments: Any
) -> Any:
    """Train SCVI with scvi-tools' own settings, or load the model of an earlier run."""
    settings = {"epochs": epochs, "seed": seed, **arguments}
    return _trained(cells, folder, batch_key, settings, arguments, None)


def _trained(
    cells: AnnData,
    folder: Path,
    batch_key: str,
    settings: dict[str, Any],
    arguments: dict[str, Any],
    plan: dict[str, Any] | None,
) -> Any:
    import scvi

    stamp = folder / "settings.json"
    with quiet(), one_thread():
        scvi.settings.seed = settings["seed"]
        if stamp.is_file() and json.loads(stamp.read_text()) == settings:
            return scvi.model.SCVI.load(str(folder), adata=cells)
        scvi.model.SCVI.setup_anndata(cells, batch_key=batch_key)
        model = scvi.model.SCVI(cells, **arguments)
        model.train(
            max_epochs=settings["epochs"],
            accelerator="cpu",
            batch_size=BATCH_SIZE,
            plan_kwargs=plan,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
        )
        with_names(model).save(str(folder), overwrite=True, save_anndata=False)
        stamp.write_text(json.dumps(settings))
    return model
