"""``python -m scvibridge.r.worker FOLDER``: one call from R, in a separate process.

Reads ``job.json`` in the folder, calls the function that it names, and writes ``outcome.json``
(:mod:`scvibridge.r.process` is the other side). Progress is written to standard output, one line of
JSON per message.

``python -m scvibridge.r.worker --serve NUMBER``: forks such a process for each request on a socket,
whose file descriptor is given (:mod:`scvibridge.r.launch` is the other side).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scvibridge._utils.exit_codes import DONE, INTERRUPTED
from scvibridge.r import exchange
from scvibridge.r.launch import LARGEST_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Reporter = dict[str, Callable[..., object]]


def main(folder: Path) -> int:
    """Run the job of a folder; return the exit code."""
    tell = _message_channel()
    _end_with_parent()
    try:
        from scvibridge.r import reticulate

        job = exchange.read(folder / "job.json")
        outcome = reticulate.call(
            "work",
            {"name": job["name"], "arguments": job["arguments"]},
            _reporter(tell),
            {"threads": job["threads"]},
            functions={"work": work},
        )
        exchange.write(outcome, folder / "outcome.json")
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def serve(channel: socket.socket) -> None:
    """Fork a process for each request until the other side has closed the socket.

    A request has a number, the folder of a job and the working directory, and comes with the
    standard streams. The answers are the process, and its exit code when it has ended.
    """
    _import_all()
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LARGEST_MESSAGE, 3)
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if pid == 0:
            channel.close()
            _end_process(_forked(request, streams))
        for stream in streams:
            os.close(stream)
        answer = {"request": request["request"], "pid": pid, "code": None}
        with suppress(ConnectionError):
            channel.send(json.dumps(answer).encode())
            answer["code"] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            channel.send(json.dumps(answer).encode())


def _import_all() -> None:
    """Import what calls need, in the order in which a call imports it, and compute nothing."""
    with suppress(ImportError):  # the call itself will report it
        from scvibridge.r import blas, reticulate  # noqa: F401  (in this order)

        blas.keep_own_blas()
        for name in ("scvi.model", "scvibridge.models.load", "scvibridge.correction.count_blocks"):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is never collected stays shared with the forks


def _forked(request: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Run a job with the given standard streams; return the exit code."""
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(request["directory"])
        return main(Path(request["folder"]))
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
        return 1


def work(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call a function of `endpoints.FUNCTIONS` with arguments received from R's process.

    Results that R loads into memory are split into parts here.
    """
    from scvibridge.r import endpoints

    return exchange.take_result_apart(endpoints.FUNCTIONS[name](**_received(arguments)))


def _received(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Load the models that arguments describe."""
    from scvibridge.models.load import load

    received = dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, exchange.ModelSource):
            received[name] = load(**vars(value))
        elif name == "arguments":  # of `run`
            received[name] = _received(value)
    return received


def _message_channel() -> Callable[..., None]:
    """Reserve standard output for messages; other output goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(*message: object) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    return tell


def _reporter(tell: Callable[..., None]) -> Reporter:
    def telling(what: str) -> Callable[..., object]:
        return lambda *values: tell(what, *values)

    return {what: telling(what) for what in ("start", "update", "finish")}


def _end_with_parent() -> None:
    """Interrupt this process when R's has exited, as shown by the end of standard input."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


def _end_process(code: int) -> NoReturn:
    """Exit without any clean-up: see `scvibridge.cli.console.end_process`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
        _end_process(DONE)
    _end_process(main(Path(sys.argv[1])))
