"""Objects of R become an AnnData in Python, with the values that as_anndata() gives in R.

R makes each object once, writes it by saveRDS(), and pickles what as_anndata() makes of it: one
object goes both ways, by reticulate and by rpy2.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from contextlib import ExitStack
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scvibridge as sb

pytestmark = pytest.mark.r

HELPER = Path(__file__).parents[2] / "testthat" / "helper.R"
OBJECTS = (
    "matrix",
    "thirds",
    "dense",
    "one",
    "empty",
    "experiment",
    "summarized",
    "seurat",
    "split",
)
WHERE = {
    "experiment": [{"assay": "corrected"}, {"assay": 2}],
    "seurat": [{"layer": "data"}, {"assay": "RNA"}],
}

MAKE = """
suppressPackageStartupMessages(library(scvibridge))
arguments <- commandArgs(trailingOnly = TRUE)
source(arguments[1])
folder <- arguments[2]
pickle <- reticulate::import("pickle", convert = FALSE)
builtins <- reticulate::import_builtins(convert = FALSE)
keep <- function(name, x, ...) {
  told <- character()
  adata <- withCallingHandlers(as_anndata(x, ...), warning = function(w) {
    told <<- c(told, conditionMessage(w)); invokeRestart("muffleWarning")
  })
  file <- builtins$open(file.path(folder, paste0(name, ".pickle")), "wb")
  pickle$dump(reticulate::tuple(adata, as.list(told)), file)
  file$close()
}
object <- function(name, x) {
  saveRDS(x, file.path(folder, paste0(name, ".rds")))
  keep(name, x)
}

counts <- counts_of_r()
columns <- columns_of_r(colnames(counts))
columns$day <- as.Date("2020-02-28") + seq_len(24)
object("matrix", counts)
object("thirds", counts / 3)
object("dense", as.matrix(counts))
one <- counts[1, 1, drop = FALSE]
one[1, 1] <- 7
object("one", one)
object("empty", 0 * counts)

sce <- small_sce()
SummarizedExperiment::colData(sce) <- cbind(
  SummarizedExperiment::colData(sce), S4Vectors::DataFrame(columns_of_r(colnames(sce)))
)
sce$rle <- S4Vectors::Rle(rep(c("x", "y"), each = 30))
latin <- c("caf\\u00e9", "two\\nlines", NA)
sce$parts <- lapply(seq_len(60), seq_len)
sce$odd_text <- rep(iconv(latin, "UTF-8", "latin1"), 20)
SingleCellExperiment::reducedDim(sce, "PCA") <- matrix(seq_len(120) / 7, 60)
SummarizedExperiment::rowData(sce)$detection <- matrix(1:80, 40)
object("experiment", sce)
keep("experiment-0", sce, assay = "corrected")
keep("experiment-1", sce, assay = 2)
object("summarized", SummarizedExperiment::SummarizedExperiment(
  list(counts = counts), colData = S4Vectors::DataFrame(columns_of_r(colnames(counts)))
))

seurat <- SeuratObject::CreateSeuratObject(counts, meta.data = columns)
seurat <- Seurat::NormalizeData(seurat, verbose = FALSE)
embeddings <- matrix(seq_len(48) / 7, 24, dimnames = list(colnames(counts), c("p_1", "p_2")))
seurat[["umap"]] <- SeuratObject::CreateDimReducObject(embeddings, key = "p_", assay = "RNA")
seurat[["scvi"]] <- SeuratObject::CreateDimReducObject(-embeddings, key = "s_", assay = "RNA")
object("seurat", seurat)
keep("seurat-0", seurat, layer = "data")
keep("seurat-1", seurat, assay = "RNA")
seurat[["RNA"]] <- split(seurat[["RNA"]], f = rep(c("x", "y", "z"), 8))
object("split", seurat)
"""


@pytest.fixture(scope="module")
def folder(run_r, tmp_path_factory) -> Path:
    """A folder with each object as an RDS, and as R's as_anndata() gives it (a pickle)."""
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    path = tmp_path_factory.mktemp("objects")
    run_r(MAKE, HELPER, path, needs=("scvibridge", "SingleCellExperiment", "Seurat"))
    return path


def given_in_r(folder: Path, name: str) -> tuple[ad.AnnData, list[str]]:
    return pickle.loads((folder / f"{name}.pickle").read_bytes())


def read(path: Path, **where: object) -> tuple[ad.AnnData, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adata = sb.r.read_rds(path, **where)
    # Those of other kinds are between the packages below.
    told = [w for w in caught if w.category is UserWarning]
    assert all(Path(w.filename) == Path(__file__) for w in told)
    return adata, [str(w.message) for w in told]


def assert_same(found: ad.AnnData, expected: ad.AnnData) -> None:
    """Compare all values and types, exactly."""
    for name in ("data", "indices", "indptr"):
        ours, theirs = getattr(found.X, name), getattr(expected.X, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert type(found.X) is type(expected.X) is sp.csr_matrix
    pd.testing.assert_frame_equal(found.obs, expected.obs, check_exact=True)
    pd.testing.assert_frame_equal(found.var, expected.var, check_exact=True)
    for name in ("obsm", "varm"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert list(ours) == list(theirs)
        for key in theirs:
            assert ours[key].dtype == theirs[key].dtype
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


# -- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_is_the_same_from_python_as_in_r(folder, name):
    expected, told = given_in_r(folder, name)
    found, warned = read(folder / f"{name}.rds")
    assert_same(found, expected)
    assert warned == told


@pytest.mark.parametrize(
    ("name", "number", "where"),
    [(name, i, where) for name, choices in WHERE.items() for i, where in enumerate(choices)],
)
def test_assays_and_layers_are_chosen_as_in_r(folder, name, number, where):
    expected, _ = given_in_r(folder, f"{name}-{number}")
    assert_same(read(folder / f"{name}.rds", **where)[0], expected)


def test_columns_and_reductions_are_what_the_object_holds(folder):
    """By hand, as tests/testthat/helper.R has them: not by as_anndata()."""
    adata, warned = read(folder / "seurat.rds")
    obs = adata.obs
    assert adata.shape == (24, 30)
    assert list(adata.obs_names[:2]) == ["cell1", "cell2"]
    assert list(obs["donor"].cat.categories) == ["d2", "d1", "unused"]
    assert not obs["donor"].cat.ordered
    assert list(obs["donor"].cat.codes[:3]) == [0, 1, -1]
    assert obs["dose"].cat.ordered
    assert obs["flag"].dtype == bool
    assert [str(v) for v in obs["flag_or_na"][:3]] == ["True", "<NA>", "False"]
    assert [str(v) for v in obs["whole_or_na"][:3]] == ["1", "<NA>", "3"]
    assert np.isnan(obs["real"].iloc[2])
    np.testing.assert_array_equal(obs["real"].drop("cell3"), np.delete(np.arange(1, 25), 2) / 7)
    assert list(obs["text"][:3]) == ["a", "é", ""]
    assert obs["text"].isna().tolist() == [i == 3 for i in range(24)]
    assert list(obs["day"][:2]) == ["2020-02-29", "2020-03-01"]
    embeddings = np.arange(1, 49).reshape(2, 24).T / 7
    np.testing.assert_array_equal(adata.obsm["X_umap"], embeddings)
    np.testing.assert_array_equal(adata.obsm["X_scvi"], -embeddings)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(np.ravel(adata.X.sum(axis=1)), obs["nCount_RNA"])
    assert warned == []


def test_what_python_has_nothing_like_is_told_once(folder):
    adata, warned = read(folder / "experiment.rds")
    assert "parts" not in adata.obs
    assert len(warned) == 1
    assert warned[0].endswith("left out: parts")


def test_text_of_another_encoding_and_of_several_lines(folder):
    odd = read(folder / "experiment.rds")[0].obs["odd_text"]
    assert odd.iloc[:2].tolist() == ["café", "two\nlines"]
    assert pd.isna(odd.iloc[2])


def test_what_went_to_r_comes_back(simulated):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    adata = sb.r.from_r(sb.r.to_sce(as_result(simulated)), assay="corrected")
    np.testing.assert_array_equal(adata.X.toarray(), simulated.X.toarray())
    pd.testing.assert_frame_equal(adata.obs, simulated.obs, check_exact=True, check_dtype=False)
    np.testing.assert_array_equal(adata.varm["batch_effect"], simulated.varm["batch_effect"])


def as_result(adata: ad.AnnData) -> ad.AnnData:
    result = adata.copy()
    result.uns = {"scvibridge": {"kind": "corrected_counts"}}
    result.layers.clear()
    return result


def test_the_result_is_in_memory_of_its_own(folder):
    """What is changed in Python does not change R's object, which may be in use there."""
    from rpy2 import robjects

    counts = robjects.r["readRDS"](str(folder / "thirds.rds"))
    first = sb.r.from_r(counts)
    expected = first.X.copy()
    first.X.data[:] = -1
    first.X.indices[:] = 0
    again = sb.r.from_r(counts)
    np.testing.assert_array_equal(again.X.toarray(), expected.toarray())


# -- R and Python stay as they were ------------------------------------------------------------


def test_conversions_are_those_of_before_whatever_they_were(folder):
    import anndata2ri
    from rpy2 import robjects
    from rpy2.robjects import conversion, numpy2ri, pandas2ri

    counts = robjects.r["readRDS"](str(folder / "seurat.rds"))
    expected, _ = given_in_r(folder, "seurat")
    theirs = (
        None,
        robjects.default_converter + numpy2ri.converter + pandas2ri.converter,
        robjects.default_converter + anndata2ri.converter,
    )
    for converter in theirs:
        with ExitStack() as stack:
            if converter is not None:
                stack.enter_context(converter.context())
            before = conversion.get_conversion()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert_same(sb.r.from_r(counts), expected)
                assert_same(sb.r.read_rds(folder / "seurat.rds"), expected)
            with pytest.raises(ValueError, match="no assay"):
                sb.r.from_r(counts, assay="absent")
            assert conversion.get_conversion() is before


def test_an_experiment_is_read_where_nothing_has_loaded_its_package(folder):
    code = "adata = sb.r.read_rds(sys.argv[1])\nprint(*adata.shape, int(adata.X.sum()))\n"
    expected, _ = given_in_r(folder, "experiment")
    said = run_python(code, folder / "experiment.rds")
    assert said.split() == ["60", "40", str(int(expected.X.sum()))]


def run_python(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, scvibridge as sb\n{code}", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(sb.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- errors ------------------------------------------------------------------------------------


def test_errors_of_r_arrive_with_their_message(folder):
    for name, where, message in (
        ("seurat", {"assay": "ADT"}, r"^there is no assay ADT; the object has RNA$"),
        ("seurat", {"layer": "raw"}, r"^the assay RNA has no layer raw; its layers: counts, data"),
        ("experiment", {"assay": "raw"}, r"no assay \"raw\"; the object has counts, corrected"),
        ("experiment", {"layer": "counts"}, r"^there is no argument layer; did you mean assay\?"),
    ):
        with pytest.raises(ValueError, match=message):
            sb.r.read_rds(folder / f"{name}.rds", **where)


def test_other_values_are_refused():
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    from rpy2 import robjects

    with pytest.raises(TypeError, match="must be an R object of rpy2, got AnnData"):
        sb.r.from_r(ad.AnnData(np.zeros((1, 1))))
    with pytest.raises(ValueError, match="a matrix of genes x cells, not an object of class list"):
        sb.r.from_r(robjects.r("list(1)"))
    with pytest.raises(ValueError, match="no gene names"):
        sb.r.from_r(robjects.r("matrix(1, 2, 2)"))
    matrix = robjects.r('matrix(c(1, NA), 1, dimnames = list("g", c("a", "b")))')
    with pytest.raises(ValueError, match="have 1 missing values"):
        sb.r.from_r(matrix)
    with pytest.raises(TypeError, match=r"assay must be a single string, .* got \['RNA'\]"):
        sb.r.from_r(matrix, assay=["RNA"])
    with pytest.raises(TypeError, match="layer must be a single string or None, got 1"):
        sb.r.from_r(matrix, layer=1)


def test_a_class_of_a_package_that_is_missing_is_named(tmp_path):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    from rpy2 import robjects

    code = """function(path) {
      setClass("Odd", slots = c(x = "numeric"), where = globalenv())
      x <- methods::new("Odd", x = 1)
      attr(class(x), "package") <- "absentpackage"
      base::saveRDS(x, path)  # Bioconductor's, where it is attached, would look for the package
    }"""
    robjects.r(code)(str(tmp_path / "odd.rds"))
    needs = r"^an object of class Odd requires the R package absentpackage; .*install"
    with pytest.raises(ImportError, match=needs):
        sb.r.read_rds(tmp_path / "odd.rds")


def test_files_that_are_none_are_refused_before_r_starts(tmp_path):
    (tmp_path / "cells.rds").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*cells\.rds\?"):
        sb.r.read_rds(tmp_path / "cell.rds")
    with pytest.raises(ValueError, match=r"ends in \.h5ad, expected \.rds"):
        sb.r.read_rds(tmp_path / "cells.h5ad")
    (tmp_path / "folder.rds").mkdir()
    with pytest.raises(IsADirectoryError, match=r"is a folder, expected an \.rds file"):
        sb.r.read_rds(tmp_path / "folder.rds")


def test_a_file_that_r_cannot_read_is_named(tmp_path):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    path = tmp_path / "text.rds"
    path.write_text("gene,cell\n")
    with pytest.raises(ValueError, match=r"text\.rds could not be read as an RDS file: "):
        sb.r.read_rds(path)


BOTH = """
for call in (lambda: sb.r.from_r(1), lambda: sb.r.read_rds(sys.argv[1])):
    try: call()
    except ImportError as error: print(str(error).splitlines()[0])
"""


def test_without_rpy2_the_error_says_what_to_install(tmp_path):
    (tmp_path / "cells.rds").write_bytes(b"")
    said = run_python(f"sys.modules['rpy2'] = None\n{BOTH}", tmp_path / "cells.rds")
    assert said.count('pip install "scvibridge[r]"') == 2


def test_without_r_the_error_says_so(tmp_path):
    pytest.importorskip("rpy2.rinterface_lib", reason="needs rpy2")
    (tmp_path / "cells.rds").write_bytes(b"")
    # rpy2 looks for R by the command on the path, or by R_HOME.
    nowhere = {"PATH": "/nowhere", "R_HOME": "/nowhere", "LD_LIBRARY_PATH": ""}
    assert run_python(BOTH, tmp_path / "cells.rds", **nowhere).count("scvibridge.r needs") == 2
