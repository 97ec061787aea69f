"""Answers in pieces: threads send to who reads fast, the event loop to others, and nobody loses a byte or keeps a thread."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvidzarr.core.settings import Settings
from dvidzarr.http import outlet, pump
from dvidzarr.http.outlet import Outlet
from dvidzarr.http.response import Response
from dvidzarr.server.app import running
from dvidzarr.server.runtime import Runtime
from tests.integration import server_stub
from tests.integration.workers_client import wait_for

if TYPE_CHECKING:
    from dvidzarr.http.request import Request
    from dvidzarr.http.writer import Writer

NODE = f"/api/node/{server_stub.UUID}/thing"
MIB = 1 << 20
DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def url() -> Iterator[str]:
    overrides = {"limits.send_timeout_s": 10_000.0, "compute.threads": 1}  # eight for requests
    with running(server_stub.stub(), Settings.load(env={}, overrides=overrides)) as url:
        yield url


def asking(stack: ExitStack, url: str, path: str, headers: bytes = b"") -> socket.socket:
    """Ask for something, and do not read it yet."""
    address = urlsplit(url)
    link = stack.enter_context(
        socket.create_connection((address.hostname, address.port), timeout=server_stub.PATIENCE_S)
    )
    link.sendall(f"GET {NODE}{path} HTTP/1.1\r\nHost: localhost\r\n".encode() + headers + b"\r\n")
    return link


def slabs(count: int, size: int) -> bytes:
    return b"".join(bytes([number % 256]) * size for number in range(count))


def read_with_pauses(url: str, path: str, every: int, pause_s: float) -> bytes:
    got, before_pause = bytearray(), every
    with httpx.stream("GET", f"{url}{NODE}{path}", timeout=server_stub.PATIENCE_S) as answer:
        for piece in answer.iter_raw(1 << 16):
            got += piece
            before_pause -= len(piece)
            if before_pause < 0:
                before_pause = every
                time.sleep(pause_s)
    return bytes(got)


@pytest.mark.parametrize("query", ["", "?chunked"])
@pytest.mark.parametrize(
    ("every", "pause_s"),
    [(1 << 40, 0), (8 * MIB, 0.05), (MIB // 4, 0.002)],
    ids=["fast", "with long pauses", "with short pauses"],
)
def test_memory_that_is_used_again_holds_what_was_sent(
    url: str, query: str, every: int, pause_s: float
) -> None:
    assert read_with_pauses(url, f"/stream/40/{MIB}{query}", every, pause_s) == slabs(40, MIB)


@pytest.mark.parametrize("query", ["", "?chunked"])
def test_small_pieces(url: str, query: str) -> None:
    assert read_with_pauses(url, f"/stream/3000/10000{query}", MIB, 0.05) == slabs(3000, 10000)


def test_many_short_rounds(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "_ROUND_S", 0)
    monkeypatch.setattr(Runtime, "crowded", True)
    monkeypatch.setattr(outlet, "PATIENCE_MS", 0)
    for query in ("", "?chunked"):
        assert read_with_pauses(url, f"/stream/300/99999{query}", MIB, 0.001) == slabs(300, 99999)


def test_without_a_descriptor_the_loop_sends_all(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", none_left)
    assert httpx.get(f"{url}{NODE}/stream/40/{MIB}").content == slabs(40, MIB)


def test_without_another_thread_the_first_one_sends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system allows no more, what was queued for one is not done later."""
    begin, allowed = threading.Thread.start, 1

    def start(thread: threading.Thread) -> None:
        nonlocal allowed
        if thread.name.startswith("sender"):
            if not allowed:
                raise RuntimeError("can't start new thread")
            allowed -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with ThreadPoolExecutor(4) as clients:
        paths = [f"{url}{NODE}/stream/40/{MIB}"] * 8
        for answer in clients.map(partial(httpx.get, timeout=server_stub.PATIENCE_S), paths):
            assert answer.content == slabs(40, MIB)


def test_what_was_given_up_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client gets an error, and nothing behind it, although a thread is still at the first piece."""
    began = threading.Event()
    begin = Response.begin

    def noted(response: Response, request: "Request", length: int | None) -> None:
        began.set()
        begin(response, request, length)

    monkeypatch.setattr(Response, "begin", noted)
    overrides = {"limits.handler_timeout_s": 0.3}
    with running(server_stub.stub(), Settings.load(env={}, overrides=overrides)) as url, ExitStack() as stack:
        server_stub.GO.clear()
        link = asking(stack, url, "/stream/4/100?hold", b"Content-Length: 10\r\n")
        got = link.recv(MIB)
        assert got.startswith(b"HTTP/1.1 504 ")
        server_stub.GO.set()
        while piece := link.recv(MIB):
            got += piece
    assert got.count(b"HTTP/1.1") == 1
    assert not began.is_set()


def test_who_does_not_read_keeps_no_thread(url: str) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            asking(stack, url, f"/stream/40/{MIB}")
        wait_for(lambda: server_stub.active(url) == 21, "the begin of the answers")
        got = httpx.get(f"{url}{NODE}/stream/40/{MIB}", timeout=server_stub.PATIENCE_S).content
    assert got == slabs(40, MIB)


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="the system does not list descriptors")
@pytest.mark.parametrize("read", [0, 100, 5 * MIB])
def test_clients_that_leave_leave_nothing_behind(url: str, read: int) -> None:
    assert httpx.get(f"{url}{NODE}/stream/3/{MIB}").is_success  # threads are there
    before = len(list(DESCRIPTORS.iterdir()))
    for _ in range(20):
        with ExitStack() as stack:
            link, got = asking(stack, url, f"/stream/100/{MIB}"), 0
            while got < read:
                got += len(link.recv(1 << 16))
    wait_for(lambda: server_stub.active(url) == 1, "the end of the answers")
    wait_for(lambda: len(list(DESCRIPTORS.iterdir())) <= before, "the end of their descriptors")


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(0, 300_000), max_size=6), wanted=st.integers(0, 1_000_000))
def test_what_a_client_does_not_take_is_the_rest(sizes: list[int], wanted: int) -> None:
    data = os.urandom(sum(sizes))
    cuts = [sum(sizes[:index]) for index in range(len(sizes) + 1)]
    pieces = [memoryview(data)[a:b] for a, b in pairwise(cuts)]
    near, far = socket.socketpair()
    near.setblocking(False)
    got = bytearray()

    def read() -> None:
        while len(got) < wanted and (piece := far.recv(min(50_000, wanted - len(got)))):
            got.extend(piece)

    with near, far:
        reader = threading.Thread(target=read)
        reader.start()
        counts = SimpleNamespace(sent=0)
        rest = Outlet(near, cast("Writer", counts)).send(pieces)
        near.shutdown(socket.SHUT_WR)
        reader.join()
        while piece := far.recv(MIB):
            got += piece
    assert bytes(got) + b"".join(rest) == data
    assert counts.sent == len(got)
