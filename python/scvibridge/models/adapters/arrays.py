"""Arrays passed to and from a model: covariates, latent variables, decoded parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import scipy.sparse as sp

# Single precision ends at 1e-38.
_SMALLEST_RATE = 1e-35


@dataclass(frozen=True)
class Covariates:
    """What the model knows about each cell besides its counts.

    Attributes
    ----------
    batch
        Codes among the adapter's ``batches``, shape ``(n_cells,)``: the units that are corrected.
    label
        Codes among the model's labels, shape ``(n_cells,)``.
    categorical
        Codes of the additional categorical covariates, shape ``(n_cells, n_covariates)``, or None.
    continuous
        Values of the continuous covariates, shape ``(n_cells, n_covariates)``, or None.
    log_size_factor
        Natural log of the size factor, shape ``(n_cells,)``, or None.
    model_batch
        Codes among the model's batches if `batch` holds other units, else None: see
        :meth:`Adapter.transform`.
    proteins, regions, position
        Further inputs of multimodal models: counts of proteins (``(n_cells, n_proteins)``), counts
        of regions (CSR), and each cell's position in the training data; or None.
    """

    batch: np.ndarray
    label: np.ndarray
    categorical: np.ndarray | None = None
    continuous: np.ndarray | None = None
    log_size_factor: np.ndarray | None = None
    model_batch: np.ndarray | None = None
    proteins: np.ndarray | None = None
    regions: sp.csr_matrix | None = None
    position: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> Covariates:
        """Return the covariates of selected cells."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        some: dict[str, Any] = {name: value[rows] for name, value in given if value is not None}
        return Covariates(**some)

    def require(self, name: str) -> np.ndarray:
        """Return covariates that the model was set up with.

        Raises
        ------
        ValueError
            If the cells have none of that name.
        """
        values = getattr(self, name)
        if values is None:
            raise ValueError(f"the cells have no {name} covariates")
        return np.asarray(values)

    def own(self) -> Covariates:
        """Return the covariates with the model's batches as `batch`."""
        if self.model_batch is None:
            return self
        return replace(self, batch=self.model_batch, model_batch=None)


@dataclass(frozen=True)
class Latent:
    """Posterior of the latent variables of some cells, and the model's library.

    ``location`` and ``scale`` have shape ``(n_cells, n_latent)``. ``log_library`` is the log of the
    factor applied to the decoder's frequencies (shape ``(n_cells,)``): the observed total, the
    posterior mean of the latent library, or the size factor. ``log_library_scale`` is the posterior
    standard deviation of the latent library, or None if the library is not latent.
    """

    location: np.ndarray
    scale: np.ndarray
    log_library: np.ndarray
    log_library_scale: np.ndarray | None = None

    def take(self, rows: np.ndarray | slice) -> Latent:
        """Return the latent variables of selected cells."""
        scale = self.log_library_scale
        return Latent(
            self.location[rows],
            self.scale[rows],
            self.log_library[rows],
            None if scale is None else scale[rows],
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, without those that are None."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: values for name, values in named.items() if values is not None}

    @staticmethod
    def empty(n_latent: int) -> Latent:
        """Return latent variables for zero cells."""
        nothing = np.empty((0, n_latent), dtype=np.float32)
        return Latent(nothing, nothing, np.empty(0))

    @staticmethod
    def of_arrays(arrays: dict[str, np.ndarray]) -> Latent:
        """Build an instance from the result of :meth:`arrays`."""
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
    """Decoder output for a block of cells, tensors of shape ``(n_cells, n_genes)``.

    ``unnormalised`` is the log of the frequency rho up to a constant per cell, or the exact log if
    ``is_log_rate``; ``zi_logits`` is the logit of the dropout probability (ZINB only) and
    ``log_theta`` the log of a separate dispersion per cell (``dispersion="gene-cell"`` only).
    """

    unnormalised: torch.Tensor
    is_log_rate: bool
    zi_logits: torch.Tensor | None
    log_theta: torch.Tensor | None

    @property
    def log_rate(self) -> torch.Tensor:
        """Return the log of the frequencies.

        Uses log-softmax: in single precision, softmax underflows to zero and its log to minus
        infinity.
        """
        if self.is_log_rate:
            return self.unnormalised
        return torch.log_softmax(self.unnormalised, dim=-1)

    def rate(self) -> torch.Tensor:
        """Return the frequencies, in double precision if single precision might underflow."""
        single = torch.exp(self.unnormalised) if self.is_log_rate else None
        if single is None:
            single = torch.softmax(self.unnormalised, dim=-1)
        if single.numel() and float(single.amin()) < _SMALLEST_RATE:
            return self.log_rate.double().exp_()
        return single

    @staticmethod
    def mix(parts: list[Decoded]) -> Decoded:
        """Average decoder outputs of the same cells under several batches or values.

        Frequencies and dropout probabilities are averaged; for gene-cell dispersions, the
        reciprocals are. The average is again a likelihood with integer counts.
        """
        if len(parts) == 1:
            return parts[0]
        log_n = float(np.log(len(parts)))

        def stacked(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.stack(values)

        log_rate = torch.logsumexp(stacked("log_rate"), dim=0) - log_n
        logits, log_theta = stacked("zi_logits"), stacked("log_theta")
        if logits is not None:
            log_in = torch.logsumexp(torch.nn.functional.logsigmoid(logits), dim=0)
            logits = log_in - torch.logsumexp(torch.nn.functional.logsigmoid(-logits), dim=0)
        if log_theta is not None:
            log_theta = log_n - torch.logsumexp(-log_theta, dim=0)
        return Decoded(log_rate, True, logits, log_theta)
