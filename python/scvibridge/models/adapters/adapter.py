"""The interface that every model class implements for the rest of the package.

An adapter provides the model's genes and batches, the covariates and latent posterior of its cells,
and the parameters that its decoder predicts for a batch. The other modules hold the model classes.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvibridge._utils.devices import resolve_device
from scvibridge._utils.pools import SentOnce
from scvibridge.io.backed import with_tables_in_memory
from scvibridge.io.raw_counts import TRAINING, as_raw_data
from scvibridge.models.adapters.architecture import architecture_of
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.minified import is_minified, minified_latent, minified_totals
from scvibridge.models.adapters.multimodal import is_mudata, one_table
from scvibridge.models.adapters.private_module import (
    PrivateRandomNumbers,
    check_hooks,
    check_weights,
    moved_to,
    private_copy,
)
from scvibridge.models.adapters.registry import Registry
from scvibridge.models.adapters.target import Target
from scvibridge.models.adapters.tensors import to_dense, to_numpy, to_tensor
from scvibridge.models.obs_columns import codes_of, numbers_of
from scvibridge.models.training_cells import training_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

    from scvibridge.models.adapters.extended import AddedGenes, HeadDecoder
    from scvibridge.models.adapters.multimodal import Beside
    from scvibridge.models.training_cells import TrainingCells


class Adapter(SentOnce, ABC):
    """Everything that scvibridge needs to know about a trained model."""

    # Labels that the decoder uses only for the dispersion may be absent from new data.
    needs_labels = False
    # Whether the decoder has a hidden layer before its output.
    has_trunk = True
    # Whether the target's frequencies are scaled to the sum that they have in the observed batch.
    renormalises = True
    # The genes that were added to the model, which follow the model's genes in `genes`.
    added: AddedGenes[Adapter] | None = None
    # Decodes the added genes instead of the model's genes.
    head: HeadDecoder | None = None
    # Names of the proteins whose normalized values are included in results.
    proteins: tuple[str, ...] = ()

    def __init__(self, model: Any) -> None:
        self._model = model
        # Shares its weights with the user's module, which is never changed.
        self.module = private_copy(model.module)
        self.class_name = type(model).__name__
        # Whether the model's own data were reduced to latents, without counts.
        self.minified = is_minified(model.adata)
        self.registry = Registry.of(model)
        # What `scvibridge.models.trained_on` recorded about the training.
        noted = getattr(model, TRAINING, None)
        self.training: dict[str, Any] = noted if isinstance(noted, dict) else {}
        self._given_data: Any = model.adata
        self.batch_key = self.registry.key("batch")
        self.labels_key = self.registry.key("labels")
        self.layer = self.registry.layer
        # The model's batches, and the units that are corrected: the target's strata, if it has
        # any.
        self.model_batches = self.registry.categories("batch")
        self.batches = self.model_batches
        self.target = Target()
        self.genes = pd.Index(self._gene_names().astype(str))
        self.gene_likelihood: str = self.module.gene_likelihood
        self.dispersion = self._dispersion()
        # The model's inverse dispersions, unless others are set.
        self._theta_varies_by = self.dispersion
        self._given_theta: np.ndarray | None = None
        self.zero_inflated = self.gene_likelihood == "zinb"
        self.uses_size_factor = bool(getattr(self.module, "use_size_factor_key", False))
        self.uses_latent_library = not getattr(self.module, "use_observed_lib_size", True)
        check_hooks(self.module, self._bypassed())
        check_weights(self.module)

    # -- properties of the model -----------------------------------------------------------

    @cached_property
    def adata(self) -> AnnData | None:
        """The data that the model was trained on or loaded with, if any, as a single AnnData."""
        return self._table_of(self._given_data)

    def _table_of(self, data: Any) -> AnnData | None:
        if data is None:
            return None
        if is_mudata(data):
            return self.as_anndata(data)
        return as_raw_data(with_tables_in_memory(data), self.layer)

    def is_own(self, adata: Any) -> bool:
        """Return whether `adata` is the object that the model was trained on or loaded with."""
        return adata is not None and (adata is self._given_data or adata is self.adata)

    def as_anndata(self, data: Any) -> AnnData:
        """Convert a MuData to a single AnnData with its RNA and its columns."""
        return one_table(data, self.registry)

    def architecture(self) -> dict[str, Any]:
        """Arguments that build an untrained model of the same architecture for other data.

        Dispersion by label becomes dispersion by gene: the other data have no labels.
        """
        return architecture_of(self._model)

    @cached_property
    def training_cells(self) -> TrainingCells | None:
        """The cells that the model was trained on; None if their names are unknown."""
        return training_cells(self._model)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the model and its data: decoding only needs the module."""
        state = {**self.__dict__, "_model": None, "_given_data": None}
        for cached in ("_sparse_encoding", "adata", "own"):
            state.pop(cached, None)
        return state

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        device: torch.device = next(self.module.parameters()).device
        return device

    @property
    def n_latent(self) -> int:
        """Number of latent dimensions."""
        return int(self.module.n_latent)

    def _dispersion(self) -> str:
        return str(self.module.dispersion)

    def _gene_names(self) -> np.ndarray:
        names = self.registry.state("X").get("column_names")
        return np.asarray(self._model.get_var_names() if names is None else names)

    # -- covariates ------------------------------------------------------------------------

    def with_target(self, target: Target) -> Self:
        """Return an adapter of the same model that decodes cells as those of a target."""
        return self._copy(
            target=target,
            batches=self.batches if target.strata is None else target.strata.names,
            added=None
            if self.added is None
            else replace(self.added, adapter=self.added.adapter.with_target(target)),
        )

    def with_added(self, added: AddedGenes[Adapter], adata: Any) -> Self:
        """Return an adapter of the model's genes and added ones.

        Parameters
        ----------
        added
            The added genes.
        adata
            Cells by all genes, from which effects and depth are estimated; or None.
        """
        table = self._table_of(adata)
        return self._copy(
            added=added,
            genes=self.genes.append(added.adapter.genes),
            adata=table,
            _given_data=adata,
            minified=table is not None and is_minified(table),
        )

    def with_head(self, head: HeadDecoder) -> Self:
        """Return an adapter that decodes the genes of a head instead of the model's genes."""
        return self._copy(
            head=head,
            genes=head.genes,
            gene_likelihood=head.gene_likelihood,
            dispersion=head.dispersion,
            renormalises=False,
            proteins=(),
            zero_inflated=False,
            uses_size_factor=False,
            uses_latent_library=False,
            _given_theta=None,
            _theta_varies_by=head.dispersion,
        )

    def _copy(self, **changed: Any) -> Self:
        """Return another adapter of the same model, with some attributes changed."""
        copied = object.__new__(type(self))
        copied.__dict__.update({**self.__dict__, **changed})
        copied.__dict__.pop("own", None)  # which depend on what has changed
        return copied

    def describe_strata(self) -> dict[str, Any]:
        """Describe, as plain values, what is corrected besides the batch."""
        return {} if self.target.strata is None else vars(self.target.strata)

    def covariates(self, adata: AnnData) -> Covariates:
        """Read the covariates of all cells of `adata`, following the model's setup.

        Raises
        ------
        KeyError
            If a column that the model was set up with is missing from ``adata.obs``.
        ValueError
            If a column has missing values, or values that the model has not seen.
        """
        obs = adata.obs
        zeros, key = np.zeros(adata.n_obs, dtype=np.int64), self.batch_key
        batch = zeros if key is None else codes_of(obs, key, self.model_batches)
        own = Covariates(
            batch=batch,
            label=self._label_codes(obs, zeros),
            categorical=self.registry.categorical_codes(obs),
            continuous=self.registry.continuous_values(obs),
            log_size_factor=self._log_size_factor(adata),
        )
        own = self._further(adata, own)
        strata = self.target.strata
        if strata is None:
            return own
        return replace(own, batch=strata.codes(own), model_batch=own.batch)

    def _further(self, adata: AnnData, covariates: Covariates) -> Covariates:  # noqa: ARG002
        """Add the inputs that a model class encodes in addition to the RNA."""
        return covariates

    def _label_codes(self, obs: pd.DataFrame, zeros: np.ndarray) -> np.ndarray:
        used = self.needs_labels or self.dispersion == "gene-label"
        if not used or self.labels_key is None:
            return zeros
        return codes_of(obs, self.labels_key, self.registry.categories("labels"))

    def _log_size_factor(self, adata: AnnData) -> np.ndarray | None:
        if not self.uses_size_factor:
            return None
        key = self.registry.size_factors[0]
        values = numbers_of(adata.obs, key)
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
        if self.head is not None:
            raise TypeError("cells are encoded from the model's genes")
        with PrivateRandomNumbers():
            return self._encode(counts[:, : self.n_own], covariates.own())

    @abstractmethod
    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        """Encode a block of cells whose batches are the model's."""

    @torch.inference_mode()
    def decode(self, z: np.ndarray, covariates: Covariates, batch: int | None) -> Decoded:
        """Decode a block of cells as if they came from `batch` (from their own batch if None).

        `z` is the untransformed latent variable, shape ``(n_cells, n_latent)``.
        """
        if self.added is not None:
            raise TypeError(
                "an extended model has no joint likelihood over all of its genes: pass the model "
                "that was extended, its .model"
            )
        return Decoded.mix([self._decoded(z, given) for given in self._as_if(covariates, batch)])

    def _decoded(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        if self.head is None:
            return self._decode(z, covariates)
        return self.head.decode(self.features(z, covariates), covariates)

    def decode_target(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        """Decode a block of cells as the target, averaging over its batches."""
        codes: list[int] | list[None] = self.target.codes or [None]
        return Decoded.mix([self.decode(z, covariates, code) for code in codes])

    @abstractmethod
    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        """Decode a block of cells whose covariates hold the model's batches."""

    @cached_property
    def own(self) -> Adapter:
        """The adapter of the model as scvi-tools trained it, without added genes."""
        return (
            self if self.added is None else self._copy(added=None, genes=self.genes[: self.n_own])
        )

    @property
    def n_own(self) -> int:
        """Number of genes that scvi-tools trained."""
        return len(self.genes) - (0 if self.added is None else len(self.added.adapter.genes))

    @property
    def extension_digest(self) -> str | None:
        """Digest of the added genes and of the parameters that decode them; None without them."""
        return None if self.added is None else self.added.digest

    def beside(self) -> list[Beside]:
        """The model's inputs in addition to the counts of its genes."""
        return []

    @torch.inference_mode()
    def features(self, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
        """Compute the features for an additional output head, ``(n_cells, n_features)``.

        These are the decoder's last hidden layer under each cell's observed batch or, if the
        decoder has no hidden layer, the latent variables as the model returns them.
        """
        return self._hidden(z, covariates) if self.has_trunk else self._transformed(z)

    def _hidden(self, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
        """Compute the last hidden layer of the RNA decoder, ``(n_cells, n_hidden)``."""
        inputs, categories = self._decoder_inputs(z, covariates)
        hidden: torch.Tensor = self._decoder().px_decoder(inputs, *categories)
        return hidden

    def _decoder(self) -> Any:
        """The RNA decoder."""
        return self.module.decoder

    def _bypassed(self) -> list[torch.nn.Module]:
        """Submodules whose output is computed without calling them, so that no hook would run."""
        decoder = self._decoder()
        scale = getattr(decoder, "px_scale_decoder", None)
        activation = getattr(decoder, "px_scale_activation", None)
        found = [self.module, decoder, activation]
        if isinstance(scale, torch.nn.Sequential):
            found += [scale, scale[-1]]
        return [part for part in found if isinstance(part, torch.nn.Module)]

    def _as_if(self, covariates: Covariates, batch: int | None) -> list[Covariates]:
        """Return covariates as if the cells came from a batch; several if results are averaged."""
        own = covariates.own()
        if batch is None:
            return [own]
        if self.target.strata is not None:
            return self.target.strata.as_if(own, batch)
        return [replace(own, batch=np.full_like(own.batch, batch))]

    def minified_latent(self, rows: np.ndarray) -> Latent:
        """Read the latent posterior that minified data hold instead of counts."""
        return minified_latent(self._model, self.registry, self._log_size_factor, rows)

    def minified_totals(self, rows: np.ndarray) -> np.ndarray:
        """Read the cells' observed totals, which minified data hold as well."""
        return minified_totals(self._model, self.registry, rows)

    @torch.inference_mode()
    def transform_latent(self, z: np.ndarray) -> np.ndarray:
        """Return latents as the model returns them (softmax of z for a logistic normal)."""
        return to_numpy(self._transformed(z))

    def _transformed(self, z: np.ndarray) -> torch.Tensor:
        transformed: torch.Tensor = self._latent_encoder().z_transformation(
            self._tensor(z.astype(np.float32))
        )
        return transformed

    def _latent_encoder(self) -> Any:
        return self.module.z_encoder

    def _decoder_inputs(
        self, z: np.ndarray, covariates: Covariates
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return latents with continuous covariates, the batch, and categorical covariates."""
        inputs = self._transformed(z)
        if covariates.continuous is not None:
            inputs = torch.cat([inputs, self._tensor(covariates.continuous)], dim=-1)
        return inputs, [self._column(covariates.batch), *self._categories(covariates)]

    def protein_values(
        self, z: np.ndarray, covariates: Covariates, batch: int | None
    ) -> np.ndarray:
        """Compute normalized protein values under a batch, ``(n_cells, n_proteins)``."""
        raise NotImplementedError(f"{self.class_name} has no proteins")

    # -- dispersion ------------------------------------------------------------------------

    def theta(self) -> np.ndarray | None:
        """Inverse dispersions stored as parameters, shape ``(n_rows, n_genes)``.

        One row for ``dispersion="gene"``, one per batch or label for ``"gene-batch"`` and
        ``"gene-label"``; None for Poisson and for ``"gene-cell"``.
        """
        theta, strata = self._theta(), self.target.strata
        if theta is not None and self.theta_by == "gene-batch" and strata is not None:
            return np.ascontiguousarray(theta[strata.batch_of])
        return theta

    def _theta(self) -> np.ndarray | None:
        """Inverse dispersions by the model's batches."""
        return self.fitted_theta() if self._given_theta is None else self._given_theta

    def fitted_theta(self) -> np.ndarray | None:
        """Inverse dispersions as fitted by the model, even if others are set.

        None for Poisson and if each cell has its own.
        """
        if self.head is not None:
            return self.head.fitted_theta()
        if self.gene_likelihood == "poisson" or self.dispersion == "gene-cell":
            return None
        log_theta = to_numpy(self.module.px_r.detach()).astype(float)
        return np.exp(np.atleast_2d(log_theta if log_theta.ndim == 1 else log_theta.T))

    def with_theta(self, theta: np.ndarray | None, added: np.ndarray | None = None) -> Self:
        """Return an adapter of the same model with other inverse dispersions.

        Parameters
        ----------
        theta
            Inverse dispersions of the model's genes, one row or one per batch; None keeps the
            model's.
        added
            Inverse dispersions of the added genes, likewise.
        """
        changed: dict[str, Any] = {}
        if added is not None:
            if self.added is None:
                raise ValueError("no genes were added to this model")
            changed["added"] = replace(self.added, adapter=self.added.adapter.with_theta(added))
        if theta is not None:
            by = "gene" if len(theta) == 1 else "gene-batch"
            changed |= {"_given_theta": theta, "_theta_varies_by": by}
        return self._copy(**changed) if changed else self

    @property
    def theta_by(self) -> str:
        """What the inverse dispersions vary by, in scvi-tools' terms.

        ``"gene-own-batch"`` if cells keep their batch and its dispersion on both sides.
        """
        strata, by = self.target.strata, self._theta_varies_by
        kept = strata is not None and not strata.by_batch
        return "gene-own-batch" if by == "gene-batch" and kept else by

    def theta_rows(self, covariates: Covariates) -> np.ndarray:
        """Return the row of :meth:`theta` for each cell and its batch, shape ``(n_cells,)``."""
        if self.theta_by == "gene-batch":
            return covariates.batch
        if self.theta_by == "gene-own-batch":
            return covariates.own().batch
        if self.theta_by == "gene-label":
            return covariates.label
        return np.zeros(len(covariates.batch), dtype=np.int64)

    # -- devices ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def on_device(self, device: str) -> Iterator[None]:
        """Run the model on `device`; the user's module stays on its own device."""
        with moved_to(self.module, self.device, resolve_device(device)):
            yield

    def _dense(self, counts: sp.csr_matrix) -> torch.Tensor:
        return to_dense(counts, self.device)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return to_tensor(values, self.device)

    def _optional(self, values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else self._tensor(values)

    def _column(self, codes: np.ndarray) -> torch.Tensor:
        return self._tensor(codes[:, None])

    def _categories(self, covariates: Covariates) -> list[torch.Tensor]:
        """Return codes of the additional categorical covariates, one column each."""
        if covariates.categorical is None:
            return []
        return list(torch.split(self._tensor(covariates.categorical), 1, dim=1))
