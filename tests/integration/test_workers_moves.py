"""Connections of clients that write move to the process that writes, and nobody notices."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.integration.server_process import Served, served
from tests.integration.workers_client import (
    PATIENCE_S,
    WORKERS,
    asked,
    new_instance,
    new_repo,
    settled,
    talking,
    wait_for,
)

NUMBERS = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("moves") / "store", "--workers", WORKERS) as running:
        yield running


@pytest.fixture(scope="module")
def node(server: Served) -> str:
    with talking(server) as client:
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "keys")
        return f"/api/node/{root}/keys"


def place_of(server: Served, link: HTTPConnection) -> int:
    """Return the number of the process that a connection belongs to."""
    path = f"/api/probe/{next(NUMBERS)}"
    asked(link, "GET", path)
    found: list[int] = []

    def logged() -> bool:
        found.extend(line["worker"] for line in server.lines() if line.get("path") == path)
        return bool(found)

    wait_for(logged, f"{path} in the log")
    return found[0]


def connections(server: Served) -> dict[int, int]:
    """Return how many connections each process has; the one that asks is among them."""
    with talking(server, 1) as client:
        text = client.done(0, "GET", "/metrics").decode()
    counts = re.findall(r'^dvidzarr_connections\{worker="(\d)"\} (\S+)$', text, re.M)
    return {int(worker): int(float(count)) for worker, count in counts}


def test_those_who_write_move_and_those_who_read_stay(server: Served, node: str) -> None:
    with talking(server, 4 * WORKERS) as client:
        for turn, link in enumerate(client.links):
            assert asked(link, "GET", f"{node}/info")[0] == 200, turn
        before = [place_of(server, link) for link in client.links]
        assert set(before) == set(range(WORKERS))
        writers = client.links[::2]

        def all_moved() -> bool:
            for turn, link in enumerate(writers):  # one that is asked again too soon moves the next time
                assert asked(link, "POST", f"{node}/key/k{turn}", f"value {turn}") == (200, b"")
            return {place_of(server, link) for link in writers} == {0}

        wait_for(all_moved, "the connections of those who write")
        for turn, link in enumerate(client.links):
            assert asked(link, "GET", f"{node}/key/k{turn // 2}") == (200, f"value {turn // 2}".encode())
        assert [place_of(server, link) for link in client.links[1::2]] == before[1::2]


def test_values_of_any_size_written_over_one_connection_arrive(server: Served, node: str) -> None:
    with talking(server, WORKERS) as client:
        for link in client.links:
            for turn, size in enumerate((0, 1, 70_000, 3 << 20, 5, 9 << 20)):
                value = bytes([turn + 1]) * size
                assert asked(link, "POST", f"{node}/key/sized", value) == (200, b"")
                assert asked(link, "GET", f"{node}/key/sized") == (200, value)


def test_what_is_sent_at_once_is_answered_in_order(server: Served, node: str) -> None:
    """A client that does not wait for answers: writes and reads one behind the other, in one piece and in many."""
    parts = urlsplit(server.url)
    for pace in (1 << 20, 700):
        for _ in range(WORKERS):
            wanted = [f"{pace} {turn}" for turn in range(60)]
            sent = b"".join(
                f"POST {node}/key/line HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(value)}\r\n\r\n{value}"
                f"GET {node}/key/line HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                for value in wanted
            )
            with socket.create_connection((parts.hostname or "", parts.port or 0), PATIENCE_S) as link:
                for at in range(0, len(sent), pace):
                    link.sendall(sent[at : at + pace])
                link.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: link.recv(1 << 16), b""))
            assert received.count(b"HTTP/1.1 200 OK\r\n") == 2 * len(wanted)
            assert [int(n) for n in re.findall(rb"\r\n\r\n\d+ (\d+)", received)] == list(range(60))


def test_home_takes_no_more_than_its_share(tmp_path: Path) -> None:
    most = 4 * WORKERS
    limit = ("--set", f"limits.max_connections={most}")
    with served(tmp_path / "store", "--workers", WORKERS, *limit) as server:
        with talking(server) as client:
            root = new_repo(client)
            new_instance(client, root, "keyvalue", "keys")
        place = f"/api/node/{root}/keys/key/one"
        with talking(server, 3 * WORKERS) as client:
            for turn in range(10):
                for which, link in enumerate(client.links):
                    assert asked(link, "POST", place, f"{turn} {which}") == (200, b"")
            assert connections(server)[0] <= most // WORKERS + 1


def test_a_moved_connection_may_idle_as_long_as_others(tmp_path: Path) -> None:
    limits = ("--set", "limits.header_timeout_s=2", "--set", "limits.idle_timeout_s=300")
    with served(tmp_path / "store", "--workers", 2, *limits) as server, talking(server, 4) as client:
        with talking(server, 2) as other:
            root = new_repo(other)
            new_instance(other, root, "keyvalue", "keys")
        for link in client.links:
            assert asked(link, "POST", f"/api/node/{root}/keys/key/one", "x") == (200, b"")
        time.sleep(4)
        for link in client.links:
            assert asked(link, "GET", f"/api/node/{root}/keys/key/one") == (200, b"x")


def test_a_process_that_dies_takes_no_moved_connection_with_it(tmp_path: Path) -> None:
    with served(tmp_path / "store", "--workers", 2) as server, talking(server, 2) as client:
        with talking(server, 2) as other:
            root = new_repo(other)
            new_instance(other, root, "keyvalue", "keys")
        place = f"/api/node/{root}/keys/key/one"

        def all_moved() -> bool:
            for link in client.links:
                assert asked(link, "POST", place, json.dumps("x")) == (200, b"")
            return {place_of(server, link) for link in client.links} == {0}

        wait_for(all_moved, "both connections at home")
        (follower,) = (pid for pid, writes in settled(server, 2).items() if not writes)
        os.kill(follower, signal.SIGKILL)
        for link in client.links:
            assert asked(link, "GET", place) == (200, b'"x"')
