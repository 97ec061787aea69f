"""What operators rely on: probes, metrics, deadlines, who may call the server by which name and from where."""

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import CorruptionError, InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import ServerSettings, Settings
from dvidzarr.datatypes.voxels.view import VoxelView
from dvidzarr.repo.catalog import Catalog
from dvidzarr.server import turns
from dvidzarr.server.access import Access
from dvidzarr.server.admission import Admission, Share
from dvidzarr.server.app import running
from dvidzarr.server.runtime import Runtime
from tests.integration import server_stub
from tests.integration.cli_process import CHECKOUT
from tests.integration.server_process import served
from tests.integration.server_stub import client
from tests.integration.workers_client import wait_for

NODE = "/api/node/0123/thing"
PATIENCE_S = server_stub.PATIENCE_S
BLOCK = bytes(32**3)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        repo = catalog.create_repo(alias="ops", root="c" * 32)
        repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"}, repo.dag.root)
        yield catalog


@contextmanager
def link_to(http: httpx.Client) -> Iterator[socket.socket]:
    address = urlsplit(str(http.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=PATIENCE_S) as link:
        yield link


# --- probes ---------------------------------------------------------------------------------------------------


def test_probes(catalog: Catalog) -> None:
    with client(catalog) as http:
        assert http.get("/livez").text == "ok\n"
        assert http.get("/readyz").text == "ok\n"
        assert http.head("/readyz").status_code == 200
        for method, path in (
            ("POST", "/livez"),
            ("GET", "/livez/"),
            ("GET", "/api/livez"),
            ("GET", "/livezz"),
        ):
            assert http.request(method, path).status_code == 404, (method, path)


def test_damaged_repo_is_named_and_does_not_stop_the_others(catalog: Catalog) -> None:
    catalog.broken["1234"] = "why"
    with client(catalog) as http:
        answer = http.get("/readyz")
        assert (answer.status_code, answer.text) == (200, "ok\nrepo 1234 is damaged and not served\n")
        assert "dvidzarr_repos_broken 1.0" in http.get("/metrics").text


def test_unready_without_the_store(catalog: Catalog, tmp_path: Path) -> None:
    with client(catalog) as http:
        file = tmp_path / "store" / "store.json"
        file.rename(tmp_path / "elsewhere")
        answer = http.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert str(tmp_path) not in answer.text
        assert http.get("/livez").status_code == 200
        (tmp_path / "elsewhere").rename(file)
        assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("delay_s", ["0.5", "10000"])
def test_unready_while_stopping(tmp_path: Path, delay_s: str) -> None:
    """With the long delay there is time to look; the end after it is seen with the short one."""
    with served(tmp_path / "store", DVIDZARR_SERVER_STOP_DELAY_S=delay_s) as server:
        assert httpx.get(f"{server.url}/readyz", timeout=PATIENCE_S).status_code == 200
        server.process.send_signal(signal.SIGTERM)
        if float(delay_s) < 1:
            assert server.process.wait(PATIENCE_S) == 0
            return
        until = time.monotonic() + PATIENCE_S
        while httpx.get(f"{server.url}/readyz", timeout=PATIENCE_S).status_code != 503:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert httpx.get(f"{server.url}/api/heartbeat", timeout=PATIENCE_S).status_code == 200


# --- metrics --------------------------------------------------------------------------------------------------


def test_metrics_count_what_was_answered(catalog: Catalog) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    voxels = f"/api/node/{'c' * 32}/gray/raw/0_1_2/32_32_32/0_0_0"
    with client(catalog) as http:
        http.post(voxels, content=BLOCK)
        for _ in range(3):
            http.get(voxels)
        http.get("/api/node/nothing/here/at/all")
        text = http.get("/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }
    get = (("operation", "getVoxelsRaw"), ("status", "200"))
    assert samples["dvidzarr_request_seconds_count", *get] == 3
    assert samples["dvidzarr_request_seconds_bucket", ("le", "+Inf"), *get] == 3
    assert samples["dvidzarr_response_bytes_total", *get] >= 3 * len(BLOCK)
    post = (("operation", "postVoxelsRaw"), ("status", "200"))
    assert samples["dvidzarr_request_bytes_total", *post] == len(BLOCK)
    assert samples["dvidzarr_request_seconds_count", ("operation", "none"), ("status", "400")] == 1
    assert samples["dvidzarr_requests_active",] == 1
    assert samples["dvidzarr_connections",] >= 1
    assert samples["dvidzarr_in_flight_bytes",] == 0
    log = (("instance", "gray"), ("repo", "c" * 32))
    assert samples["dvidzarr_log_records", *log] >= 1
    assert samples["dvidzarr_log_writable", *log] == 1
    assert samples["dvidzarr_store_readable",] == 1
    assert samples["process_resident_memory_bytes",] > 1 << 20


def test_names_of_operations_not_paths_become_labels(catalog: Catalog) -> None:
    with client(catalog) as http:
        for number in range(50):
            http.get(f"/api/node/x{number}/y{number}/z{number}")
            http.request(f"VERB{number}", f"/{number}")
        text = http.get("/metrics").text
    counts = [line for line in text.splitlines() if line.startswith("dvidzarr_request_seconds_count")]
    assert 1 <= len(counts) < 5


def test_prometheus_is_imported_by_the_first_who_asks() -> None:
    code = "import sys, dvidzarr.server.app; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


# --- deadlines ------------------------------------------------------------------------------------------------


def test_dripping_body_is_refused() -> None:
    with (
        client(server_stub.stub(), limits__body_timeout_s=0.5, limits__body_min_rate=1000) as http,
        link_to(http) as link,
    ):
        link.sendall(f"POST {NODE}/small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n".encode())
        until = time.monotonic() + 60  # long before all of it was sent
        link.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() < until:
            link.sendall(b"x")
            try:
                answer = link.recv(1000)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"less than 1000 bytes per second" in answer


def test_slow_body_above_the_rate_is_taken() -> None:
    with (
        client(server_stub.stub(), limits__body_timeout_s=3, limits__body_min_rate=10) as http,
        link_to(http) as link,
    ):
        link.sendall(f"POST {NODE}/small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n".encode())
        for _ in range(15):
            link.sendall(b"x" * 60)
            time.sleep(0.25)  # together longer than the limit
        assert link.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_are_closed() -> None:
    with client(server_stub.stub(), limits__idle_timeout_s=0.3) as http, link_to(http) as link:
        link.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert link.recv(1000) == b""


def test_request_that_stands_still_is_given_up() -> None:
    server_stub.GO.clear()
    with client(server_stub.stub(), limits__handler_timeout_s=2) as http:
        answer = http.get(f"{NODE}/hold")
        server_stub.GO.set()
        assert answer.status_code == 504
        assert "no progress" in answer.text
        assert http.get(f"{NODE}/sleep/0.1").text == "done"


def test_flowing_body_outlives_the_deadline_of_handlers() -> None:
    with client(server_stub.stub(), limits__handler_timeout_s=3) as http, link_to(http) as link:
        link.sendall(f"POST {NODE}/small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 150\r\n\r\n".encode())
        for _ in range(15):
            link.sendall(b"x" * 10)
            time.sleep(0.25)  # together longer than the limit
        assert link.recv(1000).startswith(b"HTTP/1.1 200 ")


# --- names and addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("fly.localhost:1", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3", 200),
        ("data.example.org:8000", 200),
        ("Data.Example.org", 200),
        ("evil.example.org", 421),
        ("localhost.evil.org", 421),
        ("127.0.0.1.evil.org", 421),
        ("x", 421),
        ("[", 200),
    ],
)
def test_names_of_the_server(host: str, status: int) -> None:
    with client(server_stub.stub(), server__hosts=["Data.example.org"]) as http:
        assert http.get("/livez", headers={"Host": host}).status_code == status


def test_rebound_page_can_neither_read_nor_write() -> None:
    rebound = {"Host": "evil.org:8000", "Origin": "http://evil.org:8000"}
    with client(server_stub.stub()) as http:
        for method, path in (("GET", "/echo/a/b"), ("POST", "/small"), ("GET", "/admin")):
            assert http.request(method, NODE + path, headers=rebound).status_code == 421
    assert server_stub.RECEIVED == []


@pytest.mark.parametrize("hosts", [["*"], ["evil.org"]])
def test_names_can_be_allowed(hosts: list[str]) -> None:
    with client(server_stub.stub(), server__hosts=hosts) as http:
        assert http.get(f"{NODE}/echo", headers={"Host": "evil.org"}).status_code == 200


def test_beyond_loopback_only_when_told_what_strangers_may_do() -> None:
    with pytest.raises(InvalidInputError, match="--insecure-allow-anonymous"):
        Access.of(ServerSettings(), "0.0.0.0", "")
    with pytest.raises(InvalidInputError), running(server_stub.stub(), Settings(), "0.0.0.0"):
        pass
    for role, writes in (("reader", False), ("writer", True)):
        access = Access.of(ServerSettings(anonymous=role), "0.0.0.0", "token")
        assert (access.local, access.anonymous_writes, access.hosts) == (False, writes, ("*",))
    assert Access.of(ServerSettings(anonymous="reader", hosts=("A.org",)), "::", "").hosts == ("a.org",)
    assert Access.of(ServerSettings(), "127.0.0.1", "").hosts == ()


def test_anonymous_readers_need_the_token_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVID_ADMIN_TOKEN", "s3cret")
    with client(server_stub.stub(), server__anonymous="reader") as http:
        assert http.get(f"{NODE}/echo").status_code == 200
        assert http.post(f"{NODE}/ask").status_code == 200
        assert http.post(f"{NODE}/small", content=b"x").status_code == 403
        bearer = {"Authorization": "Bearer s3cret"}
        assert http.post(f"{NODE}/small", content=b"x", headers=bearer).status_code == 200


def test_anonymous_readers_without_any_token(catalog: Catalog) -> None:
    voxels = f"/api/node/{'c' * 32}/gray/raw/0_1_2/32_32_32/0_0_0"
    with client(catalog, server__anonymous="reader") as http:
        assert http.post("/api/repos", json={}).status_code == 400
        assert http.post(voxels, content=BLOCK).status_code == 403
        assert http.post(f"/api/node/{'c' * 32}/commit", json={}).status_code == 403
        assert http.get(voxels).status_code == 200
    assert not catalog.repos[0].dag.root.locked


# --- memory ---------------------------------------------------------------------------------------------------


async def test_small_requests_pass_large_ones_that_wait() -> None:
    admission = Admission(256 * 1024, 10)
    async with admission.admit(1 << 30):
        waiting = asyncio.ensure_future(_hold(admission, 200_000))
        await asyncio.sleep(0.01)
        assert admission.waiting == 1
        async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
            for _ in range(16):
                await stack.enter_async_context(admission.admit(1024))
            assert admission.held == admission.budget
    await waiting
    assert (admission.held, admission.waiting, admission.shed) == (0, 0, 0)


async def _hold(admission: Admission, size: int) -> None:
    async with admission.admit(size):
        await asyncio.sleep(0)


def test_memory_of_answers_cut_short_is_freed_at_once(catalog: Catalog) -> None:
    """Each client leaves in the middle; no full garbage collection may be needed to free its slabs."""
    path = f"/api/node/{'c' * 32}/gray/raw/0_1_2/512_512_1024/0_0_0"
    with client(catalog) as http:
        gc.collect()
        before = _large_arrays()
        gc.disable()
        try:
            for _ in range(3):
                with link_to(http) as link:
                    link.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                    assert len(link.recv(1 << 20))
            end = time.monotonic() + PATIENCE_S
            while (held := _large_arrays()) > before and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            gc.enable()
        assert held <= before


def _large_arrays() -> int:
    """Count the lists of large arrays that are reachable for the garbage collector (arrays themselves are not)."""
    lists = [item for item in gc.get_objects() if type(item) is list and item]
    return sum(isinstance(item[0], np.ndarray) and item[0].nbytes >= 1 << 22 for item in lists)


async def test_batches_of_large_requests_have_the_threads_of_large_requests(tmp_path: Path) -> None:
    names: list[str] = []

    def note(items: list[object]) -> None:
        names.append(threading.current_thread().name)

    with dvidzarr.open(tmp_path / "store") as catalog:
        runtime = Runtime(catalog, Settings())
        async with runtime.admit(runtime.admission.budget // 4):
            await runtime.together("k", note, 1)
        await runtime.together("other", note, 2)
        await asyncio.to_thread(runtime.close)
    assert [name.partition("-")[0] for name in names] == ["large", "request"]


async def test_writes_run_on_the_loop_only_while_nothing_can_keep_them_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_QUICK_S", 60)
    names: list[str] = []

    def note(_: list[object]) -> None:
        names.append(threading.current_thread().name)

    async def runs_on_loop(runtime: Runtime) -> bool:
        await runtime.together("k", note, 1)
        return names[-1] == threading.current_thread().name

    with dvidzarr.open(tmp_path / "store") as catalog:
        runtime = Runtime(catalog, Settings())
        assert [await runs_on_loop(runtime) for _ in range(3)] == [False, True, True]
        runtime.activity.begin("POST")  # the one that waits in `together`
        assert await runs_on_loop(runtime)
        runtime.activity.begin("GET")
        assert not await runs_on_loop(runtime)
        runtime.activity.end()
        runtime.activity.forwarded += 1
        assert not await runs_on_loop(runtime)
        runtime.activity.forwarded -= 1
        assert await runs_on_loop(runtime)

        running, go = threading.Event(), threading.Event()

        def work() -> None:
            running.set()
            assert go.wait(120)

        for begin in (
            lambda: catalog.context.housekeeper.schedule(0, "test", work),
            lambda: catalog.context.housekeeper.schedule(0, "test", work, prompt=True),
            lambda: asyncio.ensure_future(runtime.offload(work)),
        ):
            task = begin()
            await asyncio.to_thread(running.wait, 120)
            assert not await runs_on_loop(runtime)
            go.set()
            assert await asyncio.to_thread(catalog.context.housekeeper.settle)
            if task is not None:
                await task
            assert await runs_on_loop(runtime)
            running.clear()
            go.clear()
        shared = Runtime(catalog, Settings(), shared=True)
        assert [await runs_on_loop(shared) for _ in range(2)] == [False, False]
        for each in (runtime, shared):
            await asyncio.to_thread(each.close)


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the threads that read boxes; all are quick, and nobody else is served but by other requests."""
    monkeypatch.setattr(turns, "_QUICK_S", 60)
    monkeypatch.setattr(Runtime, "_is_alone", lambda runtime, count: runtime.activity.running <= count)
    names: list[str] = []
    read = VoxelView.read

    def noted(view: VoxelView, box: Box, *, shared: bool) -> np.ndarray:
        names.append(threading.current_thread().name)
        return read(view, box, shared=shared)

    monkeypatch.setattr(VoxelView, "read", noted)
    return names


def test_small_boxes_are_read_on_the_loop_only_while_nobody_else_is_served(
    catalog: Catalog, readers: list[str]
) -> None:
    voxels = np.arange(64**3, dtype=np.uint8)
    node = f"/api/node/{'c' * 32}/gray"
    with client(catalog) as http, link_to(http) as link:
        assert http.post(f"{node}/raw/0_1_2/64_64_64/0_0_0", content=voxels.tobytes()).status_code == 200

        def reads_on_loop() -> bool:
            assert http.get(f"{node}/raw/0_1_2/64_64_64/0_0_0").content == voxels.tobytes()
            return readers[-1] == "server"

        assert [reads_on_loop() for _ in range(3)] == [False, True, True]
        link.sendall(f"POST {node}/raw/0_1_2/32_32_32/0_0_0 HTTP/1.1\r\nHost: localhost\r\n".encode())
        link.sendall(b"Content-Length: 32768\r\n\r\nhalf")
        wait_for(lambda: not reads_on_loop(), "somebody else is served")
        assert not reads_on_loop()
        link.close()
        wait_for(reads_on_loop, "nobody else is served")


def test_a_read_that_failed_tells_how_long_such_reads_take(
    catalog: Catalog, readers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_view: VoxelView, _box: Box, *, shared: bool) -> np.ndarray:
        readers.append(threading.current_thread().name)
        raise CorruptionError(f"a damaged chunk, {shared=}")

    path = f"/api/node/{'c' * 32}/gray/raw/0_1_2/64_64_64/0_0_0"
    with client(catalog) as http:
        assert http.get(path).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(VoxelView, "read", fail)
            assert http.get(path).status_code == 500
        assert http.get(path).status_code == 200
    assert [name == "server" for name in readers] == [False, True, True]


@pytest.mark.parametrize(
    "words",
    [
        "gray/raw/0_1_2/1056_1_1/0_0_0",
        "large/raw/0_1_2/129_1_1/0_0_0",
        "gray/raw/0_1_2/64_64_64/0_0_0?roi=region",
    ],
    ids=["many chunks", "large chunks", "a region"],
)
def test_what_may_take_long_is_never_read_on_the_loop(
    catalog: Catalog, readers: list[str], words: str
) -> None:
    repo = catalog.repos[0]
    repo.create_instance("uint8blk", "large", {"BlockSize": "128,128,128"}, repo.dag.root)
    repo.create_instance("roi", "region", {"BlockSize": "32,32,32"}, repo.dag.root)
    with client(catalog) as http:
        for _ in range(3):
            assert http.get(f"/api/node/{'c' * 32}/{words}").status_code == 200
    assert len(readers) == 3
    assert "server" not in readers


def test_a_box_of_some_size_is_read_when_there_is_memory_for_it(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    admit = Admission.admit

    def noted(admission: Admission, size: int) -> Share:
        held.append(size)
        return admit(admission, size)

    monkeypatch.setattr(Admission, "admit", noted)
    with client(catalog) as http:
        for size in ("64_64_64", "128_128_128"):
            assert http.get(f"/api/node/{'c' * 32}/gray/raw/0_1_2/{size}/0_0_0").status_code == 200
    assert held == [128**3]
