"""Check the size of a saved model's network against the tensors in its file.

The parameters in the file determine how large a network scvi-tools builds before it copies the
tensors into it. A file of a few kilobytes could request one that fills the memory or takes hours to
build.
"""

from __future__ import annotations

import math
import numbers
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from scvibridge.models.saved.allowed_values import TooLargeError, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


# scvi-tools' names of parameters that are numbers of something.
_SIZE = re.compile(r"(n|num)_|hidden|layers|latent|_dim")

_LAYERS = "layers"

_CELLS = "n_cells"

_HUGE = 2.0**63

# A network may contain more numbers than its file, because some of them are not saved.
_TIMES, _AND = 4, 2**24

_FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full)


def check_architecture(saved: Mapping[str, Any], n_values: int, n_bytes: int) -> None:
    """Check the sizes that a saved model requests.

    Parameters
    ----------
    saved
        The contents of the file: ``model_state_dict`` and ``attr_dict``.
    n_values
        Number of values in the file outside of its tensors, such as names of categories.
    n_bytes
        Size of the file.

    Raises
    ------
    TooLargeError
        If a parameter is larger than anything in the file.
    """
    tensors = saved["model_state_dict"].values()
    if sum(tensor.nbytes for tensor in tensors) > 2 * n_bytes:
        raise TooLargeError("model_state_dict contains the same numbers many times")
    largest = max([n_values, *(size for tensor in tensors for size in tensor.shape)])
    most = {True: len(tensors), False: largest}
    for where, name, value in _sizes_asked_for(saved["attr_dict"]):
        if value > most[_LAYERS in name]:
            raise TooLargeError(
                f"{where} requests {name} = {value:,}, which does not match the tensors in the file"
            )


def _sizes_asked_for(attributes: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    yield from _numbers("attr_dict['init_params_']", attributes.get("init_params_"))
    fields = attributes["registry_"].get("field_registries")
    for field in fields.values() if isinstance(fields, dict) else ():
        stats = field.get("summary_stats") if isinstance(field, dict) else None
        yield from _numbers("attr_dict['registry_']", stats)


def _numbers(where: str, values: Any) -> Iterator[tuple[str, str, int]]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        yield from _numbers(where, value)
        is_size = isinstance(name, str) and _SIZE.search(name) and name != _CELLS
        if is_size and isinstance(value, int | float | np.number) and value > 0:
            yield where, name_of(name)[1:-1], int(min(float(value), _HUGE))


class LimitedNetwork(TorchFunctionMode):
    """Context in which no more tensors can be created than a network with these tensors needs.

    Parameters
    ----------
    tensors
        The tensors in the file.

    Raises
    ------
    TooLargeError
        If more are requested.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._left = _TIMES * sum(tensor.numel() for tensor in tensors) + _AND

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what a function is about to create, and call it."""
        named = dict(kwargs or {})
        if func in _FACTORIES:
            self._left -= _n_numbers(func, args, named)
            if self._left < 0:
                raise TooLargeError(
                    "its parameters request a network that is larger than the tensors in the file"
                )
        return func(*args, **named)


def _n_numbers(func: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> int:
    size = named.get("size", args[:1] if func is torch.full else args)
    if len(size) == 1 and not isinstance(size[0], numbers.Integral):
        size = size[0]
    return math.prod(int(length) for length in size)
