"""Arguments that several functions share, checked once, and records of settings by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge._utils import arguments
from scvibridge._utils.devices import resolve_device
from scvibridge._utils.pools import HERE
from scvibridge.expression.depth import Depth
from scvibridge.io import outputs
from scvibridge.io.opened_files import check_not_source
from scvibridge.io.paths import named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scvibridge._utils.pools import Pool
    from scvibridge.models.adapters import Adapter


# Key in a field's metadata: leave the field out of the result's provenance.
UNDESCRIBED = {"described": False}


@dataclass(frozen=True)
class Running:
    """How a function runs: minibatch size, device, whether to show progress, and where."""

    batch_size: int | None
    device: str
    progress: bool
    pool: Pool = HERE

    @staticmethod
    def of(
        adapter: Adapter,
        batch_size: int | None,
        device: str,
        progress: bool,
        pool: Pool = HERE,
    ) -> Running:
        """Check the arguments."""
        arguments.check_batch_size(batch_size, adapter.batches)
        resolve_device(device)
        return Running(batch_size, device, bool(progress), pool)


@dataclass(frozen=True)
class Output:
    """Path of the result, or None, and how to treat existing files."""

    path: Path | None
    overwrite: bool
    resume: bool

    @staticmethod
    def of(
        adapter: Adapter, adata: Any, endings: Sequence[str], out: Any, overwrite: Any, resume: Any
    ) -> Output:
        """Check `out`, `overwrite` and `resume`; `out` must not replace the model or the cells."""
        overwrite, resume = bool(overwrite), bool(resume)
        check_not_source(None if out is None else named(out), adapter, adata)
        path = outputs.check_out(out, resume, endings, overwrite=overwrite)
        return Output(path, overwrite, resume)


def values_of(record: Any) -> dict[str, Any]:
    """Return the fields of a record of settings by name, as plain values."""
    return {field.name: _plain(getattr(record, field.name)) for field in fields(record)}


def described_values(record: Any) -> dict[str, Any]:
    """Return the fields that the provenance of a result shows."""
    shown: Mapping[str, Any] = values_of(record)
    return {
        field.name: shown[field.name]
        for field in fields(record)
        if field.metadata.get("described", True)
    }


def _plain(value: Any) -> Any:
    return value.asked if isinstance(value, Depth) else value
