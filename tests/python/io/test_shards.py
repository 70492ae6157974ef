"""The file of one block: it gives back what was written, in few bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import streamed

from scvibridge.io import shard_store, shards

if TYPE_CHECKING:
    pass
from interrupted import plan_for


def test_counts_take_few_bytes_in_shards(tmp_path):
    plan = streamed.counts_plan(streamed.plan_of(500, 200, 500))
    block = streamed.block(plan, 0)
    block["X"].data %= 200
    shards.write_shard(tmp_path, 0, plan.fields, block, plan.seal(0))
    assert shards.shard_path(tmp_path, 0).stat().st_size < 3.5 * block["X"].nnz


@pytest.mark.parametrize("largest", [1, 255, 256, 65535, 65536, 2**31 - 1])
def test_shards_give_back_what_was_written(tmp_path, largest):
    plan = streamed.plan_of(40, 70_000, 40)
    block = streamed.block(plan, 0)
    block["X"].data[:] = np.random.default_rng(1).integers(
        1, largest, len(block["X"].data), endpoint=True
    )
    block["X"].data[7] = largest
    shards.write_shard(tmp_path, 0, plan.fields, block, plan.seal(0))
    back = shards.read_shard(tmp_path, 0, plan.fields, plan.seal(0))
    for name, matrix in block.items():
        if isinstance(matrix, np.ndarray):
            np.testing.assert_array_equal(back[name], matrix, strict=True)
        else:
            for vector in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(
                    getattr(back[name], vector), getattr(matrix, vector), strict=True
                )


def test_blocks_that_are_not_as_planned_are_refused(tmp_path):
    plan = plan_for(tmp_path / "x.h5ad")
    with (
        pytest.raises(ValueError, match="X of block 0 has 39 rows for 40 cells"),
        shard_store.Shards(tmp_path / "x.h5ad", plan) as opened,
    ):
        opened.write(0, {name: m[:39] for name, m in streamed.block(plan, 0).items()})
    block = streamed.block(plan, 0)
    with pytest.raises(ValueError, match=r"X of block 0 has shape \(40, 59\), expected 60"):
        shards.write_shard(tmp_path, 0, plan.fields, {**block, "X": block["X"][:, :59]}, "")
    with pytest.raises(ValueError, match=r"block 0 has \['X'\], but"):
        shards.write_shard(tmp_path, 0, plan.fields, {"X": block["X"]}, "")
    block["X"] = block["X"].astype(np.int64)
    block["X"].data[0] = 2**31
    with pytest.raises(ValueError, match="X contains 2147483648, which does not fit into int32"):
        shards.write_shard(tmp_path, 0, plan.fields, block, "")
    assert list(tmp_path.iterdir()) == []
