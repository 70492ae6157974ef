"""Print what pyproject.toml requires, with the extras and the build's own, one a line."""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path) -> list[str]:
    """Return the dependencies of the build, of the project and of all its extras, in order."""
    contents = tomllib.loads(pyproject.read_text())
    project = contents["project"]
    groups = [contents["build-system"]["requires"], project["dependencies"]]
    groups += project.get("optional-dependencies", {}).values()
    listed = dict.fromkeys(requirement for group in groups for requirement in group)
    return [entry for entry in listed if not entry.startswith(f"{project['name']}[")]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]))))
