"""More than the server can take: small requests stay fast, memory stays within its budget, the rest is turned away."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

import dvidzarr
from tests.integration.hostile_wire import connect, request
from tests.integration.server_process import MIB, Served, served

ROOT = "f" * 32
RAW = f"/api/node/{ROOT}/gray/raw/0_1_2"
LARGE = f"{RAW}/256_256_16384/0_0_0"
LIGHT = (f"{RAW}/64_64_64/64_64_64", f"/api/node/{ROOT}/gray/info", "/livez")
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a volume of which the large requests ask for a part and much emptiness below it."""
    folder = tmp_path_factory.mktemp("overload") / "store"
    voxels = np.random.default_rng(1).integers(100, 108, (128, 512, 512), np.uint8)
    with dvidzarr.open(folder, "w") as catalog:
        repo = catalog.create_repo(root=ROOT)
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "64,64,64"}, repo.dag.root)
        for z in (0, 128):
            gray.at(repo.dag.root)[z : z + 128, 0:512, 0:512] = voxels
    return folder


@pytest.fixture
def overloaded(store: Path) -> Iterator[Served]:
    """Serve with memory for two large answers."""
    with served(
        store,
        "--read-only",
        DVIDZARR_LIMITS_BYTES_IN_FLIGHT=str(64 * MIB),
        DVIDZARR_LIMITS_QUEUE_TIMEOUT_S="0.5",
        DVIDZARR_LIMITS_SEND_TIMEOUT_S="1",
        DVIDZARR_LIMITS_HEADER_TIMEOUT_S="3",
    ) as server:
        for path in LIGHT:
            assert httpx.get(server.url + path, timeout=120).status_code == 200
        yield server


def small_requests(url: str, enough: Callable[[], bool]) -> None:
    """Ask for small things, one after another over one connection, 20 times at least: nothing is turned away."""
    until, count = time.monotonic() + PATIENCE_S, 0
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        while count < 20 or not enough():
            for path in LIGHT:
                assert http.get(path).status_code == 200
            count += 1
            assert time.monotonic() < until, "what was waited for did not happen"


def read_some(url: str, size: int) -> tuple[bytes, int]:
    """Ask for a large answer; return its head, and how many bytes came before we hang up at `size`."""
    buffer = bytearray(MIB)
    with connect(url) as link:
        link.settimeout(120)
        link.sendall(request("GET", LARGE, b"", b"Connection: close\r\n"))
        head, got = link.recv(1000), 0
        with suppress(ConnectionError):  # where we were too slow for the server
            while got < size and (count := link.recv_into(buffer)):
                got += count
    return head, got


def repeated(work: Callable[[], None], count: int, stop: threading.Event) -> list[threading.Thread]:
    def body() -> None:
        while not stop.is_set():
            work()

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.slow
def test_small_requests_are_answered_beside_four_times_too_many_large_ones(overloaded: Served) -> None:
    heads: list[bytes] = []
    stop = threading.Event()
    threads = repeated(lambda: heads.append(read_some(overloaded.url, 256 * MIB)[0]), 8, stop)

    def both() -> bool:
        refused = sum(head.startswith(b"HTTP/1.1 503 ") for head in tuple(heads))
        return refused > 2 and len(heads) - refused > 2

    try:
        small_requests(overloaded.url, both)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    refused = [head for head in heads if not head.startswith(b"HTTP/1.1 200 ")]
    for head in refused:
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in head
        assert b"requests in flight hold" in head.partition(b"\r\n\r\n")[2]
    assert f"dvidzarr_requests_shed_total {len(refused)}.0" in httpx.get(f"{overloaded.url}/metrics").text


@pytest.mark.slow
def test_memory_of_32_large_answers(store: Path) -> None:
    budget = 128 * MIB
    with served(
        store,
        "--read-only",
        DVIDZARR_LIMITS_BYTES_IN_FLIGHT=str(budget),
        DVIDZARR_LIMITS_QUEUE_TIMEOUT_S="300",
        DVIDZARR_CACHE_CHUNK_CACHE_MB="0",
        DVIDZARR_COMPUTE_THREADS="4",
    ) as server:
        read_some(server.url, 256 * MIB)
        before = peak = server.resident
        if not before:
            pytest.skip("no /proc here")
        with ThreadPoolExecutor(32) as pool:
            answers = [pool.submit(read_some, server.url, 192 * MIB) for _ in range(32)]
            while not all(answer.done() for answer in answers):
                peak = max(peak, server.resident)
                time.sleep(0.01)
        assert all(answer.result()[1] >= 192 * MIB for answer in answers)
        # decoding needs some of its own, and reads end a moment after their client has left; all at once would need
        # six times the budget
        assert peak - before < 2 * budget, (peak >> 20, before >> 20)


def test_first_bytes_come_before_the_answer_is_made(overloaded: Served) -> None:
    """A gigabyte in all, of which no more is held than is allowed for."""
    before = overloaded.resident
    with connect(overloaded.url) as link:
        link.sendall(request("GET", LARGE))
        head = link.recv(1000)
        assert overloaded.resident - before < 512 * MIB
        assert head.startswith(b"HTTP/1.1 200 ")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        left = length - len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(MIB)
        while left:
            left -= link.recv_into(buffer)
        assert length == 1 << 30


@pytest.mark.slow
def test_slow_readers_lose_their_place(overloaded: Served) -> None:
    with ExitStack() as stack:
        readers = [stack.enter_context(connect(overloaded.url)) for _ in range(20)]
        for reader in readers:
            reader.sendall(request("GET", LARGE))
        small_requests(overloaded.url, lambda: True)
        for reader in readers:
            wait_for_answer(reader)
        wait_until_nothing_is_in_flight(overloaded.url)
        for reader in readers:
            assert hung_up(reader)
        assert read_some(overloaded.url, MIB)[0].startswith(b"HTTP/1.1 200 ")
    wait_until_nothing_is_in_flight(overloaded.url)


def wait_for_answer(link: socket.socket) -> None:
    """Wait until an answer has begun, without reading of it."""
    link.settimeout(PATIENCE_S)
    with suppress(ConnectionError):
        assert link.recv(1, socket.MSG_PEEK) == b"H"


def wait_until_nothing_is_in_flight(url: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while "dvidzarr_in_flight_bytes 0.0" not in httpx.get(f"{url}/metrics").text:
        assert time.monotonic() < end
        time.sleep(0.1)


def hung_up(link: socket.socket) -> bool:
    """Read what is left; tell whether an answer was cut short or refused, and the connection ended or is idle."""
    link.settimeout(0.5)
    got = 0
    with suppress(ConnectionError, TimeoutError):
        while data := link.recv(MIB):
            got += len(data)
    return got < 1 << 30


def test_clients_that_never_finish_their_headers(overloaded: Served) -> None:
    with ExitStack() as stack:
        links = [stack.enter_context(connect(overloaded.url)) for _ in range(100)]
        for number, link in enumerate(links):
            link.sendall(b"GET /livez HTTP/1.1\r\nHost: loc"[: number % 30])
        small_requests(overloaded.url, lambda: True)
        for link in links:
            link.settimeout(PATIENCE_S)
            with suppress(ConnectionResetError):
                assert link.recv(100) == b""
