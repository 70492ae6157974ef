"""A trained model with an output head for genes that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd

from scvibridge._utils.digests import digest
from scvibridge.models.adapters.arrays import Decoded
from scvibridge.models.adapters.tensors import to_tensor

if TYPE_CHECKING:
    import torch

    from scvibridge.models.adapters.arrays import Covariates


# The adapter, which imports this module.
AdapterT = TypeVar("AdapterT")

# A unit that hardly varies among the cells used for fitting may be hundreds of standard deviations
# away in another batch, far outside the range that the head was fitted on.
LARGEST_FEATURE = 10.0

# A gene cannot account for more than all of a cell's counts.
_LARGEST_LOG_RATE = 0.0


@dataclass(frozen=True)
class Head:
    """Output head: log rate = ((h - location) / scale) W + b + c_s, relative to the cell's total.

    The values multiplied by W are limited to +-10.

    Attributes
    ----------
    genes
        Names of the added genes, shape ``(n_genes,)``.
    weights
        W, shape ``(n_features, n_genes)``.
    intercept
        b, shape ``(n_genes,)``.
    batch
        c, by the model's batches, shape ``(n_batches, n_genes)``.
    location, scale
        Mean and standard deviation of h over the cells used for fitting, shape ``(n_features,)``.
    log_theta
        Log of the inverse dispersions, one row or one per batch; None for Poisson.
    on_trunk
        Whether h is the decoder's last hidden layer; otherwise, the latent variables.
    """

    genes: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    batch: np.ndarray
    location: np.ndarray
    scale: np.ndarray
    log_theta: np.ndarray | None
    on_trunk: bool

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that are None."""
        names = ("weights", "intercept", "batch", "location", "scale", "log_theta")
        given = {name: getattr(self, name) for name in names}
        return {name: values for name, values in given.items() if values is not None}

    def digest(self) -> str:
        """Compute a digest of the genes and the parameters."""
        genes = np.frombuffer("\n".join(self.genes).encode(), dtype=np.uint8)
        return digest(genes, *(values for _, values in sorted(self.arrays().items())))


@dataclass(frozen=True, repr=False)
class Extended:
    """A trained model and a head for further genes.

    Attributes
    ----------
    model
        The trained scvi-tools model, unchanged.
    head
        The output head.
    adata
        Cells by all genes, used to estimate effects and depth; or None.
    quality
        One row per added gene, indexed by gene name.
    settings
        How the head was fitted, as plain values.
    """

    model: Any
    head: Head
    adata: Any
    quality: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)


def standardised(
    features: torch.Tensor, location: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Standardise features in the same way as for fitting a head."""
    return ((features - location) / scale).clamp(-LARGEST_FEATURE, LARGEST_FEATURE)


class HeadDecoder:
    """Decodes added genes from the features of a model's cells, on the model's device.

    Parameters
    ----------
    head
        The output head.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._placed: tuple[torch.device, dict[str, torch.Tensor]] | None = None
        self.genes = pd.Index(head.genes.astype(str))
        self.gene_likelihood = "poisson" if head.log_theta is None else "nb"
        by_batch = head.log_theta is not None and len(head.log_theta) > 1
        self.dispersion = "gene-batch" if by_batch else "gene"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": None}

    @property
    def unfitted_batches(self) -> list[int]:
        """Codes of the model's batches of which no cell was fitted: their intercepts stay 0."""
        return [int(code) for code in np.flatnonzero(~self._head.batch.any(axis=1))]

    def fitted_theta(self) -> np.ndarray | None:
        """Return the fitted inverse dispersions, one row or one per batch of the model.

        Returns None for a Poisson model.
        """
        log_theta = self._head.log_theta
        return None if log_theta is None else np.exp(log_theta.astype(float))

    def decode(self, features: torch.Tensor, covariates: Covariates) -> Decoded:
        """Decode a block of cells whose covariates hold the model's batches.

        Parameters
        ----------
        features
            The features that the head was fitted on, shape ``(n_cells, n_features)``: see
            :meth:`Adapter.features`.
        covariates
            Covariates of the same cells.
        """
        head = self._on(features.device)
        features = standardised(features, head["location"], head["scale"])
        codes = to_tensor(covariates.batch, features.device)
        log_rate = features @ head["weights"] + head["intercept"] + head["batch"][codes]
        return Decoded(log_rate.clamp(max=_LARGEST_LOG_RATE), True, None, None)

    def _on(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Return the head's parameters on a device; they stay there until another is used."""
        if self._placed is None or self._placed[0] != device:
            arrays = self._head.arrays().items()
            self._placed = (device, {name: to_tensor(values, device) for name, values in arrays})
        return self._placed[1]


@dataclass(frozen=True)
class AddedGenes(Generic[AdapterT]):
    """The genes that were added to a model.

    Attributes
    ----------
    adapter
        The adapter that decodes them instead of the model's genes.
    quality
        One row per added gene, indexed by gene name.
    settings
        How the head was fitted, as plain values.
    digest
        Digest of the genes and the head's parameters.
    """

    adapter: AdapterT
    quality: pd.DataFrame
    settings: dict[str, Any]
    digest: str
