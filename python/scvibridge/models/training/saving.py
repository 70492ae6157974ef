"""Save a newly trained model without losing it or an older one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scvibridge._utils import user_warnings
from scvibridge.io.h5ad import write_new_h5ad
from scvibridge.io.opened_files import check_not_source, files_of, remember_sources
from scvibridge.io.paths import replacing
from scvibridge.models.saved.model_file import MODEL_FILE
from scvibridge.models.saved.model_folder import ANNDATA_FILE, EXTENSION_FILE, check_folder
from scvibridge.models.training.trainer import quiet

_OWN = (MODEL_FILE, ANNDATA_FILE, EXTENSION_FILE)


def check_saving(
    save: str | os.PathLike[str], adata: Any, *, overwrite: bool, argument: str = "save"
) -> Path:
    """Check that a model can be saved to a folder, before it is trained.

    Parameters
    ----------
    save
        The folder.
    adata
        The training data, which must not be in that folder.
    overwrite
        Whether an existing folder may be replaced.
    argument
        The caller's argument with the folder, for messages.

    Raises
    ------
    FileExistsError
        If it exists and `overwrite` is False, or it contains more than a model.
    FileNotFoundError, NotADirectoryError, PermissionError
        If its parent does not exist or is not writable, or it is a file.
    ValueError
        If the data are in the folder.
    """
    folder = Path(os.fspath(save)).expanduser()
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{argument}: the folder {folder.parent} does not exist; create it first"
        )
    check_not_source(folder, adata, argument=argument)
    return check_folder(save, overwrite, argument, _OWN)


def save_trained(model: Any, folder: Path, *, overwrite: bool, adata: Any = None) -> None:
    """Save a model with its data; on failure, warn and leave the model in memory.

    Parameters
    ----------
    model
        The model.
    folder
        The folder.
    overwrite
        Whether to replace an existing folder.
    adata
        Data to save in place of the model's own: the same under other names.

    Warns
    -----
    UserWarning
        If it could not be saved; an older folder is then unchanged.
    """
    try:
        data = model.adata if adata is None else adata
        with replacing(folder, overwrite=overwrite) as temporary, quiet():
            model.save(str(temporary), save_anndata=False)
            write_new_h5ad(data, temporary / ANNDATA_FILE, compression=None)
    except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
        reason = str(error).strip() or type(error).__name__
        user_warnings.warn(
            f"the model is trained, but could not be saved to {folder}: {reason}. It is still in "
            "memory: save it with model.save('another_folder', save_anndata=True), or without "
            "its data with save_anndata=False"
        )
        return
    remember_sources(model, folder / MODEL_FILE, folder / ANNDATA_FILE)


def is_saved(model: Any, folder: str | os.PathLike[str]) -> bool:
    """Return whether a trained model was saved to a folder."""
    return Path(folder).expanduser().absolute() / MODEL_FILE in files_of(model)
