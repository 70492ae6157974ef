"""``python -m scvibridge.r.worker FOLDER``: one call from R, in a separate process.

Reads ``job.json`` in the folder, calls the function that it names, and writes ``outcome.json``
(:mod:`scvibridge.r.process` is the other side). Progress is written to standard output, one line of
JSON per message.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from scvibridge._utils.exit_codes import DONE, INTERRUPTED
from scvibridge.r import exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    _end_process(main(Path(sys.argv[1])))
