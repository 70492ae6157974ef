"""The report: its figures against independent computations, hostile names, and odd results."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats
from scipy.spatial.distance import cdist

import scvibridge as sb
from scvibridge.cli import main
from scvibridge.diagnostics import report
from scvibridge.diagnostics.report import (
    depth_section,
    evidence,
    figures,
    markers,
    measures,
    page,
    sections,
)
from scvibridge.diagnostics.report import provenance as made_by
from scvibridge.diagnostics.report.reading import choose_cells, open_result
from scvibridge.diagnostics.report.tallies import shuffle_within, tally

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "$\\frac{1}$ & 'x' {{7*7}}",
)
pytest.importorskip("jinja2", reason="needs jinja2")
pytest.importorskip("matplotlib", reason="needs matplotlib")


class Page(HTMLParser):
    """What is on a page: its tags with attributes, its text, and its tables by caption."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path):
        super().__init__()
        self.tags, self.open, self.errors, words = [], [], [], []
        self.words = words
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.errors
        assert not self.open
        self.text = " ".join(" ".join(words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open.pop() != tag:
            self.errors.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def quietly(*arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(*arguments, progress=False, **settings)


@pytest.fixture(scope="module")
def result(trained_model):
    return quietly(
        trained_model,
        transform_batch="V3",
        labels_key="cell_type",
        condition_key="condition",
        normalized=True,
        seed=3,
    )


@pytest.fixture(scope="module")
def result_file(result, tmp_path_factory):
    path = tmp_path_factory.mktemp("result") / "corrected.h5ad"
    result.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def written(result_file, tmp_path_factory):
    """The report of the file, and the page parsed."""
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert sb.report(result_file, out, progress=False) == out
    return Page(out)


@pytest.fixture(scope="module")
def dense(result):
    """Raw and corrected counts as arrays, and which cells come from other batches."""
    others = (result.obs["batch"] != "V3").to_numpy()
    return result.layers["raw_counts"].toarray(), result.X.toarray(), others


# ---- figures ---------------------------------------------------------------------------------


def test_share_of_changed_counts_is_on_the_page(written, dense):
    raw, corrected, others = dense
    seen = (raw > 0) | (corrected > 0)
    share = (raw != corrected)[others][seen[others]].mean()
    moved = np.abs(raw - corrected)[others].sum() / raw[others].sum()
    assert f"{share:.1%}".replace("%", " %") in written.text
    assert f"{moved:.1%}".replace("%", " %") in written.text
    assert "Of the target's own nonzero entries none changed" in written.text


def test_tallies_of_small_blocks_are_those_of_the_whole(result_file, dense, monkeypatch):
    monkeypatch.setattr("scvibridge.models.cell_data.ENTRIES_PER_READ", 1000)
    opened = open_result(result_file)
    found = tally(opened, seed=0, progress=False)
    for counts, cells, sums in zip(dense[:2], found.cells, found.sums, strict=True):
        np.testing.assert_array_equal(cells.totals, counts.sum(axis=1))
        np.testing.assert_array_equal(cells.detected, (counts > 0).sum(axis=1))
        for number, name in enumerate(opened.batch.names):
            rows = (opened.adata.obs["batch"] == name).to_numpy()
            np.testing.assert_array_equal(sums.counts[number].sum(axis=0), counts[rows].sum(axis=0))
            np.testing.assert_array_equal(sums.squares[number], (counts[rows] ** 2).sum(axis=0))
    np.testing.assert_array_equal(found.shuffled.sum(axis=(0, 1)), dense[1].sum(axis=0))


def test_mean_and_variance_are_numpys(result, dense):
    opened = open_result(result)
    moments = depth_section._moments(opened, tally(opened, 0, False), 1)
    for name, (mean, variance) in moments.items():
        rows = (result.obs["batch"] == name).to_numpy()
        np.testing.assert_allclose(mean, dense[1][rows].mean(axis=0))
        np.testing.assert_allclose(variance, dense[1][rows].var(axis=0, ddof=1), atol=1e-9)


def test_folds_are_those_of_a_table_of_sums(result, dense):
    opened = open_result(result)
    folds = evidence.batch_folds(opened, tally(opened, 0, False))
    assert set(folds) == {"V1", "V2"}
    obs = result.obs
    for counts, name in ((dense[0], "before"), (dense[1], "after")):
        logs, weights, totals = [], [], []
        for rows in obs.groupby("cell_type", observed=True).indices.values():
            sides = [rows[(obs["batch"].iloc[rows] == b).to_numpy()] for b in ("V1", "V3")]
            sums = [counts[side].sum(axis=0) for side in sides]
            shares = [(s + 0.5) / (s + 0.5).sum() for s in sums]
            logs.append(np.log(shares[0]) - np.log(shares[1]))
            weights.append(min(map(len, sides)))
            totals.append(sums)
        expected = np.array(weights) @ np.array(logs) / sum(weights)
        enough = (np.sum(totals, axis=0) >= 30).all(axis=0)
        found = getattr(folds["V1"], name)
        known = ~np.isnan(found)
        assert known.sum() > 50
        assert not (known & ~enough).any()
        np.testing.assert_allclose(found[known], expected[known])


def test_spread_and_what_is_gone():
    folds = evidence.Folds(
        np.log(2) * np.array([2.0, -2.0, np.nan]),
        np.log(2) * np.array([1.0, -1.0, np.nan]),
        np.log(2) * np.array([0.5, 0.5, np.nan]),
    )
    found = evidence.spread(folds)
    assert (found.before, found.after, found.chance) == pytest.approx((2, 1, 0.5))
    assert found.n_genes == 2
    assert found.gone == pytest.approx(1 - (1 - 0.25) / (4 - 0.25))
    assert found.left == pytest.approx(np.sqrt((1 - 0.25) / (4 - 0.25)))
    assert found.slope == pytest.approx((2 - 0.25) / (4 - 0.25))
    nothing = evidence.Spread(before=0.1, after=0.1, chance=0.1, n_genes=5)
    assert np.isnan([nothing.gone, nothing.left, nothing.slope]).all()


def test_batches_are_shuffled_within_types():
    rng = np.random.default_rng(0)
    batch, types = rng.integers(3, size=500), rng.integers(4, size=500)
    shuffled = shuffle_within(batch, types, seed=1)
    before, after = (np.histogram2d(b, types, bins=(3, 4))[0] for b in (batch, shuffled))
    np.testing.assert_array_equal(before, after)
    assert 0.2 < (batch == shuffled).mean() < 0.5


def mixing_by_brute_force(counts, batch, label, k=15):
    """From a full SVD and all distances; k neighbours within each type."""
    totals = counts.sum(axis=1, keepdims=True)
    logged = np.log1p(counts * np.median(totals) / totals)
    u, s, _ = np.linalg.svd(logged - logged.mean(axis=0), full_matrices=False)
    points = (u * s)[:, :20]
    observed = expected = 0.0
    for kind in np.unique(label):
        rows = label == kind
        distances = cdist(points[rows], points[rows])
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1)[:, :k]
        own = batch[rows]
        observed += (own[nearest] == own[:, None]).mean() * len(own)
        expected += sum((own == b).sum() * ((own == b).sum() - 1) for b in np.unique(own)) / (
            len(own) - 1
        )
    return observed / expected


def test_mixing_and_silhouette_are_on_the_page(written, result, dense):
    batch, label = (result.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
    mixing = [mixing_by_brute_force(counts, batch, label) for counts in dense[:2]]
    assert f"{mixing[0]:.2f} → {mixing[1]:.2f}" in written.text
    points = measures.principal_components(result.X)
    # The definition: (b - a) / max(a, b), a within the own type, b to the nearest other one.
    distances, values = cdist(points, points), []
    for i, kind in enumerate(label):
        own = (label == kind) & (np.arange(len(label)) != i)
        a = distances[i, own].mean()
        b = min(distances[i, label == other].mean() for other in set(label) - {kind})
        values.append((b - a) / max(a, b))
    assert measures.silhouette_of_types(points, pd.Series(label)) == pytest.approx(np.mean(values))
    assert f"→ {np.mean(values):.2f}" in written.text


def test_markers_are_those_of_welch(result):
    label = result.obs["cell_type"].astype(str).reset_index(drop=True)
    found = markers.top_markers(result.X, label, per_type=2)
    assert found.types == list(label.value_counts().index)
    logged = measures.log_normalised(result.X).toarray()
    expected = []
    for kind in found.types:
        rows = (label == kind).to_numpy()
        t = stats.ttest_ind(logged[rows], logged[~rows], equal_var=False).statistic
        surest = np.argsort(-t)[:20]
        differences = logged[rows].mean(axis=0) - logged[~rows].mean(axis=0)
        expected.extend(surest[np.argsort(-differences[surest])][:2])
    assert list(found.genes) == list(dict.fromkeys(expected))


def test_binned_medians_of_poisson_genes_lie_at_one():
    rng = np.random.default_rng(4)
    counts = rng.poisson(np.exp(rng.uniform(-2, 3, 400)), (3000, 400))
    x, y = figures.binned_medians(counts.mean(axis=0), counts.var(axis=0, ddof=1))
    assert len(x) > 5
    assert (np.diff(x) > 0).all()
    np.testing.assert_allclose(y, 1, atol=0.05)


def test_choice_of_cells_does_not_depend_on_their_order():
    names = pd.Index([f"cell_{i}" for i in range(500)])
    order = np.random.default_rng(0).permutation(500)
    chosen = set(names[choose_cells(names, 60)])
    assert len(chosen) == 60
    assert set(names[order][choose_cells(names[order], 60)]) == chosen


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
    copy = tmp_path / "x.h5ad"
    result[:40].write_h5ad(copy)
    out = tmp_path / "x_report.html"
    out.write_text("older")

    def fail(*_arguments, **_settings):
        raise RuntimeError("no more")

    with monkeypatch.context() as patched:
        patched.setattr(page, "render", fail)
        with pytest.raises(RuntimeError, match="no more"):
            sb.report(copy, overwrite=True, progress=False)
    assert out.read_text() == "older"
    arguments = ["report", str(copy), "--title", "A <title> & more", "--quiet"]
    assert main.main(arguments) == 2
    assert out.read_text() == "older"
    assert main.main([*arguments, "--overwrite"]) == 0
    assert "A <title> & more" in Page(out).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.h5ad", "x_report.html"]


def hostile(result):
    """The result with names that look like HTML everywhere."""
    made = result.copy()
    genes = list(made.var_names)
    genes[:3] = HOSTILE
    made.var_names = genes
    for column in ("batch", "cell_type", "condition"):
        categories = made.obs[column].cat.categories
        names = dict(zip(categories, HOSTILE, strict=False))
        made.obs[column] = made.obs[column].cat.rename_categories(names)
        if column == "batch":
            uns = made.uns["scvibridge"]
            uns["batches"] = np.array([names[b] for b in uns["batches"]], dtype=object)
            uns["transform_batch"] = np.array([names["V3"]], dtype=object)
    made.uns["scvibridge"]["notes"] = np.array(list(HOSTILE), dtype=object)
    return made


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


# ---- doing it again --------------------------------------------------------------------------


def test_lines_of_python_and_shell_make_the_result_again(
    result, trained_model, data_file, tmp_path, monkeypatch
):
    # With the data, whose names tell which cells were held out.
    model_folder = tmp_path / "model"
    trained_model.save(str(model_folder), save_anndata=True)
    lines = {code.language: code.text for code in made_by.reproduction(open_result(result))}
    monkeypatch.chdir(tmp_path)
    python = lines["Python"].replace("MODEL_DIR", str(model_folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = eval(python.replace("DATA.h5ad", str(data_file)), {"scvibridge": sb})
    assert (again.X != result.X).nnz == 0
    assert "normalized" in again.layers
    places = {"MODEL_DIR": str(model_folder), "DATA.h5ad": str(data_file)}
    program, *words = [places.get(word, word) for word in shlex.split(lines["Shell"])]
    assert program == "scvibridge"
    assert main.main([*words, "--quiet"]) == 0
    assert (ad.read_h5ad(tmp_path / "corrected.h5ad").X != result.X).nnz == 0


def test_lines_name_samples_and_shrinkage(trained_model, model_folder, data_file, tmp_path):
    result = sb.corrected_counts(
        trained_model,
        transform_batch="V3",
        labels_key="cell_type",
        condition_key="condition",
        sample_key="batch",
        shrinkage=5,
        progress=False,
    )
    lines = {code.language: code.text for code in made_by.reproduction(open_result(result))}
    assert 'sample_key="batch"' in lines["Python"]
    assert "shrinkage = 5" in lines["R"]
    places = {"MODEL_DIR": str(model_folder), "DATA.h5ad": str(data_file)}
    places["corrected.h5ad"] = str(tmp_path / "corrected.h5ad")
    _, *words = [places.get(word, word) for word in shlex.split(lines["Shell"])]
    assert main.main([*words, "--quiet"]) == 0
    again = ad.read_h5ad(tmp_path / "corrected.h5ad")
    assert (again.X != result.X).nnz == 0
    assert again.uns["scvibridge"]["shrinkage"] == 5


def test_names_that_begin_with_a_dash_are_no_options(result):
    made = result.copy()
    made.uns["scvibridge"].update(transform_batch=np.array(["-3"], dtype=object), labels_key="--x")
    lines = {code.language: code.text for code in made_by.reproduction(open_result(made))}
    _, *words = shlex.split(lines["Shell"])
    options = main.parser().parse_args(words)
    assert options.transform_batch == ["-3"]
    assert options.labels_key == "--x"


def test_lines_carry_any_name_and_setting(result, run_r):
    made = hostile(result)
    made.uns["scvibridge"].update(
        transform_batch=np.array(HOSTILE, dtype=object),
        labels_key='it\'s \\ "x"',
        method="sample",
        effect=None,
        library_size=1e4,
        confounding="confounded, allowed by the user",
        zero_inflation=False,
    )
    lines = {code.language: code.text for code in made_by.reproduction(open_result(made))}
    calls = {}
    names = {"load": lambda *_a, **_k: None, "corrected_counts": lambda _m, **k: calls.update(k)}
    eval(lines["Python"], {"scvibridge": type("Package", (), names)})
    expected = {
        "transform_batch": list(HOSTILE), "method": "sample", "labels_key": "it's \\ \"x\"",
        "condition_key": "condition", "library_size": 10000, "allow_confounded": True,
        "zero_inflation": False, "normalized": True, "seed": 3,
    }  # fmt: skip
    assert calls == expected
    words = shlex.split(lines["Shell"])
    start = words.index("--transform-batch") + 1
    assert words[start : start + 3] == list(HOSTILE)
    assert words[words.index("--labels-key") + 1] == 'it\'s \\ "x"'
    assert {"--allow-confounded", "--no-zero-inflation", "--normalized"} <= set(words)
    code = (
        "load_scvi <- function(...) NULL\n"
        "corrected_counts <- function(model, ...) list(...)\n"
        f"found <- {lines['R']}\n"
        "writeLines(c(found$transform_batch, found$labels_key, format(found$library_size)))\n"
        "stopifnot(found$allow_confounded, !found$zero_inflation, found$seed == 3)\n"
    )
    assert run_r(code).splitlines() == [*HOSTILE, 'it\'s \\ "x"', "10000"]


# ---- odd results -----------------------------------------------------------------------------


def few(model, n=60, **settings):
    return quietly(model, indices=np.arange(n), transform_batch="V3", **settings)


def missing_labels(model):
    made = few(model, labels_key="cell_type")
    labels = made.obs["cell_type"].astype(object)
    labels.iloc[:20] = np.nan
    made.obs["cell_type"] = pd.Categorical(labels)
    return made


def one_batch(model):
    made = quietly(model, transform_batch="V3", labels_key="cell_type")
    return made[made.obs["batch"] == "V3"][:80].copy()


def without_latent_or_flags(model):
    made = few(model)
    del made.obsm["X_scvi"]
    kept = [c for c in made.obs if not c.startswith("scvibridge_")]
    return ad.AnnData(made.X, made.obs[kept], made.var[[]], made.uns, layers=made.layers)


def masked(model):
    made = few(model, labels_key="cell_type")
    supported = np.arange(made.n_obs) % 3 > 0
    made.obs["scvibridge_supported"] = supported
    made.uns["scvibridge"]["unsupported"] = "mask"
    made.X = sp.csr_matrix(made.X.toarray() * supported[:, None])
    return made


ODD = {
    "no labels": (few, "There are no cell types in this report"),
    "one batch": (one_batch, "There is one batch only"),
    "a sample": (lambda m: few(m, method="sample"), "A simulation by the model"),
    "several targets": (
        lambda m: quietly(m, indices=np.arange(60), transform_batch=["V2", "V3"]),
        "“V2”, “V3”",
    ),
    "ten cells": (lambda m: few(m, n=10, labels_key="cell_type"), "10 cells"),
    "three cells": (lambda m: few(m, n=3), "Not drawn: there are fewer than 5 cells"),
    "two genes": (lambda m: few(m, gene_list=["gene_0007", "gene_0003"]), "2 genes"),
    "missing labels": (missing_labels, "(missing)"),
    "bare": (without_latent_or_flags, "Support of the cells in the target batch is not known"),
    "masked": (masked, "20 cells without support were masked"),
    "cell effect": (lambda m: few(m, effect="cell"), "leaks the condition"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_results_have_a_report(trained_model, tmp_path, kind):
    make, expected = ODD[kind]
    out = sb.report(make(trained_model), tmp_path / "x.html", progress=False)
    parsed = Page(out)
    assert expected in parsed.text
    assert "nan" not in parsed.text.lower().split()
    assert parsed.of("img")


def test_masked_cells_are_left_out_of_comparisons(trained_model):
    made = masked(trained_model)
    opened = open_result(made)
    found = tally(opened, 0, False)
    kept = made.obs["scvibridge_supported"].to_numpy()
    assert found.sizes.sum() == kept.sum()
    assert set(opened.chosen) == set(np.flatnonzero(kept))
    raw, corrected = made.layers["raw_counts"][kept].toarray(), made.X[kept].toarray()
    changed = (raw != corrected).sum() / ((raw > 0) | (corrected > 0)).sum()
    assert evidence.changed_share(found, np.ones(60, dtype=bool)) == pytest.approx(changed)


def test_many_batches_do_not_swamp_the_legends(result, tmp_path):
    made = result.copy()
    names = np.array([f"donor {i:02d}" for i in range(50)])
    made.obs["batch"] = pd.Categorical(names[np.arange(made.n_obs) % 50])
    made.uns["scvibridge"]["batches"] = names.astype(object)
    made.uns["scvibridge"]["transform_batch"] = np.array(["donor 49"], dtype=object)
    parsed = Page(sb.report(made, tmp_path / "x.html", progress=False))
    legend = "batch: donor 49 donor 00 donor 01 donor 02 donor 03 donor 04 donor 05 donor 06 "
    assert f"{legend}donor 07 donor 08 and 40 more" in parsed.text


@pytest.mark.parametrize(
    ("confounding", "level", "words"),
    [
        ("confounded, allowed by the user", "stop", "Do not compare conditions"),
        ("partly confounded", "caution", "Usable with care"),
        ("not checked", "caution", "unless condition_key was given"),
        ("balanced", None, "a look at conditions, to be confirmed"),
    ],
)
def test_confounding_decides_the_verdict(result, confounding, level, words):
    made = result.copy()
    made.uns["scvibridge"]["confounding"] = confounding
    if confounding == "not checked":
        del made.uns["scvibridge"]["condition_key"]
    opened = open_result(made)
    found = report._evidence(opened, None, None, 0, False)
    # The model of the tests is trained for a few epochs: as if it had mixed the batches.
    well_corrected = evidence.Spread(1.0, 0.2, 0.1, 100, together=0.1)
    found = replace(found, spread=well_corrected, support=None)
    verdict = report.judge(found)
    told = [
        verdict.headline,
        *(i for block in sections.what_for(opened).blocks for i in block.items),
    ]
    assert any(words in text for text in told)
    if level is not None:
        assert verdict.level == level


def test_confounding_is_checked_where_it_was_not(result):
    made = result.copy()
    made.uns["scvibridge"]["confounding"] = "not checked"
    del made.uns["scvibridge"]["condition_key"]
    made.obs["dose"] = np.where(made.obs["batch"] == "V1", "low", "high")
    assert open_result(made).confounding == "not checked"
    assert open_result(made, condition_key="condition").confounding == "balanced"
    assert open_result(made, condition_key="dose").confounding == "confounded"


def test_correction_that_did_nothing_is_told(result):
    made = result.copy()
    made.X = made.layers["raw_counts"].copy()
    verdict = report.judge(report._evidence(open_result(made), None, None, 0, False))
    assert verdict.level == "stop"
    assert verdict.headline == "Nothing was corrected: these are the raw counts"


# ---- the model -------------------------------------------------------------------------------


def test_model_adds_what_the_result_lacks(trained_model, tmp_path):
    made = few(trained_model, n=300, labels_key="cell_type")
    without = Page(sb.report(made, tmp_path / "a.html", progress=False)).text
    assert "Normalized expression is not there" in without
    assert "The fit of the model was not looked at" in without
    model = sb.report(made, tmp_path / "b.html", model=trained_model, seed=1, progress=False)
    text = Page(model).text
    assert "decoded by the model" in text
    assert "Fit by batch, on held-out cells" in text
    assert "not looked at" not in text


def test_model_tells_the_support_that_the_result_does_not_carry(trained_model, result, tmp_path):
    made = result.copy()
    groups = made.obs.groupby(["cell_type", "batch"], observed=True)
    sizes, shares = groups.size(), 1 - groups["scvibridge_supported"].mean()
    made.obs = made.obs.drop(columns=["scvibridge_support", "scvibridge_supported"])
    asked = sb.report(
        made, tmp_path / "x.html", model=trained_model, calibration=False, progress=False
    )
    text = Page(asked).text
    for group, share in shares.items():
        assert f"{sizes[group]} ({share:.0%})" in text
    assert "Target 'V3': " in text
    everything = quietly(trained_model, indices=np.arange(40), transform_batch=["V1", "V2", "V3"])
    told = sb.report(
        everything, tmp_path / "y.html", model=trained_model, calibration=False, progress=False
    )
    assert "there is no batch but the target" in Page(told).text


def test_tables_that_are_given_are_shown(result, tmp_path):
    damage = pd.DataFrame({"measure": ["entries changed"], "value": [0.1234]})
    parsed = Page(sb.report(result, tmp_path / "x.html", damage=damage, progress=False))
    assert "entries changed 0.123" in parsed.text


# ---- refusals --------------------------------------------------------------------------------


def test_what_is_no_result_is_refused(result, simulated, trained_model, tmp_path):
    out = tmp_path / "x.html"
    with pytest.raises(ValueError, match=r"10x \.h5 file holds the corrected counts alone"):
        sb.report(tmp_path / "x.h5", out)
    with pytest.raises(ValueError, match="is no result of scvibridge"):
        sb.report(simulated, out)
    with pytest.raises(ValueError, match="a result of normalized_expression"):
        sb.report(sb.normalized_expression(trained_model, progress=False), out)
    lacking = result.copy()
    del lacking.layers["raw_counts"]
    with pytest.raises(ValueError, match="lacks layers"):
        sb.report(lacking, out)
    with pytest.raises(ValueError, match="did you mean 'cell_type'"):
        sb.report(result, out, labels_key="celltype")
    with pytest.raises(TypeError, match="must be an AnnData"):
        sb.report(3, out)
    assert not out.exists()


def test_where_no_report_can_go_is_refused(result, result_file, tmp_path, capsys):
    with pytest.raises(ValueError, match="out= is needed"):
        sb.report(result)
    with pytest.raises(ValueError, match=r"expected \.html"):
        sb.report(result_file, tmp_path / "x.pdf")
    link = tmp_path / "x.html"
    link.symlink_to(result_file)
    with pytest.raises(ValueError, match="is a file that is read here"):
        sb.report(result_file, link)
    assert main.main(["report", str(result_file), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert main.main(["report", str(result_file), "--adata", "x.h5ad"]) == 2
    assert "it belongs to --model" in capsys.readouterr().err


def test_missing_package_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_NEEDED", ("jinja2", "no_such_package"))
    with pytest.raises(ImportError, match=r"no_such_package: pip install 'scvibridge\[report\]'"):
        sb.report(result, tmp_path / "x.html")
