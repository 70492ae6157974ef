"""The folder of an interrupted run: whose it is, of what, and when it goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import streamed

from scvibridge.io import scratch
from scvibridge.io.scratch import Scratch

if TYPE_CHECKING:
    pass
from interrupted import cut_off, failing_at, parts, plan_for, shard_names


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
        with pytest.raises(FileExistsError, match="contains something else"):
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


def test_a_finished_result_leaves_the_blocks_of_another_run(tmp_path):
    """A result is replaced by one with other settings, which is interrupted."""
    path, other = tmp_path / "x.h5ad", streamed.plan_of(seed=1)
    streamed.run(path, plan_for(path))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="enough"):
        streamed.run(path, other, before=failing_at(4, ValueError("enough")))
    streamed.run_if_needed(path, plan_for(path))
    assert path.read_bytes() == before
    assert len(shard_names(path)) == 4
    rest = failing_at(-1, ValueError())
    streamed.run(path, other, resume=True, before=rest)
    assert rest.computed == [4, 5, 6]
    assert not parts(path).exists()


def test_a_finished_result_removes_its_own_blocks(tmp_path):
    path = tmp_path / "x.h5ad"
    streamed.run(path, plan_for(path))
    with pytest.raises(ValueError, match="enough"):
        streamed.run(path, plan_for(path), before=failing_at(4, ValueError("enough")))
    streamed.run_if_needed(path, plan_for(path))
    assert not parts(path).exists()
