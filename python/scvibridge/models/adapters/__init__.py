"""The interface to scvi-tools: everything the rest of the package needs from a trained model."""

from __future__ import annotations

from typing import Any

from scvibridge._utils.forked import adapt_to_fork
from scvibridge.models.adapters.adapter import Adapter
from scvibridge.models.adapters.arrays import Covariates, Decoded, Latent
from scvibridge.models.adapters.classes import SUPPORTED, check_class, find_class
from scvibridge.models.adapters.conditional import ConditionalAdapter
from scvibridge.models.adapters.extended import AddedGenes, Extended, Head, HeadDecoder
from scvibridge.models.adapters.minified import is_minified
from scvibridge.models.adapters.multivi import MultiVIAdapter
from scvibridge.models.adapters.strata import Strata
from scvibridge.models.adapters.target import Target
from scvibridge.models.adapters.totalvi import TotalVIAdapter
from scvibridge.models.adapters.vae import AutoZIAdapter, LinearAdapter, VAEAdapter

__all__ = [
    "COUNT_LIKELIHOODS",
    "SUPPORTED",
    "Adapter",
    "AddedGenes",
    "Covariates",
    "Decoded",
    "Extended",
    "Head",
    "Latent",
    "Strata",
    "Target",
    "adapter_for",
    "check_class",
    "find_class",
    "is_minified",
]

COUNT_LIKELIHOODS = ("nb", "zinb", "poisson")

_ADAPTERS: dict[str, type[Adapter]] = {
    "SCVI": VAEAdapter,
    "LinearSCVI": LinearAdapter,
    "SCANVI": VAEAdapter,
    "AUTOZI": AutoZIAdapter,
    "CondSCVI": ConditionalAdapter,
    "TOTALVI": TotalVIAdapter,
    "TOTALANVI": TotalVIAdapter,
    "MULTIVI": MultiVIAdapter,
}


def adapter_for(model: Any) -> Adapter:
    """Return the adapter for a trained scvi-tools model.

    Raises
    ------
    TypeError
        If `model` is not an scvi-tools model, or its class is not supported.
    ValueError
        If the model has not been trained, or has forward hooks that would not run.
    """
    adapt_to_fork()
    if isinstance(model, Extended):
        return _with_added(adapter_for(model.model), model)
    name = type(model).__name__
    if not hasattr(model, "module") or not hasattr(model, "is_trained_"):
        raise TypeError(
            f"expected a trained scvi-tools model, got {name}; read a saved model with "
            "scvibridge.load()"
        )
    check_class(name)
    if not model.is_trained_ or model.module is None:
        raise ValueError("the model has not been trained: call model.train() first")
    return _ADAPTERS[name](model)


def _with_added(base: Adapter, extended: Extended) -> Adapter:
    """Return the adapter of a model with the genes that were added to it.

    The frequencies of the model's genes are shares of their counts, those of the added genes shares
    of all counts. The two are therefore never decoded as one: see :attr:`Adapter.own` and
    :attr:`Adapter.added`.
    """
    added = AddedGenes(
        base.with_head(HeadDecoder(extended.head)),
        extended.quality,
        extended.settings,
        extended.head.digest(),
    )
    return base.with_added(added, extended.adata)
