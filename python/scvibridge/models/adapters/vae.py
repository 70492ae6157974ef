"""SCVI and classes with a variant of its module: SCANVI, LinearSCVI and AUTOZI."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge._utils.process_state import lock
from scvibridge.models.adapters.adapter import Adapter
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.sparse_encoding import SparseEncoding
from scvibridge.models.adapters.tensors import decoded_by, log_of_totals, to_numpy

if TYPE_CHECKING:
    import scipy.sparse as sp

# Threads that encode the first blocks of a model share one fast encoder.
_building = lock()


class VAEAdapter(Adapter):
    """SCVI, and SCANVI, whose labels only affect the latent space."""

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        with _building:
            sparse = self._sparse_encoding
        # Another integer type would trigger a second compilation of the kernel.
        if sparse is None or counts.dtype != np.int32:
            outputs = self._infer(self._dense(counts), covariates)
        else:
            with sparse.of(counts) as without_genes:
                outputs = self._infer(without_genes, covariates)
        log_library, library_scale = self._library(counts, covariates, outputs)
        return Latent(
            to_numpy(outputs["qz"].loc), to_numpy(outputs["qz"].scale), log_library, library_scale
        )

    def _infer(self, x: torch.Tensor, covariates: Covariates) -> dict[str, Any]:
        # For minified data, `inference` would return the latents stored there.
        minified = getattr(self.module, "minified_data_type", None) is not None
        name = "_regular_inference" if minified else "inference"
        outputs: dict[str, Any] = getattr(self.module, name)(
            x=x,
            batch_index=self._column(covariates.batch),
            cont_covs=self._optional(covariates.continuous),
            cat_covs=self._optional(covariates.categorical),
        )
        return outputs

    @cached_property
    def _sparse_encoding(self) -> SparseEncoding | None:
        """Return the fast encoder if the model is on the CPU and has the expected structure."""
        if self.device.type != "cpu":
            return None
        encoders = ("z_encoder", "l_encoder") if self.uses_latent_library else ("z_encoder",)
        try:
            return SparseEncoding(self.module, encoders, self.n_own)
        except (AttributeError, TypeError):
            return None

    def _library(
        self, counts: sp.csr_matrix, covariates: Covariates, outputs: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if covariates.log_size_factor is not None:
            return covariates.log_size_factor, None
        if self.uses_latent_library:
            posterior = outputs["ql"]
            return to_numpy(posterior.loc)[:, 0].astype(float), to_numpy(posterior.scale)[:, 0]
        return log_of_totals(counts), None

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        hidden, own_theta = self._hidden(z, covariates), self.dispersion == "gene-cell"
        return decoded_by(self._decoder(), hidden, self.zero_inflated, own_theta)

    def _decoder_inputs(
        self, z: np.ndarray, covariates: Covariates
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        inputs, categories = super()._decoder_inputs(z, covariates)
        if self.module.batch_representation != "embedding":
            return inputs, categories
        batch, *others = categories
        embedded = self.module.compute_embedding("batch", batch)
        return torch.cat([inputs, embedded], dim=-1), others


class LinearAdapter(VAEAdapter):
    """LinearSCVI: the log frequencies are linear in z and the batch."""

    has_trunk = False

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        decoder = self.module.decoder
        latent, batch = self._transformed(z), self._column(covariates.batch)
        logits = decoder.px_dropout_decoder(latent, batch) if self.zero_inflated else None
        return Decoded(decoder.factor_regressor(latent, batch), False, logits, None)


class AutoZIAdapter(VAEAdapter):
    """AUTOZI: each gene's zeros are inflated with a probability that is itself inferred.

    A count is negative binomial with probability delta; otherwise it is zero-inflated with a
    dropout probability pi of at least ``minimal_dropout``. Both components share mean and
    dispersion, so the mixture is again zero-inflated negative binomial, with dropout probability (1
    - delta) pi. Delta is set to its posterior mean, alpha / (alpha + beta).
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.zero_inflated = True
        self.gene_likelihood = "zinb"
        self.needs_labels = self.module.zero_inflation == "gene-label"

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        decoded = super()._decode(z, covariates)
        least = self.module.minimal_dropout
        dropout = least + (1.0 - least) * torch.sigmoid(decoded.zi_logits.double())  # type: ignore[union-attr]
        inflated = (1.0 - self._delta(covariates)) * dropout
        return replace(decoded, zi_logits=torch.logit(inflated).to(decoded.unnormalised.dtype))

    def _delta(self, covariates: Covariates) -> torch.Tensor:
        """Return the posterior mean of the probability of no zero inflation."""
        found = self.module.get_alphas_betas(as_numpy=False)
        alpha, beta = found["alpha_posterior"].double(), found["beta_posterior"].double()
        delta: torch.Tensor = alpha / (alpha + beta)
        by = self.module.zero_inflation
        if by == "gene":
            return delta
        codes = covariates.batch if by == "gene-batch" else covariates.label
        return delta.T[self._tensor(codes)]
