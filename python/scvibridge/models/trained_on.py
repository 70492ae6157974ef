"""What a model records about its training data, and checks of new data against it.

scvi-tools saves attributes whose names end in an underscore with a model. :func:`remember` stores
in one of them what the registry cannot hold: which matrix of an R object the counts came from, and
the ranges of continuous covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scvibridge._utils import user_warnings
from scvibridge.io.raw_counts import TRAINING, describe_origin, is_same_origin, origin_of
from scvibridge.models.obs_columns import numbers_of

if TYPE_CHECKING:
    from anndata import AnnData

    from scvibridge.models.adapters import Adapter


_RANGE = 2


def remember(
    model: Any, data: AnnData, layer: str | None, cells: AnnData, continuous: Sequence[str]
) -> None:
    """Record on a model where its counts came from and the ranges of its continuous covariates.

    Parameters
    ----------
    model
        The model, on which an attribute is set.
    data, layer
        Where the counts were read from.
    cells
        The training cells.
    continuous
        Columns of the continuous covariates.
    """
    noted: dict[str, Any] = {"continuous": {key: _range(cells, key) for key in continuous}}
    origin = origin_of(data, layer)
    if origin is not None and origin["object"] != "AnnData":
        names = ("object", "assay", "layer")
        noted["counts"] = {name: str(origin.get(name) or "") for name in names}
    setattr(model, TRAINING, noted)


def place_of_counts(adapter: Adapter) -> str:
    """Describe where the model's counts were read from, as recorded in results."""
    origin = origin_of_training(adapter)
    if origin is not None:
        return describe_origin(origin)
    return "X" if adapter.layer is None else f"layers[{adapter.layer!r}]"


def origin_of_training(adapter: Adapter) -> Mapping[str, Any] | None:
    """Return the matrix of an R object that the model was trained on, if any."""
    origin = adapter.training.get("counts")
    return origin if isinstance(origin, Mapping) and "object" in origin else None


def check(adapter: Adapter, adata: AnnData) -> None:
    """Warn if new data differ from the training data, or the model's data were changed.

    Warns
    -----
    UserWarning
        If the counts come from another assay or layer of an R object, a continuous covariate or a
        size factor is outside the range seen in training, or the batches, labels or covariates of
        the model's own data are not those that they were registered with.
    """
    if adata is adapter.adata:
        _check_registered(adapter, adata)
        return
    trained, given = origin_of_training(adapter), origin_of(adata, adapter.layer)
    if trained is not None and given is not None and not is_same_origin(trained, given):
        _warn(
            f"the model was trained on {describe_origin(trained)}, but the counts passed are "
            f"those of {describe_origin(given)}"
        )
    for key in [*adapter.registry.continuous, *adapter.registry.size_factors]:
        if key in adata.obs:
            check_range(adapter, key, numbers_of(adata.obs, key))


def _check_registered(adapter: Adapter, own: AnnData) -> None:
    labels = adapter.needs_labels or adapter.dispersion == "gene-label"
    for key, (registered, current) in adapter.registry.registered(own, labels=labels).items():
        n_changed = int((~np.isclose(current, registered)).sum())
        if n_changed:
            _warn(
                f"obs[{key!r}] of the model's data was changed after the model was set up, for "
                f"{n_changed} of {len(registered)} cells: the current values are used, but "
                "scvi-tools and the training used the previous ones"
            )


def check_range(adapter: Adapter, key: str, values: np.ndarray) -> None:
    """Warn if values of a covariate are outside the range seen in training."""
    seen = _seen(adapter, key)
    if seen is None or len(values) == 0:
        return
    # Values stored in single precision may differ in the last digits.
    slack = 1e-6 * max(abs(seen[0]), abs(seen[1]), seen[1] - seen[0])
    outside = (values < seen[0] - slack) | (values > seen[1] + slack)
    if outside.any():
        _warn(
            f"{key} ranged from {seen[0]:g} to {seen[1]:g} in training, but {int(outside.sum())} "
            f"of {len(values)} values are outside this range ({values.min():g} to "
            f"{values.max():g}): the model extrapolates. Check that the units are the same as in "
            "training"
        )


def _seen(adapter: Adapter, key: str) -> tuple[float, float] | None:
    noted = adapter.training.get("continuous")
    if isinstance(noted, Mapping) and len(np.ravel(noted.get(key, ()))) == _RANGE:
        low, high = np.ravel(noted[key])
        return float(low), float(high)
    own = adapter.adata
    if own is None or key not in own.obs:
        return None
    low, high = _range(own, key)
    return low, high


def _range(cells: AnnData, key: str) -> list[float]:
    values = numbers_of(cells.obs, key)
    return [float(values.min()), float(values.max())]


def _warn(message: str) -> None:
    user_warnings.warn(message)
