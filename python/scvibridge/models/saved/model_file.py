"""Read the file of a saved model without running what it contains.

scvi-tools saves a model with ``torch.save``: a zip archive with a pickle and, next to it, the
numbers of the tensors. scvi-tools unpickles it directly, which runs any code its author put there,
and torch's ``weights_only`` reader refuses every trained model because of its history tables. Here
the archive is opened by Python's zipfile, its pickle is read inertly
(:mod:`scvibridge.models.saved.restricted_pickle`), and plain data are built from the result
(:mod:`scvibridge.models.saved.allowed_values`).
"""

from __future__ import annotations

import pickle
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge.models.adapters import check_class
from scvibridge.models.saved.allowed_values import NotPlainError, PlainData, TooLargeError, name_of
from scvibridge.models.saved.architecture import check_architecture
from scvibridge.models.saved.restricted_pickle import Recorded, read_inert

if TYPE_CHECKING:
    from pathlib import Path


MODEL_FILE = "model.pt"

# Attributes that no function of a trained model needs and that are always skipped: the loss
# tables. They are None before training.
UNREAD = ("history_", "semisupervised_history_", "unsupervised_history_")

# What Pyro recorded about all models of the session that saved this one. Supported classes do not
# use Pyro.
_UNREAD_STATE = "pyro_param_store"

# scvi-tools calls the method with this name, and sets each attribute on the model. It saves
# attributes whose names end in an underscore and, for models trained by a datamodule, these.
_SETUP_METHODS = ("setup_anndata", "setup_mudata", "setup_datamodule")

_OF_DATAMODULES = (
    "batch_labels",
    "label_keys",
    "n_batch",
    "n_extra_categorical_covs",
    "n_extra_continuous_covs",
    "n_labels",
    "n_sample",
    "n_vars",
)

_PARTS = ("model_state_dict", "var_names", "attr_dict")

_PICKLE = "/data.pkl"

# Maximum number of values in a pickle, by its size: a value takes at least one byte, and little is
# shared in genuine files.
_LEAST_VALUES, _VALUES_PER_BYTE = 10_000, 20

# What zipfile raises for archives that are damaged, encrypted or of another type.
_UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def read_model_file(path: Path) -> dict[str, Any]:
    """Read a saved model without running any of its code.

    Parameters
    ----------
    path
        The file, ``model.pt``.

    Returns
    -------
    dict of ``model_state_dict`` (tensors on the CPU), ``var_names`` and ``attr_dict``, as saved by
    scvi-tools, except for `UNREAD`, which are None.

    Raises
    ------
    ValueError
        If the file is not one of ``torch.save``, was not written by scvi-tools, or contains
        anything other than plain data; the message says where.
    TypeError
        If the model's class is not supported.
    """
    try:
        with zipfile.ZipFile(path) as file:
            archive = _Archive(file, path.stat().st_size)
            pickled = archive.pickled()
            parts = _parts(read_inert(pickled))
            data = PlainData(archive.storage, _LEAST_VALUES + _VALUES_PER_BYTE * len(pickled))
            # Check the class first: models of other classes need not be plain data.
            registry = data.make(parts["attr_dict"]["registry_"], "attr_dict['registry_']")
            check_class(_model_name(registry))
            contents = _contents(parts, data)
            check_architecture(contents, data.n_values, path.stat().st_size)
            return contents
    except TooLargeError as error:
        raise ValueError(
            f"{path} was not loaded: {error}. It is damaged, or was made to exhaust the memory"
        ) from error
    except NotPlainError as error:
        raise ValueError(
            f"{path} was not loaded: {error}. A saved model is a pickle, and one that contains "
            "more than arrays, tensors, strings, numbers and containers of them may run "
            "arbitrary code. If you made it, or trust its author, load it with trust=True "
            "(--trust), which runs any code it contains"
        ) from error
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} could not be read as a model saved by scvi-tools >= 0.15, a zip archive of "
            f"torch.save: {error}. If it is a model in another format and you trust its author, "
            "load it with trust=True (--trust), which runs any code it contains"
        ) from error


def _parts(tree: Any) -> dict[str, Any]:
    """Return the components of what scvi-tools saves, before building any value."""
    if type(tree) is not dict or not set(_PARTS) <= set(tree):
        raise pickle.UnpicklingError(f"it has no {', '.join(_PARTS)}")
    attributes = tree["attr_dict"]
    if type(attributes) is not dict or "registry_" not in attributes:
        raise pickle.UnpicklingError("its attr_dict has no registry_")
    return {name: tree[name] for name in _PARTS}


def _model_name(registry: Any) -> str:
    if not isinstance(registry, dict):
        raise NotPlainError("attr_dict['registry_'] is not a dict")
    method = registry.get("setup_method_name", _SETUP_METHODS[0])
    if method not in _SETUP_METHODS:
        raise NotPlainError(f"attr_dict['registry_'] requests the method {name_of(method)}")
    for key in ("model_name", "scvi_version"):
        if type(registry.get(key, "")) is not str:
            raise NotPlainError(f"attr_dict['registry_'][{key!r}] is not a string")
    return str(registry.get("model_name", "SCVI"))


def _contents(parts: dict[str, Any], data: PlainData) -> dict[str, Any]:
    state = parts["model_state_dict"]
    if isinstance(state, Recorded):
        # From an OrderedDict.
        state.items = [pair for pair in state.items if pair[0] != _UNREAD_STATE]
    made = {
        "model_state_dict": data.make(state, "model_state_dict"),
        "var_names": data.make(parts["var_names"], "var_names"),
        "attr_dict": {
            name: _attribute(name, value, data) for name, value in parts["attr_dict"].items()
        },
    }
    _check_state(made["model_state_dict"])
    _check_names(made["var_names"])
    return made


def _check_names(names: Any) -> None:
    """Check the names of variables, for a MuData those of each modality."""
    for modality, part in names.items() if isinstance(names, dict) else [("", names)]:
        is_row = np.ndim(part) == 1 if isinstance(part, np.ndarray) else isinstance(part, list)
        if not is_row or not all(isinstance(name, str) for name in part):
            where = f"var_names[{name_of(modality)}]" if modality else "var_names"
            raise NotPlainError(f"{where} is not a sequence of names")


def _attribute(name: Any, value: Any, data: PlainData) -> Any:
    where = f"attr_dict[{name_of(name)}]"
    is_saved = type(name) is str and name.endswith("_") and not name.startswith("_")
    if not is_saved and name not in _OF_DATAMODULES:
        raise NotPlainError(f"{where} is not an attribute that scvi-tools saves")
    return None if name in UNREAD else data.make(value, where)


def _check_state(state: Any) -> None:
    if not isinstance(state, dict):
        raise NotPlainError("model_state_dict is not a dict")
    for name, tensor in state.items():
        if type(name) is not str or not isinstance(tensor, torch.Tensor):
            raise NotPlainError(f"model_state_dict[{name_of(name)}] is not a tensor with a name")


class _Archive:
    """The archive: a pickle and what is stored next to it, all uncompressed."""

    def __init__(self, file: zipfile.ZipFile, size: int) -> None:
        entries = file.infolist()
        # torch does not compress. Otherwise a small file could fill the memory.
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
            raise zipfile.BadZipFile("its members are compressed, which torch.save does not do")
        if sum(e.file_size for e in entries) > size:
            raise zipfile.BadZipFile("its members are larger than the file")
        pickles = [e.filename for e in entries if e.filename.endswith(_PICKLE)]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"it has {len(pickles)} members named data.pkl instead of one")
        self._file = file
        self._folder = pickles[0].removesuffix(_PICKLE)
        self._storages: dict[str, torch.UntypedStorage] = {}
        order = f"{self._folder}/byteorder"
        if order in file.namelist() and file.read(order).decode() != sys.byteorder:
            raise zipfile.BadZipFile("it was saved on a machine with another byte order")

    def pickled(self) -> bytes:
        """The pickle."""
        return self._file.read(self._folder + _PICKLE)

    def storage(self, key: str) -> torch.UntypedStorage:
        """Read the numbers of a tensor, once for all tensors that share them."""
        if key not in self._storages:
            content = bytearray(self._file.read(f"{self._folder}/data/{key}"))
            numbers = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0)
            self._storages[key] = numbers.untyped_storage()
        return self._storages[key]
