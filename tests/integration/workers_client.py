"""A client of a server with several processes, and what its log tells of them."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from tests.integration.server_process import Served

BLOCK = 64**3
WORKERS = 3
PATIENCE_S = 120.0


class Client:
    """Connections, all open at once: the server spreads them over its processes, so each process has one at least."""

    def __init__(self, url: str, count: int = WORKERS) -> None:
        self._parts = urlsplit(url)
        self.links = [self.link() for _ in range(count)]

    def link(self) -> HTTPConnection:
        """Return a new connection, which the process with the fewest gets."""
        link = HTTPConnection(self._parts.hostname or "", self._parts.port, timeout=PATIENCE_S)
        link.connect()
        return link

    def ask(self, which: int, method: str, path: str, body: bytes | str | None = None) -> tuple[int, bytes]:
        """Read over the connection of that number, or write over one of its own: those that write move to home."""
        if method == "GET":
            return asked(self.links[which % len(self.links)], method, path, body)
        link = self.link()
        try:
            return asked(link, method, path, body)
        finally:
            link.close()

    def done(self, which: int, method: str, path: str, body: bytes | str | None = None) -> bytes:
        status, answer = self.ask(which, method, path, body)
        assert status == 200, (method, path, status, answer)
        return answer

    def everywhere(self, path: str) -> list[tuple[int, bytes]]:
        return [self.ask(which, "GET", path) for which in range(len(self.links))]

    def close(self) -> None:
        for link in self.links:
            link.close()


def asked(link: HTTPConnection, method: str, path: str, body: bytes | str | None = None) -> tuple[int, bytes]:
    """Return status and body of an answer."""
    link.request(method, path, body)
    answer = link.getresponse()
    return answer.status, answer.read()


@contextmanager
def talking(server: Served, count: int = WORKERS) -> Iterator[Client]:
    client = Client(server.url, count)
    try:
        yield client
    finally:
        client.close()


def new_repo(client: Client) -> str:
    answer = client.done(1, "POST", "/api/repos", "{}")
    return str(json.loads(answer)["root"])


def new_instance(client: Client, root: str, kind: str, name: str, **more: str) -> None:
    config = json.dumps({"typename": kind, "dataname": name, **more})
    client.done(2, "POST", f"/api/repo/{root}/instance", config)


def processes(server: Served) -> dict[int, bool]:
    """Return the processes that serve, by their ids; whether each writes."""
    pids = {}
    for said in server.lines():
        if said["message"] == "worker serves":
            pids[said["pid"]] = said["writes"]
    return {pid: writes for pid, writes in pids.items() if alive(pid)}


def settled(server: Served, count: int) -> dict[int, bool]:
    """Return the processes when as many serve as wanted; the log is written a moment later."""
    wait_for(lambda: len(processes(server)) == count, f"{count} processes")
    return processes(server)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self/stat").exists()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.05)
