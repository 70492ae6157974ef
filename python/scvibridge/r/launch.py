"""Start the processes of isolated calls.

A process that imports torch and scvi-tools anew takes seconds. On Linux the first call therefore
starts a server that imports them once, and each call is a fork of it. Elsewhere, and where there
is a GPU, whose driver does not survive a fork, each call starts a new interpreter.

This module runs in R's process and imports neither torch nor scvi-tools;
:mod:`scvibridge.r.worker` is the other side.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

# Drivers of NVIDIA, of AMD, and of both in Windows' Linux.
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
_FORKS = sys.platform == "linux" and not any(Path(gpu).exists() for gpu in _GPUS)

# Seconds that an interrupted process has to remove its temporary files.
_GRACE = 1.5

# Seconds between two looks whether a process has ended.
_LOOK = 0.02

# Bytes of a message: the paths of the working directory and of the folder of a call.
LARGEST_MESSAGE = 2**16


class Call:
    """The process of one call.

    Attributes
    ----------
    stdout, stderr
        What it writes.
    returncode
        Exit code, negative for a signal; None until it has ended.
    """

    returncode: int | None = None
    stdout: IO[bytes]
    stderr: IO[bytes]
    _stdin: IO[bytes]  # open for the lifetime of this process: the other one exits with it

    def poll(self) -> int | None:
        """Return the exit code, or None while the process is running."""
        raise NotImplementedError

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until the process ends, at most for some seconds, and return what `poll` does."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.poll() is None and (end is None or time.monotonic() < end):
            time.sleep(_LOOK)
        return self.returncode

    def end(self) -> None:
        """End the process if it is running, first in a way that lets it remove its files."""
        if self.poll() is None:
            self._send(signal.SIGINT)
            self.wait(_GRACE)
        if self.poll() is None:
            self._send(signal.SIGKILL)
            self.wait(_GRACE)
        for pipe in (self._stdin, self.stdout, self.stderr):
            pipe.close()

    def _send(self, number: signal.Signals) -> None:
        raise NotImplementedError


def start(folder: str) -> Call:
    """Start the process of a call whose job is described in a folder."""
    return _Forked(folder) if _FORKS else _Spawned(folder)


class _Spawned(Call):
    """A new interpreter."""

    def __init__(self, folder: str) -> None:
        self._process = _python([folder], subprocess.PIPE)
        self._stdin, self.stdout, self.stderr = (
            pipe
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)
            if pipe is not None
        )

    def poll(self) -> int | None:
        self.returncode = self._process.poll()
        return self.returncode

    def _send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


class _Forked(Call):
    """A fork of the server, which is started unless one is running for the current environment."""

    def __init__(self, folder: str) -> None:
        self._server = _Server.current()
        self._pid: int | None = None
        reads, self._stdin = _pipe()
        self.stdout, writes = _pipe()
        self.stderr, complains = _pipe()
        with reads, writes, complains:
            streams = [end.fileno() for end in (reads, writes, complains)]
            self._request = self._server.request(folder, streams)

    def poll(self) -> int | None:
        if self.returncode is None:
            for answer in self._server.answers():
                if answer["request"] == self._request:
                    self._pid = answer["pid"]
                    self.returncode = answer["code"]
            if self.returncode is None and self._server.has_ended():
                self.returncode = self._server.end()
        return self.returncode

    def _send(self, number: signal.Signals) -> None:
        if self._pid is None:  # the server is still importing
            self.returncode = self._server.end()
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)


class _Server:
    """The server that calls are forks of."""

    _running: _Server | None = None

    @classmethod
    def current(cls) -> _Server:
        """Return the server that is running, or a new one if it cannot be used."""
        if cls._running is not None and not cls._running.is_usable():
            cls._running.end()
        if cls._running is None:
            cls._running = cls()
        return cls._running

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._environment = dict(os.environ)
        self._n_requests = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            number = theirs.fileno()
            arguments = ["--serve", str(number)]
            self._process = _python(arguments, subprocess.DEVNULL, pass_fds=[number])

    def is_usable(self) -> bool:
        """Return whether it runs for this process, in the same environment as this one."""
        is_ours = self._owner == os.getpid()  # not that of R's process from which this one forked
        return is_ours and self._environment == dict(os.environ) and not self.has_ended()

    def request(self, folder: str, streams: Sequence[int]) -> int:
        """Ask for the process of a call, with these standard streams; return its number."""
        self._n_requests += 1
        number, directory = self._n_requests, str(Path.cwd())
        message = json.dumps({"request": number, "folder": folder, "directory": directory})
        with suppress(ConnectionError):  # the server has ended, as `poll` finds
            socket.send_fds(self._socket, [message.encode()], list(streams))
        return number

    def answers(self) -> list[dict[str, Any]]:
        """Return the new messages of the server: number, ``pid`` and exit ``code`` of a request."""
        answers = []
        with suppress(BlockingIOError, ConnectionError):
            while message := self._socket.recv(LARGEST_MESSAGE):
                answers.append(json.loads(message))
        return answers

    def has_ended(self) -> bool:
        """Return whether the server's process has ended."""
        return self._process.poll() is not None

    def end(self) -> int:
        """End the server if it is that of this process, and return its exit code."""
        code = 0
        if self._owner == os.getpid():
            self._process.kill()
            code = self._process.wait()
        self._socket.close()
        if _Server._running is self:
            _Server._running = None
        return code


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    """Return the ends of a pipe: for reading, and for writing."""
    reads, writes = os.pipe()
    return os.fdopen(reads, "rb", buffering=0), os.fdopen(writes, "wb", buffering=0)


def _python(
    arguments: Sequence[str], stream: int, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start `scvibridge.r.worker` in this Python."""
    package = Path(__file__).resolve().parents[2]
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join([str(package), *([inherited] if inherited else [])])
    return subprocess.Popen(  # noqa: S603 - this Python
        [sys.executable, "-m", "scvibridge.r.worker", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=stream,
        stdout=stream,
        stderr=stream,
        pass_fds=pass_fds,
        # Ctrl-C in a terminal reaches only this process, which then ends the other one.
        start_new_session=True,
    )
