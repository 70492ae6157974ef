"""Report what a Python installation provides for scvibridge, for R's ``scvibridge_status()``.

A script that is run by its path, possibly by a Python that lacks everything, so it imports nothing
else at the top. It prints a line for each finding, with fields separated by tabs.

    python environment.py FOLDER PACKAGE...

FOLDER contains the R package scvibridge; PACKAGE is the name of a distribution.
"""

from __future__ import annotations

import sys
from contextlib import suppress

# Modules that a working installation imports; torch is described in more detail.
_IMPORTED = ("torch", "scvi", "anndata")


def main(folder: str, packages: list[str]) -> None:
    """Print the findings."""
    # The modules next to this script are not part of Python.
    sys.path[0] = folder
    tell("python", ".".join(map(str, sys.version_info[:3])), sys.executable)
    for package in packages:
        tell("package", package, version_of(package))
    for name in _IMPORTED:
        try:
            __import__(name)
        except Exception as error:  # noqa: BLE001 - any error is reported
            tell("broken", name, type(error).__name__ + ": " + " ".join(str(error).split()))
    with suppress(Exception):  # reported above
        tell_torch()


def version_of(package: str) -> str:
    """Return the version of an installed distribution, empty if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def tell_torch() -> None:
    """Print torch's build, its threads and its GPUs."""
    import torch

    from scvibridge.r import threads

    cuda = torch.version.cuda
    tell("torch", torch.__version__, "CUDA " + cuda if cuda else "CPU")
    tell("threads", str(min(threads.available(), torch.get_num_threads())))
    for number in range(torch.cuda.device_count()):
        tell("gpu", torch.cuda.get_device_name(number))


def tell(*fields: str) -> None:
    """Print a finding."""
    sys.stdout.write("\t".join(fields) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
