"""Loading a trained model from its folder together with its data."""

from __future__ import annotations

import logging
import warnings
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from scvibridge import inputs
from scvibridge.devices import resolve_device
from scvibridge.files import read_anndata
from scvibridge.models import check_class, find_class

if TYPE_CHECKING:
    from anndata import AnnData

MODEL_FILE = "model.pt"


def load(
    model_dir: str | PathLike[str],
    adata: AnnData | str | PathLike[str] | bool | None = None,
    device: str = "auto",
) -> Any:
    """Load a trained scvi-tools model from the folder that ``model.save()`` wrote.

    A saved scvi-tools model is a pickle: loading one runs whatever code it holds. Load no model
    from a source that you do not trust.

    Parameters
    ----------
    model_dir
        Folder with ``model.pt``.
    adata
        The data that the model was trained on: an AnnData or a path (h5ad, zarr). Genes are
        aligned by name, and genes that the model does not know are left out. May be None where
        the data were saved with the model. False loads the model without data: give them to the
        functions instead, which read a file block by block where they write one (`out`).
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Returns
    -------
    scvi.model.SCVI
        The trained model, with its data if any.

    Raises
    ------
    FileNotFoundError
        If the folder holds no model, or there are no data.
    TypeError
        If the model is of a class that is not supported.
    ValueError
        If the data do not fit the model, or there is no such device.

    Examples
    --------
    >>> model = scvibridge.load("model_dir", adata="data.h5ad")  # doctest: +SKIP
    """
    folder = _check_folder(model_dir)
    resolve_device(device)
    if adata is True:
        raise TypeError("adata must be an AnnData, a path, None or False, got True")
    if adata is None and not (folder / "adata.h5ad").is_file():
        raise FileNotFoundError(
            f"no data were saved with the model in {folder}: pass adata=, the data it was "
            "trained on, or adata=False to give them to the functions"
        )
    saved = _read(folder)
    data: AnnData | bool | None = adata
    if adata is not None and not isinstance(adata, bool):
        data = _aligned(adata, pd.Index(saved["var_names"]).astype(str))
    name = saved["attr_dict"]["registry_"].get("model_name", "SCVI")
    check_class(name)
    return _load_quietly(find_class(name), folder, data, device)


def _check_folder(model_dir: str | PathLike[str]) -> Path:
    folder = Path(fspath(model_dir)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {folder}")
    if not (folder / MODEL_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no folder of a saved scvi-tools model: it holds no {MODEL_FILE}"
        )
    return folder


def _read(folder: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(
            folder / MODEL_FILE, map_location="cpu", weights_only=False
        )
        saved["attr_dict"]["registry_"]
    except Exception as error:
        raise ValueError(
            f"{folder / MODEL_FILE} could not be read as a model saved by scvi-tools >= 0.15: "
            f"{error}"
        ) from error
    return saved


def _aligned(adata: AnnData | str | PathLike[str], genes: pd.Index) -> AnnData:
    """Bring the data to the model's genes by name: scvi-tools takes them as they lie."""
    data = read_anndata(adata) if isinstance(adata, str | PathLike) else adata
    positions = inputs.gene_positions(genes, data.var_names)
    return data if positions is None else data[:, positions].copy()


def _load_quietly(model_class: Any, folder: Path, data: AnnData | bool | None, device: str) -> Any:
    accelerator, _, index = device.partition(":")
    placed = {"accelerator": accelerator if accelerator != "cuda" else "gpu"}
    if index:
        placed["device"] = int(index)  # type: ignore[assignment]
    logger = logging.getLogger("scvi")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Categories without cells and the like are no concern of whoever loads a model.
            warnings.simplefilter("ignore")
            return model_class.load(str(folder), adata=data, **placed)
    finally:
        logger.setLevel(level)
