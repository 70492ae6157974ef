"""Streamed results that are interrupted, and comparisons with those of runs that are not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h5py
import streamed
import zarr
from zarr_formats import is_consolidated

if TYPE_CHECKING:
    from scvibridge.io.plan import Plan


def plan_for(path, **sizes) -> Plan:
    plan = streamed.plan_of(**sizes)
    return streamed.counts_plan(plan) if path.suffix == ".h5" else plan


def _decoded(item):
    attributes = dict(item.attrs)
    return (attributes, item[()].tolist()) if isinstance(item, zarr.Array) else attributes


def read(path):
    """All that lies in a file, to be compared bit by bit."""
    if path.suffix == ".zarr":
        group = zarr.open_group(path, mode="r")
        assert is_consolidated(group)
        if zarr.__version__.startswith("2."):
            # Its threads store the parts of a compressed chunk in the order in which they end.
            found = {}
            group.visititems(lambda name, item: found.update({name: _decoded(item)}))
            assert found
            return found
        found = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
        assert found
        return found
    with h5py.File(path) as file:
        return {
            name: (attributes, kind, None if values is None else values.tolist())
            for name, (attributes, kind, values) in streamed.contents(file).items()
        }


def uninterrupted(path, **sizes):
    """What a run gives that nobody interrupts."""
    folder = path.parent / "uninterrupted"
    folder.mkdir(exist_ok=True)
    return read(streamed.run(folder / path.name, plan_for(path, **sizes)))


def parts(path):
    return path.with_name(f"{path.name}.parts")


def shard_names(path) -> list[str]:
    return sorted(p.name for p in parts(path).glob("block-*.npz"))


def failing_at(index: int, error: BaseException):
    """Called before each block: an error before one of them, and a record of all."""
    computed = []

    def before(current: int) -> None:
        if current == index:
            raise error
        computed.append(current)

    before.computed = computed
    return before


def change_byte(path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0x55
    path.write_bytes(bytes(content))


def cut_off(path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)
