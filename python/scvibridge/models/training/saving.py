"""Saving a model that was just trained, so that neither it nor an older one is lost."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from scvibridge.io.h5ad import write_new_h5ad
from scvibridge.io.opened_files import check_not_source, files_of, remember_sources
from scvibridge.io.paths import replacing
from scvibridge.models.saved.model_file import MODEL_FILE
from scvibridge.models.saved.model_folder import ANNDATA_FILE, EXTENSION_FILE, check_folder
from scvibridge.models.training.trainer import quiet

_OWN = (MODEL_FILE, ANNDATA_FILE, EXTENSION_FILE)


def check_saving(save: str | os.PathLike[str], adata: Any, *, overwrite: bool) -> Path:
    """Check that a model can be saved to a folder, before it is trained.

    Parameters
    ----------
    save
        The folder.
    adata
        The data of the training, which must not lie in it.
    overwrite
        Whether a folder of that name may be replaced.

    Raises
    ------
    FileExistsError
        It exists, and may not be replaced: unasked, or since it holds more than a model.
    FileNotFoundError, NotADirectoryError, PermissionError
        The folder around it does not exist, it is a file, or nothing can be written there.
    ValueError
        The data lie in it.
    """
    folder = Path(os.fspath(save)).expanduser()
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"save: the folder {folder.parent} does not exist; create it first")
    check_not_source(folder, adata, argument="save")
    return check_folder(save, overwrite, "save", _OWN)


def save_trained(model: Any, folder: Path, *, overwrite: bool) -> None:
    """Save a model with its data; where that fails, warn and leave the model to the caller.

    Warns
    -----
    UserWarning
        It could not be saved; an older folder is as it was.
    """
    try:
        with replacing(folder, overwrite=overwrite) as temporary, quiet():
            model.save(str(temporary), save_anndata=False)
            write_new_h5ad(model.adata, temporary / ANNDATA_FILE, compression=None)
    except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
        reason = str(error).strip() or type(error).__name__
        warnings.warn(
            f"the model is trained, but could not be saved to {folder}: {reason}. It is in memory: "
            "model.save('another_folder', save_anndata=True) saves it, and save_anndata=False "
            "without its data",
            UserWarning,
            stacklevel=3,
        )
        return
    remember_sources(model, folder / MODEL_FILE, folder / ANNDATA_FILE)


def is_saved(model: Any, folder: str | os.PathLike[str]) -> bool:
    """Whether a model that was trained has been saved to a folder."""
    return Path(folder).expanduser() / MODEL_FILE in files_of(model)
