"""What is built from the checkout: installed away from it, each half carries the other and runs."""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import scvibridge as sb

if TYPE_CHECKING:
    import anndata as ad

REPOSITORY = Path(__file__).resolve().parents[3]
TARGET = "V2"

pytestmark = pytest.mark.skipif(
    not (REPOSITORY / "pyproject.toml").is_file(), reason="needs the checkout"
)

# Corrects counts with the installed package and says what came out and where it was imported from.
USE_IN_PYTHON = f"""
import json, sys
import scvibridge as sb

model = sb.load(sys.argv[1], adata=sys.argv[2])
counts = sb.corrected_counts(model, transform_batch="{TARGET}", progress=False)
print(json.dumps({{"file": sb.__file__, "total": int(counts.X.sum()), "nonzero": counts.X.nnz}}))
"""

# Makes an R object of such counts by the R code that the Python package carries.
USE_R_FROM_PYTHON = """
import json, sys
import anndata
import rpy2.robjects as robjects
import scvibridge.r

sce = scvibridge.r.to_sce(anndata.read_h5ad(sys.argv[1]))
corrected = robjects.r("SummarizedExperiment::assay")(sce, "corrected")
print(json.dumps({
    "package": robjects.r('system.file(package = "scvibridge")')[0],
    "total": int(robjects.r("sum")(corrected)[0]),
    "nonzero": int(robjects.r("Matrix::nnzero")(corrected)[0]),
}))
"""

USE_IN_R = f"""
library(scvibridge)
arguments <- commandArgs(trailingOnly = TRUE)
model <- load_scvi(arguments[[1]], adata = arguments[[2]])
sce <- corrected_counts(model, transform_batch = "{TARGET}", progress = FALSE)
corrected <- SummarizedExperiment::assay(sce, "corrected")
module <- reticulate::import("scvibridge")
cat(sprintf(
  '{{"file": "%s", "package": "%s", "total": %.0f, "nonzero": %d}}\\n',
  module$`__file__`, system.file(package = "scvibridge"), sum(corrected), Matrix::nnzero(corrected)
))
"""


def sources(folder: str, pattern: str = "*") -> set[str]:
    """Name the files below a folder of the checkout, without what running Python leaves there."""
    root = REPOSITORY / folder
    files = (path for path in root.rglob(pattern) if path.is_file())
    return {str(path.relative_to(root)) for path in files if "__pycache__" not in path.parts}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that knows nothing of the checkout, and give its standard output."""
    unwanted = ("PYTHONPATH", "R_LIBS")
    environment = {name: text for name, text in os.environ.items() if name not in unwanted}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> Path:
    """Build the source distribution, and the wheel from it."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY)
    run(sys.executable, *build, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def site(distributions, tmp_path_factory) -> Path:
    """Install the wheel into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = distributions.glob("*.whl")
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel)
    run(sys.executable, *pip, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def tarball(tmp_path_factory) -> Path:
    """Build the R package, without its vignettes: the tests of the R package render them."""
    if shutil.which("R") is None:
        pytest.skip("needs R")
    folder = tmp_path_factory.mktemp("tarball")
    run("R", "CMD", "build", "--no-build-vignettes", REPOSITORY, cwd=folder)
    (path,) = folder.glob("scvibridge_*.tar.gz")
    return path


@pytest.fixture(scope="module")
def library(tarball, tmp_path_factory) -> Path:
    """Install the R package's tarball into a library of its own."""
    folder = tmp_path_factory.mktemp("library")
    run("R", "CMD", "INSTALL", f"--library={folder}", tarball, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def counts(model_folder, data_file) -> ad.AnnData:
    """Correct counts with the checkout's own code."""
    model = sb.load(model_folder, adata=data_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sb.corrected_counts(model, transform_batch=TARGET, progress=False)


@pytest.fixture(scope="module")
def expected(counts) -> dict[str, int]:
    return {"total": int(counts.X.sum()), "nonzero": counts.X.nnz}


def metadata_of(distributions: Path) -> email.message.Message:
    """Return the metadata of the wheel."""
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def addresses(metadata: email.message.Message) -> dict[str, str]:
    """Return the project's addresses by their labels."""
    return dict(entry.split(", ") for entry in metadata.get_all("Project-URL"))


def test_wheel_holds_python_and_r(distributions):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    package = {f"scvibridge/{name}" for name in sources("python/scvibridge")}
    r_code = {f"scvibridge/_R/{name}" for name in sources("R", "*.R")}
    assert r_code
    assert package | r_code == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith("/licenses/LICENSE.md") for name in names)
    assert "scvibridge/py.typed" in names


def test_source_distribution_holds_readme_licence_and_news(distributions):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert names >= {"README.md", "LICENSE.md", "NEWS.md", "CITATION.cff", "pyproject.toml"}
    assert "python/scvibridge/py.typed" in names
    assert not {name for name in names if name.startswith(("inst/", "tests/"))}
    # hatchling runs it again when a wheel is built from the source distribution.
    assert {name for name in names if name.startswith("dev/")} == {"dev/pypi_readme.py"}


def test_metadata_of_the_distributions_are_whole(distributions):
    metadata = metadata_of(distributions)
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Author"] or metadata["Author-Email"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert set(addresses(metadata)) == {"Homepage", "Documentation", "Issues", "Changelog"}


def test_page_at_pypi_links_to_the_files_of_the_release(distributions):
    markdown_it = pytest.importorskip("markdown_it")
    metadata = metadata_of(distributions)
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = metadata.get_payload()
    assert page.startswith("# scvibridge")

    def targets(text: str) -> list[str]:
        tokens = markdown_it.MarkdownIt().enable("table").parse(text)
        parts = [part for token in tokens for part in token.children or []]
        found = [part.attrGet("href") or part.attrGet("src") for part in parts]
        return [target for target in found if target]

    github = addresses(metadata)["Homepage"]
    files = f"{github}/blob/v{sb.__version__}/"
    pictures = files.replace("github.com", "raw.githubusercontent.com").replace("/blob/", "/")
    shown, original = targets(page), targets((REPOSITORY / "README.md").read_text())
    assert len(shown) == len(original) > 20
    for target, written in zip(shown, original, strict=True):
        if written.startswith("https://"):
            assert target == written
        else:
            base = pictures if written.endswith(".png") else files
            assert target == base + written
            assert (REPOSITORY / written.partition("#")[0]).exists()


def test_twine_accepts_the_distributions(distributions):
    pytest.importorskip("twine")
    # With an older one, twine does not know the version of metadata that hatchling writes.
    pytest.importorskip("packaging", minversion="26")
    files = sorted(distributions.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=distributions)


def test_wheel_and_r_package_share_one_version(distributions, tarball):
    (wheel,) = distributions.glob("*.whl")
    assert wheel.name.startswith(f"scvibridge-{sb.__version__}-")
    assert tarball.name == f"scvibridge_{sb.__version__}.tar.gz"


def test_installed_wheel_corrects_counts(site, model_folder, data_file, expected, tmp_path):
    script = (sys.executable, "-c", USE_IN_PYTHON, model_folder, data_file)
    found = json.loads(run(*script, cwd=tmp_path, PYTHONPATH=str(site)).splitlines()[-1])
    assert Path(found.pop("file")).parent == site / "scvibridge"
    assert found == expected


def test_installed_command_answers(site, tmp_path):
    command = site / "bin" / "scvibridge"
    assert "correct" in run(command, "--help", cwd=tmp_path, PYTHONPATH=str(site))


@pytest.mark.r
def test_installed_wheel_assembles_r_objects(site, counts, expected, tmp_path):
    if shutil.which("R") is None:
        pytest.skip("needs R")
    counts.write_h5ad(tmp_path / "counts.h5ad")
    script = (sys.executable, "-c", USE_R_FROM_PYTHON, tmp_path / "counts.h5ad")
    found = json.loads(run(*script, cwd=tmp_path, PYTHONPATH=str(site)).splitlines()[-1])
    # The R code is the wheel's own: there is no R package scvibridge to take it from.
    assert found == expected | {"package": ""}


@pytest.mark.r
def test_tarball_holds_the_python_package(tarball):
    with tarfile.open(tarball) as archive:
        members = {member.name: member for member in archive.getmembers()}
    inside = "scvibridge/inst/python/"
    carried = {name.removeprefix(inside) for name in members if name.startswith(inside)}
    carried = {name for name in carried if members[inside + name].isfile()}
    assert carried == {f"scvibridge/{name}" for name in sources("python/scvibridge")}
    assert not [name for name, member in members.items() if member.issym()]
    top = {name.split("/")[1] for name in members if "/" in name}
    of_r = {"DESCRIPTION", "NAMESPACE", "LICENSE", "NEWS.md", "R", "inst", "man", "tests", "build"}
    of_r |= {"vignettes", "tools", "configure", "configure.win", "cleanup", "cleanup.win"}
    assert top <= of_r
    assert "scvibridge/inst/CITATION" in members


@pytest.mark.r
def test_tarball_of_a_clone_without_links_carries_the_python_package(tarball, tmp_path):
    sys.path.append(str(REPOSITORY / "dev"))
    from owner import source_files

    # As on Windows, where git checks a link out as a text file that contains its target.
    for name in source_files():
        source, copy = REPOSITORY / name, tmp_path / "clone" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.write_text(str(source.readlink()))
        else:
            shutil.copy(source, copy)
    run("R", "CMD", "build", "--no-build-vignettes", tmp_path / "clone", cwd=tmp_path)
    (path,) = tmp_path.glob("scvibridge_*.tar.gz")
    with tarfile.open(path) as archive, tarfile.open(tarball) as expected:
        assert sorted(archive.getnames()) == sorted(expected.getnames())
        code = archive.extractfile("scvibridge/inst/python/scvibridge/__init__.py").read()
    assert code == (REPOSITORY / "python/scvibridge/__init__.py").read_bytes()
    # From the folder, without a tarball, `configure` puts the code in its place.
    library = tmp_path / "library"
    library.mkdir()
    command = ("R", "CMD", "INSTALL", "--no-test-load", f"--library={library}", tmp_path / "clone")
    run(*command, cwd=tmp_path)
    code = library / "scvibridge/python/scvibridge"
    installed = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert installed == sources("python/scvibridge")


@pytest.mark.r
def test_installed_r_package_corrects_counts(library, model_folder, data_file, expected, tmp_path):
    script = tmp_path / "use.R"
    script.write_text(USE_IN_R)
    python = os.environ.get("RETICULATE_PYTHON", sys.executable)
    variables = {"R_LIBS": str(library), "RETICULATE_PYTHON": python}
    printed = run("Rscript", script, model_folder, data_file, cwd=tmp_path, **variables)
    found = json.loads(printed.splitlines()[-1])
    assert Path(found.pop("package")) == library / "scvibridge"
    assert Path(found.pop("file")).parent == library / "scvibridge" / "python" / "scvibridge"
    assert found == expected
