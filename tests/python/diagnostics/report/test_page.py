"""The page of a report: complete, on its own, safe whatever the names; and where it may go."""

from __future__ import annotations

import base64
import copy
import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
from report_page import HOSTILE, Page, hostile

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report import page

pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")


# ---- the page --------------------------------------------------------------------------------


def test_page_holds_all_sections_and_pictures(written):
    headings = [attributes["id"] for attributes in written.of("section")]
    assert headings == [
        "verdict", "done", "support", "cells", "genes", "depth", "calibration", "markers", "uses",
    ]  # fmt: skip
    assert [a["href"][1:] for a in written.of("a")] == headings[1:]
    pictures = written.of("img")
    assert len(pictures) == 11
    for picture in pictures:
        content = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        # Twice the pixels of the page.
        assert width == pytest.approx(2 * int(picture["width"]), abs=2)
        assert height == pytest.approx(2 * int(picture["height"]), abs=2)
        assert len(picture["alt"]) > 20


def test_page_loads_nothing_and_runs_nothing(written):
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {
        t for t, _ in written.tags
    }
    attributes = [(name, value) for _, found in written.tags for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith(("data:", "#")) for n, value in attributes if n in ("src", "href"))
    policy = next(a["content"] for a in written.of("meta") if "http-equiv" in a)
    style = re.search(r"<style>(.*?)</style>", written.source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "url(" not in style
    assert "@import" not in style


def test_tables_have_captions_and_headings(written):
    tables = len(written.of("table"))
    assert tables >= 6
    assert len(written.of("caption")) == tables
    assert all("scope" in attributes for attributes in written.of("th"))
    assert ("html", {"lang": "en"}) in written.tags


def test_same_result_gives_the_same_file(result_file, written, tmp_path):
    again = sb.report(str(result_file), tmp_path / "again.html", progress=False)
    assert again.read_text(encoding="utf-8") == written.source


def test_default_name_and_older_file(result, tmp_path, monkeypatch):
    some = tmp_path / "x.h5ad"
    result[:40].write_h5ad(some)
    out = tmp_path / "x_report.html"
    out.write_text("older")

    def fail(*_arguments, **_settings):
        raise RuntimeError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(page, "render", fail)
        with pytest.raises(RuntimeError, match="no more"):
            sb.report(some, overwrite=True, progress=False)
    assert out.read_text() == "older"
    arguments = ["report", str(some), "--title", "A <title> & more", "--quiet"]
    assert main.main(arguments) == 2
    assert out.read_text() == "older"
    assert main.main([*arguments, "--overwrite"]) == 0
    assert "A <title> & more" in Page(out).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5ad", "x_report.html"]


@pytest.fixture(scope="module")
def hostile_page(result, tmp_path_factory):
    return sb.report(
        hostile(result), tmp_path_factory.mktemp("hostile") / "x.html", title=HOSTILE[0],
        progress=False,
    )  # fmt: skip


def test_hostile_names_stay_text(hostile_page):
    parsed = Page(hostile_page)
    assert [tag for tag, _ in parsed.tags if tag in ("script", "img")] == ["img"] * 11
    assert {name for a in parsed.of("img") for name in a} == {"src", "alt", "width", "height"}
    classes = {name for a in parsed.of("td") for name in a.get("class", "").split()}
    assert classes <= {
        "number", "name", "few", "none", "heat0", "heat1", "heat2", "heat3", "heat4",
    }  # fmt: skip
    for name in HOSTILE:
        assert parsed.text.count(name) >= 5
    # What the braces of a template would make of it.
    assert "49" not in parsed.text.split("'x'")[1][:8]


# ---- odd results -----------------------------------------------------------------------------


def test_many_batches_do_not_swamp_the_legends(result, tmp_path):
    made = result.copy()
    names = np.array([f"donor {i:02d}" for i in range(50)])
    made.obs["batch"] = pd.Categorical(names[np.arange(made.n_obs) % 50])
    made.uns["scvibridge"]["batches"] = names.astype(object)
    made.uns["scvibridge"]["transform_batch"] = np.array(["donor 49"], dtype=object)
    parsed = Page(sb.report(made, tmp_path / "x.html", progress=False))
    legend = "batch: donor 49 donor 00 donor 01 donor 02 donor 03 donor 04 donor 05 donor 06 "
    assert f"{legend}donor 07 donor 08 and 40 more" in parsed.text


# ---- the model -------------------------------------------------------------------------------


def test_tables_that_are_given_are_shown(result, tmp_path):
    damage = pd.DataFrame({"measure": ["entries changed"], "value": [0.1234]})
    parsed = Page(sb.report(result, tmp_path / "x.html", damage=damage, progress=False))
    assert "entries changed 0.123" in parsed.text


# ---- refusals --------------------------------------------------------------------------------


def test_what_is_no_result_is_refused(result, simulated, trained_model, tmp_path):
    out = tmp_path / "x.html"
    with pytest.raises(ValueError, match=r"10x \.h5 file has only the corrected counts"):
        sb.report(tmp_path / "x.h5", out)
    with pytest.raises(ValueError, match="is not a result of scvibridge"):
        sb.report(simulated, out)
    with pytest.raises(ValueError, match="a result of normalized_expression"):
        sb.report(sb.normalized_expression(trained_model, progress=False), out)
    lacking = result.copy()
    del lacking.layers["raw_counts"]
    with pytest.raises(ValueError, match="lacks layers"):
        sb.report(lacking, out)
    with pytest.raises(ValueError, match="did you mean 'cell_type'"):
        sb.report(result, out, labels_key="celltype")
    with pytest.raises(ValueError, match="labels_key='batch' is the batch: pass the column"):
        sb.report(result, out, labels_key="batch")
    with pytest.raises(TypeError, match="must be an AnnData"):
        sb.report(3, out)
    assert not out.exists()


def test_parts_of_another_model_are_refused(result, trained_model, tmp_path):
    other = copy.deepcopy(trained_model)
    with torch.no_grad():
        next(other.module.decoder.parameters()).add_(0.01)
    support = sb.batch_support(other, transform_batch="V3", progress=False)
    calibration = sb.calibration(other, n_references=5, progress=False)
    for part in ({"model": other}, {"support": support}, {"calibration": calibration}):
        (name,) = part
        other_model = "model=" if name == "model" else f"that of {name}="
        with pytest.raises(ValueError, match=f"computed with another model than {other_model}"):
            sb.report(result, tmp_path / "x.html", **part)
    assert not list(tmp_path.iterdir())


def test_where_no_report_can_go_is_refused(result, result_file, tmp_path, capsys):
    with pytest.raises(ValueError, match="pass out="):
        sb.report(result)
    with pytest.raises(ValueError, match=r"expected \.html"):
        sb.report(result_file, tmp_path / "x.pdf")
    link = tmp_path / "x.html"
    link.symlink_to(result_file)
    with pytest.raises(ValueError, match="is a file that is being read"):
        sb.report(result_file, link)
    assert main.main(["report", str(result_file), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main.main(["report", str(result_file), "--adata", "x.h5ad"]) == 2
    assert "it requires --model" in capsys.readouterr().err


def test_missing_package_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_NEEDED", ("jinja2", "no_such_package"))
    with pytest.raises(ImportError, match=r"no_such_package: pip install 'scvibridge\[report\]'"):
        sb.report(result, tmp_path / "x.html")
