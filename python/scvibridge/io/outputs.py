"""Check the path of a result before any work starts."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvibridge.io.parts_folder import check_leftover
from scvibridge.io.paths import check_output, named
from scvibridge.io.readback import result_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_out(
    out: Any, resume: bool, endings: Sequence[str], *, overwrite: bool = False
) -> Path | None:
    """Check the path of a result, and files of an interrupted run next to it.

    Raises
    ------
    ValueError
        If it has another extension, or `resume` is used without `out`.
    FileExistsError
        If the file exists and `overwrite` is False, unless `resume` may apply to it; or an
        interrupted run is left and `resume` is False.
    FileNotFoundError, NotADirectoryError, PermissionError
        If the folder does not exist, is not a folder or is not writable.
    """
    if out is None:
        if resume:
            raise ValueError("resume=True needs out=, the file to continue")
        return None
    # Whether a streamed result is the requested one is known once its data have been read.
    may_be_own = resume and isinstance(out, str | PathLike) and result_of(named(out)) is not None
    path = check_output(out, tuple(endings), overwrite=overwrite or may_be_own)
    check_leftover(path, resume)
    return path
