"""The folder of a saved model: which files of it belong to the model."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from scvibridge.extension_file import EXTENSION_FILE
from scvibridge.file_boundary import check_own_files
from scvibridge.inputs import list_names, suggest
from scvibridge.model_data import ANNDATA_FILE, MUDATA_FILE
from scvibridge.model_file import MODEL_FILE

# What scvi-tools saved before its version 0.15.
_LEGACY_FILES = ("attr.pkl", "var_names.csv", "model_params.pt")


@dataclass(frozen=True)
class ModelFolder:
    """Where a saved model is: its folder, and what the names of its files begin with.

    Attributes
    ----------
    path
        The folder.
    prefix
        What ``model.save(prefix=)`` was given, else an empty text.
    """

    path: Path
    prefix: str

    def file(self, name: str) -> Path:
        """Path of one of its files, by the name without prefix."""
        return self.path / f"{self.prefix}{name}"


def find_model(model_dir: str | PathLike[str], prefix: str | None, trust: bool) -> ModelFolder:
    """Find the files of a saved model.

    Parameters
    ----------
    model_dir
        The folder.
    prefix
        What the names of its files begin with. If None, the model without a prefix, or else the
        only one that there is.
    trust
        Whether links to other files are followed.

    Raises
    ------
    FileNotFoundError
        If there is no folder, or no model in it; the message says what there is.
    TypeError
        If `prefix` is no text.
    ValueError
        If there are several models, the model is in a format from before scvi-tools 0.15, or a
        file of it is a link to another file.
    """
    folder = Path(fspath(model_dir)).expanduser()
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix must be text or None, got {prefix!r}")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {folder}")
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
            f"{folder} contains several models, whose files begin with {list_names(present)}: name "
            "one of these as prefix"
        )
    _refuse_legacy(folder, prefix)
    if prefix is not None and present:
        raise FileNotFoundError(
            f"{folder} contains no {prefix}{MODEL_FILE}: its prefixes are {list_names(present)}"
            f"{suggest(prefix, present)}"
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
                f"{folder} contains a model that scvi-tools saved before its version 0.15 "
                f"({', '.join(old + name for name in _LEGACY_FILES)}). Convert it in Python, "
                "scvi.model.SCVI.convert_legacy_save(OLD_FOLDER, NEW_FOLDER"
                f"{option}), with the class that it was trained as, and load NEW_FOLDER. That runs "
                "the code that attr.pkl may contain: do it only if you trust whoever made it"
            )
