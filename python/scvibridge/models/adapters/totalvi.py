"""TOTALVI and TOTALANVI: RNA and proteins; only the RNA counts are corrected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scvibridge.models.adapters.adapter import Adapter
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.multimodal import Beside, beside, protein_counts
from scvibridge.models.adapters.tensors import activated, log_of_totals, to_numpy

if TYPE_CHECKING:
    import scipy.sparse as sp
    from anndata import AnnData


# As in scvi-tools' encoder, which limits its library to this value when it samples it.
_LARGEST_LOG_LIBRARY = 15.0


class TotalVIAdapter(Adapter):
    """TOTALVI, and TOTALANVI, whose labels only affect the latent space."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.proteins = beside("proteins", self.registry).names

    def beside(self) -> list[Beside]:
        """The proteins."""
        return [beside("proteins", self.registry)]

    def _dispersion(self) -> str:
        return str(self.module.gene_dispersion)

    def _latent_encoder(self) -> Any:
        return self.module.encoder

    def _further(self, adata: AnnData, covariates: Covariates) -> Covariates:
        if self.minified and adata is self.adata:
            return covariates
        return replace(covariates, proteins=protein_counts(adata, self.registry))

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        # Not through `inference`, which also requires panels and background priors.
        posterior, library, _, _ = self.module.encoder(
            self._encoder_input(counts, covariates),
            self._column(covariates.batch),
            *(self._categories(covariates) if self.module.encode_covariates else ()),
        )
        location, scale = to_numpy(posterior.loc), to_numpy(posterior.scale)
        if covariates.log_size_factor is not None:
            return Latent(location, scale, covariates.log_size_factor)
        if not self.uses_latent_library:
            return Latent(location, scale, log_of_totals(counts))
        log_library = np.minimum(to_numpy(library.loc)[:, 0], _LARGEST_LOG_LIBRARY)
        return Latent(location, scale, log_library.astype(float), to_numpy(library.scale)[:, 0])

    def _encoder_input(self, counts: sp.csr_matrix, covariates: Covariates) -> torch.Tensor:
        """Return counts of genes and proteins over 1 + their mean, logged if the model does so.

        In scvi-tools before 1.3.1 the counts unchanged: the modules that divide them by their mean
        have efficiencies of the proteins.
        """
        parts = []
        divides = hasattr(self.module, "log_per_batch_efficiency")
        for values in (self._dense(counts), self._tensor(covariates.require("proteins"))):
            scaled = values / (1 + values.mean(1, keepdim=True)) if divides else values
            parts.append(torch.log(1 + scaled) if self.module.log_variational else scaled)
        if covariates.continuous is not None and self.module.encode_covariates:
            parts.append(self._tensor(covariates.continuous))
        return torch.cat(parts, dim=-1)

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        decoder = self._decoder()
        latent, categories = self._decoder_inputs(z, covariates)
        joined = _joined(decoder.px_decoder, latent, categories)
        scale = decoder.px_scale_decoder(joined, *categories)
        logits, is_log_rate = activated(scale, decoder.px_scale_activation)
        dropout = None
        if self.zero_inflated:
            joined = _joined(decoder.sigmoid_decoder, latent, categories)
            dropout = decoder.px_dropout_decoder_gene(joined, *categories)
        return Decoded(logits, is_log_rate, dropout, None)

    @torch.inference_mode()
    def protein_values(
        self, z: np.ndarray, covariates: Covariates, batch: int | None
    ) -> np.ndarray:
        """Compute foreground means of the proteins, ``(n_cells, n_proteins)``, float32.

        The expectation of what scvi-tools' ``get_normalized_expression`` samples: the foreground
        probability times the foreground mean, with the log-normal background at its mean.
        """
        found = [self._foreground(z, given) for given in self._as_if(covariates, batch)]
        return to_numpy(torch.stack(found).mean(dim=0))

    def _foreground(self, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
        decoder = self._decoder()
        latent, categories = self._decoder_inputs(z, covariates)
        back, fore, mixing = (
            _joined(trunk, latent, categories)
            for trunk in (decoder.py_back_decoder, decoder.py_fore_decoder, decoder.sigmoid_decoder)
        )
        alpha = decoder.py_back_mean_log_alpha(back, *categories)
        beta = decoder.activation_function_bg(decoder.py_back_mean_log_beta(back, *categories))
        background = torch.exp(alpha + (beta + 1e-8) ** 2 / 2)
        increment = decoder.py_fore_scale_decoder(fore, *categories) + 1 + 1e-8
        logits = decoder.py_background_decoder(mixing, *categories)
        found: torch.Tensor = background * increment * torch.sigmoid(-logits)
        return found


def _joined(trunk: Any, latent: torch.Tensor, categories: list[torch.Tensor]) -> torch.Tensor:
    """Return the input of an output layer: a trunk's last hidden layer and the latent variables."""
    return torch.cat([trunk(latent, *categories), latent], dim=-1)
