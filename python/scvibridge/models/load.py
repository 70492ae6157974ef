"""Load a trained model from its folder together with its data."""

from __future__ import annotations

import io
import logging
import tempfile
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import metadata
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scvibridge._utils.arguments import check_types, is_flag
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.forked import adapt_to_fork
from scvibridge._utils.process_state import lock, numpy_numbers_kept, warnings_ignored
from scvibridge.io.opened_files import remember_sources
from scvibridge.io.paths import SET_TMPDIR, explaining_space
from scvibridge.io.raw_counts import TRAINING
from scvibridge.models import alignment, stand_in
from scvibridge.models.adapters import adapter_for, check_class, find_class
from scvibridge.models.adapters.multimodal import Beside, tables_beside
from scvibridge.models.adapters.private_module import PrivateRandomNumbers
from scvibridge.models.adapters.registered_columns import as_spelled_by_model, fault_of_columns
from scvibridge.models.adapters.registry import Registry
from scvibridge.models.extension.extended_model import ExtendedModel
from scvibridge.models.extension.extension_file import names_of_added, read_extension
from scvibridge.models.saved import data, model_folder
from scvibridge.models.saved.allowed_values import TooLargeError
from scvibridge.models.saved.architecture import LimitedNetwork
from scvibridge.models.saved.data import aligned, is_multimodal, saved_data, saved_names
from scvibridge.models.saved.model_file import MODEL_FILE, read_model_file
from scvibridge.models.saved.model_folder import EXTENSION_FILE, ModelFolder, find_model
from scvibridge.models.training_cells import keep_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from mudata import MuData


# Files of its folder from which a model may be read.
_FILES = (MODEL_FILE, model_folder.ANNDATA_FILE, model_folder.MUDATA_FILE)

_one_load = lock()


def load(
    model_dir: str | PathLike[str],
    adata: AnnData
    | MuData
    | str
    | PathLike[str]
    | Sequence[str | PathLike[str]]
    | bool
    | None = None,
    device: str = "auto",
    trust: bool = False,
    prefix: str | None = None,
) -> Any:
    """Load a trained scvi-tools model from the folder that ``model.save()`` wrote.

    A saved scvi-tools model is a pickle: scvi-tools' own ``load`` runs any code it contains. This
    function runs none of it, and raises an error for a model that contains more than plain data
    (arrays, tensors, strings, numbers, containers), unless you trust it.

    Parameters
    ----------
    model_dir
        Folder with ``model.pt``.
    adata
        The data that the model was trained on: an AnnData or a path (h5ad, zarr), or, if it was set
        up by ``setup_mudata``, a MuData or the path of an h5mu file. Genes are aligned by name (in
        each modality), and genes unknown to the model are left out. The files of a list of paths,
        such as one for each sample, are joined in their order: each file needs all of the model's
        genes, and cell names must be unique across files. May be None if the data were saved with
        the model. False loads the model without data: pass the data to each function instead;
        functions that write a file (`out`) then read the data block by block.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    trust
        Load with scvi-tools' own ``load``, which runs any code in the file. Use True for your own
        models that are otherwise refused, or to get their history (``model.history``, otherwise
        None), never for a model from a source that you do not trust.
    prefix
        The prefix passed to ``model.save(prefix=)``, with which the model's file names begin. If
        None, the model without a prefix is loaded, or the only one in the folder.

    Returns
    -------
    scvi.model.SCVI
        The trained model, of the class it was saved as, with its data if any. An
        :class:`ExtendedModel` if the model was extended by :func:`extend_genes`.

    Raises
    ------
    FileNotFoundError
        If the folder contains no model, or there are no data.
    TypeError
        If the model's class is not supported.
    ValueError
        If the model file may run code or describes a network that its tensors do not match, a file
        in the folder is a link, the data do not match the model, there are several models, or the
        device does not exist.

    Examples
    --------
    >>> model = scvibridge.load("model_dir", adata="data.h5ad")  # doctest: +SKIP
    """
    check_types(load, locals())
    folder = find_model(model_dir, prefix, trust)
    resolve_device(device)
    if is_flag(adata):
        if adata:
            raise TypeError("adata must be an AnnData, a path, None or False, got True")
        adata = False
    return _load(folder, _read(folder, trust), adata, device, trust)


def _load(folder: ModelFolder, saved: dict[str, Any], adata: Any, device: str, trust: bool) -> Any:
    """Load a model whose file has been read, with its extension if there is one."""
    if not folder.file(EXTENSION_FILE).is_file():
        return _load_model(folder, saved, adata, device, trust)
    given = None if isinstance(adata, bool) else adata
    if data.is_files(adata):
        adata = data.read_files(adata, saved["var_names"], saved["attr_dict"]["registry_"])
    model = _load_model(folder, saved, adata, device, trust)
    remember_sources(model, given)
    head, quality, settings = read_extension(folder.file(EXTENSION_FILE), model)
    extended = ExtendedModel(model, head, None if adata is False else adata, quality, settings)
    _check_genes(extended)
    return extended


def _check_genes(extended: ExtendedModel) -> None:
    """Check that the data have all genes of an extended model."""
    if extended.adata is None:
        return
    adapter = adapter_for(extended)
    if adapter.adata is not None:
        alignment.gene_positions(adapter.genes, adapter.adata.var_names)


def _load_model(
    folder: ModelFolder, saved: dict[str, Any], adata: Any, device: str, trust: bool
) -> Any:
    """Load the model that scvi-tools trained."""
    registry = saved["attr_dict"]["registry_"]
    name = registry.get("model_name", "SCVI")
    check_class(name)
    given = None if isinstance(adata, bool) else adata
    data: AnnData | MuData | bool
    if adata is None:
        data = saved_data(folder, registry)
    elif isinstance(adata, bool):
        data = False
    else:
        data = aligned(adata, saved["var_names"], registry)
        _check_number_of_cells(saved, data)

    def names() -> Any:
        own = None if adata is not None else getattr(data, "obs_names", None)
        return saved_names(folder, registry) if own is None else own

    with tempfile.TemporaryDirectory(prefix="scvibridge-") as copy:
        source = folder
        limit: AbstractContextManager[Any] = nullcontext()
        if not trust:
            # scvi-tools unpickles any file in the folder passed to it, so pass a folder with a
            # file written from the plain data read here. All later steps are left to scvi-tools:
            # if they change, loading may fail but never reads the original file, as it could if
            # one of their functions were replaced.
            _write(saved, Path(copy) / MODEL_FILE)
            source = ModelFolder(Path(copy), "")
            limit = LimitedNetwork(list(saved["model_state_dict"].values()))
        with (
            _explaining(name, registry, data),
            as_spelled_by_model(data, registry),
            limit,
        ):
            if data is False and stand_in.is_needed(name):
                one_cell = stand_in.one_cell(saved["var_names"], registry)
                model = _load_quietly(find_class(name), source, one_cell, device)
                stand_in.take_away(model, registry)
            else:
                model = _load_quietly(find_class(name), source, data, device)
    remember_sources(model, *_files_of(folder), given)
    keep_names(model, names)
    return model


def _check_number_of_cells(saved: dict[str, Any], data: AnnData | MuData) -> None:
    """Check that a model with weights for each training cell is loaded with all of them."""
    weights = saved["model_state_dict"].get("mod_weights")
    if weights is not None and weights.ndim == 2 and len(weights) != data.n_obs:
        raise ValueError(
            "the model has separate modality weights for each training cell "
            f"(modality_weights='cell'): load it with the {len(weights):,} cells that it was "
            f"trained on, got {data.n_obs:,}. The functions take some of these cells as adata="
        )


def load_apart(
    model_dir: str | PathLike[str],
    adata: str | PathLike[str] | Sequence[str | PathLike[str]] | None,
    device: str,
    trust: bool,
    prefix: str | None = None,
) -> tuple[Any, str | PathLike[str] | Sequence[str | PathLike[str]] | None]:
    """Load a model without its data if its class allows it, so that they can be read in blocks.

    Before 1.5, scvi-tools loads only SCVI models without data.

    Returns
    -------
    The model, and the data to pass to the functions: None if the model has them.
    """
    folder = find_model(model_dir, prefix, trust)
    resolve_device(device)
    saved = _read(folder, trust)
    is_scvi = saved["attr_dict"]["registry_"].get("model_name", "SCVI") == "SCVI"
    if adata is not None and is_scvi:
        return _load(folder, saved, False, device, trust), adata
    return _load(folder, saved, adata, device, trust), None


def inputs_of_saved(
    model_dir: str | PathLike[str], trust: bool, prefix: str | None = None
) -> dict[str, Any]:
    """Return what a saved model reads, in the form of :func:`scvibridge.r.describe_model`.

    Returns
    -------
    dict of the ``layer`` of the counts, ``counts_from`` in R, the names of the ``genes``, and the
    ``modalities`` in ``obsm``. The last two are empty for a model of a MuData, which cannot be
    loaded with an AnnData.
    """
    folder = find_model(model_dir, prefix, trust)
    saved = _read(folder, trust)
    attributes = saved["attr_dict"]
    registry = attributes["registry_"]
    noted = attributes.get(TRAINING)
    setup = dict(registry.get("setup_args") or {})
    genes: list[str] = []
    tables: list[Beside] = []
    if not is_multimodal(registry):
        fields = dict(registry.get("field_registries") or {})
        tables = tables_beside(Registry(setup, fields, is_mudata=False))
        genes = [str(name) for name in saved["var_names"]]
        if folder.file(EXTENSION_FILE).is_file():
            genes += names_of_added(folder.file(EXTENSION_FILE))
    return {
        "layer": setup.get("layer"),
        "counts_from": noted.get("counts") if isinstance(noted, dict) else None,
        "genes": genes,
        "modalities": [
            {"what": part.what, "key": part.key, "names": list(part.names)} for part in tables
        ],
    }


def files_of_folder(model_dir: str | PathLike[str]) -> list[Path]:
    """Return the files that may be read when a model is loaded."""
    folder = Path(fspath(model_dir)).expanduser()
    prefixes = [path.name.removesuffix(MODEL_FILE) for path in folder.glob(f"*{MODEL_FILE}")]
    return [path for prefix in ("", *prefixes) for path in _files_of(ModelFolder(folder, prefix))]


def _files_of(folder: ModelFolder) -> list[Path]:
    return [folder.file(name) for name in (*_FILES, EXTENSION_FILE)]


def _read(folder: ModelFolder, trust: bool) -> dict[str, Any]:
    path = folder.file(MODEL_FILE)
    return _unpickle(path) if trust else read_model_file(path)


def _unpickle(path: Path) -> dict[str, Any]:
    """Read a trusted file, running its code."""
    try:
        saved: dict[str, Any] = torch.load(
            path,
            map_location="cpu",
            weights_only=False,
        )
        saved["attr_dict"]["registry_"]
    except Exception as error:
        raise ValueError(
            f"{path} could not be read as a model saved by scvi-tools >= 0.15: {error}"
        ) from error
    return saved


@contextmanager
def _explaining(
    name: str, registry: dict[str, Any], data: AnnData | MuData | bool
) -> Iterator[None]:
    """Explain possible causes of an scvi-tools error: no data, other columns, another version.

    Raises
    ------
    ValueError
        From any error raised within the context.
    """
    try:
        yield
    except TooLargeError as error:
        raise ValueError(f"the model was not loaded: {error}") from error
    except Exception as error:
        installed, what = metadata.version("scvi-tools"), f"{type(error).__name__}: {error}"
        if data is False:
            raise ValueError(
                f"scvi-tools {installed} could not load a model of class {name} without data "
                f"({what}): pass adata=, the data it was trained on"
            ) from error
        if (fault := fault_of_columns(data, registry)) is not None:
            raise ValueError(fault) from error
        saved_by = registry.get("scvi_version")
        if saved_by == installed:
            raise
        raise ValueError(
            f"scvi-tools {installed} could not load this model, which scvi-tools {saved_by} saved "
            f"({what}). Try an environment with that version of scvi-tools"
        ) from error


def _write(contents: dict[str, Any], path: Path) -> None:
    content = io.BytesIO()
    torch.save(contents, content)
    with explaining_space("a copy of the model", path.parent, SET_TMPDIR):
        path.write_bytes(content.getbuffer())


def _load_quietly(
    model_class: Any, folder: ModelFolder, data: AnnData | MuData | bool, device: str
) -> Any:
    accelerator, _, index = device.partition(":")
    placed = {"accelerator": accelerator if accelerator != "cuda" else "gpu"}
    if index:
        placed["device"] = int(index)  # type: ignore[assignment]
    adapt_to_fork()
    logger = logging.getLogger("scvi")
    # scvi-tools stores its registration of data in a class-level table, by an id that copies of the
    # data share: another thread must not write its entry between two reads of that table.
    with _one_load, PrivateRandomNumbers(), numpy_numbers_kept(), warnings_ignored():
        level = logger.level
        logger.setLevel(logging.WARNING)
        try:
            # Warnings about categories without cells and the like are not relevant when loading a
            # model.
            return model_class.load(
                str(folder.path), adata=data, prefix=folder.prefix or None, **placed
            )
        finally:
            logger.setLevel(level)
