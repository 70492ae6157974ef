"""Print the requirements of pyproject.toml, with extras and build requirements, one per line.

Usage: python requirements.py pyproject.toml [EXTRA...]. Extras of `ON_REQUEST` only if named.
"""

import sys
import tomllib
from pathlib import Path

# Large, and only needed by `make evidence`; and tools that lag behind the newest versions.
ON_REQUEST = {"evidence", "recipes"}


def requirements(pyproject: Path, wanted: set[str]) -> list[str]:
    """Return the dependencies of the build, of the project and of its extras, in order."""
    contents = tomllib.loads(pyproject.read_text())
    project = contents["project"]
    groups = [contents["build-system"]["requires"], project["dependencies"]]
    extras = project.get("optional-dependencies", {})
    groups += [extras[name] for name in extras if name not in ON_REQUEST - wanted]
    listed = dict.fromkeys(requirement for group in groups for requirement in group)
    return [entry for entry in listed if not entry.startswith(f"{project['name']}[")]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), set(sys.argv[2:]))))
