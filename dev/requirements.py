"""Print the requirements of pyproject.toml, extras and groups included, one per line.

Usage: python requirements.py pyproject.toml [GROUP...]. Groups of `ON_REQUEST` only if named.
"""

import sys
import tomllib
from pathlib import Path

# Large, and only needed by `make evidence`; and tools that lag behind the newest versions.
ON_REQUEST = {"evidence", "recipes"}


def requirements(pyproject: Path, wanted: set[str]) -> list[str]:
    """Return the dependencies of the build, of the project, its extras and groups, in order."""
    contents = tomllib.loads(pyproject.read_text())
    project = contents["project"]
    optional = project.get("optional-dependencies", {}) | contents.get("dependency-groups", {})
    listed = contents["build-system"]["requires"] + project["dependencies"]
    for name, group in optional.items():
        if name not in ON_REQUEST - wanted:
            listed += group
    return list(dict.fromkeys(listed))


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), set(sys.argv[2:]))))
