"""The finished blocks of a run: damaged ones are computed again; one process writes at a time."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import streamed

from scvibridge._utils.failures import WriteError
from scvibridge.io import parts_folder, shard_store, shards, streaming

if TYPE_CHECKING:
    pass
from interrupted import change_byte, cut_off, failing_at, parts, plan_for, read, uninterrupted


@pytest.mark.parametrize(
    "damage",
    [cut_off, lambda path: os.truncate(path, 0), lambda path: change_byte(path, 0)]
    + [lambda path, p=p: change_byte(path, p) for p in (0.05, 0.3, 0.6, 0.9)],
)
def test_damaged_shards_are_computed_again(interrupted, damage):
    damage(parts(interrupted) / "block-000001.npz")
    again = failing_at(-1, ValueError())
    streamed.run(interrupted, plan_for(interrupted), resume=True, before=again)
    assert sorted({*again.computed} - {6}) == [1, 4, 5]
    assert read(interrupted) == uninterrupted(interrupted)


def test_shards_that_are_cut_off_are_seen_at_once(interrupted):
    cut_off(parts(interrupted) / "block-000001.npz")
    with shard_store.Shards(interrupted, plan_for(interrupted), resume=True) as opened:
        assert opened.missing() == [1, 4, 5]


def test_shards_that_are_never_whole_are_an_error(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)

    def fill():
        streamed.write_blocks(parts(path), plan, range(6))
        change_byte(parts(path) / "block-000002.npz", 0.5)

    with (
        pytest.raises(shards.DamagedShardError, match=r"block-000002\.npz is damaged"),
        shard_store.Shards(path, plan) as opened,
    ):
        streaming.finish(opened, fill, lambda: streamed.skeleton(plan))
    assert not path.exists()


def test_estimates_are_those_of_the_first_run(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    first = {}

    def estimate():
        rng = np.random.default_rng()
        first.update({"effect": rng.random((3, 4)), "names": np.array(["V2", "é"])})
        return first

    def fail_after_estimates():
        with shard_store.Shards(path, plan) as opened:
            opened.remember("effects", estimate)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_estimates()
    with shard_store.Shards(path, plan, resume=True) as opened:
        found = opened.remember("effects", lambda: pytest.fail("computed again"))
        assert found.keys() == first.keys()
        for name, values in first.items():
            np.testing.assert_array_equal(found[name], values, strict=True)
        change_byte(parts(path) / "estimate-effects.npz", 0.3)
        assert opened.remember("effects", lambda: {"a": np.ones(1)}).keys() == {"a"}
        assert opened.remember("effects", lambda: {"b": np.ones(1)}).keys() == {"a"}
    with pytest.raises(FileExistsError, match="0 of 6 blocks finished"):
        streamed.run(path, plan)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    with shard_store.Shards(path, plan) as opened:
        opened.write(0, streamed.block(plan, 0))
        for resume in (True, False):
            for attempt in (
                lambda: streamed.in_child(streamed.run, path, plan, resume).result(),  # noqa: B023
                lambda: streamed.run(path, plan, resume),  # noqa: B023
                lambda: parts_folder.check_leftover(path, resume),  # noqa: B023
            ):
                with pytest.raises(WriteError, match=f"is being written by process {os.getpid()}"):
                    attempt()
        assert opened.missing() == [1, 2, 3, 4, 5]
    streamed.in_child(streamed.run, path, plan, True).result()
    assert read(path) == uninterrupted(path)


def test_workers_write_shards_without_the_lock(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    with shard_store.Shards(path, plan) as opened:

        def fill():
            workers = [
                streamed.in_child(streamed.write_blocks, opened.folder, plan, numbers)
                for numbers in ([0, 2, 4], [1, 3, 5])
            ]
            for worker in workers:
                worker.result()

        streaming.finish(opened, fill, lambda: streamed.skeleton(plan))
    assert read(path) == uninterrupted(path)


def test_blocks_left_out_are_an_error(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    with (
        pytest.raises(WriteError, match="6 blocks were not computed"),
        shard_store.Shards(path, plan) as opened,
    ):
        streaming.finish(opened, lambda: None, lambda: streamed.skeleton(plan))


def test_a_shard_is_written_while_the_next_block_is_computed(tmp_path):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    threads = []
    with shard_store.Shards(path, plan) as opened:
        write = opened.write

        def watch(index, block):
            threads.append(threading.current_thread())
            write(index, block)

        opened.write = watch
        streaming.compute_missing(opened, lambda index: streamed.block(plan, index))
        assert opened.missing() == []
        for index in range(6):
            for name, matrix in streamed.block(plan, index).items():
                difference = opened.read(index)[name] != matrix
                assert not (difference.nnz if hasattr(difference, "nnz") else difference.any())
    assert len(threads) == 6
    assert threading.main_thread() not in threads
