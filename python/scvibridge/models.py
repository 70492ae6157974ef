"""The seam to scvi-tools: everything that is known about a model class stands here.

An adapter answers what the rest of the package asks of a model: its genes and batches, the
covariates of its cells, their latent posterior, and the parameters that its decoder gives for a
batch. Nothing above this module touches scvi-tools.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvibridge.columns import codes_of, numbers_of
from scvibridge.devices import resolve_device
from scvibridge.sparse_encoding import SparseEncoding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

SUPPORTED_CLASSES = ("SCVI",)
COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")

_ARCHITECTURE = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "dropout_rate",
    "dispersion",
    "gene_likelihood",
    "use_observed_lib_size",
    "latent_distribution",
)

# Single precision ends at 1e-38.
_SMALLEST_RATE = 1e-35


@dataclass(frozen=True)
class Covariates:
    """What the decoder knows of each cell besides its latent position.

    Attributes
    ----------
    batch, label
        Codes into the model's batches and labels, shape ``(n_cells,)``.
    categorical
        Codes of the further categorical covariates, shape ``(n_cells, n_covariates)``, or None.
    continuous
        Values of the continuous covariates, shape ``(n_cells, n_covariates)``, or None.
    log_size_factor
        Natural log of the size factor, shape ``(n_cells,)``, or None.
    """

    batch: np.ndarray
    label: np.ndarray
    categorical: np.ndarray | None = None
    continuous: np.ndarray | None = None
    log_size_factor: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> Covariates:
        """Return the covariates of some of the cells."""

        def some(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Covariates(
            self.batch[rows],
            self.label[rows],
            some(self.categorical),
            some(self.continuous),
            some(self.log_size_factor),
        )


@dataclass(frozen=True)
class Latent:
    """Posterior of the latent variables of some cells, and the model's own library.

    ``location`` and ``scale`` have shape ``(n_cells, n_latent)``. ``log_library`` is the log of
    the factor on the decoder's frequencies (shape ``(n_cells,)``): the observed total, the mean
    of the latent library's posterior, or the size factor. ``log_library_scale`` is the standard
    deviation of the latent library's posterior and None where the library is not latent.
    """

    location: np.ndarray
    scale: np.ndarray
    log_library: np.ndarray
    log_library_scale: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> Latent:
        """Return the latent variables of some of the cells."""
        scale = self.log_library_scale
        return Latent(
            self.location[rows],
            self.scale[rows],
            self.log_library[rows],
            None if scale is None else scale[rows],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Give the arrays by name; what is None is left out."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: values for name, values in named.items() if values is not None}

    @staticmethod
    def empty(n_latent: int) -> Latent:
        """Give the latent variables of no cells."""
        nothing = np.empty((0, n_latent), dtype=np.float32)
        return Latent(nothing, nothing, np.empty(0))

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> Latent:
        """Make of what :meth:`arrays` gave."""
        return Latent(
            arrays["location"],
            arrays["scale"],
            arrays["log_library"],
            arrays.get("log_library_scale"),
        )

    @staticmethod
    def concatenate(parts: list[Latent]) -> Latent:
        """Stack the latent variables of consecutive blocks of cells."""
        scales = [part.log_library_scale for part in parts]
        return Latent(
            np.concatenate([part.location for part in parts]),
            np.concatenate([part.scale for part in parts]),
            np.concatenate([part.log_library for part in parts]),
            None if scales[0] is None else np.concatenate(scales),  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Decoded:
    """What the decoder says of a block of cells, tensors of shape ``(n_cells, n_genes)``.

    ``unnormalised`` is the log of the frequency rho up to a constant for each cell, or the log
    itself where ``is_log_scale``; ``zi_logits`` is the logit of the dropout probability (ZINB only)
    and ``log_theta`` the log of a dispersion of its own for each cell (``dispersion="gene-cell"``
    only).
    """

    unnormalised: torch.Tensor
    is_log_scale: bool
    zi_logits: torch.Tensor | None
    log_theta: torch.Tensor | None

    @property
    def log_scale(self) -> torch.Tensor:
        """Log of the frequencies.

        By log-softmax, since a softmax in single precision underflows to zero and its logarithm to
        minus infinity.
        """
        if self.is_log_scale:
            return self.unnormalised
        return torch.log_softmax(self.unnormalised, dim=-1)

    def rate(self) -> torch.Tensor:
        """Frequencies; in double precision where single would come near its smallest number."""
        single = torch.exp(self.unnormalised) if self.is_log_scale else None
        if single is None:
            single = torch.softmax(self.unnormalised, dim=-1)
        if single.numel() and float(single.amin()) < _SMALLEST_RATE:
            return self.log_scale.double().exp_()
        return single


@dataclass(frozen=True)
class Split:
    """How the cells were split for the training: positions in the data of then.

    ``n_cells`` is the number of all cells, those of the training and those held out.
    """

    train: np.ndarray
    n_cells: int


class SCVIAdapter:
    """Everything that scvibridge needs to know of a :class:`scvi.model.SCVI`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.module = model.module
        self.class_name = type(model).__name__
        # Whether the model's own data were reduced to latents, without counts.
        self.minified = getattr(model, "minified_data_type", None) is not None
        self.registry = _registry_of(model)
        setup = self.registry["setup_args"]
        self.batch_key: str | None = setup.get("batch_key")
        self.labels_key: str | None = setup.get("labels_key")
        self.layer: str | None = setup.get("layer")
        self.batches = self._categories("batch")
        self.genes = pd.Index(self._gene_names().astype(str))
        self.gene_likelihood: str = self.module.gene_likelihood
        self.dispersion: str = self.module.dispersion
        # What inverse dispersions differ by: as the model has them, unless others are given.
        self.theta_by = self.dispersion
        self._given_theta: np.ndarray | None = None
        self.zero_inflated = self.gene_likelihood == "zinb"
        self.uses_size_factor = bool(self.module.use_size_factor_key)
        self.uses_latent_library = not self.module.use_observed_lib_size

    # -- what the registry says ------------------------------------------------------------

    @property
    def adata(self) -> AnnData | None:
        """The data that the model was trained on or loaded with, if any."""
        return None if self._model is None else self._model.adata

    def architecture(self) -> dict[str, Any]:
        """Arguments that make an untrained model of the same architecture for other data.

        Dispersion by label becomes one by gene: labels are no part of the other data.
        """
        given = {**self._model.init_params_["non_kwargs"]}
        for further in self._model.init_params_["kwargs"].values():
            given |= further
        found = {name: given[name] for name in _ARCHITECTURE if name in given}
        if found.get("dispersion") == "gene-label":
            found["dispersion"] = "gene"
        return found

    def split(self) -> Split | None:
        """Tell how cells were split for the training; None where the model does not know."""
        names = ("train_indices", "validation_indices", "test_indices")
        parts = [getattr(self._model, name, None) for name in names]
        if parts[0] is None:
            return None
        sizes = [0 if part is None else len(part) for part in parts]
        return Split(np.asarray(parts[0], dtype=np.int64), sum(sizes))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model and its data: what decodes is the module."""
        state = {**self.__dict__, "_model": None}
        state.pop("_sparse_encoding", None)
        return state

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return int(self.module.n_latent)

    def _field(self, name: str) -> dict[str, Any]:
        field: dict[str, Any] = self.registry["field_registries"].get(name, {})
        return field

    def _categories(self, name: str) -> list[Any]:
        return list(self._field(name)["state_registry"]["categorical_mapping"])

    def _gene_names(self) -> np.ndarray:
        names = self._field("X").get("state_registry", {}).get("column_names")
        return np.asarray(self._model.get_var_names() if names is None else names)

    # -- covariates ------------------------------------------------------------------------

    def covariates(self, adata: AnnData) -> Covariates:
        """Read the covariates of all cells of `adata` as the model was set up to.

        Raises
        ------
        KeyError
            If a column that the model was set up with is missing in ``adata.obs``.
        ValueError
            If a column holds values that the model has not seen, or missing ones.
        """
        obs = adata.obs
        n_cells = adata.n_obs
        zeros = np.zeros(n_cells, dtype=np.int64)
        batch = zeros if self.batch_key is None else codes_of(obs, self.batch_key, self.batches)
        return Covariates(
            batch=batch,
            label=self._label_codes(obs, zeros),
            categorical=self._categorical(obs),
            continuous=self._continuous(obs),
            log_size_factor=self._log_size_factor(obs),
        )

    def _label_codes(self, obs: pd.DataFrame, zeros: np.ndarray) -> np.ndarray:
        # The decoder uses labels for one dispersion alone; elsewhere they may be absent.
        if self.dispersion != "gene-label" or self.labels_key is None:
            return zeros
        return codes_of(obs, self.labels_key, self._categories("labels"))

    def _categorical(self, obs: pd.DataFrame) -> np.ndarray | None:
        mappings = self._field("extra_categorical_covs").get("state_registry", {}).get("mappings")
        if not mappings:
            return None
        return np.stack([codes_of(obs, key, list(m)) for key, m in mappings.items()], axis=1)

    def _continuous(self, obs: pd.DataFrame) -> np.ndarray | None:
        columns = self._field("extra_continuous_covs").get("state_registry", {}).get("columns")
        if columns is None or len(columns) == 0:
            return None
        return np.stack([numbers_of(obs, key) for key in columns], axis=1).astype(np.float32)

    def _log_size_factor(self, obs: pd.DataFrame) -> np.ndarray | None:
        if not self.uses_size_factor:
            return None
        key = self.registry["setup_args"]["size_factor_key"]
        values = numbers_of(obs, key)
        if (values <= 0).any():
            raise ValueError(f"size factors in obs[{key!r}] must be positive")
        return np.log(values)

    # -- encode and decode -----------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        """Encode a block of cells.

        Parameters
        ----------
        counts
            Counts of the model's genes, in its order, shape ``(n_cells, n_genes)``.
        covariates
            Covariates of the same cells.
        """
        sparse = self._sparse_encoding
        # Another kind of integers would have the kernel compiled again.
        if sparse is None or counts.dtype != np.int32:
            outputs = self._infer(self._dense(counts), covariates)
        else:
            with sparse.of(counts) as without_genes:
                outputs = self._infer(without_genes, covariates)
        log_library, library_scale = self._library(counts, covariates, outputs)
        return Latent(
            _numpy(outputs["qz"].loc), _numpy(outputs["qz"].scale), log_library, library_scale
        )

    def _infer(self, x: torch.Tensor, covariates: Covariates) -> dict[str, Any]:
        # A module of minified data would answer `inference` from the latents that those hold.
        name = "_regular_inference" if self.minified else "inference"
        outputs: dict[str, Any] = getattr(self.module, name)(
            x=x,
            batch_index=self._tensor(covariates.batch[:, None]),
            cont_covs=self._optional(covariates.continuous),
            cat_covs=self._optional(covariates.categorical),
        )
        return outputs

    @cached_property
    def _sparse_encoding(self) -> SparseEncoding | None:
        """The fast way to encode, where the model is on the host and built as expected."""
        if self.device.type != "cpu":
            return None
        encoders = ("z_encoder", "l_encoder") if self.uses_latent_library else ("z_encoder",)
        try:
            return SparseEncoding(self.module, encoders, len(self.genes))
        except (AttributeError, TypeError):
            return None

    def _library(
        self, counts: sp.csr_matrix, covariates: Covariates, outputs: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if covariates.log_size_factor is not None:
            return covariates.log_size_factor, None
        if self.uses_latent_library:
            posterior = outputs["ql"]
            return _numpy(posterior.loc)[:, 0].astype(float), _numpy(posterior.scale)[:, 0]
        with np.errstate(divide="ignore"):  # a cell without counts: log 0, rate 0
            return np.log(np.asarray(counts.sum(axis=1), dtype=float).ravel()), None

    def minified_latent(self, rows: np.ndarray) -> Latent:
        """Read the latent posterior that minified data hold in place of counts."""
        adata = self._model.adata
        location = np.asarray(adata.obsm[self._attribute("latent_qzm")])[rows]
        variance = np.asarray(adata.obsm[self._attribute("latent_qzv")])[rows]
        total = np.asarray(adata.obs[self._attribute("observed_lib_size")], dtype=float)[rows]
        factor = self._log_size_factor(adata.obs)
        with np.errstate(divide="ignore"):
            log_library = np.log(total) if factor is None else factor[rows]
        return Latent(location, np.sqrt(variance), log_library)

    def _attribute(self, field: str) -> str:
        key: str = self._field(field)["data_registry"]["attr_key"]
        return key

    @torch.inference_mode()
    def decode(self, z: np.ndarray, covariates: Covariates, batch: int | None) -> Decoded:
        """Decode a block of cells as if they came from `batch` (their own where None).

        `z` is the untransformed latent variable, shape ``(n_cells, n_latent)``.
        """
        decoder = self.module.decoder
        codes = covariates.batch if batch is None else np.full_like(covariates.batch, batch)
        inputs, categories = self._decoder_inputs(z, covariates, codes)
        hidden = decoder.px_decoder(inputs, *categories)
        linear, activation = decoder.px_scale_decoder[0], decoder.px_scale_decoder[-1]
        logits = linear(hidden)
        is_softmax = isinstance(activation, torch.nn.Softmax)
        if not is_softmax:
            smallest = torch.finfo(torch.float32).tiny
            logits = torch.log(torch.clamp(activation(logits), min=smallest))
        return Decoded(
            logits,
            not is_softmax,
            decoder.px_dropout_decoder(hidden) if self.zero_inflated else None,
            decoder.px_r_decoder(hidden) if self.dispersion == "gene-cell" else None,
        )

    def _decoder_inputs(
        self, z: np.ndarray, covariates: Covariates, codes: np.ndarray
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        parts = [self.module.z_encoder.z_transformation(self._tensor(z.astype(np.float32)))]
        if covariates.continuous is not None:
            parts.append(self._tensor(covariates.continuous))
        batch = self._tensor(codes[:, None])
        categories = []
        if self.module.batch_representation == "embedding":
            parts.append(self.module.compute_embedding("batch", batch))
        else:
            categories.append(batch)
        if covariates.categorical is not None:
            categories.extend(torch.split(self._tensor(covariates.categorical), 1, dim=1))
        return torch.cat(parts, dim=-1), categories

    @torch.inference_mode()
    def transform_latent(self, z: np.ndarray) -> np.ndarray:
        """Latent variables as the model shows them (a softmax of z for a logistic normal)."""
        return _numpy(self.module.z_encoder.z_transformation(self._tensor(z.astype(np.float32))))

    def theta(self) -> np.ndarray | None:
        """Inverse dispersions held as parameters, shape ``(n_rows, n_genes)``.

        One row for ``dispersion="gene"``, one for each batch or label for ``"gene-batch"`` and
        ``"gene-label"``; None for Poisson and for ``"gene-cell"``.
        """
        if self._given_theta is not None:
            return self._given_theta
        if self.gene_likelihood == "poisson" or self.dispersion == "gene-cell":
            return None
        log_theta = _numpy(self.module.px_r.detach()).astype(float)
        return np.exp(np.atleast_2d(log_theta if log_theta.ndim == 1 else log_theta.T))

    def use_theta(self, theta: np.ndarray) -> None:
        """Use other inverse dispersions than the model's: one row, or one for each batch."""
        self._given_theta = theta
        self.theta_by = "gene" if len(theta) == 1 else "gene-batch"

    def theta_rows(self, covariates: Covariates) -> np.ndarray:
        """Row of :meth:`theta` that each cell uses under its own batch, shape ``(n_cells,)``."""
        if self.theta_by == "gene-batch":
            return covariates.batch
        if self.theta_by == "gene-label":
            return covariates.label
        return np.zeros(len(covariates.batch), dtype=np.int64)

    @contextlib.contextmanager
    def on_device(self, device: str) -> Iterator[None]:
        """Run the model on `device` in evaluation mode, and put it back afterwards."""
        before = self.device
        training = self.module.training
        self.module.to(resolve_device(device))
        self.module.eval()
        try:
            yield
        finally:
            self.module.to(before)
            self.module.train(training)

    def _dense(self, counts: sp.csr_matrix) -> torch.Tensor:
        if self.device.type == "cpu":
            values = counts.data.astype(np.float32)
            sparse = sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)
            return torch.from_numpy(sparse.toarray())
        # Few of the entries are nonzero: those alone go to the device.
        parts = (counts.indptr, counts.indices, counts.data)
        crow, column, data = (self._tensor(part) for part in parts)
        matrix = torch.sparse_csr_tensor(
            crow.long(), column.long(), data.float(), size=counts.shape
        )
        return matrix.to_dense()

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        # A copy in torch's own memory: the same sums to the last bit need the same alignment.
        return torch.tensor(np.ascontiguousarray(values), device=self.device)

    def _optional(self, values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else self._tensor(values)


def adapter_for(model: Any) -> SCVIAdapter:
    """Return the adapter of a trained scvi-tools model.

    Raises
    ------
    TypeError
        If `model` is no scvi-tools model, or of a class that is not supported.
    ValueError
        If the model has not been trained.
    """
    name = type(model).__name__
    if not hasattr(model, "module") or not hasattr(model, "is_trained_"):
        raise TypeError(
            f"expected a trained scvi-tools model, got {name}; "
            "scvibridge.load() reads one from its folder"
        )
    if name not in SUPPORTED_CLASSES:
        raise TypeError(
            f"models of class {name} are not supported yet; supported: "
            f"{', '.join(SUPPORTED_CLASSES)}"
        )
    if not model.is_trained_ or model.module is None:
        raise ValueError("the model has not been trained: call model.train() first")
    return SCVIAdapter(model)


def _registry_of(model: Any) -> dict[str, Any]:
    manager = getattr(model, "adata_manager", None)
    registry: dict[str, Any] = model.registry_ if manager is None else manager.registry
    return registry


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
