"""A server with several processes: what was acknowledged is seen by every later read, whichever process that reaches."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests.integration.server_process import Served, served
from tests.integration.workers_client import (
    BLOCK,
    PATIENCE_S,
    WORKERS,
    Client,
    asked,
    new_instance,
    new_repo,
    talking,
    wait_for,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("workers") / "store", "--workers", WORKERS) as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    with talking(server) as client:
        yield client


def test_each_process_has_connections(server: Served) -> None:
    with talking(server, 4 * WORKERS) as client:
        for which in range(4 * WORKERS):
            client.done(which, "GET", "/api/server/note")
        text = client.done(0, "GET", "/metrics").decode()
    counts = re.findall(r'^dvidzarr_connections\{worker="(\d)"\} (\S+)$', text, re.M)
    assert {int(worker) for worker, _ in counts} == set(range(WORKERS))
    assert all(float(count) >= 4 for _, count in counts)


def test_repos_versions_and_instances_are_seen_everywhere(client: Client) -> None:
    for turn in range(5):
        root = new_repo(client)
        assert [status for status, _ in client.everywhere(f"/api/repo/{root}/info")] == [200] * WORKERS
        new_instance(client, root, "keyvalue", "things")
        seen = client.everywhere(f"/api/node/{root}/things/info")
        assert [status for status, _ in seen] == [200] * WORKERS
        client.done(turn, "POST", f"/api/repo/{root}/info", json.dumps({"alias": f"called {turn}"}))
        for _, body in client.everywhere("/api/repos/info"):
            assert json.loads(body)[root]["Alias"] == f"called {turn}"
        client.done(turn, "POST", f"/api/node/{root}/commit", "{}")
        assert {body for _, body in client.everywhere(f"/api/node/{root}/status")} == {b'{"Locked":true}'}
        child = json.loads(client.done(turn + 1, "POST", f"/api/node/{root}/newversion", "{}"))["child"]
        client.done(turn, "POST", f"/api/node/{child}/note", json.dumps({"note": f"note {turn}"}))
        for status, body in client.everywhere(f"/api/node/{child}/note"):
            assert (status, json.loads(body)["note"]) == (200, f"note {turn}")
        client.done(turn, "POST", f"/api/node/{child}/things/tags", json.dumps({"turn": str(turn)}))
        for _, body in client.everywhere(f"/api/node/{child}/things/tags"):
            assert json.loads(body)["Tags"] == {"turn": str(turn)}
        for _, body in client.everywhere("/api/repos/info"):
            things = json.loads(body)[root]["DataInstances"]["things"]["Base"]
            assert things["Tags"] == {"turn": str(turn)}
        client.done(turn, "POST", f"/api/repo/{root}/instance/things/rename", json.dumps({"name": "other"}))
        assert [status for status, _ in client.everywhere(f"/api/node/{child}/other/info")] == [200] * WORKERS
        assert [status for status, _ in client.everywhere(f"/api/node/{child}/things/info")] == [
            400
        ] * WORKERS
        client.done(turn, "DELETE", f"/api/repo/{root}/instance/other?imsure=true")
        assert [status for status, _ in client.everywhere(f"/api/node/{child}/other/info")] == [400] * WORKERS
        client.done(turn, "POST", f"/api/repo/{root}/delete?imsure=true")
        assert [status for status, _ in client.everywhere(f"/api/repo/{root}/info")] == [400] * WORKERS
        assert all(root not in json.loads(body) for _, body in client.everywhere("/api/repos/info"))


def test_data_are_seen_everywhere(client: Client) -> None:
    root = new_repo(client)
    for kind, name in (("keyvalue", "keys"), ("roi", "region"), ("labelblk", "labels")):
        new_instance(client, root, kind, name)
    new_instance(client, root, "uint8blk", "gray", BlockSize="64,64,64")
    raw, node = "raw/0_1_2/64_64_64/0_0_0", f"/api/node/{root}"
    for turn in range(8):
        gray, labels = bytes([turn + 1]) * BLOCK, np.full(BLOCK, turn + 1, "<u8").tobytes()
        client.done(turn, "POST", f"{node}/gray/{raw}", gray)
        client.done(turn, "POST", f"{node}/labels/{raw}", labels)
        client.done(turn, "POST", f"{node}/keys/key/one", f"value {turn}")
        spans = [[turn, 0, 0, 3]]
        client.done(turn, "POST", f"{node}/region/roi", json.dumps(spans))
        reference = json.loads(client.done(turn, "POST", f"{node}/keys/blobstore", f"blob {turn}"))[
            "reference"
        ]
        assert set(client.everywhere(f"{node}/gray/{raw}")) == {(200, gray)}
        assert set(client.everywhere(f"{node}/labels/{raw}")) == {(200, labels)}
        assert set(client.everywhere(f"{node}/keys/key/one")) == {(200, f"value {turn}".encode())}
        assert [json.loads(body) for _, body in client.everywhere(f"{node}/region/roi")] == [spans] * WORKERS
        assert set(client.everywhere(f"{node}/keys/blobstore/{reference}")) == {
            (200, f"blob {turn}".encode())
        }
        client.done(turn + 1, "DELETE", f"{node}/keys/key/one")
        assert [status for status, _ in client.everywhere(f"{node}/keys/key/one")] == [404] * WORKERS


def test_every_client_reads_what_any_client_wrote(server: Served, client: Client) -> None:
    """Many writers and readers at once: a value read is never older than the last one acknowledged before."""
    root = new_repo(client)
    new_instance(client, root, "keyvalue", "keys")
    new_instance(client, root, "uint8blk", "gray", BlockSize="64,64,64")

    def hammer(which: int) -> None:
        place = f"/api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_{64 * which}"
        with talking(server) as own:
            for rounds in range(1, 26):
                own.done(rounds, "POST", f"/api/node/{root}/keys/key/{which}", str(rounds))
                own.done(rounds + 1, "POST", place, bytes([rounds % 251]) * BLOCK)
                with talking(server) as fresh:
                    values = fresh.everywhere(f"/api/node/{root}/keys/key/{which}")
                    assert set(values) == {(200, str(rounds).encode())}
                    assert {body[:1] for _, body in fresh.everywhere(place)} == {bytes([rounds % 251])}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hammer, range(4)))


def test_followers_that_lag_never_miss_what_was_replaced(tmp_path: Path) -> None:
    """Replaced chunks and finished rewrites are removed at once here: readers look again instead of failing."""
    config = tmp_path / "fast.toml"
    config.write_text("[storage]\nrewrite_grace_s = 0.0\n")
    words = ("--workers", 2, "--durability", "fast", "--config", config)
    with served(tmp_path / "store", *words) as server, talking(server, 2) as client:
        version = new_repo(client)
        new_instance(client, version, "uint8blk", "gray", BlockSize="64,64,64")
        stop = threading.Event()
        versions = [version]

        def read(which: int) -> None:
            count = 0
            with talking(server, 2) as own:
                while not stop.is_set() or count <= 10:
                    at = versions[-1]
                    body = own.done(which, "GET", f"/api/node/{at}/gray/raw/0_1_2/64_64_64/0_0_0")
                    assert len(set(body)) == 1
                    count += 1

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read, which) for which in range(2)]
            try:
                for turn in range(60):
                    place = f"/api/node/{version}/gray/raw/0_1_2/64_64_64/0_0_0"
                    client.done(turn, "POST", place, bytes([turn]) * BLOCK)
                    assert set(client.everywhere(place)) == {(200, bytes([turn]) * BLOCK)}
                    if turn % 10 == 9:
                        client.done(turn, "POST", f"/api/node/{version}/commit", "{}")
                        made = client.done(turn, "POST", f"/api/node/{version}/newversion", "{}")
                        version = json.loads(made)["child"]
                        versions.append(version)
            finally:
                stop.set()
            for each in readers:
                each.result()


def raw_exchange(url: str, head: str, body: bytes = b"") -> bytes:
    """Send bytes, close the sending side, and return all that comes back, without the date."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=PATIENCE_S) as link:
        link.sendall(head.encode("latin-1") + body)
        received = b""
        while piece := link.recv(1 << 16):
            received += piece
    return re.sub(rb"Date: [^\r]*\r\n", b"", received)


@pytest.mark.parametrize(
    "head",
    [
        "GET /api/load HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Own: kept\r\n\r\n",
        "HEAD /api/heartbeat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /api/heartbeat HTTP/1.0\r\n\r\n",
        "POST /api/node/{root}/keys/key/%FF%2523 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\nabc",
        "POST /api/node/{root}/keys/key/b?u=a%20b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /api/node/{root}/keys/key/c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        "Connection: close\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "POST /api/node/{root}/keys/key/u HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n"
        "Content-Length: 3\r\n\r\nabc",
        "POST /api/node/{root}/keys/tags HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\n{{",
        "POST /api/node/{root}/keys/key/d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        "POST /api/node/{root}/keys/key/e HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        "Content-Length: 3\r\nConnection: close\r\n\r\nabc",
        "POST /api/node/{root}/keys/key/f HTTP/1.1\r\nHost: localhost\r\nOrigin: http://pages\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\nabc",
        "DELETE /api/repo/{root}/instance/none?imsure=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        "GET /api/server/config HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
def test_forwarded_answers_are_those_of_the_writer_byte_for_byte(
    server: Served, client: Client, head: str
) -> None:
    root = new_repo(client)
    new_instance(client, root, "keyvalue", "keys")
    said = {raw_exchange(server.url, head.format(root=root)) for _ in range(2 * WORKERS)}
    if "/api/load" in head:  # its numbers are those of a moment
        changing = rb'"(GET|PUT) requests":\d+|"handlers active":\d+|"goroutines":\d+|Content-Length: \d+'
        said = {re.sub(changing, b"", each) for each in said}
    assert len(said) == 1, said
    assert next(iter(said)).startswith(b"HTTP/1."), said


def test_large_bodies_and_answers_pass_whole(client: Client) -> None:
    root = new_repo(client)
    new_instance(client, root, "uint8blk", "gray", BlockSize="64,64,64")
    body = np.random.default_rng(3).integers(0, 255, 256 * 256 * 256, np.uint8).tobytes()
    path = f"/api/node/{root}/gray/raw/0_1_2/256_256_256/0_0_0"
    for which in range(WORKERS):
        client.done(which, "POST", path, body)
        # throttled requests are counted in one place, so their answers are forwarded
        assert client.done(which + 1, "GET", f"{path}?throttle=on") == body
    assert all(answer == body for _, answer in client.everywhere(path))


def test_targets_that_grow_when_they_are_escaped_are_taken_everywhere(client: Client) -> None:
    for link in client.links:
        status, _ = asked(link, "POST", f"/api/repos?note={40_000 * '#'}", "{}")
        assert status == 200


def test_a_client_that_leaves_in_its_body_changes_nothing(server: Served, client: Client) -> None:
    root = new_repo(client)
    new_instance(client, root, "keyvalue", "keys")
    parts = urlsplit(server.url)
    for _ in range(WORKERS):
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as link:
            head = f"POST /api/node/{root}/keys/key/torn HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            link.sendall(head.encode() + b"x" * 10)
            time.sleep(0.1)
    assert {status for status, _ in client.everywhere(f"/api/node/{root}/keys/key/torn")} == {404}


def test_the_load_counts_all_processes(server: Served) -> None:
    with talking(server) as client:
        counts = []
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and max(counts, default=0) < 20:
            for which in range(60):
                client.done(which, "GET", "/api/server/note")
            counts.append(json.loads(client.done(0, "GET", "/api/load"))["GET requests"])
        users = {
            which: client.done(which, "GET", f"/api/heartbeat?u=user{which}") for which in range(WORKERS)
        }
        seen = json.loads(client.done(1, "GET", "/api/user-latencies"))
    assert max(counts) >= 20
    assert {f"user{which}" for which in users} <= set(seen)


def test_settings_changed_on_one_hold_for_all(client: Client) -> None:
    root = new_repo(client)
    new_instance(client, root, "uint8blk", "gray", BlockSize="64,64,64")
    path = f"/api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_0?throttle=on"
    client.done(1, "POST", "/api/server/settings", json.dumps({"throttle": "0"}))
    assert [status for status, _ in client.everywhere(path)] == [503] * WORKERS
    client.done(2, "POST", "/api/server/settings", json.dumps({"throttle": "1"}))
    assert [status for status, _ in client.everywhere(path)] == [200] * WORKERS


def test_log_lines_of_all_processes_are_whole(server: Served, client: Client) -> None:
    for which in range(300):
        client.done(which, "GET", "/api/server/note")
    everybody = {"supervisor", *range(WORKERS)}
    wait_for(lambda: {line["worker"] for line in server.lines()} == everybody, "lines of all processes")


def test_the_log_keeps_the_begin_of_long_names(server: Served, client: Client) -> None:
    client.done(0, "GET", f"/api/server/note?app={'n' * 100_000}&u=long")

    def shown() -> list[str]:
        return [line["app"] for line in server.lines() if line.get("user") == "long"]

    wait_for(lambda: bool(shown()), "its line")
    assert shown() == ["n" * 1024]
