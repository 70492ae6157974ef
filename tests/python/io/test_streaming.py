"""Results in blocks: whatever ends a run, a resumed one gives the very same file."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import streamed
import zarr

from scvibridge._utils import progress
from scvibridge._utils.failures import WriteError
from scvibridge.io import h5ad, parts_folder, scratch, shard_store, shards, streaming, ten_x
from scvibridge.io.scratch import Scratch

if TYPE_CHECKING:
    from scvibridge.io.plan import Plan

ENDINGS = ["h5ad", "zarr", "h5"]


def plan_for(path, **sizes) -> Plan:
    plan = streamed.plan_of(**sizes)
    return streamed.counts_plan(plan) if path.suffix == ".h5" else plan


def read(path):
    """All that lies in a file, to be compared bit by bit."""
    if path.suffix == ".zarr":
        assert zarr.open_group(path, mode="r").metadata.consolidated_metadata is not None
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


# ---- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_leaves_nothing_but_the_result(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    assert streamed.run(path, plan_for(path)) == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [ValueError("a bad block"), KeyboardInterrupt()])
def test_an_error_keeps_what_is_finished(tmp_path, error):
    path = tmp_path / "x.h5ad"
    plan = plan_for(path)
    with pytest.raises(type(error)) as raised:
        streamed.run(path, plan, before=failing_at(3, error))
    assert not path.exists()
    assert re.search("3 of 6 blocks are finished and kept", raised.value.__notes__[0])
    assert len(shard_names(path)) == 3

    with pytest.raises(FileExistsError, match="3 of 6 blocks finished: resume=True goes on") as e:
        streamed.run(path, plan)
    assert str(parts(path)) in str(e.value)
    with pytest.raises(FileExistsError, match="3 of 6 blocks"):
        parts_folder.check_leftover(path, resume=False)
    parts_folder.check_leftover(path, resume=True)
    assert len(shard_names(path)) == 3

    again = failing_at(-1, error)
    streamed.run(path, plan, resume=True, before=again)
    assert again.computed == [3, 4, 5, 6]  # 6: the tables
    assert read(path) == uninterrupted(path)
    assert not parts(path).exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_kill_before_any_block_or_the_merge(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    n_blocks = len(plan_for(path).blocks)
    for index in (0, 2, n_blocks):
        child = streamed.in_child(streamed.kill_at, path, plan_for(path), index)
        with pytest.raises(EOFError):
            child.result()
        assert not path.exists()
        # The shard before may not have had the time to be finished.
        assert len(shard_names(path)) in {index, max(index - 1, 0)}
    streamed.run(path, plan_for(path), resume=True)
    assert read(path) == uninterrupted(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_kills_at_any_moment_of_the_merge(tmp_path, ending):
    sizes = {"n_cells": 3000, "n_genes": 500, "step": 500}
    path = tmp_path / f"x.{ending}"
    expected = uninterrupted(path, **sizes)
    plan = plan_for(path, **sizes)
    with pytest.raises(EOFError):
        streamed.in_child(streamed.write_all, path, plan).result()
    n_killed = 0
    for _ in range(20):
        child = streamed.in_child(streamed.run, path, plan, True)
        wait_for(lambda: any(parts(path).glob("merged*")) or path.exists())
        time.sleep(0.02 * 1.5**n_killed)  # the merge may take seconds where the machine is busy
        child.kill()
        if path.exists():
            break  # killed after the end, or while it removed the parts
        n_killed += 1
        assert len(shard_names(path)) == 6
    assert n_killed >= 2
    assert read(path) == expected
    streamed.run(path, plan, resume=True)
    assert read(path) == expected
    assert not parts(path).exists()


def wait_for(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.002)


@pytest.mark.parametrize("ending", ENDINGS)
def test_kills_at_random_moments(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    plan = plan_for(path)
    rng = np.random.default_rng(5)
    n_killed = 0
    while not path.exists():
        child = streamed.in_child(streamed.run_slowly, path, plan, True)
        time.sleep(rng.uniform(0, 0.3 + 0.1 * n_killed))
        child.kill()
        n_killed += child.process.exitcode != 0
        assert n_killed < 50
    assert n_killed >= 2
    assert read(path) == uninterrupted(path)


# ---- what is left ----------------------------------------------------------------------------


@pytest.fixture
def interrupted(tmp_path):
    """A path whose first four of six blocks are finished."""
    path = tmp_path / "x.h5ad"
    with pytest.raises(ValueError, match="enough"):
        streamed.run(path, plan_for(path), before=failing_at(4, ValueError("enough")))
    assert len(shard_names(path)) == 4
    return path


def change_byte(path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0x55
    path.write_bytes(bytes(content))


def cut_off(path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


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


def test_other_settings_are_named(interrupted):
    def attempt(**changed):
        streamed.run(interrupted, streamed.plan_of(**changed), resume=True)

    with pytest.raises(ValueError, match=r"settings\.seed: 0 then, 3 now"):
        attempt(seed=3)
    with pytest.raises(ValueError, match=r"settings\.method: None then, 'sample' now"):
        attempt(method="sample")
    with pytest.raises(ValueError, match="n_cells: 230 then, 240 now"):
        attempt(n_cells=240)
    with pytest.raises(ValueError, match=r"blocks: .* then, .* now") as raised:
        attempt(step=30)
    assert str(parts(interrupted)) in str(raised.value)
    assert len(str(raised.value)) < 600
    assert len(shard_names(interrupted)) == 4
    attempt()  # the settings of then


def test_nothing_finished_is_nothing_left(tmp_path):
    path = tmp_path / "x.h5ad"
    with pytest.raises(ValueError, match="at once"):
        streamed.run(path, plan_for(path), before=failing_at(0, ValueError("at once")))
    assert list(tmp_path.iterdir()) == []
    # A kill leaves the folder, which is in nobody's way.
    with pytest.raises(EOFError):
        streamed.in_child(streamed.kill_at, path, plan_for(path), 0).result()
    assert parts(path).exists()
    streamed.run(path, streamed.plan_of(seed=1))
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5ad"]


def test_deleting_the_folder_starts_over(interrupted):
    scratch.remove(parts(interrupted))
    again = failing_at(-1, ValueError())
    streamed.run(interrupted, plan_for(interrupted), before=again)
    assert again.computed == list(range(7))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    path = tmp_path / "x.h5ad"
    parts(path).mkdir()
    (parts(path) / "notes.txt").write_text("mine")
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="something else is there"):
            streamed.run(path, plan_for(path), resume=resume)
    assert [p.name for p in parts(path).iterdir()] == ["notes.txt"]


def test_a_damaged_manifest_is_told(interrupted):
    cut_off(parts(interrupted) / "manifest.json")
    with pytest.raises(ValueError, match=r"is damaged .* delete it to start over"):
        streamed.run(interrupted, plan_for(interrupted), resume=True)


def test_the_manifest_tells_what_the_parts_are(interrupted):
    manifest = json.loads((parts(interrupted) / "manifest.json").read_text())
    assert manifest["fingerprint"]["settings"] == {"seed": 0}
    assert manifest["blocks"][:2] == [[0, 40], [40, 80]]
    assert [field["name"] for field in manifest["fields"]][2:] == [
        "layers/normalized",
        "obsm/X_scvi",
    ]


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
    with pytest.raises(ValueError, match=r"block 0 holds \['X'\], but"):
        shards.write_shard(tmp_path, 0, plan.fields, {"X": block["X"]}, "")
    block["X"] = block["X"].astype(np.int64)
    block["X"].data[0] = 2**31
    with pytest.raises(ValueError, match="X holds 2147483648, which is no int32"):
        shards.write_shard(tmp_path, 0, plan.fields, block, "")
    assert list(tmp_path.iterdir()) == []


# ---- estimates -------------------------------------------------------------------------------


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


# ---- other processes -------------------------------------------------------------------------


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


def test_progress_tells_of_the_work_that_is_left(interrupted):
    told = []

    class Recorder:
        def start(self, description, total, unit):
            told.append((description, total, unit))

        def update(self, done):
            pass

        def finish(self):
            told.append("end")

    plan = plan_for(interrupted)
    with (
        progress.reporting_to(Recorder()),
        shard_store.Shards(interrupted, plan, resume=True) as opened,
    ):
        streaming.stream(
            opened,
            lambda index: streamed.block(plan, index),
            lambda: streamed.skeleton(plan),
            progress=True,
            description="Drawing counts",
        )
    expected = [("Drawing counts", 70, "cells"), "end", ("Writing x.h5ad", 230, "cells"), "end"]
    assert told == expected


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_older_result_stays_until_the_new_one_is_complete(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    other = plan_for(path, n_cells=50, seed=1)
    streamed.run(path, other)
    older = read(path)
    kept = r"could not be written: late\. 6 of 6 blocks are finished and kept .* resume=True"
    with pytest.raises(shard_store.UnfinishedError, match=kept):
        streamed.run(path, plan_for(path), before=failing_at(6, ValueError("late")))
    assert read(path) == older
    streamed.run(path, plan_for(path), resume=True)
    assert read(path) == uninterrupted(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["uninterrupted", path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_links_keep_pointing_to_where_they_do(tmp_path, ending):
    target = tmp_path / "elsewhere" / f"real.{ending}"
    target.parent.mkdir()
    link = tmp_path / f"x.{ending}"
    streamed.run(target, plan_for(link, n_cells=50))
    link.symlink_to(target)
    streamed.run(link, plan_for(link))
    assert link.is_symlink()
    assert [p.name for p in target.parent.iterdir()] == [target.name]
    assert read(target) == uninterrupted(link)


def test_scratch_of_killed_processes_is_removed_by_the_next(tmp_path):
    out = tmp_path / "x.h5ad"
    with pytest.raises(EOFError):
        streamed.in_child(streamed.take_scratch_and_die, out).result()
    left = [p.name for p in tmp_path.iterdir()]
    assert len(left) == 1
    mine = Scratch(out)
    other = Scratch(out)  # of a run at the same time
    assert sorted(tmp_path.iterdir()) == sorted([mine.folder, other.folder])
    (mine.folder / "rows").mkdir()
    del mine
    assert [*tmp_path.iterdir()] == [other.folder]
    Scratch(tmp_path / "y.h5ad")
    assert other.folder.exists()


# ---- room ------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a size that can be set."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(kilobytes: int):
        options = f"{'remount,' if folder.is_mount() else ''}size={kilobytes}k"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("mounting a file system takes mount")
        if done.returncode:
            pytest.skip(f"mounting a file system needs permission: {done.stderr.strip()}")
        return folder

    yield resize
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def attempt(path, plan) -> OSError | None:
    try:
        streamed.run(path, plan, resume=True)
    except OSError as error:
        return error
    return None


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk(small_disk, tmp_path, ending):
    sizes = {"n_cells": 3000, "n_genes": 500, "step": 500}
    expected = uninterrupted(tmp_path / f"x.{ending}", **sizes)
    finished = []
    for kilobytes in np.geomspace(50, 60_000, 30).astype(int):
        path = small_disk(kilobytes) / f"x.{ending}"
        error = attempt(path, plan_for(path, **sizes))
        if error is None:
            break
        assert error.errno == errno.ENOSPC, error
        assert "no space is left" in str(error)
        assert not path.exists()
        finished.append(len(shard_names(path)))
        assert not any(parts(path).glob("merged*"))  # it would take the room that is missing
        if finished[-1]:
            assert f"{finished[-1]} of 6 blocks are finished" in str(error)
            assert "resume=True" in str(error)
        else:
            assert "no block is finished" in str(error)
    assert finished == sorted(finished)
    assert 0 in finished
    assert 6 in finished  # so the merge failed too
    assert {1, 2, 3, 4, 5} & {*finished}
    assert read(path) == expected
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_disk_that_is_full_at_any_point_of_the_merge(small_disk, tmp_path, ending):
    sizes = {"n_cells": 3000, "n_genes": 500, "step": 500}
    path = small_disk(100_000) / f"x.{ending}"
    plan = plan_for(path, **sizes)
    with pytest.raises(EOFError):
        streamed.in_child(streamed.write_all, path, plan).result()
    used = shutil.disk_usage(path.parent).used // 1024
    for more in (4, 16, 40, 64, 90, 120, 170, 250, 350):
        small_disk(used + more)
        with pytest.raises(OSError, match=r"no space is left: .* 6 of 6 blocks are finished"):
            streamed.run(path, plan, resume=True)
        assert not path.exists()
    small_disk(100_000)
    streamed.run(path, plan, resume=True)
    assert read(path) == uninterrupted(tmp_path / path.name, **sizes)


@pytest.mark.parametrize("kilobytes", [8, 40, 100, 300])
def test_a_disk_that_is_full_for_what_is_written_from_memory(small_disk, kilobytes):
    result = streamed.whole(streamed.plan_of(3000, 500, 500))
    folder = small_disk(kilobytes)
    with pytest.raises(OSError, match=r"no space is left: .*x\.h5ad could not be written"):
        h5ad.write_h5ad(result, folder / "x.h5ad")
    with pytest.raises(OSError, match=r"no space is left: .*x\.h5 could not be written"):
        ten_x.write_10x_h5(result, folder / "x.h5")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_larger_than_allowed(tmp_path, ending):
    sizes = {"n_cells": 3000, "n_genes": 500, "step": 500}
    path = tmp_path / f"x.{ending}"
    plan = plan_for(path, **sizes)
    with pytest.raises(OSError, match=r"larger than is allowed there: .* no block is finished"):
        streamed.in_child(streamed.run_with_small_files, path, plan, 100_000).result()
    assert list(tmp_path.iterdir()) == []
    if ending == "zarr":
        return  # its files are smaller than shards
    one_shard = 60_000 + 500 * 500 * (12 if ending == "h5ad" else 1)
    with pytest.raises(
        OSError, match=r"larger than is allowed there: .* 6 of 6 blocks are finished"
    ):
        streamed.in_child(streamed.run_with_small_files, path, plan, one_shard).result()
    assert not path.exists()
    streamed.run(path, plan, resume=True)
    assert read(path) == uninterrupted(path, **sizes)


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow_with_the_number_of_cells(tmp_path, ending):
    def memory_of(n_cells: int) -> int:
        path = tmp_path / f"x{n_cells}.{ending}"
        plan = plan_for(path, n_cells=n_cells, n_genes=1000, step=500)
        child = streamed.in_child(streamed.highest_memory, streamed.stream_repeated, path, plan)
        return child.result()

    few, many = memory_of(4_000), memory_of(24_000)
    # 20,000 cells more are 240 MB of counts and means as they lie in memory.
    assert many - few < 25e6
