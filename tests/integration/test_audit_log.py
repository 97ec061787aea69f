"""The audit log: who asked for which change, and what becomes of requests when it cannot be written."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

import dvidzarr
from dvidzarr.core.errors import StorageError
from dvidzarr.core.settings import Settings
from dvidzarr.server import audit as module
from dvidzarr.server.app import running
from dvidzarr.server.audit import AuditLog

ROOT = "a" * 32
TOKEN = "very-secret"
PATIENCE_S = 120.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs" / "audit.jsonl"


@pytest.fixture
def http(tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", TOKEN)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        repo = catalog.create_repo(root=ROOT)
        repo.create_instance("keyvalue", "kv")
        repo.create_instance("roi", "region")
        settings = Settings.load(env={}, overrides={"server.audit_log": str(log)})
        with running(catalog, settings) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            yield client


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def eventually(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_line_per_change_that_was_asked_for(http: httpx.Client, log: Path) -> None:
    key = f"/api/node/{ROOT[:8]}/kv/key/k"
    http.get(key)
    http.post(key, content=b"12345", params={"u": "ann", "app": "test"})
    http.post(f"/api/node/{ROOT}/region/ptquery", json=[[1, 2, 3]])  # only reads
    http.post("/api/repos", params={"u": "bob"})
    http.post("/api/repos", headers={"Authorization": f"Bearer {TOKEN}"})
    http.post(f"/api/node/{ROOT}/commit", json={})
    http.post(key, content=b"6", params={"admintoken": TOKEN, "u": "root"})
    http.delete("/api/nothing")
    http.options(key)
    eventually(lambda: len(lines(log)) == 6)
    names = ("user", "role", "operation", "instance", "status")
    assert [tuple(line.get(name) for name in names) for line in lines(log)] == [
        ("ann", "writer", "postKeyvalueKey", "kv", 200),
        ("bob", "writer", "postRepos", None, 400),
        ("", "admin", "postRepos", None, 200),
        ("", "writer", "postCommit", "", 200),
        ("root", "admin", "postKeyvalueKey", "kv", 400),
        ("", "writer", "", None, 404),
    ]
    first = lines(log)[0]
    assert (first["repo"], first["uuid"], first["app"], first["bytes"]) == (ROOT, ROOT, "test", 5)
    assert (first["method"], first["path"], first["peer"]) == ("POST", key, "127.0.0.1")
    assert len({line["request"] for line in lines(log)}) == 6
    assert TOKEN not in log.read_text()


def test_the_file_is_made_anew_when_it_was_moved(http: httpx.Client, log: Path) -> None:
    key = f"/api/node/{ROOT}/kv/key/k"
    http.post(key, content=b"1")
    eventually(lambda: len(lines(log)) == 1)
    log.rename(log.with_suffix(".1"))
    http.post(key, content=b"22")
    eventually(lambda: len(lines(log)) == 1)
    assert [line["bytes"] for line in lines(log.with_suffix(".1")) + lines(log)] == [1, 2]


def test_answers_do_not_depend_on_it(
    http: httpx.Client, log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WAITING_LINES", 2)
    key = f"/api/node/{ROOT}/kv/key/k"
    away = log.parent.with_name("away")
    log.parent.rename(away)  # as when a disk is gone: neither written nor made anew
    for size in range(1, 4):
        assert http.post(key, content=bytes(size)).status_code == 200
        # the first line is tried before the others come
        eventually(lambda: "the audit log cannot be written" in caplog.text)
    assert "dvidzarr_audit_lines_waiting 2.0" in http.get("/metrics").text
    assert "dvidzarr_audit_lines_lost_total 1.0" in http.get("/metrics").text
    away.rename(log.parent)
    eventually(lambda: len(lines(log)) == 3)
    assert [line.get("bytes", line.get("lost")) for line in lines(log)] == [1, 2, 1]
    assert caplog.text.count("the audit log cannot be written") == 1
    assert "dvidzarr_audit_lines_waiting 0.0" in http.get("/metrics").text


def test_users_that_are_no_text(http: httpx.Client, log: Path) -> None:
    place = urlsplit(str(http.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S) as link:
        request = f"POST /api/node/{ROOT}/kv/key/%FF?u=%FF&app=%ED%A0%80 HTTP/1.1\r\n"
        link.sendall(f"{request}Host: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        assert link.recv(1 << 16).startswith(b"HTTP/1.1 200")
    http.post(f"/api/node/{ROOT}/kv/key/k", content=b"1")
    eventually(lambda: len(lines(log)) == 2)
    assert [line["path"].rpartition("/")[2] for line in lines(log)] == ["%FF", "k"]


def test_a_server_that_cannot_be_audited_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="audit log"):
        AuditLog(tmp_path / "missing" / "audit.jsonl")
