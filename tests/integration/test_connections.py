"""HTTP/1.1 as bytes on a socket: order, ends, bodies nobody wants, old and odd clients."""

import gc
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import pytest

from dvidzarr.core.settings import Settings
from dvidzarr.http.request import Request
from dvidzarr.server import connections
from dvidzarr.server.app import running
from dvidzarr.server.connections import LINGER_S
from tests.integration import server_stub
from tests.integration.workers_client import wait_for

NODE = f"/api/node/{server_stub.UUID}/thing"
HOST = b"Host: localhost\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


@contextmanager
def serving(**limits: object) -> Iterator[str]:
    overrides = {f"limits.{name}": value for name, value in limits.items()}
    overrides["storage.drain_timeout_s"] = 10_000.0  # an end that somebody holds up would be seen
    with running(server_stub.stub(), Settings.load(env={}, overrides=overrides)) as url:
        yield url


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=server_stub.PATIENCE_S) as link:
        yield link


def asked(method: str, path: str, headers: bytes = b"", body: bytes = b"", version: str = "1.1") -> bytes:
    return f"{method} {NODE}{path} HTTP/{version}\r\n".encode() + HOST + headers + b"\r\n" + body


def sized(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


def all_of(link: socket.socket) -> bytes:
    """Return everything until the other side closes."""
    pieces = []
    while piece := link.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def sent_until_full(link: socket.socket, data: bytes) -> int:
    """Send the same data until the other side reads no more; return how many bytes it took."""
    sent = 0
    try:
        while sent < 64 * MIB:
            sent += link.send(data)
    except (TimeoutError, ConnectionResetError):
        return sent
    return sent


def ending(server: ExitStack) -> threading.Thread:
    """Begin to stop a server."""
    thread = threading.Thread(target=server.close, daemon=True)
    thread.start()
    return thread


def has_ended(thread: threading.Thread) -> bool:
    thread.join(server_stub.PATIENCE_S)
    return not thread.is_alive()


def is_served(url: str) -> bool:
    try:
        with connected(url) as link:
            link.sendall(asked("GET", "/sleep/0"))
            return link.recv(1000).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def answers(link: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Return (status, body) of so many answers; what comes beyond them fails."""
    got, found = b"", []
    while len(found) < count:
        head, blank, rest = got.partition(b"\r\n\r\n")
        size = re.search(rb"Content-Length: (\d+)", head)
        if blank and size and len(rest) >= int(size[1]):
            found.append((int(head.split()[1]), rest[: int(size[1])]))
            got = rest[int(size[1]) :]
            continue
        piece = link.recv(1 << 16)
        assert piece, (got, found)
        got += piece
    assert got == b""
    return found


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    with connected(url) as link:
        numbers = [str(number).encode() for number in range(200)]
        link.sendall(
            asked("GET", "/sleep/0.05")
            + b"".join(asked("POST", "/small", sized(number), number) for number in numbers)
        )
        assert answers(link, 201) == [(200, b"done"), *((200, number) for number in numbers)]


def test_pipelined_requests_do_not_pile_up(url: str) -> None:
    """A client that only sends is not read on: what it sent waits in the kernel, not in memory."""
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/1"))
        link.settimeout(0.5)
        assert sent_until_full(link, asked("GET", "/echo") * 1000) < 64 * MIB
        assert sum(isinstance(thing, Request) for thing in gc.get_objects()) < 500
        link.settimeout(server_stub.PATIENCE_S)
        assert link.recv(1000).startswith(b"HTTP/1.1 200")


def test_requests_that_come_byte_by_byte(url: str) -> None:
    text = asked("POST", "/small", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    with connected(url) as link:
        for _ in range(2):
            for at in range(len(text)):
                link.sendall(text[at : at + 1])
            assert answers(link, 1) == [(200, b"abcde")]


def test_a_body_and_the_next_request_in_one_piece(url: str) -> None:
    body = b"x" * 900
    text = asked("POST", "/small", sized(body), body)
    with connected(url) as link:
        link.sendall(text[:-100])
        time.sleep(0.05)
        link.sendall(text[-100:] + text + asked("GET", "/sleep/0"))
        assert answers(link, 3) == [(200, body), (200, body), (200, b"done")]


def test_a_client_that_sends_no_more_gets_its_answers(url: str) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/0.2") + asked("POST", "/small", sized(b"ab"), b"ab"))
        link.shutdown(socket.SHUT_WR)
        got = all_of(link)
    assert got.count(b"HTTP/1.1 200") == 2
    assert got.endswith(b"ab")


def test_an_unwanted_body_is_read_so_that_the_answer_arrives(url: str) -> None:
    body = b"y" * (3 * MIB)
    with connected(url) as link:
        link.sendall(asked("GET", "/echo", sized(body), body) + asked("GET", "/sleep/0"))
        (first, _), second = answers(link, 2)
        assert (first, second) == (200, (200, b"done"))


def test_an_unwanted_body_that_never_ends_is_left(url: str) -> None:
    with connected(url) as link:
        started = time.monotonic()
        link.sendall(asked("GET", "/echo", b"Content-Length: 100000\r\n", b"some"))
        assert all_of(link).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - started > LINGER_S / 2  # the rest of it was waited for


def test_a_body_that_was_never_asked_for_does_not_hold_the_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_S", 10_000.0)
    with connected(url) as link:
        link.sendall(asked("POST", "/exact/5", b"Content-Length: 7\r\nExpect: 100-continue\r\n"))
        got = all_of(link)
        assert got.startswith(b"HTTP/1.1 400")
        assert b"Connection: close" in got
        assert b"100 Continue" not in got


@pytest.mark.parametrize("keep", [False, True])
def test_old_clients(url: str, keep: bool) -> None:
    header = b"Connection: keep-alive\r\n" if keep else b""
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/0", header, version="1.0"))
        if keep:
            assert answers(link, 1) == [(200, b"done")]
            link.sendall(asked("GET", "/sleep/0", version="1.0"))
        got = all_of(link)
        assert b"Connection: close" in got
        assert got.endswith(b"done")


def test_old_clients_get_long_answers_unchunked(url: str) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", "/stream/3/1000?chunked", version="1.0"))
        head, _, body = all_of(link).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert body == b"".join(bytes([number]) * 1000 for number in range(3))


def test_head_has_the_length_and_no_body(url: str) -> None:
    with connected(url) as link:
        link.sendall(b"HEAD /api/heartbeat HTTP/1.1\r\n" + HOST + b"\r\n")
        link.sendall(asked("GET", "/sleep/0", b"Connection: close\r\n"))
        got = all_of(link)
    assert b"Content-Length: 2" in got.split(b"\r\n\r\n")[0]
    assert got.split(b"\r\n\r\n", 1)[1].startswith(b"HTTP/1.1 200")


def test_an_upgrade_is_not_done_but_the_request_is_answered() -> None:
    with serving(header_timeout_s=0.5) as url, connected(url) as link:
        link.sendall(
            asked("GET", "/sleep/0.1", b"Connection: Upgrade\r\nUpgrade: h2c\r\n") + b"PRI * HTTP/2.0\r\n\r\n"
        )
        got = all_of(link)
        assert got.count(b"HTTP/1.1 ") == 1
        assert got.endswith(b"done")


@pytest.mark.parametrize(
    "text",
    [
        asked("GET", "/echo", HOST),
        asked("POST", "/small", b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab"),
        asked("POST", "/small", b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        asked("POST", "/small", b"Transfer-Encoding: chunked\r\n", b"zz\r\n"),
        asked("POST", "/small", b"Transfer-Encoding: gzip, chunked, x\r\n", b"0\r\n\r\n"),
        asked("GET", "/echo", b"X : y\r\n"),
        asked("GET", "/echo", b" folded\r\n"),
        asked("GET", "/echo", b"X: a\x00b\r\n"),
        asked("GET", "/echo", version="2.0"),
        b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(url: str, text: bytes) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/0.05") + text + asked("GET", "/sleep/0"))
        got = all_of(link)
    assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"400"], got


@pytest.mark.parametrize("lines", [1, 5000])
def test_headers_have_limits(url: str, lines: int) -> None:
    size = 100_000 if lines == 1 else 200
    with connected(url) as link:
        headers = b"".join(b"X-%d: %s\r\n" % (number, b"v" * size) for number in range(lines))
        link.sendall(b"GET / HTTP/1.1\r\n" + headers + b"Y: z\r\n")
        assert all_of(link).startswith(b"HTTP/1.1 431")  # and is not lost because this side still sent


@pytest.mark.parametrize(("size", "status"), [(500_000, b"200"), (600_000, b"431")])
def test_a_query_may_be_as_long_as_all_headers(url: str, size: int, status: bytes) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", f"/sleep/0?blocks={'1' * size}", b"Connection: close\r\n"))
        assert re.findall(rb"HTTP/1.1 (\d+)", all_of(link)) == [status]


def test_headers_without_end_are_refused_not_gathered() -> None:
    with serving(max_line_bytes=1024) as url, connected(url) as link:
        link.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000)
        assert all_of(link).startswith(b"HTTP/1.1 431")


def test_the_body_of_a_request_that_proposes_an_upgrade_is_read(url: str) -> None:
    upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    small, large = b"hello", b"z" * 900
    text = asked("POST", "/small", upgrade + sized(small), small)
    text += asked("POST", "/small", upgrade + sized(large), large)
    with connected(url) as link:
        for at in range(0, len(text), 100):
            link.sendall(text[at : at + 100])
        link.sendall(asked("GET", "/sleep/0", upgrade))
        assert answers(link, 3) == [(200, small), (200, large), (200, b"done")]
    with connected(url) as link:
        link.sendall(
            asked("POST", "/small", upgrade + b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n0\r\n\r\n")
        )
        assert re.findall(rb"HTTP/1.1 (\d+)", all_of(link)) == [b"400"]


def test_headers_behind_a_body_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "s3cret")
    chunked, rights = b"Transfer-Encoding: chunked\r\n", b"Authorization: Bearer s3cret\r\n"
    with serving() as url, connected(url) as link:
        link.sendall(asked("GET", "/admin", chunked, b"0\r\n" + rights + b"\r\n"))
        link.sendall(asked("GET", "/admin", chunked + rights, b"0\r\n\r\n"))
        (first, _), second = answers(link, 2)
        assert (first, second) == (400, (200, b"welcome"))


@pytest.mark.parametrize("line", [b"a:\r\n", b"a%d: b\r\n"])
@pytest.mark.parametrize("behind", [False, True])
def test_many_headers_are_refused(url: str, line: bytes, behind: bool) -> None:
    lines = b"".join(line % number if b"%" in line else line for number in range(200_000))
    head = (
        asked("POST", "/small", b"Transfer-Encoding: chunked\r\n", b"0\r\n")
        if behind
        else b"GET / HTTP/1.1\r\n"
    )
    with connected(url) as link:
        link.sendall(head + lines + b"\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", all_of(link)) in ([b"431"], [b"400"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_on_its_way_arrives_while_the_server_stops(chunked: bool) -> None:
    header = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: 6\r\n"
    first, last = (b"3\r\nabc\r\n", b"3\r\ndef\r\n0\r\n\r\n") if chunked else (b"abc", b"def")
    with ExitStack() as server:
        url = server.enter_context(serving())
        with connected(url) as link:
            link.sendall(asked("POST", "/small", header, first))
            wait_for(lambda: server_stub.active(url) == 2, "the begin of the request")
            sender = threading.Timer(0.5, link.sendall, [last])
            sender.start()
            assert has_ended(ending(server))
            sender.join()
            got = all_of(link)
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"abcdef")


@pytest.mark.parametrize("half", [False, True])
def test_who_never_reads_loses_the_connection(half: bool) -> None:
    with serving(send_timeout_s=0.3, idle_timeout_s=0.3, max_connections=1) as url, connected(url) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(0.3)
        sent_until_full(link, asked("GET", f"/stream/8/{MIB}"))
        with suppress(OSError):  # it may be over already
            link.shutdown(socket.SHUT_WR if half else socket.SHUT_RD)
        until = time.monotonic() + server_stub.PATIENCE_S
        while not is_served(url):
            assert time.monotonic() < until, "the only connection there may be is still held"
            time.sleep(0.2)


def test_nothing_is_said_after_the_last_answer(url: str) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/0.1", b"Connection: close\r\n") + b"nonsense\r\n\r\n")
        got = all_of(link)
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.endswith(b"done")


def test_a_malformed_body_is_said_in_the_answer(url: str) -> None:
    with connected(url) as link:
        link.sendall(asked("POST", "/small", b"Transfer-Encoding: chunked\r\n", b"3\r\nabcXX"))
        got = all_of(link)
    assert got.startswith(b"HTTP/1.1 400")
    assert b"Connection: close" in got
    assert b"malformed body" in got


def test_a_client_that_leaves_ends_its_request(url: str) -> None:
    server_stub.RECEIVED.clear()
    with connected(url) as link:
        link.sendall(asked("POST", "/exact/9", b"Content-Length: 9\r\n", b"123"))
    with connected(url) as link:
        link.sendall(asked("GET", "/sleep/0.1"))
        assert answers(link, 1) == [(200, b"done")]
    assert server_stub.RECEIVED == []


def test_a_reader_who_stops_for_a_while_gets_everything(url: str) -> None:
    with connected(url) as link:
        link.sendall(asked("GET", f"/stream/40/{MIB}") + asked("GET", "/sleep/0", b"Connection: close\r\n"))
        time.sleep(0.5)
        got = all_of(link)
    body = b"".join(bytes([number]) * MIB for number in range(40))
    assert got.partition(b"\r\n\r\n")[2].startswith(body)
    assert got.endswith(b"done")


def test_who_reads_the_last_answer_late_gets_all_of_it(url: str) -> None:
    with ExitStack() as stack:
        links = []
        for size in range(
            100_000, 6_000_000, 60_000
        ):  # of some, a little stays with the server: the kernel is full
            link = stack.enter_context(connected(url))
            link.sendall(asked("GET", f"/stream/1/{size}", b"Connection: close\r\n"))
            links.append((size, link))
        time.sleep(4)
        for size, link in links:
            assert len(all_of(link).partition(b"\r\n\r\n")[2]) == size


def test_a_blank_line_behind_a_body_begins_no_request() -> None:
    with serving(header_timeout_s=1, idle_timeout_s=1000) as url, connected(url) as link:
        link.sendall(asked("POST", "/small", sized(b"ab"), b"ab"))
        assert answers(link, 1) == [(200, b"ab")]
        link.sendall(b"\r\n")
        time.sleep(2)
        link.sendall(asked("GET", "/sleep/0"))
        assert answers(link, 1) == [(200, b"done")]


def test_who_reads_slowly_but_steadily_gets_everything() -> None:
    size, got = 10 * MIB, 0
    with serving(send_timeout_s=3) as url, connected(url) as link:
        link.sendall(asked("GET", f"/stream/1/{size}", b"Connection: close\r\n"))
        while piece := link.recv(1 << 17):
            got += len(piece)
            time.sleep(len(piece) / (2 * MIB))  # the answer takes longer than the limit
    assert got > size


def test_a_connection_that_comes_while_the_server_stops_does_not_hold_it_up() -> None:
    with ExitStack() as server:
        url = server.enter_context(serving(header_timeout_s=10_000))
        address = urlsplit(url)
        links = [socket.socket() for _ in range(50)]
        for number, link in enumerate(links):
            if number == 25:
                stop = ending(server)
            link.connect_ex((address.hostname, address.port))
        assert has_ended(stop)
        for link in links:
            link.close()


def test_small_answers_wait_for_a_client_that_does_not_read() -> None:
    """The answers of pipelined requests stay bounded by what the transport holds."""
    with serving(send_timeout_s=0.4) as url, connected(url) as link:
        text = asked("GET", "/echo") * 1000
        stop = threading.Event()

        def send() -> None:
            try:
                while not stop.is_set():
                    link.sendall(text)
            except OSError:
                stop.set()

        sender = threading.Thread(target=send)
        sender.start()
        assert stop.wait(server_stub.PATIENCE_S), "a client that reads nothing keeps its connection"
        sender.join()
