"""The seam to scvi-tools: everything that is known about a model class stands here.

An adapter answers what the rest of the package asks of a model: its genes and batches, the
covariates of its cells, their latent posterior, and the parameters that its decoder gives for a
batch. Nothing above this package touches scvi-tools.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvibridge.columns import codes_of, numbers_of
from scvibridge.devices import resolve_device
from scvibridge.models.arrays import Covariates, Decoded, Latent, Split
from scvibridge.sparse_encoding import SparseEncoding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

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


def _registry_of(model: Any) -> dict[str, Any]:
    manager = getattr(model, "adata_manager", None)
    registry: dict[str, Any] = model.registry_ if manager is None else manager.registry
    return registry


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array
