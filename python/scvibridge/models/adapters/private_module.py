"""A private copy of a trained module: it shares the weights with the user's, and nothing else.

The weights are in single precision, whatever the user has converted the module to.

Temporary changes to a module (evaluation mode, a move to another device, a faster first layer) are
made to the copy. The user's module is only read, so several threads can use one model at the same
time.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def private_copy(module: torch.nn.Module) -> Any:
    """Copy a module and its submodules, in evaluation mode, without copying the weights.

    Forward hooks are shared: hooks registered on the module also run for the copy.
    """
    copies = {id(part): _empty_copy(part) for part in module.modules()}
    weights: dict[int, torch.Tensor] = {}
    for part in module.modules():
        copy = copies[id(part)]
        for name, value in part.__dict__.items():
            # Methods set on an instance must act on the copy.
            if isinstance(value, MethodType) and id(value.__self__) in copies:
                copy.__dict__[name] = MethodType(value.__func__, copies[id(value.__self__)])
        copy.__dict__["_modules"] = {
            name: None if child is None else copies[id(child)]
            for name, child in part.__dict__["_modules"].items()
        }
        for kind, make in (("_parameters", _parameter), ("_buffers", _in_single_precision)):
            copy.__dict__[kind] = {
                name: None if tensor is None else weights.setdefault(id(tensor), make(tensor))
                for name, tensor in part.__dict__[kind].items()
            }
    copied = copies[id(module)]
    copied.eval()
    return copied


def _empty_copy(part: torch.nn.Module) -> torch.nn.Module:
    copy = type(part).__new__(type(part))
    copy.__dict__.update(part.__dict__)
    return copy


def _parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    # A new parameter, because `Module.to` replaces a parameter's values in place.
    return torch.nn.Parameter(_in_single_precision(tensor), requires_grad=False)


def _in_single_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself if it has this precision already, as scvi-tools makes it."""
    tensor = tensor.detach()
    return tensor.float() if tensor.is_floating_point() else tensor


@contextmanager
def moved_to(module: torch.nn.Module, device: torch.device, wanted: torch.device) -> Iterator[None]:
    """Move a module from a device to another one for a while, and compute without autocast."""
    moved = not device.type == wanted.type == "cpu"
    if moved:  # visits all parts of the module, which takes milliseconds
        module.to(wanted)
    try:
        with torch.autocast(wanted.type, enabled=False):  # the caller's
            yield
    finally:
        if moved:
            module.to(device)


def is_altered(module: torch.nn.Module) -> bool:
    """Return whether a module or a submodule has forward hooks or an overridden `forward`."""
    for_all = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks  # noqa: SLF001
    altered = (_has_hooks(part) or "forward" in part.__dict__ for part in module.modules())
    return bool(for_all) or any(altered)


def check_hooks(module: torch.nn.Module, bypassed: Iterable[torch.nn.Module]) -> None:
    """Raise an error for forward hooks on submodules that are computed without calling them.

    Raises
    ------
    ValueError
        If there are any.
    """
    hooked = {id(part) for part in bypassed if _has_hooks(part)}
    names = [name or "the module" for name, part in module.named_modules() if id(part) in hooked]
    if names:
        raise ValueError(
            f"the model has forward hooks on {', '.join(names)}, which scvibridge computes "
            "without calling it: the hooks would be skipped. Remove them first: call "
            "handle.remove() on the handle that register_forward_hook() returned"
        )


def check_weights(module: torch.nn.Module) -> None:
    """Raise an error for weights that are not finite numbers.

    Raises
    ------
    ValueError
        If there are any.
    """
    for name, weights in module.named_parameters():
        # A finite sum, which takes a tenth of the time, has only finite terms.
        given = weights.detach()
        if not torch.isfinite(given.sum()) and not torch.isfinite(given).all():
            raise ValueError(
                f"the model's weights {name} have missing or infinite values: its training "
                "diverged, or half precision cannot hold them. Train it again, if need be with a "
                "lower learning rate"
            )


def _has_hooks(part: torch.nn.Module) -> bool:
    return any(part.__dict__.get(name) for name in _HOOKS)


class PrivateRandomNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draw torch's random numbers in this thread from a separate generator, not the global one.

    scvi-tools' encoders sample from the posterior, and its modules sample initial weights, although
    neither is needed here. torch's global generator belongs to the user.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, passing the generator to those that draw random numbers."""
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            place = tensors[0].device if tensors else torch.device(kwargs.get("device") or "cpu")
            if not _takes_generator(func):
                kind = "" if func._overloadname == "default" else f"{func._overloadname}_"  # noqa: SLF001
                func = getattr(func.overloadpacket, f"{kind}generator", func)
            if _takes_generator(func):
                kwargs["generator"] = self._generator(place)
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(0)
        return self._generators[device]


def _takes_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)  # noqa: SLF001
