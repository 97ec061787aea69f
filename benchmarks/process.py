"""Servers in processes of their own, and the client that asks them: http.client, one connection."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import dvidzarr

PACKAGE = Path(dvidzarr.__file__).parents[1]
"""Where the measured package lies: of two commits each worker starts its own server."""
CHECKOUT = Path(__file__).parents[1]
_PATIENCE_S = 60
_BUFFER = 4 << 20


class HttpError(Exception):
    """An answer other than 200."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    pid: int


def environment() -> dict[str, str]:
    """Return an environment in which children import the same package as this process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVIDZARR_", "DVID_"))}
    return kept | {"PYTHONPATH": os.pathsep.join((str(PACKAGE), str(CHECKOUT)))}


def start(*words: object) -> "subprocess.Popen[str]":
    """Start `python -m WORDS`; its log is dropped, since a terminal that shows it would slow it down."""
    return subprocess.Popen(
        (sys.executable, "-P", "-m", *map(str, words)),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@contextmanager
def running(*words: object) -> Iterator[Server]:
    """Run a server that prints its URL first; end it afterwards."""
    process = start(*words)
    try:
        yield Server(url_of(process), process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_PATIENCE_S)


def url_of(process: "subprocess.Popen[str]") -> str:
    """Wait until a server answers; return its URL, the first line it prints."""
    line = process.stdout.readline().strip() if process.stdout else ""
    if not line.startswith("http://"):
        raise HttpError(
            f"the server ended with status {process.wait(_PATIENCE_S)}: run it by hand, {process.args!r}"
        )
    return line


def serve(store: Path, durability: str = "full", *more: object) -> tuple[object, ...]:
    """Return the words that `running` and `start` need to serve a store on a free port; `more` are further options.

    One process serves, unless they say `--workers`: figures shall not depend on how many cores there are.
    """
    workers = () if "--workers" in more else ("--workers", 1)
    return ("dvidzarr.cli.main", "serve", store, "--port", 0, "--durability", durability, *workers, *more)


class Client:
    """One connection, kept alive, and one buffer for all answers."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        self._buffer = bytearray(_BUFFER)

    def get(self, path: str) -> int:
        """Receive a body and drop it; return its size."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        if answer.status != 200:
            raise HttpError(f"GET {path}: {answer.status} {answer.read(300)!r}")
        total = 0
        while count := answer.readinto(self._buffer):
            total += count
        return total

    def send(self, path: str, body: "bytes | memoryview") -> bytes:
        """POST a body and return the answer's."""
        self._connection.request("POST", path, body)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise HttpError(f"POST {path}: {answer.status} {text[:300]!r}")
        return text

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10⁶ bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"process {pid} has no VmRSS")
