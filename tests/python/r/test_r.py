"""Results as objects of R, from Python: values, as R itself writes them, against Python's.

What R holds is written by R to plain files (`describe.R` below) and read by numpy and json, so that
no conversion of rpy2 or of ours stands on both sides of a comparison.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

import scvibridge as sb
from scvibridge.io import h5ad
from scvibridge.io.backed import open_anndata
from scvibridge.r import session
from scvibridge.r.session import call

pytestmark = pytest.mark.r

ODD_RESULT = Path(__file__).parents[2] / "testthat" / "odd_result.py"
specification = importlib.util.spec_from_file_location("odd_result", ODD_RESULT)
odd_result = importlib.util.module_from_spec(specification)
specification.loader.exec_module(odd_result)

# Writes every RDS in a folder, of an SCE or a Seurat object, as JSON and raw doubles.
DESCRIBE = """
suppressPackageStartupMessages(library(SingleCellExperiment))
for (file in list.files(commandArgs(trailingOnly = TRUE), "[.]rds$", full.names = TRUE)) {
object <- readRDS(file); folder <- sub("[.]rds$", "", file); dir.create(folder)
numbers <- function(x, name) {
  writeBin(as.double(as.vector(as.matrix(x))), file.path(folder, paste0(name, ".bin")))
  list(dim = dim(x), class = class(x)[1], rows = I(as.character(rownames(x))),
       columns = I(as.character(colnames(x))))
}
column <- function(x) {
  if (is.matrix(x)) return(list(class = I("matrix")))
  text <- if (is.numeric(x) && !inherits(x, "POSIXct")) sprintf("%.17g", x) else
    if (inherits(x, "POSIXct")) sprintf("%.0f", as.double(x)) else as.character(x)
  list(class = I(class(x)), levels = I(as.character(levels(x))), missing = I(is.na(x)),
       text = I(ifelse(is.na(x), "", enc2utf8(text))))
}
table <- function(x) lapply(as.list(x), column)
about <- list(class = class(object)[1])
if (about$class == "SingleCellExperiment") {
  about$assays <- sapply(assayNames(object), function(n) numbers(assay(object, n), n),
                         simplify = FALSE)
  about$reductions <- sapply(reducedDimNames(object), function(n) numbers(reducedDim(object, n), n),
                             simplify = FALSE)
  about$obs <- table(colData(object)); about$var <- table(rowData(object))
  about$settings <- metadata(object)$scvibridge
  if ("detection" %in% names(rowData(object)))
    about$detection <- numbers(rowData(object)$detection, "detection")
} else {
  suppressPackageStartupMessages(library(SeuratObject))
  for (a in Assays(object)) for (l in Layers(object[[a]]))
    about$assays[[paste(a, l)]] <- numbers(LayerData(object[[a]], l), paste(a, l))
  about$default <- DefaultAssay(object); about$version <- class(object[["RNA"]])[1]
  about$reductions <- list(scvi = numbers(Embeddings(object, "scvi"), "scvi"))
  about$key <- Key(object[["scvi"]])
  about$obs <- table(object[[]]); about$var <- table(object[["corrected"]][[]])
  about$settings <- Misc(object, "scvibridge")
}
jsonlite::write_json(about, file.path(folder, "about.json"), auto_unbox = TRUE, digits = NA,
                     null = "null")
}
"""


class Described:
    """What R wrote about an object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about = json.loads((folder / "about.json").read_text(encoding="utf-8"))

    def numbers(self, kind: str, name: str) -> np.ndarray:
        about = self.about[kind][name] if name in self.about[kind] else self.about[kind]
        flat = np.fromfile(self.folder / f"{name}.bin")
        return flat.reshape(about["dim"], order="F")


@pytest.fixture(scope="module")
def r():
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    pytest.importorskip("anndata2ri", reason="needs anndata2ri")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sb.r.to_seurat(odd_result.odd_counts())
        except ImportError as error:
            pytest.skip(f"needs R with Seurat and SingleCellExperiment: {error}")
    return sb.r


EXPRESSIONS = [(name, raw) for name in ("normalized", "denoised") for raw in (True, False)]


@pytest.fixture(scope="module")
def objects(r, run_r, tmp_path_factory) -> dict[str, Described]:
    """R objects of odd results, as one run of R describes them (its start takes seconds)."""
    folder = tmp_path_factory.mktemp("objects")
    results = {"sce": odd_result.odd_counts(), "seurat": odd_result.odd_counts()}
    for name, raw in EXPRESSIONS:
        results[f"{name}-{raw}"] = odd_result.odd_expression(f"{name}_expression", raw=raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, adata in results.items():
            as_ = "seurat" if name == "seurat" else "sce"
            r.write_rds(adata, folder / f"{name}.rds", as_=as_)
    run_r(DESCRIBE, folder, needs=("jsonlite", "SingleCellExperiment", "Seurat"))
    return {name: Described(folder / name) for name in results}


def dense(matrix) -> np.ndarray:
    return (matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)).astype(float)


# -- columns -----------------------------------------------------------------------------------

R_CLASS = {
    "factor": ["factor"],
    "ordered": ["ordered", "factor"],
    "integer levels": ["factor"],
    "logical levels": ["factor"],
    "bool": ["logical"],
    "nullable_bool": ["logical"],
    "object_bool": ["logical"],
    "int64": ["integer"],
    "int8": ["integer"],
    "uint32": ["integer"],
    "beyond_int": ["numeric"],
    "at_na_integer": ["numeric"],
    "beyond_double": ["character"],
    "nullable_int": ["integer"],
    "nullable_uint8": ["integer"],
    "double": ["numeric"],
    "float32": ["numeric"],
    "nullable_float": ["numeric"],
    "text": ["character"],
    "text_none": ["character"],
    "text_nan": ["character"],
    "text_nullable": ["character"],
    "all_missing": ["logical"],
    "mixed": ["character"],
    "time": ["POSIXct", "POSIXt"],
    "row.names": ["numeric"],
    "check.names": ["numeric"],
    "odd name-1 (µ)": ["numeric"],
    "_scored": ["numeric"],
}


def spelled_in_r(value: object) -> str:
    """Return a value as R spells it."""
    return str(value).upper() if isinstance(value, bool) else str(value)


def check_column(found: dict, expected: pd.Series) -> None:
    """Compare a column as R wrote it with pandas' own."""
    name = expected.name
    assert found["class"] == R_CLASS.get(name, found["class"]), name
    missing = expected.isna().to_numpy()
    assert found["missing"] == list(missing), name
    text = [t for t, gone in zip(found["text"], missing, strict=True) if not gone]
    present = list(expected[~missing])
    if found["class"] == ["logical"]:
        assert text == [str(bool(v)).upper() for v in present], name
    elif found["class"] == ["POSIXct", "POSIXt"]:
        assert [int(t) for t in text] == [int(v.timestamp()) for v in present], name
    elif found["class"][0] in ("numeric", "integer"):
        assert [float(t) for t in text] == [float(v) for v in present], name
    else:
        assert text == [spelled_in_r(v) for v in present], name
    if isinstance(expected.dtype, pd.CategoricalDtype):
        assert found["levels"] == [spelled_in_r(c) for c in expected.cat.categories], name


def check_table(found: dict, expected: pd.DataFrame) -> None:
    assert list(found)[: expected.shape[1]] == list(expected.columns)
    for name in expected.columns:
        check_column(found[name], expected[name])


def test_every_odd_column_has_an_expectation():
    assert list(R_CLASS) == list(odd_result.odd_columns())


# -- SingleCellExperiment ----------------------------------------------------------------------


def test_sce_of_counts_holds_the_values_of_python(objects):
    adata = odd_result.odd_counts()
    sce = objects["sce"]

    assert list(sce.about["assays"]) == ["counts", "corrected", "normalized"]
    for name, expected in {
        "counts": adata.layers["raw_counts"],
        "corrected": adata.X,
        "normalized": adata.layers["normalized"],
    }.items():
        np.testing.assert_array_equal(sce.numbers("assays", name), dense(expected).T)
        assert sce.about["assays"][name]["rows"] == list(adata.var_names)
        assert sce.about["assays"][name]["columns"] == list(adata.obs_names)
    assert sce.about["assays"]["corrected"]["class"] == "dgCMatrix"
    assert sce.about["assays"]["normalized"]["class"] == "matrix"

    np.testing.assert_array_equal(sce.numbers("reductions", "scvi"), adata.obsm["X_scvi"])
    np.testing.assert_array_equal(sce.numbers("reductions", "UMAP"), adata.obsm["X_umap"])
    check_table(sce.about["obs"], adata.obs)
    check_table(sce.about["var"], adata.var)
    np.testing.assert_array_equal(
        sce.numbers("detection", "detection"), adata.varm["detection"].to_numpy()
    )
    assert sce.about["detection"]["columns"] == ["V2", "V3"]


def test_settings_arrive_in_the_metadata(objects):
    adata = odd_result.odd_counts()
    expected = {**adata.uns["scvibridge"], "notes": []}
    assert objects["sce"].about["settings"] == expected
    assert objects["seurat"].about["settings"] == expected


@pytest.mark.parametrize(("name", "raw"), EXPRESSIONS)
def test_sce_of_an_expression(objects, name, raw):
    adata = odd_result.odd_expression(f"{name}_expression", raw=raw)
    sce = objects[f"{name}-{raw}"]
    assert list(sce.about["assays"]) == (["counts", name] if raw else [name])
    np.testing.assert_array_equal(sce.numbers("assays", name), adata.X.T)
    check_table(sce.about["obs"], adata.obs)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", "float32", "float64", "bool"])
def test_numbers_of_every_type_become_doubles(r, dtype):
    counts = np.array([[0, 1, 0], [3, 0, 2], [0, 0, 0], [1, 5, 70_000]])
    adata = AnnData(sp.csr_matrix(counts.astype(dtype)))
    adata.layers["normalized"] = (counts / 7).astype("float32") if "f" in dtype else counts
    adata.uns["scvibridge"] = {"kind": "corrected_counts"}
    sce = r.to_sce(adata)
    for name, expected in {"corrected": adata.X, "normalized": adata.layers["normalized"]}.items():
        found = in_r("function(x, n) as.matrix(SummarizedExperiment::assay(x, n))", sce, name)
        np.testing.assert_array_equal(np.array(found), dense(expected).T)
        assert in_r("function(x, n) typeof(as.matrix(assay(x, n)))", sce, name)[0] == "double"


def test_a_matrix_without_nonzeros_and_one_without_cells(r):
    for n_cells in (3, 0):
        adata = AnnData(sp.csr_matrix((n_cells, 2), dtype="int32"))
        adata.uns["scvibridge"] = {"kind": "corrected_counts"}
        sce = r.to_sce(adata)
        assert list(in_r("dim", sce)) == [2, n_cells]
        assert in_r("function(x) validObject(assay(x))", sce)[0]


def test_names_arrive_as_they_are(r):
    for last in ("", "two\nlines"):
        genes = ["", "β2m", 'a"b\\n', " spaced ", last]
        adata = AnnData(sp.csr_matrix((1, len(genes)), dtype="int32"))
        adata.var_names = genes
        adata.uns["scvibridge"] = {"kind": "corrected_counts"}
        assert list(in_r("rownames", r.to_sce(adata))) == genes


def test_the_matrices_of_a_file_are_handed_over(r, tmp_path):
    adata = odd_result.odd_counts()
    adata.obs = adata.obs[["factor", "double"]].copy()
    path = h5ad.write_h5ad(adata, tmp_path / "x.h5ad")
    in_memory, on_disk = r.to_sce(h5ad.read_anndata(path)), r.to_sce(open_anndata(path))
    assert in_r("identical", in_memory, on_disk)[0]


def in_r(function: str, *arguments: object):
    from rpy2 import robjects

    code = f"suppressPackageStartupMessages(library(SummarizedExperiment)); {function}"
    return robjects.r(code)(*arguments)


def test_an_r_that_starts_here_collects_garbage_seldom(monkeypatch):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    # Without check_available(), which loads packages too: that takes seconds.
    code = (
        "import os\nfrom scvibridge.r import session\n"
        "session.rinterface()\n"
        "from rpy2 import robjects\n"
        "trigger = robjects.r('gc()[2, 4]')[0]\n"
        "print(trigger, *(name in os.environ for name in session.R_HEAP))\n"
    )
    for name in session.R_HEAP:
        monkeypatch.delenv(name, raising=False)
    trigger, *left_behind = run_python(code).split()
    assert float(trigger) == pytest.approx(512)
    assert left_behind == ["False", "False"]
    assert float(run_python(code, R_VSIZE="300M").split()[0]) == pytest.approx(300)


def test_plain_columns_and_matrices_agree_with_anndata2ri(r, run_r, tmp_path):
    """Where anndata2ri's own conversion of an AnnData is right, ours is the same."""
    import anndata2ri
    from rpy2 import robjects

    adata = odd_result.odd_counts(normalized=False)
    adata.obs = adata.obs[
        ["factor", "ordered", "nullable_bool", "nullable_int", "text_none"]
    ].copy()
    adata.obs["float"] = np.arange(adata.n_obs) / 7
    del adata.uns["scvibridge"]["seed"]  # beyond 2^31, which rpy2 refuses
    with (robjects.default_converter + anndata2ri.converter).context() as context:
        theirs = context.py2rpy(adata)
    robjects.r["saveRDS"](theirs, str(tmp_path / "theirs.rds"))
    r.write_rds(adata, tmp_path / "ours.rds")
    code = """
    suppressPackageStartupMessages(library(SingleCellExperiment))
    arguments <- commandArgs(trailingOnly = TRUE)
    ours <- readRDS(arguments[1]); theirs <- readRDS(arguments[2])
    stopifnot(
      identical(as.matrix(assay(ours, "corrected")), as.matrix(assay(theirs, "X"))),
      identical(as.matrix(assay(ours, "counts")), as.matrix(assay(theirs, "raw_counts"))),
      identical(unname(reducedDim(ours, "UMAP")), unname(reducedDim(theirs, "UMAP"))),
      identical(names(colData(ours)), names(colData(theirs))),
      all(mapply(function(a, b) identical(a, unname(b)), colData(ours), colData(theirs)))
    )
    cat("same")
    """
    assert run_r(code, tmp_path / "ours.rds", tmp_path / "theirs.rds") == "same"


# -- Seurat ------------------------------------------------------------------------------------

SEURAT_GENES = ["a-b.1", "a-b", "HLA-A", "MT-CO1", "A-B", "β2m", "GENE"]


def test_seurat_holds_the_values_of_python(objects):
    adata = odd_result.odd_counts()
    seurat = objects["seurat"]
    counts = dense(adata.X)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)

    expected = {
        "RNA counts": dense(adata.layers["raw_counts"]),
        "corrected counts": counts,
        "corrected data": np.log1p(shares * 1e4),
        "scvi_normalized data": np.log1p(adata.layers["normalized"].astype(float)),
    }
    assert list(seurat.about["assays"]) == list(expected)
    for name, values in expected.items():
        exact = not name.endswith("data")
        found = seurat.numbers("assays", name)
        np.testing.assert_allclose(found, values.T, rtol=0 if exact else 1e-14, err_msg=name)
        assert seurat.about["assays"][name]["rows"] == SEURAT_GENES
        assert seurat.about["assays"][name]["columns"] == list(adata.obs_names)
    assert seurat.about["default"] == "RNA"
    assert seurat.about["version"] == "Assay5"

    np.testing.assert_array_equal(seurat.numbers("reductions", "scvi"), adata.obsm["X_scvi"])
    assert seurat.about["key"] == "scvi_"
    assert seurat.about["reductions"]["scvi"]["columns"] == ["scvi_1", "scvi_2", "scvi_3"]
    for name in adata.obs.columns:
        check_column(seurat.about["obs"][name], adata.obs[name])
    for name in adata.var.columns:
        check_column(seurat.about["var"][name], adata.var[name])
    assert seurat.about["var"]["original_name"]["text"] == list(adata.var_names)


def test_renamed_genes_are_announced_once(r):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r.to_seurat(odd_result.odd_counts())
    told = [str(w.message) for w in caught if "feature names" in str(w.message)]
    assert len(told) == 1
    assert "3 renamed" in told[0]
    assert "'MT_CO1' to 'MT-CO1'" in told[0]
    assert "the name was taken: 'a_b' to 'a-b.1'" in told[0]
    assert Path(caught[0].filename) == Path(__file__)


def test_seurat_from_an_sce_is_the_same(r, tmp_path, run_r):
    adata = odd_result.odd_counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r.write_rds(adata, tmp_path / "direct.rds", as_="seurat")
        from_sce = r.sce_to_seurat(r.to_sce(adata))
        call("saveRDS", from_sce, str(tmp_path / "from_sce.rds"))
    code = "a <- commandArgs(TRUE); cat(identical(readRDS(a[1]), readRDS(a[2])))"
    assert run_r(code, tmp_path / "direct.rds", tmp_path / "from_sce.rds") == "TRUE"


def test_an_expression_without_raw_counts_makes_a_seurat_object(r, run_r, tmp_path):
    adata = odd_result.odd_expression("denoised_expression", raw=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        r.write_rds(adata, tmp_path / "denoised.rds", as_="seurat")
    assert len(caught) == 1  # the renaming, and nothing about missing counts
    code = """
    suppressPackageStartupMessages(library(SeuratObject))
    object <- readRDS(commandArgs(TRUE)[1])
    cat(DefaultAssay(object), Layers(object), sum(LayerData(object, "data")))
    """
    assay, layer, total = run_r(code, tmp_path / "denoised.rds", needs=("Seurat",)).split()
    assert (assay, layer) == ("scvi_denoised", "data")
    assert float(total) == pytest.approx(np.log1p(adata.X.astype(float)).sum(), rel=1e-6)


# -- errors ------------------------------------------------------------------------------------


def test_errors_of_r_arrive_with_their_message_alone(r):
    from rpy2 import robjects

    with pytest.raises(ValueError, match=r"^sce must be a SingleCellExperiment, not integer$"):
        r.sce_to_seurat(robjects.IntVector([1]))


@pytest.mark.usefixtures("r")
def test_a_missing_r_package_is_named_with_its_remedy():
    from rpy2 import robjects

    with pytest.raises(
        ImportError, match=r"^counting requires the R package absentpackage; .*install"
    ):
        call("check_requires", robjects.StrVector(["absentpackage"]), "counting")


def test_without_rpy2_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['rpy2'] = None\n"
        "import scvibridge as sb, odd_result\n"
        "try: sb.r.to_sce(odd_result.odd_counts())\n"
        "except ImportError as error: print(error)\n"
    )
    assert 'pip install "scvibridge[r]"' in run_python(code)


def test_without_r_the_error_says_so():
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    code = (
        "import scvibridge as sb, odd_result\n"
        "try: sb.r.to_sce(odd_result.odd_counts())\n"
        "except ImportError as error: print('refused:', error)\n"
    )
    # rpy2 looks for R by the command on the path, or by R_HOME.
    nowhere = {"PATH": "/nowhere", "R_HOME": "/nowhere", "LD_LIBRARY_PATH": ""}
    assert "refused: scvibridge.r needs" in run_python(code, **nowhere)


def run_python(code: str, **environment: str) -> str:
    folders = [str(ODD_RESULT.parent), str(Path(sb.__file__).parents[1])]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_scvibridge_starts_no_r():
    code = "import sys, scvibridge; print('rpy2' in sys.modules, 'anndata2ri' in sys.modules)"
    assert run_python(code).split() == ["False", "False"]


def test_no_converter_is_activated_for_everybody(r):
    from rpy2.robjects import conversion

    before = conversion.get_conversion()
    r.to_sce(odd_result.odd_counts())
    assert conversion.get_conversion() is before
    with pytest.raises(NotImplementedError):
        conversion.get_conversion().py2rpy(np.arange(3))


# -- files -------------------------------------------------------------------------------------


def test_what_an_object_needs_can_be_checked_beforehand(r):
    r.check_available("sce")
    r.check_available("seurat")
    with pytest.raises(ValueError, match="as_ must be 'sce' or 'seurat', got 'rds'"):
        r.check_available("rds")


def test_write_rds_refuses_before_any_work(tmp_path):
    adata = odd_result.odd_counts()
    with pytest.raises(ValueError, match=r"as_ must be 'sce' or 'seurat', got 'Seurat'"):
        sb.r.write_rds(adata, tmp_path / "x.rds", as_="Seurat")
    with pytest.raises(ValueError, match=r"expected \.rds"):
        sb.r.write_rds(adata, tmp_path / "x.h5ad")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sb.r.write_rds(adata, tmp_path / "absent" / "x.rds")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_older_file_as_it_was(r, tmp_path):
    path = tmp_path / "x.rds"
    path.write_bytes(b"older")
    adata = odd_result.odd_counts()
    adata.obs["ambiguous"] = pd.Categorical([1, "1"] * (adata.n_obs // 2))
    with pytest.raises(ValueError, match="'ambiguous'"):
        r.write_rds(adata, path, overwrite=True)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_write_rds_returns_the_path_and_leaves_nothing_else(r, tmp_path):
    path = r.write_rds(odd_result.odd_counts(), str(tmp_path / "x.rds"))
    assert path == tmp_path / "x.rds"
    assert list(tmp_path.iterdir()) == [path]
