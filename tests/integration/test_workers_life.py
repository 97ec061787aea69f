"""The processes of a server while they come and go: killed, stopped, replaced, and the order in which they end."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import dvidzarr
from tests.integration.cli_process import COMMAND
from tests.integration.server_process import served
from tests.integration.workers_client import (
    BLOCK,
    PATIENCE_S,
    WORKERS,
    Client,
    alive,
    asked,
    new_instance,
    new_repo,
    processes,
    settled,
    talking,
    wait_for,
)


def test_a_killed_follower_is_replaced_while_others_go_on(tmp_path: Path) -> None:
    with served(tmp_path / "store", "--workers", 2) as server, talking(server, 2) as client:
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "keys")
        follower = next(pid for pid, writes in settled(server, 2).items() if not writes)
        os.kill(follower, signal.SIGKILL)
        acknowledged, until = 0, time.monotonic() + PATIENCE_S
        while acknowledged <= 10 or len(processes(server)) < 2:
            assert time.monotonic() < until, f"{acknowledged} writes and no new follower"
            try:
                with talking(server, 1) as own:
                    own.done(0, "POST", f"/api/node/{root}/keys/key/k", str(acknowledged + 1))
                    acknowledged += 1
                    assert own.done(0, "GET", f"/api/node/{root}/keys/key/k") == str(acknowledged).encode()
            except (HTTPException, ConnectionError):  # it had gone to the one that was killed
                continue
        assert follower not in processes(server)
        with talking(server, 4) as own:
            assert set(own.everywhere(f"/api/node/{root}/keys/key/k")) == {(200, str(acknowledged).encode())}
            assert own.done(0, "GET", "/metrics").decode().count("dvidzarr_connections{") == 2


def test_a_killed_writer_stops_the_service(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with served(store, "--workers", 2) as server, talking(server, 2) as client:
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "keys")
        client.done(1, "POST", f"/api/node/{root}/keys/key/k", "kept")
        pids = settled(server, 2)
        os.kill(next(pid for pid, writes in pids.items() if writes), signal.SIGKILL)
        assert server.process.wait(PATIENCE_S) == 1
        wait_for(lambda: not any(map(alive, pids)), "the end of all processes")
    assert "the process that writes" in server.log.read_text().splitlines()[-1]
    with dvidzarr.open(store, "w") as catalog:
        assert catalog.resolve(root)[0].instance("keys").at(root).get("k") == b"kept"


def test_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with served(tmp_path / "store", "--workers", 2, TMPDIR=str(folder)) as server:
        pids = settled(server, 2)
        assert list(folder.glob("*/0.sock"))
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not any(map(alive, pids)), "the end of all processes")
    assert list(folder.iterdir()) == []
    dvidzarr.open(tmp_path / "store", "w").close()


def active(client: Client) -> int:
    return int(json.loads(client.done(0, "GET", "/api/load"))["handlers active"])


def test_a_server_that_was_killed_can_be_started_again_at_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with served(store, "--workers", 2) as server:
        with talking(server, 2) as client:
            root = new_repo(client)
            new_instance(client, root, "keyvalue", "keys")
            for turn in range(8):
                client.done(turn, "POST", f"/api/node/{root}/keys/key/k{turn}", f"value {turn}")
        server.process.kill()
        server.process.wait()
        with served(store, "--workers", 2) as again, talking(again, 2) as client:
            for turn in range(8):
                place = f"/api/node/{root}/keys/key/k{turn}"
                assert client.done(turn, "GET", place) == f"value {turn}".encode()


def test_a_store_that_is_let_go_in_time_is_waited_for(tmp_path: Path) -> None:
    store = tmp_path / "store"
    holder = dvidzarr.open(store, "w")
    root = holder.create_repo("held").root
    leaving = threading.Timer(1.0, holder.close)
    leaving.start()
    with served(store, "--workers", 2) as server, talking(server, 2) as client:
        assert client.everywhere(f"/api/repo/{root}/info")[0][0] == 200
    leaving.join()


def test_a_client_that_stands_still_does_not_hold_up_the_end(tmp_path: Path) -> None:
    config = tmp_path / "short.toml"
    config.write_text("[storage]\ndrain_timeout_s = 1.0\n[limits]\nbody_timeout_s = 10000.0\n")
    with (
        served(tmp_path / "store", "--workers", 2, "--config", config) as server,
        talking(server, 2) as client,
    ):
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "keys")
        parts = urlsplit(server.url)
        links = [socket.create_connection((parts.hostname or "", parts.port or 0)) for _ in range(2)]
        head = f"POST /api/node/{root}/keys/key/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        for link in links:
            link.sendall(head.encode() + b"x")
        wait_for(lambda: active(client) == 3, "both requests, beside the one that asks")
        server.process.terminate()
        assert server.process.wait(PATIENCE_S) == 0
        for link in links:
            link.close()
    assert "in time and is killed" not in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_and_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    with served(store, "--workers", 2) as server, talking(server, 2) as client:
        root = new_repo(client)
        new_instance(client, root, "keyvalue", "keys")
        acknowledged = [0, 0]

        def write(which: int) -> None:
            with talking(server, 2) as own:
                try:
                    while (
                        own.ask(
                            which, "POST", f"/api/node/{root}/keys/key/{which}", str(acknowledged[which] + 1)
                        )[0]
                        == 200
                    ):
                        acknowledged[which] += 1
                except (HTTPException, ConnectionError):
                    return

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(write, which) for which in range(2)]
            pids = settled(server, 2)
            wait_for(lambda: min(acknowledged) > 3, "writes of both")
            server.process.send_signal(number)
            assert server.process.wait(PATIENCE_S) == 0
            for each in running:
                each.result()
        assert not any(map(alive, pids))
    with dvidzarr.open(store, "w") as catalog:
        view = catalog.resolve(root)[0].instance("keys").at(root)
        for which in range(2):
            # the last one may have been done without its answer having come
            assert int(view.get(str(which)) or 0) - acknowledged[which] in (0, 1)


def test_a_stopped_follower_is_replaced_in_peace(tmp_path: Path) -> None:
    with served(tmp_path / "store", "--workers", 2) as server:
        follower = next(pid for pid, writes in settled(server, 2).items() if not writes)
        over = threading.Event()

        def ask() -> set[int]:
            found = set()
            while not over.is_set():
                found.add(httpx.get(f"{server.url}/api/server/note", timeout=PATIENCE_S).status_code)
            return found

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            os.kill(follower, signal.SIGTERM)
            try:
                wait_for(lambda: not alive(follower) and len(processes(server)) == 2, "another follower")
            finally:
                over.set()
            assert [each.result() for each in asking] == [{200}] * 4
        with talking(server, 2) as client:
            assert [status for status, _ in client.everywhere("/api/server/note")] == [200, 200]


def test_reading_only(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with dvidzarr.open(store, "w") as writer:
        root = writer.create_repo("first").root
        with served(store, "--workers", 2, "--read-only") as server, talking(server, 2) as client:
            writer.repos[0].describe(alias="second")
            for _, body in client.everywhere(f"/api/repo/{root}/info"):
                assert json.loads(body)["Alias"] == "second"
            for which in range(2):
                status, body = client.ask(which, "POST", f"/api/repo/{root}/log", '{"log": ["x"]}')
                assert (status, b"read-only mode" in body) == (400, True)
                assert json.loads(client.done(which, "GET", "/api/server/info"))["Mode"] == "read only"
            first = min(settled(server, 2))
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: len(processes(server)) == 2, "a new process")


def test_rights_are_the_same_everywhere(tmp_path: Path) -> None:
    with (
        served(tmp_path / "store", "--workers", 2, DVID_ADMIN_TOKEN="secret") as server,
        talking(server, 2) as client,
    ):
        for which in range(2):
            assert client.ask(which, "POST", "/api/repos", "{}")[0] == 400
            client.done(which, "POST", "/api/repos?admintoken=secret", "{}")
            client.links[which].request("GET", "/api/server/info", headers={"Host": "elsewhere.example"})
            refused = client.links[which].getresponse()
            assert (refused.status, bool(refused.read())) == (421, True)


def test_an_error_at_home_can_be_found_by_the_access_log_of_who_took_the_request(tmp_path: Path) -> None:
    with served(tmp_path / "store", "--workers", WORKERS) as server, talking(server) as client:
        root = new_repo(client)
        new_instance(client, root, "uint8blk", "gray")
        client.done(0, "POST", f"/api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_0", bytes(BLOCK))
        (folder,) = (tmp_path / "store").glob("repos/*/data/*/versions")
        folder.rename(tmp_path / "aside")
        folder.write_text("no folder")
        place = f"/api/node/{root}/gray/raw/0_1_2/64_64_64/64_0_0"
        links = [client.link() for _ in range(3 * WORKERS)]  # all open at once: each process has some
        for link in links:
            assert asked(link, "POST", place, bytes(BLOCK))[0] == 500
            link.close()

        def told(name: str, value: object) -> dict[str, int]:
            return {line["request"]: line["worker"] for line in server.lines() if line.get(name) == value}

        wait_for(lambda: len(told("status", 500)) == len(links), "the access log")
        wait_for(lambda: len(told("message", "storage failed")) == len(links), "the errors")
        assert told("status", 500).keys() == told("message", "storage failed").keys()
        assert set(told("status", 500).values()) == set(range(WORKERS))
        assert set(told("message", "storage failed").values()) == {0}


def test_limits_are_shown_as_they_were_set(tmp_path: Path) -> None:
    words = ("--set", "limits.max_connections=60", "--set", "limits.bytes_in_flight=90000000")
    with served(tmp_path / "store", "--workers", WORKERS, *words) as server, talking(server) as client:
        for status, text in client.everywhere("/api/server/config"):
            assert status == 200
            assert b"max_connections = 60" in text
            assert b"bytes_in_flight = 90000000" in text


def test_a_taken_port_and_a_held_store_are_told(tmp_path: Path) -> None:
    def failing(store: Path, port: int) -> str:
        words = (*COMMAND, "serve", str(store), "--workers", "2", "--port", str(port))
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 1
        return done.stderr

    with served(tmp_path / "store", "--workers", 2) as server:
        port = urlsplit(server.url).port or 0
        assert f"cannot listen on 127.0.0.1 port {port}" in failing(tmp_path / "other", port)
        said = failing(tmp_path / "store", 0)
        assert f"use its address instead: {server.url}" in said


@pytest.mark.parametrize("delay_s", [1.0, 10_000.0])
def test_who_asks_is_told_before_the_end(tmp_path: Path, delay_s: float) -> None:
    """With the long delay there is time to look; the end after it is seen with the short one."""
    config = tmp_path / "delay.toml"
    config.write_text(f"[server]\nstop_delay_s = {delay_s}\n")
    with (
        served(tmp_path / "store", "--workers", 2, "--config", config) as server,
        talking(server, 2) as client,
    ):
        assert [status for status, _ in client.everywhere("/readyz")] == [200, 200]
        server.process.terminate()
        if delay_s < PATIENCE_S:
            assert server.process.wait(PATIENCE_S) == 0
            return
        wait_for(
            lambda: [s for s, _ in client.everywhere("/readyz")] == [503, 503], "both say that they stop"
        )
        with talking(server, 2) as late:  # connections are still taken
            assert [status for status, _ in late.everywhere("/livez")] == [200, 200]


def test_a_signal_to_all_processes_at_once_is_a_clean_end(tmp_path: Path) -> None:
    """As from a terminal, or from a service manager that knows the group."""
    with served(tmp_path / "store", "--workers", 2) as server:
        pids = settled(server, 2)
        for pid in (*pids, server.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0
        assert not any(map(alive, pids))
