"""Results in blocks: whatever ends a run, a resumed one gives the very same file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import streamed

from scvibridge._utils import progress
from scvibridge.io import h5ad, parts_folder, shard_store, streaming, ten_x

if TYPE_CHECKING:
    pass
from interrupted import failing_at, parts, plan_for, read, shard_names, uninterrupted

ENDINGS = ["h5ad", "zarr", "h5"]


def six_blocks(ending):
    """Sizes of a result whose merge takes some time, and some hundreds of kilobytes at least."""
    n_cells = 3000 if ending == "h5" else 1500  # with a single matrix
    return {"n_cells": n_cells, "n_genes": 500, "step": n_cells // 6}


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

    with pytest.raises(
        FileExistsError, match="3 of 6 blocks finished: use resume=True to continue"
    ) as e:
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
    sizes = six_blocks(ending)
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


# ---- other processes -------------------------------------------------------------------------


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
            description="Computing counts",
        )
    expected = [("Computing counts", 70, "cells"), "end", ("Writing x.h5ad", 230, "cells"), "end"]
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


def test_folders_that_cannot_be_flushed(tmp_path, monkeypatch):
    """As on some shares: the result is in its place by then."""
    flush = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(handle)

    path = tmp_path / "x.h5ad"
    expected = uninterrupted(path)
    monkeypatch.setattr(os, "fsync", fsync)
    streamed.run(path, plan_for(path))
    assert read(path) == expected
    assert not parts(path).exists()


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
    sizes = six_blocks(ending)
    expected = uninterrupted(tmp_path / f"x.{ending}", **sizes)
    finished = []
    for kilobytes in np.geomspace(25, 60_000, 33).astype(int):
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
    sizes = six_blocks(ending)
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
    with pytest.raises(
        OSError, match=r"larger than the file system allows: .* no block is finished"
    ):
        streamed.in_child(streamed.run_with_small_files, path, plan, 100_000).result()
    assert list(tmp_path.iterdir()) == []
    if ending == "zarr":
        return  # its files are smaller than shards
    one_shard = 60_000 + 500 * 500 * (12 if ending == "h5ad" else 1)
    with pytest.raises(
        OSError, match=r"larger than the file system allows: .* 6 of 6 blocks are finished"
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

    # As they lie in memory, these are 80 MB of counts and means, or 40 MB of X alone.
    n_more = 20_000 if ending == "h5" else 10_000
    few, many = memory_of(4_000), memory_of(4_000 + n_more)
    assert many - few < 25e6
