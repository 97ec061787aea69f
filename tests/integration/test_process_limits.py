"""What the system sets for a server that runs: signals, and how many files it may open."""

import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.integration.server_process import served

PATIENCE_S = 120.0


def test_a_hang_up_of_the_terminal_ends_it_in_order(tmp_path: Path) -> None:
    with served(tmp_path / "store") as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.process.wait(PATIENCE_S) == 0


def test_silent_connections_leave_files_to_open(tmp_path: Path) -> None:
    """However low the system's limit: what is refused are connections."""
    few = f'ulimit -n 200; exec {sys.executable} -m dvidzarr.cli.main "$@"'
    with ExitStack() as stack:
        server = stack.enter_context(served(tmp_path / "store", command=("sh", "-c", few, "dvidzarr")))
        http = stack.enter_context(httpx.Client(base_url=server.url, timeout=PATIENCE_S))
        root = http.post("/api/repos", json={}).json()["root"]
        body = {"typename": "keyvalue", "dataname": "kv"}
        http.post(f"/api/repo/{root}/instance", json=body).raise_for_status()
        value = bytes(300_000)
        place = urlsplit(server.url)
        for _ in range(300):
            link = stack.enter_context(socket.create_connection((place.hostname, place.port)))
            link.setblocking(False)
        for number in range(3):
            path = f"/api/node/{root}/kv/key/{number}"
            assert http.post(path, content=value).status_code == 200
            assert http.get(path).content == value
        assert http.get("/metrics").status_code == 200
        assert http.get("/readyz").status_code == 200
