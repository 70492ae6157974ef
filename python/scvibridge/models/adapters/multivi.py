"""MULTIVI: RNA, regions and proteins; only the RNA counts are corrected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvibridge._utils import user_warnings
from scvibridge._utils.sparse_structure import check_structure
from scvibridge._utils.wording import shorten
from scvibridge.io.blocks import blocks
from scvibridge.io.raw_counts import matrix_of
from scvibridge.io.row_reader import RowReader, with_rows
from scvibridge.likelihood.cpu.philox import hash_names
from scvibridge.models.adapters.adapter import Adapter
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.multimodal import (
    REGIONS,
    Beside,
    beside,
    check_beside,
    protein_counts,
)
from scvibridge.models.adapters.tensors import decoded_by, to_numpy
from scvibridge.models.training_cells import names_of_rows

if TYPE_CHECKING:
    from anndata import AnnData


class MultiVIAdapter(Adapter):
    """MULTIVI, set up with a MuData or with one AnnData that holds genes, then regions.

    Its RNA library is a point estimate of an encoder, without a posterior.
    """

    def __init__(self, model: Any) -> None:
        self._n_genes = int(model.module.n_input_genes)
        self._n_regions = int(model.module.n_input_regions)
        super().__init__(model)
        if self._n_genes == 0:
            raise ValueError("this MULTIVI model has no genes: it was trained without RNA")
        self.uses_latent_library = not self.uses_size_factor
        names = np.asarray(self.registry.state("X")["column_names"]).astype(str)
        self._region_names = pd.Index(names[self._n_genes :])

    def _dispersion(self) -> str:
        return str(self.module.gene_dispersion)

    def _latent_encoder(self) -> Any:
        return self.module.z_encoder_accessibility

    def _decoder(self) -> Any:
        return self.module.z_decoder_expression

    def _gene_names(self) -> np.ndarray:
        return np.asarray(self.registry.state("X")["column_names"])[: self._n_genes]

    # -- inputs besides the RNA ------------------------------------------------------------

    def beside(self) -> list[Beside]:
        """The proteins and regions, if the model has any."""
        found = []
        if self.module.n_input_proteins:
            found.append(beside("proteins", self.registry))
        if self._n_regions and self.registry.is_mudata:
            found.append(beside("regions", self.registry))
        elif self._n_regions:
            found.append(Beside("regions", None, tuple(self._region_names)))
        return found

    def _further(self, adata: AnnData, covariates: Covariates) -> Covariates:
        return replace(
            covariates,
            proteins=self._proteins(adata),
            regions=self._regions(adata),
            position=self._positions(adata),
        )

    def _proteins(self, adata: AnnData) -> np.ndarray | None:
        return protein_counts(adata, self.registry) if self.module.n_input_proteins else None

    def _regions(self, adata: AnnData) -> sp.csr_matrix | None:
        if not self._n_regions:
            return None
        if self.registry.is_mudata:
            if REGIONS not in adata.obsm:
                raise ValueError(
                    "the model also encodes regions: pass a MuData with both modalities"
                )
            check_structure(adata.obsm[REGIONS], "the counts of regions")
            regions = sp.csr_matrix(adata.obsm[REGIONS])
            check_beside(regions.data, "the modality of the regions")
            return regions
        positions = pd.Index(adata.var_names.astype(str)).get_indexer(self._region_names)
        if (positions < 0).any():
            missing = list(self._region_names[positions < 0])
            raise ValueError(
                f"the data lack {len(missing)} of the model's regions: {shorten(missing)}. Add "
                "their counts"
            )
        reader = RowReader(with_rows(matrix_of(adata, self.layer)))
        parts = [
            reader.read(cells)[:, positions] for cells in blocks(adata.n_obs, adata.n_vars, None)
        ]
        return sp.vstack(parts, format="csr")

    def _positions(self, adata: AnnData) -> np.ndarray:
        """Return the rows of the cells in the data that the model was trained on."""
        if self.module.modality_weights != "cell":
            return np.arange(adata.n_obs)
        trained = names_of_rows(self._model)
        if trained is None:
            trained = self._names_of_own()
        names = hash_names([str(name) for name in adata.obs_names])
        positions = pd.Index(trained).get_indexer(pd.Index(names))
        if (positions < 0).any():
            raise ValueError(
                "the model has separate modality weights for each training cell "
                "(modality_weights='cell'): it cannot encode other cells, and finds these by name "
                "among those that it was trained on"
            )
        return np.asarray(positions)

    def _names_of_own(self) -> np.ndarray:
        """Return hashed names of the model's data, which are assumed to be its training data."""
        # Not `self.adata`: the data of an extended model may be others, in another order.
        own = self._model.adata
        if own is None:
            raise ValueError(
                "the model has separate modality weights for each training cell "
                "(modality_weights='cell'), but was saved without the names of these cells: load "
                "it with the data that it was trained on"
            )
        user_warnings.warn(
            "the model has separate modality weights for each training cell "
            "(modality_weights='cell'), but was saved without the names of these cells: it is "
            "assumed that it was loaded with the data that it was trained on, in the same order"
        )
        return hash_names([str(name) for name in own.obs_names])

    def _log_size_factor(self, adata: AnnData) -> np.ndarray | None:
        factor = super()._log_size_factor(adata)
        # As in scvi-tools.
        return None if factor is None else np.log(np.exp(factor) + 1e-6)

    # -- encode and decode -----------------------------------------------------------------

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        n_cells = counts.shape[0]
        x = self._dense(counts)
        if covariates.regions is not None:
            x = torch.cat([x, self._dense(covariates.regions)], dim=-1)
        y = torch.zeros((n_cells, 1), device=self.device)
        if covariates.proteins is not None:
            y = self._tensor(covariates.proteins)
        factor = covariates.log_size_factor
        outputs = self.module.inference(
            x=x,
            y=y,
            batch_index=self._column(covariates.batch),
            cont_covs=self._optional(covariates.continuous),
            cat_covs=self._optional(covariates.categorical),
            label=self._column(covariates.label),
            cell_idx=self._tensor(covariates.position),  # type: ignore[arg-type]
            # The latent variables do not depend on it.
            size_factor=None if factor is None else torch.ones((n_cells, 2), device=self.device),
        )
        library = to_numpy(outputs["libsize_expr"])[:, 0].astype(float)
        return Latent(
            to_numpy(outputs["qz_m"]),
            np.sqrt(to_numpy(outputs["qz_v"])),
            library if factor is None else factor,
        )

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        hidden = self._hidden(z, covariates)
        return decoded_by(self._decoder(), hidden, self.zero_inflated, own_theta=False)
