"""Run functions of a model in a separate Python process, so that R's process never loads torch.

This module runs in R's process and imports neither torch nor scvi-tools; `worker` runs in the
other. Each call has a process (:mod:`scvibridge.r.launch`), which loads the model, does the work
and exits. Arguments and results are passed as files (:mod:`scvibridge.r.exchange`) in a folder that
is removed with the call.
"""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from scvibridge._utils import progress, user_warnings
from scvibridge._utils.wording import printable
from scvibridge.io import h5ad
from scvibridge.r import exchange, launch
from scvibridge.r.exchange import ModelSource, StoredData

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


# Data of a call that are in files.
_Place: TypeAlias = "str | list[str] | StoredData | None"

# How often a wait checks for an interrupt, and how much of a process's last output is shown.
_LOOK, _LAST_WORDS = 0.1, 500


@dataclass(frozen=True)
class IsolatedModel:
    """A model that the process of each call loads.

    Attributes
    ----------
    source
        Where it is loaded from.
    summary
        What R prints about it (:func:`scvibridge.r.descriptions.describe_model`).
    quality
        For an extended model, the quality table in the form that R reads.
    kept
        Temporary folders that the model is loaded from; they are removed with it.
    stamps
        Size and time of the files that it is loaded from.
    """

    source: ModelSource
    summary: dict[str, Any]
    quality: dict[str, Any] | None = None
    kept: tuple[Any, ...] = ()
    stamps: dict[Path, tuple[int, int]] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamps", _stamps(_files_of(self.source)))

    def check_files(self) -> None:
        """Raise an error if another file has replaced one that the model is loaded from."""
        for path, stamp in _stamps(self.stamps).items():
            if stamp != self.stamps[path]:
                raise ValueError(
                    f"{path} was replaced or changed after the model was loaded; with isolate=True "
                    "each call would load what is there now: load the model again"
                )


def _files_of(source: ModelSource) -> list[Path]:
    folder = Path(source.model_dir)
    # MODEL_FILE and ANNDATA_FILE, whose modules import torch.
    names = ["model.pt", "adata.h5ad"] if source.adata is None else ["model.pt"]
    named = [folder / f"{source.prefix or ''}{name}" for name in names]
    if source.prefix is None and not named[0].is_file():  # the only prefix that is there
        named = [path for name in names for path in folder.glob(f"*{name}")]
    data = source.adata if isinstance(source.adata, list) else [source.adata]
    data = [one.path if isinstance(one, StoredData) else one for one in data]
    return [*named, *(Path(path) for path in data if isinstance(path, str))]


def _stamps(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    found = {path: path.stat() for path in paths if path.is_file()}
    return {path: (facts.st_size, facts.st_mtime_ns) for path, facts in found.items()}


@dataclass(frozen=True)
class Session:
    """Settings of the R session: whether to isolate, the threads, and a folder for files."""

    isolate: bool = False
    threads: int | None = None
    folder: str | None = None


class IsolatedError(Exception):
    """An error of the other process, in the form that R needs."""

    def __init__(self, description: dict[str, str]) -> None:
        super().__init__(description["message"])
        self.description = description


def is_wanted(arguments: Mapping[str, Any], session: Session) -> bool:
    """Return whether to isolate a call: if its model is, or, without a model, if all are."""
    arguments = arguments.get("arguments", arguments)  # of `run`
    model = arguments.get("model")
    return isinstance(model, IsolatedModel) or (model is None and session.isolate)


def call(name: str, arguments: Mapping[str, Any], session: Session) -> Any:
    """Call a function of `endpoints.FUNCTIONS` in a separate process.

    Raises
    ------
    IsolatedError
        The function's error, or the process ended before it was done.
    KeyboardInterrupt
        On an interrupt, with the process ended as well.
    """
    if name == "load":
        return _load(arguments, session)
    if name == "extend_genes":
        return _extend(arguments, session)
    if name == "train_scvi":
        return _train(arguments, session)
    return _run(name, arguments, session)


def _load(arguments: Mapping[str, Any], session: Session) -> IsolatedModel:
    kept, adata = _on_disk(arguments["adata"], session)
    arguments = {**arguments, "adata": adata}
    summary = _run("describe_loaded", arguments, session)
    places = {name: _absolute(arguments[name]) for name in ("model_dir", "adata")}
    return IsolatedModel(ModelSource(**{**arguments, **places}), summary, kept=kept)


def _extend(arguments: Mapping[str, Any], session: Session) -> IsolatedModel:
    """Extend a model in a folder, from which later calls load it."""
    base = arguments["model"]
    kept, adata = _on_disk(arguments["adata"], session)
    holder, save = _destination(arguments["save"], session)
    given = {**arguments, "adata": adata, "save": save}
    found = _run("extend_and_describe", given, session)
    places = {"model_dir": _absolute(save), "adata": _absolute(adata)}
    source = dataclasses.replace(base.source, **places, prefix=None)
    return IsolatedModel(source, found["summary"], found["quality"], (*kept, *holder))


def _train(arguments: Mapping[str, Any], session: Session) -> IsolatedModel:
    """Train a model into a folder, from which later calls load it with its data."""
    # The model is saved with its data: these files can be removed with it.
    _until_trained, adata = _on_disk(arguments["adata"], session)
    spare, fallback = _destination(None, session)
    found = _run("train_and_describe", {**arguments, "adata": adata, "fallback": fallback}, session)
    folder = _absolute(found["folder"])
    data = None
    if found["renamed"]:
        data = StoredData(str(Path(folder) / found["file"]), found["renamed"])
    source = ModelSource(folder, data, arguments["device"], trust=False)
    return IsolatedModel(source, found["summary"], kept=spare)


def _destination(folder: str | None, session: Session) -> tuple[tuple[Any, ...], str]:
    """Return the folder for a model, by default a temporary one, and what keeps it alive."""
    if folder is not None:
        return (), folder
    holder = _new_folder(session)
    return (holder,), str(Path(holder.name) / "model")


@overload
def _absolute(path: str) -> str: ...


@overload
def _absolute(path: None) -> None: ...


@overload
def _absolute(path: _Place) -> _Place: ...


def _absolute(path: _Place) -> _Place:
    if isinstance(path, list):
        return [_absolute(one) for one in path]
    if isinstance(path, str):
        return str(Path(path).expanduser().absolute())
    return path  # that of a file of this module is


def _new_folder(session: Session) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="scvibridge-", dir=session.folder)


def _on_disk(adata: Any, session: Session) -> tuple[tuple[Any, ...], _Place]:
    """Return the paths of data, written to a file if in memory, and what keeps them alive."""
    if adata is None or isinstance(adata, str | list):
        return (), adata
    holder = _new_folder(session)
    if type(adata).__name__ == "MuData":
        path = Path(holder.name) / "data.h5mu"
        adata.write_h5mu(path)
    else:
        path = Path(holder.name) / "data.h5ad"
        adata, renamed = exchange.without_slashes(adata)
        h5ad.write_h5ad(adata, path)
        if renamed:
            return (holder,), StoredData(str(path), renamed)
    return (holder,), str(path)


# -- one call ----------------------------------------------------------------------------------


def _run(name: str, arguments: Mapping[str, Any], session: Session) -> Any:
    with _new_folder(session) as folder:
        job = {"name": name, "arguments": _described(arguments), "threads": session.threads}
        exchange.write(job, Path(folder) / "job.json")
        outcome = _outcome(folder)
    for text in outcome["warnings"]:
        user_warnings.warn(text)
    if outcome["error"] is not None:
        raise IsolatedError(outcome["error"])
    return outcome["value"]


def _described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with models replaced by descriptions."""
    described = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, IsolatedModel):
            value.check_files()
            described[name] = value.source
        elif name == "arguments":  # of `run`
            described[name] = _described(value)
    return described


def _outcome(folder: str) -> dict[str, Any]:
    """Run the process of a call, and read its outcome."""
    last_words = bytearray()
    process = launch.start(folder)
    try:
        for is_message, text in _told(process):
            if is_message:
                _follow(json.loads(text))
            else:
                last_words = (last_words + text)[-_LAST_WORDS:]
                sys.stderr.write(printable(text.decode(errors="replace"), keep="\n\r\t"))
                sys.stderr.flush()
        process.wait()
    finally:
        process.end()
        _Steps.end()
    path = Path(folder) / "outcome.json"
    if path.is_file():
        outcome: dict[str, Any] = exchange.read(path)
        return outcome
    return {
        "value": None,
        "warnings": [],
        "error": _sudden_end(process.returncode or 0, bytes(last_words)),
    }


def _told(process: launch.Call) -> Iterator[tuple[bool, bytes]]:
    """Yield complete lines: progress messages (standard output) and text (standard error)."""
    open_ends = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    messages = process.stdout.fileno()
    with selectors.DefaultSelector() as selector:
        for end in open_ends:
            selector.register(end, selectors.EVENT_READ)
        while open_ends:
            for key, _ in selector.select(timeout=_LOOK):
                got = os.read(key.fd, 2**16)
                *lines, rest = (open_ends[key.fd] + got).splitlines(keepends=True) or [b""]
                if rest.endswith((b"\n", b"\r")) or not got:
                    lines, rest = [*lines, rest], b""
                open_ends[key.fd] = rest
                if not got:
                    selector.unregister(key.fd)
                    del open_ends[key.fd]
                yield from ((key.fd == messages, line) for line in lines if line)


class _Steps:
    """The current step of the other process, as shown here."""

    reporter: progress.Reporter | None = None

    @classmethod
    def end(cls) -> None:
        reporter, cls.reporter = cls.reporter, None
        if reporter is not None:
            reporter.finish()


def _follow(message: list[Any]) -> None:
    """Show progress reported by the other process, as if the work ran here."""
    what, *values = message
    if what == "start":
        _Steps.end()
        _Steps.reporter = progress.choose_reporter()
        _Steps.reporter.start(*values)
    elif what == "finish":
        _Steps.end()
    elif _Steps.reporter is not None:
        _Steps.reporter.update(*values)


def _sudden_end(code: int, last_words: bytes) -> dict[str, str]:
    """Describe a process that exited without an outcome, as an error."""
    how = f"with exit code {code}"
    if code < 0:
        how = f"by the signal {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        how += ", possibly because memory ran out"
    said = last_words.decode(errors="replace").strip()
    message = f"the Python process of this call ended {how} before it was done"
    return {
        "type": "ChildProcessError",
        "message": message + (f". Its last output: {said}" if said else ""),
        "traceback": "",
    }
