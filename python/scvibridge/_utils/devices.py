"""Names of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def resolve_device(device: str) -> torch.device:
    """Convert ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` to a torch device.

    Raises
    ------
    ValueError
        If the name is unknown, or CUDA is requested but not available.
    """
    import torch  # takes seconds, and the R process may not need it

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1', got {device!r}")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not known to torch") from error
    if kind == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r} was requested, but torch finds {torch.cuda.device_count()} CUDA "
            "devices here; use device='cpu' or 'auto'"
        )
    return chosen
