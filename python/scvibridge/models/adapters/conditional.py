"""CondSCVI: encoder and decoder are conditioned on the label, and the batch is embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from scvibridge.models.adapters.adapter import Adapter
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.tensors import log_of_totals, to_numpy

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp


class ConditionalAdapter(Adapter):
    """CondSCVI.

    In this module, scvi-tools' own ``transform_batch`` is applied too late to have an effect; here
    the embedding of the target batch replaces that of the cell's batch.
    """

    needs_labels = True

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.uses_latent_library = False

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        outputs = self.module.inference(
            x=self._dense(counts),
            y=self._column(covariates.label),
            batch_index=self._column(covariates.batch),
        )
        location, scale = to_numpy(outputs["qz"].loc), to_numpy(outputs["qz"].scale)
        return Latent(location, scale, log_of_totals(counts))

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        module, label = self.module, self._column(covariates.label)
        logits = module.px_decoder(self._hidden(z, covariates)) + module.per_ct_bias[label.ravel()]
        return Decoded(logits, False, None, None)

    def _bypassed(self) -> list[torch.nn.Module]:
        return [self.module]  # the decoder is the trunk and is called

    def _hidden(self, z: np.ndarray, covariates: Covariates) -> torch.Tensor:
        module = self.module
        batch = module.compute_embedding("batch", self._column(covariates.batch))
        inputs = torch.cat([self._transformed(z), batch], dim=-1)
        hidden: torch.Tensor = module.decoder(inputs, self._column(covariates.label))
        return hidden
