"""Loading a trained model from its folder together with its data."""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import contextmanager
from importlib import metadata
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scvibridge import inputs, model_data
from scvibridge.devices import resolve_device
from scvibridge.extending import ExtendedModel
from scvibridge.extension_file import EXTENSION_FILE, read_extension
from scvibridge.files import out_of_space, space_message
from scvibridge.forked import check_fork
from scvibridge.model_file import MODEL_FILE, read_model_file
from scvibridge.models import adapter_for, check_class, find_class
from scvibridge.private_module import PrivateRandomNumbers
from scvibridge.process_state import lock, numpy_numbers_kept, warnings_ignored
from scvibridge.training_cells import keep_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from mudata import MuData

_one_load = lock()


def load(
    model_dir: str | PathLike[str],
    adata: AnnData | MuData | str | PathLike[str] | bool | None = None,
    device: str = "auto",
    trust: bool = False,
) -> Any:
    """Load a trained scvi-tools model from the folder that ``model.save()`` wrote.

    A saved scvi-tools model is a pickle: scvi-tools' own ``load`` runs whatever code it holds.
    Here nothing in it runs, and a model that holds more than plain data (arrays, tensors, texts,
    numbers, containers) is refused, unless you trust it.

    Parameters
    ----------
    model_dir
        Folder with ``model.pt``.
    adata
        The data that the model was trained on: an AnnData or a path (h5ad, zarr), or where it was
        set up by ``setup_mudata`` a MuData or the path of an h5mu file. Genes are aligned by name
        (in each modality), and those that the model does not know are left out. May be None where
        the data were saved with the model. False loads the model without data: give them to the
        functions instead, which read a file block by block where they write one (`out`).
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    trust
        Load by scvi-tools' own way, which runs whatever code the file holds. True for models of
        your own that are refused otherwise, or whose history is wanted (``model.history``, which
        is None without). Never for a model from a source that you do not trust.

    Returns
    -------
    scvi.model.SCVI
        The trained model, of its own class, with its data if any. From the folder of a model that
        :func:`extend_genes` extended, an :class:`ExtendedModel`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no model, or there are no data.
    TypeError
        If the model is of a class that is not supported.
    ValueError
        If the file of the model may run code, the data do not fit the model, or there is no such
        device.

    Examples
    --------
    >>> model = scvibridge.load("model_dir", adata="data.h5ad")  # doctest: +SKIP
    """
    folder = _check_folder(model_dir)
    resolve_device(device)
    if adata is True:
        raise TypeError("adata must be an AnnData, a path, None or False, got True")
    if not isinstance(trust, bool):
        raise TypeError(f"trust must be True or False, got {trust!r}")
    return _load(folder, _read(folder, trust), adata, device, trust)


def _load(folder: Path, saved: dict[str, Any], adata: Any, device: str, trust: bool) -> Any:
    """Load a model whose file has been read, with its extension if there is one."""
    if not (folder / EXTENSION_FILE).is_file():
        return _load_model(folder, saved, adata, device, trust)
    if isinstance(adata, str | PathLike):
        adata = model_data.read_data(adata, saved["attr_dict"]["registry_"])
    model = _load_model(folder, saved, adata, device, trust)
    head, quality, settings = read_extension(folder / EXTENSION_FILE, model)
    extended = ExtendedModel(model, head, None if adata is False else adata, quality, settings)
    _check_genes(extended)
    return extended


def _check_genes(extended: ExtendedModel) -> None:
    """Refuse data that lack a gene of an extended model, before any function does."""
    if extended.adata is not None:
        adapter = adapter_for(extended)
        assert adapter.adata is not None  # noqa: S101 - there are data
        inputs.gene_positions(adapter.genes, adapter.adata.var_names)


def _load_model(folder: Path, saved: dict[str, Any], adata: Any, device: str, trust: bool) -> Any:
    """Load the model that scvi-tools has trained."""
    registry = saved["attr_dict"]["registry_"]
    name = registry.get("model_name", "SCVI")
    check_class(name)
    data: AnnData | MuData | bool
    if adata is None:
        data = model_data.saved_data(folder, registry)
    elif isinstance(adata, bool):
        data = False
    else:
        data = model_data.aligned(adata, saved["var_names"], registry)

    def names() -> Any:
        own = None if adata is not None else getattr(data, "obs_names", None)
        return model_data.saved_names(saved_in, registry) if own is None else own

    saved_in = folder
    with tempfile.TemporaryDirectory(prefix="scvibridge-") as copy:
        if not trust:
            # scvi-tools unpickles whatever lies in the folder that it is given, so it is given a
            # file of what was read. All that its versions do after that stays theirs; where they
            # change, loading may fail, but never reads the other file, as it could where a
            # function of theirs were replaced.
            _write(saved, Path(copy) / MODEL_FILE)
            folder = Path(copy)
        with _explaining(name, registry.get("scvi_version"), data):
            model = _load_quietly(find_class(name), folder, data, device)
    keep_names(model, names)
    return model


def load_apart(
    model_dir: str | PathLike[str], adata: str | PathLike[str] | None, device: str, trust: bool
) -> tuple[Any, str | PathLike[str] | None]:
    """Load a model for data that may be read by blocks: without them, where its class can be.

    Before 1.5, scvi-tools loads no other class than SCVI without data.

    Returns
    -------
    The model, and the data that are to be given to the functions: None where it has them.
    """
    folder = _check_folder(model_dir)
    resolve_device(device)
    saved = _read(folder, trust)
    if adata is not None and saved["attr_dict"]["registry_"].get("model_name", "SCVI") == "SCVI":
        return _load(folder, saved, False, device, trust), adata
    return _load(folder, saved, adata, device, trust), None


def _read(folder: Path, trust: bool) -> dict[str, Any]:
    return _unpickle(folder) if trust else read_model_file(folder / MODEL_FILE)


def _check_folder(model_dir: str | PathLike[str]) -> Path:
    folder = Path(fspath(model_dir)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {folder}")
    if not (folder / MODEL_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is no folder of a saved scvi-tools model: it holds no {MODEL_FILE}"
        )
    return folder


def _unpickle(folder: Path) -> dict[str, Any]:
    """Read a file that is trusted: its code runs."""
    try:
        saved: dict[str, Any] = torch.load(
            folder / MODEL_FILE,
            map_location="cpu",
            weights_only=False,
        )
        saved["attr_dict"]["registry_"]
    except Exception as error:
        raise ValueError(
            f"{folder / MODEL_FILE} could not be read as a model saved by scvi-tools >= 0.15: "
            f"{error}"
        ) from error
    return saved


@contextmanager
def _explaining(name: str, saved_by: Any, data: AnnData | MuData | bool) -> Iterator[None]:
    """Say of scvi-tools' error what it may come from: no data, or another version.

    Raises
    ------
    ValueError
        From whatever error came up.
    """
    try:
        yield
    except Exception as error:
        installed, what = metadata.version("scvi-tools"), f"{type(error).__name__}: {error}"
        if data is False:
            raise ValueError(
                f"scvi-tools {installed} could not load a model of class {name} without data "
                f"({what}): pass adata=, the data it was trained on"
            ) from error
        if saved_by == installed:
            raise
        raise ValueError(
            f"scvi-tools {installed} could not load this model, which scvi-tools {saved_by} saved "
            f"({what}). It may load in that version, in an environment of its own"
        ) from error


def _write(contents: dict[str, Any], path: Path) -> None:
    content = io.BytesIO()
    torch.save(contents, content)
    try:
        path.write_bytes(content.getbuffer())
    except OSError as error:
        code = out_of_space(error)
        if code is None:
            raise
        raise OSError(
            code,
            f"{space_message(code)}: a copy of the model could not be written to {path.parent} "
            "(the variable TMPDIR may name a folder with room)",
        ) from error


def _load_quietly(
    model_class: Any, folder: Path, data: AnnData | MuData | bool, device: str
) -> Any:
    accelerator, _, index = device.partition(":")
    placed = {"accelerator": accelerator if accelerator != "cuda" else "gpu"}
    if index:
        placed["device"] = int(index)  # type: ignore[assignment]
    check_fork()
    logger = logging.getLogger("scvi")
    # scvi-tools keeps what it knows of data in a table of the class, by an id that copies of the
    # data share: another thread must not enter its own between two looks at that table.
    with _one_load, PrivateRandomNumbers(), numpy_numbers_kept(), warnings_ignored():
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            # Warnings of categories without cells and the like are no concern of who loads a model.
            return model_class.load(str(folder), adata=data, **placed)
        finally:
            logger.setLevel(level)
