"""A trained model with an output head for genes that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from scvibridge._utils.digests import digest
from scvibridge.io.raw_counts import as_raw_data
from scvibridge.models.adapters.adapter import Adapter, is_minified
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.multimodal import is_mudata

if TYPE_CHECKING:
    import scipy.sparse as sp
    import torch

    from scvibridge.models.adapters.target import Target


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


class ExtendedAdapter(Adapter):
    """The model's genes followed by the head's: two adapters whose results are combined.

    Frequencies of the model's genes are fractions of their total count, those of the added genes
    fractions of the count over all genes. The two sets are therefore never decoded together: see
    :attr:`own` and :attr:`added`.
    """

    def __init__(self, extended: Extended, base: Adapter) -> None:
        _use_data(base, extended.adata)
        self.__dict__.update(base.__dict__)
        self._base = base
        self.added: HeadAdapter = HeadAdapter(base, extended.head)
        self.quality = extended.quality
        self.extension = extended.settings
        self.extension_digest = extended.head.digest()
        self.n_own = len(base.genes)
        self.genes = base.genes.append(self.added.genes)

    @property
    def own(self) -> Adapter:
        """The adapter of the model as scvi-tools trained it."""
        return self._base

    def with_target(self, target: Target) -> Self:
        """Return an adapter that decodes cells as those of a target, for both sets of genes."""
        own, added = self._base.with_target(target), self.added.with_target(target)
        return self._copy(target=target, batches=own.batches, _base=own, added=added)

    def with_theta(self, theta: np.ndarray | None, added: np.ndarray | None = None) -> Self:
        """Return an adapter with other inverse dispersions for the model's and the added genes."""
        return self._copy(_base=self._base.with_theta(theta), added=self.added.with_theta(added))

    def covariates(self, adata: Any) -> Covariates:
        """Read the covariates of all cells of `adata`, following the model's setup."""
        return self._base.covariates(adata)

    def transform_latent(self, z: np.ndarray) -> np.ndarray:
        """Return latent variables as the model returns them."""
        return self._base.transform_latent(z)

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:
        return self._base.encode(counts[:, : self.n_own], covariates)

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:  # noqa: ARG002
        raise TypeError(
            "an extended model has no joint likelihood over all of its genes: pass the model that "
            "was extended, its .model"
        )


class HeadAdapter(Adapter):
    """The added genes of an extended model, decoded by its head."""

    renormalises = False

    def __init__(self, base: Adapter, head: Head) -> None:
        self.__dict__.update(base.__dict__)
        self._base, self._head = base, head
        self._placed: tuple[torch.device, dict[str, torch.Tensor]] | None = None
        self.proteins = ()
        self.genes = pd.Index(head.genes.astype(str))
        self.gene_likelihood = "poisson" if head.log_theta is None else "nb"
        by_batch = head.log_theta is not None and len(head.log_theta) > 1
        self.dispersion = "gene-batch" if by_batch else "gene"
        self.zero_inflated = self.uses_size_factor = self.uses_latent_library = False
        self._given_theta = None
        self._theta_varies_by = self.dispersion

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_placed": None}

    def fitted_theta(self) -> np.ndarray | None:
        """Return the fitted inverse dispersions, one row or one per batch of the model.

        Returns None for a Poisson model.
        """
        log_theta = self._head.log_theta
        return None if log_theta is None else np.exp(log_theta.astype(float))

    def transform_latent(self, z: np.ndarray) -> np.ndarray:
        """Return latent variables as the model returns them."""
        return self._base.transform_latent(z)

    def _encode(self, counts: sp.csr_matrix, covariates: Covariates) -> Latent:  # noqa: ARG002
        raise TypeError("cells are encoded from the model's genes")

    def _decode(self, z: np.ndarray, covariates: Covariates) -> Decoded:
        head = self._tensors()
        features = standardised(self._base.features(z, covariates), head["location"], head["scale"])
        codes = self._tensor(covariates.batch)
        log_rate = features @ head["weights"] + head["intercept"] + head["batch"][codes]
        return Decoded(log_rate.clamp(max=_LARGEST_LOG_RATE), True, None, None)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return the head's parameters as tensors on the model's device."""
        if self._placed is None or self._placed[0] != self.device:
            arrays = self._head.arrays().items()
            self._placed = (self.device, {name: self._tensor(values) for name, values in arrays})
        return self._placed[1]


def _use_data(base: Adapter, adata: Any) -> None:
    """Make data with all genes the data of an adapter's model; None removes the data."""
    if adata is None:
        table = None
    else:
        table = base.as_anndata(adata) if is_mudata(adata) else as_raw_data(adata, base.layer)
    base.__dict__.update(adata=table, _given_data=adata)
    base.minified = table is not None and is_minified(table)
