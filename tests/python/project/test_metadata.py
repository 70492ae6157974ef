"""What the files about the package say: they parse, agree with each other, and name what exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import scvibridge as sb

ROOT = Path(__file__).resolve().parents[3]

if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("needs the checkout", allow_module_level=True)

sys.path.append(str(ROOT / "dev"))

from owner import source_files  # noqa: E402  (after the path)

yaml = pytest.importorskip("yaml")
requirements = pytest.importorskip("packaging.requirements")
utils = pytest.importorskip("packaging.utils")
versions = pytest.importorskip("packaging.version")

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ON_REQUEST = {"evidence", "recipes"}
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CITATION_FIELDS = {"cff-version", "message", "title", "type", "authors", "version", "license"}


def asked_for(*, on_request: bool) -> list:
    """Return the requirements of the build, the project, its extras and its groups."""
    named = PYPROJECT["project"]["optional-dependencies"] | PYPROJECT["dependency-groups"]
    texts = PYPROJECT["build-system"]["requires"] + PYPROJECT["project"]["dependencies"]
    for name, group in named.items():
        if on_request or name not in ON_REQUEST:
            texts = texts + group
    return [requirements.Requirement(text) for text in texts]


def listed(stack: str) -> dict[str, list]:
    """Return the versions of a stack's list, by package."""
    found: dict[str, list] = {}
    for line in (ROOT / f"dev/environment/{stack}.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            entry = requirements.Requirement(line)
            (only,) = entry.specifier
            assert only.operator == "==", line
            name = utils.canonicalize_name(entry.name)
            found.setdefault(name, []).append(versions.Version(only.version))
    return found


def description() -> dict[str, str]:
    """Return the fields of DESCRIPTION."""
    text = re.sub(r"\n\s+", " ", (ROOT / "DESCRIPTION").read_text())
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def test_each_lower_bound_is_the_version_of_the_oldest_stack():
    oldest = listed("oldest")
    for requirement in asked_for(on_request=False):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        assert oldest[utils.canonicalize_name(requirement.name)] == [
            versions.Version(bound.version)
        ], requirement


def test_the_pinned_stack_fulfils_every_requirement():
    pinned = listed("pinned")
    for requirement in asked_for(on_request=False):
        found = pinned[utils.canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in found), requirement


def test_one_version_everywhere():
    assert description()["Version"] == sb.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sb.__version__
    recipe = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text())
    assert recipe["context"]["version"] == sb.__version__
    assert (ROOT / "NEWS.md").read_text().startswith(f"# scvibridge {sb.__version__}\n")


def test_recipe_asks_for_what_pyproject_does():
    recipe = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text())
    assert recipe["schema_version"] == 1
    python, *rest = recipe["requirements"]["run"]
    assert python == "python >=${{ python_min }}"
    assert f">={recipe['context']['python_min']}" == PYPROJECT["project"]["requires-python"]
    of_conda = {"torch": "pytorch"}
    wanted = []
    for text in PYPROJECT["project"]["dependencies"]:
        requirement = requirements.Requirement(text)
        name = of_conda.get(requirement.name, requirement.name)
        wanted.append(f"{name} {requirement.specifier}")
    assert rest == wanted
    (command,) = recipe["build"]["python"]["entry_points"]
    name, target = command.split(" = ")
    assert PYPROJECT["project"]["scripts"] == {name: target}


def test_citation_names_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert set(citation) >= CITATION_FIELDS
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert all({"name"} <= set(author) for author in citation["authors"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_is_well_formed(path):
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    assert {"name", True, "permissions", "jobs"} <= set(workflow)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in workflow["jobs"].values():
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            continue
        assert job["runs-on"]
        for step in job["steps"]:
            assert len({"run", "uses"} & set(step)) == 1, step
            assert set(step) <= {"name", "if", "run", "uses", "with", "env"}, step
            for target in re.findall(r"\bmake ([a-z-]+)$", step.get("run", ""), re.MULTILINE):
                assert target in targets
            for file in re.findall(r"\b(dev/[\w./]+)", step.get("run", "")):
                assert (ROOT / file).exists(), file
        for needed in [job.get("needs", [])]:
            assert set([needed] if isinstance(needed, str) else needed) <= set(workflow["jobs"])


def test_workflow_tests_every_stack():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    settings = (ROOT / "dev/environment/stack.sh").read_text()
    stacks = re.findall(r"^  (\w+)\)$", settings, re.MULTILINE)
    assert stacks == ["oldest", "pinned", "latest"]
    for job in workflow["jobs"].values():
        assert job["strategy"]["matrix"]["stack"] == stacks


def test_other_settings_parse_and_name_files_that_exist():
    docs = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    assert docs["version"] == 2
    commands = " ".join(docs["build"]["jobs"]["install"] + docs["build"]["jobs"]["build"]["html"])
    for file in re.findall(r"\b(dev/[\w./]+)", commands):
        assert (ROOT / file).exists(), file
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert all({"id", "name", "language", "entry"} <= set(hook) for hook in hooks)
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve().is_file()
    assert (ROOT / "Dockerfile").read_text().splitlines()[3].startswith("FROM debian:")


def test_placeholders_stand_in_few_places():
    script = [sys.executable, ROOT / "dev/owner.py"]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    sys.path.insert(0, str(ROOT / "dev"))
    try:
        import owner
    finally:
        sys.path.remove(str(ROOT / "dev"))
    assert {line.split(":")[0] for line in printed.splitlines()} <= owner.PLACES


def test_no_link_is_tracked():
    links = [name for name in source_files() if (ROOT / name).is_symlink()]
    assert not links, "a checkout on Windows has a text file instead"


def test_top_level_files_are_known_to_r():
    of_r = {"DESCRIPTION", "NAMESPACE", "LICENSE", "NEWS.md", "R", "inst", "man", "tests", "tools"}
    of_r |= {"vignettes", "configure", "configure.win", "cleanup", "cleanup.win"}
    ignored = [re.compile(line) for line in (ROOT / ".Rbuildignore").read_text().splitlines()]
    for name in {name.split("/")[0] for name in source_files()} - of_r - {".Rbuildignore"}:
        assert any(pattern.search(name) for pattern in ignored), name
