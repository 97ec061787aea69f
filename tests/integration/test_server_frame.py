"""The frame around handlers: bodies, streams, limits, rights, hostile clients."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from dvidzarr.server.accesslog import FACTS
from tests.integration import server_stub
from tests.integration.server_stub import client
from tests.integration.workers_client import wait_for

NODE = "/api/node/0123/thing"
PATIENCE_S = server_stub.PATIENCE_S
MIB = 1 << 20


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with client() as http:
        yield http


@pytest.fixture(autouse=True)
def received() -> list[bytes]:
    server_stub.RECEIVED.clear()
    return server_stub.RECEIVED


def talk(http: httpx.Client, data: bytes, *, leave: bool = False) -> bytes:
    """Send raw bytes, end sending if we `leave`, return all that comes back."""
    address = urlsplit(str(http.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
        link.sendall(data)
        if leave:
            link.shutdown(socket.SHUT_WR)
        return read_all(link)


def read_all(link: socket.socket) -> bytes:
    answer = b""
    try:
        while data := link.recv(1 << 20):
            answer += data
    except ConnectionResetError:
        answer += b"<reset>"
    return answer


def test_words_are_decoded(http: httpx.Client) -> None:
    facts = http.get(f"{NODE}/echo/a%20b/c%2Fd/?u=ann").json()
    assert facts == {
        "path": "/api/node/0123/thing/echo/a b/c/d/",
        "parts": ["echo", "a b", "c", "d"],
        "words": {"a": "a b", "b": "c"},
        "user": "ann",
    }


def test_every_answer_allows_other_origins(http: httpx.Client) -> None:
    for path in ("/api/heartbeat", "/nowhere", f"{NODE}/echo", f"{NODE}/stream/3/10", f"{NODE}/bug"):
        assert http.get(path).headers["Access-Control-Allow-Origin"] == "*"


def test_unknown_keyword_and_verb(http: httpx.Client) -> None:
    answer = http.get(f"{NODE}/frob")
    assert answer.status_code == 400
    assert answer.text.startswith(f'Bad API call ({NODE}/frob) for data "thing".  See API help at http://127')
    assert http.post(f"{NODE}/bug").text == f"bug endpoint only supports GET HTTP verb ({NODE}/bug).\n"
    assert http.put(f"{NODE}/echo").text.startswith('Data "thing" can only handle GET or POST HTTP verbs')
    assert http.get("/api/node/0123/other/echo").text.startswith("invalid data instance name")
    assert http.get("/api/node/ff/thing/echo").status_code == 400


def test_exact_body(http: httpx.Client, received: list[bytes]) -> None:
    data = os.urandom(3 * MIB)
    answer = http.post(f"{NODE}/exact/{len(data)}", content=data)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "content-type" not in answer.headers
    assert received == [data]


def test_chunked_body(http: httpx.Client, received: list[bytes]) -> None:
    assert http.post(f"{NODE}/exact/6", content=iter([b"abc", b"def"])).status_code == 200
    assert received == [b"abcdef"]
    for body in ([b"abc", b"de"], [b"abc", b"defg"]):
        answer = http.post(f"{NODE}/exact/6", content=iter(body))
        assert answer.text == f"data was {len(b''.join(body))} bytes ({NODE}/exact/6).\n"
    assert received == [b"abcdef"]


def test_wrong_length_is_told_before_the_body(http: httpx.Client, received: list[bytes]) -> None:
    head = (
        b"POST %s/exact/5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n" % NODE.encode()
    )
    assert b"413" in talk(http, head).split(b"\r\n")[0]
    assert http.post(f"{NODE}/exact/5", content=b"1234").text.startswith("data was 4 bytes")
    assert http.post(f"{NODE}/exact/5", content=b"").text.startswith("data was 0 bytes")
    assert received == []


def test_prefix_body(http: httpx.Client, received: list[bytes]) -> None:
    assert http.post(f"{NODE}/prefix/3", content=b"abcdef").status_code == 200
    assert http.post(f"{NODE}/prefix/3", content=iter([b"ab", b"cdef"])).status_code == 200
    assert http.post(f"{NODE}/prefix/3", content=iter([b"ab"])).text.startswith("data ceased")
    assert received == [b"abc", b"abc"]


def test_half_a_body_is_no_write(http: httpx.Client, received: list[bytes]) -> None:
    head = b"POST %s/exact/10 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345" % NODE.encode()
    talk(http, head, leave=True)
    chunked = (
        b"POST %s/prefix/3 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12"
        % NODE.encode()
    )
    talk(http, chunked, leave=True)
    talk(http, chunked.replace(b"5\r\n12", b"zz\r\n12345"), leave=True)
    assert received == []


def test_content_encoding_is_not_looked_at(http: httpx.Client) -> None:
    answer = http.post(f"{NODE}/small", content=b"\x1f\x8bnot gzip", headers={"Content-Encoding": "gzip"})
    assert answer.content == b"\x1f\x8bnot gzip"


def test_small_body_limit(http: httpx.Client) -> None:
    assert http.post(f"{NODE}/small", content=b"x" * 1000).status_code == 200
    assert http.post(f"{NODE}/small", content=b"x" * 1001).status_code == 413
    assert http.post(f"{NODE}/small", content=iter([b"x" * 600, b"x" * 600])).status_code == 413


def test_expect_continue(http: httpx.Client, received: list[bytes]) -> None:
    address = urlsplit(str(http.base_url))
    head = "POST {}/exact/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
        link.sendall(head.format(NODE, 5).encode())
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(b"12345")
        assert read_all(link).startswith(b"HTTP/1.1 200 OK")
    assert received == [b"12345"]
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
        link.sendall(head.format(NODE, 6).encode())
        assert link.recv(15) == b"HTTP/1.1 400 Ba"


def test_stream(http: httpx.Client) -> None:
    body = b"".join(bytes([number]) * (5 * MIB) for number in range(3))
    assert http.get(f"{NODE}/stream/3/{5 * MIB}").content == body
    assert http.get(f"{NODE}/stream/3/{5 * MIB}?chunked").content == body
    assert http.get(f"{NODE}/stream/0/5").content == b""


def test_stream_that_fails_at_first_is_an_error(http: httpx.Client) -> None:
    answer = http.get(f"{NODE}/stream/3/10?fail=0")
    assert answer.status_code == 500
    assert answer.text == f"chunk 7 is damaged ({NODE}/stream/3/10).\n"


@pytest.mark.parametrize("query", ["fail=2", "fail=2&chunked"])
def test_stream_that_fails_later_is_no_whole_answer(http: httpx.Client, query: str) -> None:
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        http.get(f"{NODE}/stream/3/{MIB}?{query}")
    assert http.get("/api/heartbeat").text == "OK"


def test_a_bug_tells_nothing(http: httpx.Client) -> None:
    answer = http.get(f"{NODE}/bug")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Internal error on request" in answer.text


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"FROB / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET http://[/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /api/node/%\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: [\r\nOrigin: http://[\r\nConnection: close\r\n\r\n",
    ],
)
def test_malformed_requests(http: httpx.Client, head: bytes) -> None:
    status = talk(http, head).split(b"\r\n")[0]
    assert status.split(b" ")[1:2] in ([b"400"], [b"404"], [b"431"], [b"505"]), status
    assert http.get("/api/heartbeat").text == "OK"


def test_long_query_is_taken(http: httpx.Client) -> None:
    assert http.get(f"{NODE}/echo?blocks=" + "1,2,3," * 10_000).status_code == 200


@pytest.mark.parametrize("path", ["/api//node", "/api/node/0123/../x", "/./api/load"])
def test_unclean_paths_are_redirected(http: httpx.Client, path: str) -> None:
    answer = talk(http, f"POST {path}?a=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert b" 307 " in answer
    assert b"?a=1\r\n" in answer


def test_locked_version() -> None:
    with client(server_stub.stub(locked=True)) as http:
        refused = f'Cannot do POST on endpoint "small" of locked node {server_stub.UUID} ({NODE}/small).'
        assert http.post(f"{NODE}/small", content=b"x").text == refused + "\n"
        assert http.post(f"{NODE}/echo").status_code == 400
        assert http.post(f"{NODE}/frob").status_code == 400
        assert http.post(f"{NODE}/ask").status_code == 200
        assert http.get(f"{NODE}/echo").status_code == 200
        assert http.post("/api/node/0123/note", content=b"{}").text.startswith(
            "Cannot do post on locked node"
        )
    with client(server_stub.stub(locked=True, versioned=False)) as http:
        assert http.post(f"{NODE}/small", content=b"x").status_code == 200


def test_read_only() -> None:
    with client(server_stub.stub(read_only=True)) as http:
        assert "read-only mode" in http.post(f"{NODE}/echo").text
        assert "read-only mode" in http.post("/api/repo/0123/log").text
        assert http.get(f"{NODE}/echo").status_code == 200
        assert http.get("/api/server/info").json()["Mode"] == "read only"


def test_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "s3cret")
    with client() as http:
        assert http.get(f"{NODE}/admin").status_code == 400
        assert http.get(f"{NODE}/admin?admintoken=wrong").status_code == 400
        assert http.get(f"{NODE}/admin?admintoken=s3cret").text == "welcome"
        assert http.get(f"{NODE}/admin", headers={"Authorization": "Bearer s3cret"}).text == "welcome"
        assert http.post(f"{NODE}/small", content=b"x").status_code == 200
        assert http.post("/api/repos").status_code == 400


def test_slow_headers_are_cut() -> None:
    with client(limits__header_timeout_s=1.0) as http:
        address = urlsplit(str(http.base_url))
        for head in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
                link.sendall(head)
                assert read_all(link) in (b"", b"<reset>")
        assert http.get(f"{NODE}/sleep/1.5").text == "done"
        time.sleep(1.5)
        assert http.get("/api/heartbeat").text == "OK"


def test_slow_body_is_cut(received: list[bytes]) -> None:
    with client(limits__body_timeout_s=0.3) as http:
        address = urlsplit(str(http.base_url))
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
            link.sendall(
                b"POST %s/exact/9 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n123" % NODE.encode()
            )
            assert link.recv(1000).startswith(b"HTTP/1.1 408")
    assert received == []


def test_slow_reader_is_cut() -> None:
    with client(limits__send_timeout_s=0.3) as http:
        address = urlsplit(str(http.base_url))
        with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
            link.sendall(b"GET %s/stream/100/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (NODE.encode(), MIB))
            assert link.recv(100).startswith(b"HTTP/1.1 200")
            wait_for(lambda: server_stub.active(str(http.base_url)) == 1, "the end of the request")
            assert len(read_all(link)) < 100 * MIB


def test_too_many_connections() -> None:
    with client(limits__max_connections=2) as http:
        address = urlsplit(str(http.base_url))
        assert http.get("/api/heartbeat").text == "OK"
        with (
            socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S),
            socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as third,
        ):
            assert read_all(third) in (b"", b"<reset>")
        assert http.get("/api/heartbeat").text == "OK"


def test_requests_end_before_the_server(tmp_path: Path) -> None:
    server_stub.GO.clear()
    with client() as http:
        address = urlsplit(str(http.base_url))
        link = socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S)
        link.sendall(b"GET %s/hold HTTP/1.1\r\nHost: localhost\r\n\r\n" % NODE.encode())
        wait_for(lambda: server_stub.active(str(http.base_url)) == 2, "the begin of the request")
        threading.Timer(0.3, server_stub.GO.set).start()
    with link:
        assert read_all(link).endswith(b"done")


def test_access_log(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dvidzarr.access"):
        http.post(f"{NODE}/small?u=ann&app=neu&admintoken=s3cret", content=b"12345")
        deadline = time.monotonic() + PATIENCE_S
        while not (found := [each for each in caplog.records if "ann" in getattr(each, FACTS, {}).values()]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    facts = vars(found[0])[FACTS]
    assert (facts["method"], facts["path"], facts["status"]) == ("POST", f"{NODE}/small", 200)
    assert (facts["user"], facts["app"], facts["bytes_in"]) == ("ann", "neu", 5)
    assert facts["bytes_out"] >= 5
    assert "s3cret" not in json.dumps({name: str(value) for name, value in vars(found[0]).items()})
