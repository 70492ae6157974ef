"""A trained model with an output head for genes that it never saw."""

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

# A unit that hardly varies among the cells of the fit may be hundreds of its standard deviations
# away in another batch: what the head knows ends before that.
LARGEST_FEATURE = 10.0

# A gene takes no more than all of a cell's counts.
_LARGEST_LOG_RATE = 0.0


@dataclass(frozen=True)
class Head:
    """Output head: log rate = ((h - location) / scale) W + b + c_s, over the cell's total.

    What is multiplied by W is kept within +-10.

    Attributes
    ----------
    genes
        Names of the added genes, shape ``(n_genes,)``.
    weights
        W, shape ``(n_features, n_genes)``.
    intercept
        b, shape ``(n_genes,)``.
    batch
        c, by the model's own batches, shape ``(n_batches, n_genes)``.
    location, scale
        Mean and standard deviation of h over the cells of the fit, shape ``(n_features,)``.
    log_theta
        Log of inverse dispersions, one row or one for each batch; None for Poisson.
    on_trunk
        Whether h is the decoder's last hidden layer; the latent variables if not.
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
        """Return the arrays by name; those that are None are left out."""
        names = ("weights", "intercept", "batch", "location", "scale", "log_theta")
        given = {name: getattr(self, name) for name in names}
        return {name: values for name, values in given.items() if values is not None}

    def digest(self) -> str:
        """Digest of genes and numbers."""
        genes = np.frombuffer("\n".join(self.genes).encode(), dtype=np.uint8)
        return digest(genes, *(values for _, values in sorted(self.arrays().items())))


@dataclass(frozen=True, repr=False)
class Extended:
    """A trained model and a head for further genes.

    Attributes
    ----------
    model
        The trained scvi-tools model, which is left as it was.
    head
        The output head.
    adata
        Cells by all genes, which effects and depth are estimated from; or None.
    quality
        One row for each added gene, by its name.
    settings
        How the head was fitted: plain values.
    """

    model: Any
    head: Head
    adata: Any
    quality: pd.DataFrame
    settings: dict[str, Any] = field(default_factory=dict)


def standardised(
    features: torch.Tensor, location: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Standardise features as for fitting a head."""
    return ((features - location) / scale).clamp(-LARGEST_FEATURE, LARGEST_FEATURE)


class HeadDecoder:
    """Decodes added genes from the features of a model's cells: the head, on the model's device.

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

    def fitted_theta(self) -> np.ndarray | None:
        """Return the fitted inverse dispersions, one row or one for each of the model's batches.

        A Poisson model has none.
        """
        log_theta = self._head.log_theta
        return None if log_theta is None else np.exp(log_theta.astype(float))

    def decode(self, features: torch.Tensor, covariates: Covariates) -> Decoded:
        """Decode a block of cells under covariates of the model's own batches.

        Parameters
        ----------
        features
            What the head was fitted on, shape ``(n_cells, n_features)``: see
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
        """Return the head's numbers on a device, where they stay until another is used."""
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
        The model, which decodes them in place of its own genes.
    quality
        One row for each added gene, by its name.
    settings
        How the head was fitted: plain values.
    digest
        Digest of the genes and the head's numbers.
    """

    adapter: AdapterT
    quality: pd.DataFrame
    settings: dict[str, Any]
    digest: str
