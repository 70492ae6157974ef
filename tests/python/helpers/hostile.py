"""Files and matrices that harm whoever reads them: `python hostile.py MODEL DATA FOLDER`.

Each case is tried under a limit of memory and of time for the whole process, and one line of JSON
is printed for each: its name, the kind and the message of the error, and the seconds of the
processor. A case that ends the process is the one whose line is missing.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path

from hostile_files import boundary_cases
from hostile_matrices import matrix_cases
from hostile_models import (
    MODELS,
    claiming_extension,
    extension_of_objects,
    inflating_extension,
    long_number,
    nested_key,
    rewritten,
)
from hostile_place import Place

from scvibridge.models.load import load

MOST_MEMORY, MOST_SECONDS = 3 * 2**30, 240


def cases():
    yield from boundary_cases()
    yield from matrix_cases()
    for name, change in MODELS.items():
        yield f"model: {name}", lambda p, c=change: load(rewritten(p, c), adata=False)
    yield "model: nested key", nested_key
    yield "model: long number", long_number
    yield "extension: inflating", inflating_extension
    yield "extension: claiming", claiming_extension
    yield "extension: of objects", extension_of_objects


def main(model: Path, data: Path, folder: Path) -> None:
    limit_resources()
    for number, (name, case) in enumerate(cases()):
        own = folder / f"case{number}"
        own.mkdir()
        place = Place(model, data, own)
        started, kind, message = time.process_time(), None, None
        try:
            case(place)
        except BaseException as error:  # noqa: BLE001 - told to the test
            kind, message = type(error).__name__, str(error)
        seconds = time.process_time() - started
        sys.stdout.write(json.dumps([name, kind, message, seconds]) + "\n")
        sys.stdout.flush()
        shutil.rmtree(own)


def limit_resources() -> None:
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*map(Path, sys.argv[1:]))
