"""The folder of a saved model, and which of its files belong to the model."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from scvibridge._utils.wording import list_names, suggest
from scvibridge.io.file_boundary import check_own_files
from scvibridge.io.paths import check_absent, check_writable
from scvibridge.models.saved.model_file import MODEL_FILE

if TYPE_CHECKING:
    from collections.abc import Collection

ANNDATA_FILE = "adata.h5ad"

MUDATA_FILE = "mdata.h5mu"

# The genes added to the model.
EXTENSION_FILE = "extension.npz"

# What scvi-tools saved before version 0.15.
_LEGACY_FILES = ("attr.pkl", "var_names.csv", "model_params.pt")


@dataclass(frozen=True)
class ModelFolder:
    """The location of a saved model: its folder and the prefix of its file names.

    Attributes
    ----------
    path
        The folder.
    prefix
        The argument of ``model.save(prefix=)``, or an empty string.
    """

    path: Path
    prefix: str

    def file(self, name: str) -> Path:
        """Return the path of one of its files, given the name without prefix."""
        return self.path / f"{self.prefix}{name}"


def find_model(model_dir: str | PathLike[str], prefix: str | None, trust: bool) -> ModelFolder:
    """Find the files of a saved model.

    Parameters
    ----------
    model_dir
        The folder.
    prefix
        The prefix of its file names. If None, the model without a prefix is used, or else the only
        one in the folder.
    trust
        Whether links to other files are followed.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or contains no model; the message says what it contains.
    TypeError
        If `prefix` is not a string.
    ValueError
        If there are several models, the model is in a format from before scvi-tools 0.15, or one of
        its files is a link to another file.
    """
    folder = Path(fspath(model_dir)).expanduser()
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string or None, got {prefix!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"the model folder {folder} does not exist")
    found = ModelFolder(folder, _prefix_of(folder, prefix))
    if not trust:
        names = (MODEL_FILE, EXTENSION_FILE, ANNDATA_FILE, MUDATA_FILE)
        check_own_files(folder, [f"{found.prefix}{name}" for name in names])
    return found


def _prefix_of(folder: Path, prefix: str | None) -> str:
    present = _prefixes(folder, MODEL_FILE)
    if prefix is None and len(present) == 1:
        return present[0]
    if (prefix or "") in present:
        return prefix or ""
    if prefix is None and present:
        raise ValueError(
            f"{folder} contains several models, with the prefixes {list_names(present)}: pass one "
            "of them as prefix"
        )
    _refuse_legacy(folder, prefix)
    if prefix is not None and present:
        raise FileNotFoundError(
            f"{folder} contains no {prefix}{MODEL_FILE}: its prefixes are "
            f"{list_names(present)}{suggest(prefix, present)}"
        )
    raise FileNotFoundError(
        f"{folder} is not the folder of a saved scvi-tools model: it contains no {MODEL_FILE}"
    )


def _prefixes(folder: Path, name: str) -> list[str]:
    found = (file for file in folder.glob(f"*{name}") if file.is_file())
    return sorted(file.name.removesuffix(name) for file in found)


def _refuse_legacy(folder: Path, prefix: str | None) -> None:
    for old in _prefixes(folder, _LEGACY_FILES[0]):
        if prefix not in (None, old):
            continue
        if all((folder / f"{old}{name}").is_file() for name in _LEGACY_FILES):
            option = f", prefix={old!r}" if old else ""
            raise ValueError(
                f"{folder} contains a model saved by scvi-tools before version 0.15 "
                f"({', '.join(old + name for name in _LEGACY_FILES)}). Convert it in Python with "
                f"scvi.model.SCVI.convert_legacy_save(OLD_FOLDER, NEW_FOLDER{option}), using the "
                "class that it was trained as, and load NEW_FOLDER. This runs any code that "
                "attr.pkl contains: do it only if you trust its author"
            )


def check_folder(
    path: str | PathLike[str],
    overwrite: bool,
    argument: str = "path",
    own: Collection[str] = (MODEL_FILE, EXTENSION_FILE),
) -> Path:
    """Check that a folder can be written or replaced, before its contents are computed.

    Parameters
    ----------
    path
        The folder.
    overwrite
        Whether an existing folder may be replaced.
    argument
        The caller's argument with the path.
    own
        The only contents that a folder may have if it is to be replaced.

    Raises
    ------
    FileExistsError
        If it exists and `overwrite` is False, or it contains more than a model.
    NotADirectoryError, PermissionError
        If it is a file, or its parent is not writable.
    """
    folder = Path(fspath(path)).expanduser()
    if folder.exists():
        _check_replaceable(folder, overwrite, argument, own)
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir():
        raise NotADirectoryError(f"{argument}: {above} is a file, not a folder to write to")
    check_writable(above, argument)
    return folder


def _check_replaceable(folder: Path, overwrite: bool, argument: str, own: Collection[str]) -> None:
    if not folder.is_dir():
        raise NotADirectoryError(f"{argument}: {folder} is a file, expected a folder")
    if not overwrite:
        check_absent(folder, argument)
    others = sorted({child.name for child in folder.iterdir()} - set(own))
    if others:
        raise FileExistsError(
            f"{argument}: {folder} would be replaced but contains more than a model "
            f"({', '.join(others[:3])}): choose another folder, or remove it first"
        )
