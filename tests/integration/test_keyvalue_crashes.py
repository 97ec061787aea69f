"""keyvalue when the process or the power goes: what was acknowledged is there, batches are whole or absent."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import dvidzarr
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.keyvalue.model import KeyValueView

ROOT = Path(__file__).resolve().parents[2]
WRITERS = 8
PATIENCE_S = 120.0


@contextmanager
def server(store: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "dvidzarr.cli.main",
        "serve",
        str(store),
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) as process:
        try:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    httpx.get(f"http://127.0.0.1:{port}/api/load", timeout=PATIENCE_S)
                    break
                except httpx.TransportError:
                    assert process.poll() is None, "the server ended by itself"
                    assert time.monotonic() < until, "the server does not answer"
                    time.sleep(0.05)
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def write_until_it_dies(
    url: str, writer: int, start: int, begun: threading.Event
) -> tuple[dict[str, int], dict[str, int]]:
    """Return, per key, the last number that was acknowledged and the last that was sent; `begun` is set at the first."""
    acknowledged: dict[str, int] = {}
    sent: dict[str, int] = {}
    size = (10, 2000, 100_000)[writer % 3]
    with httpx.Client(timeout=PATIENCE_S) as client:
        for number in range(start, start + 1_000_000):
            key = f"{writer}-{number % 5}"
            sent[key] = number
            try:
                client.post(f"{url}/key/{key}", content=b"%d " % number + b"x" * size).raise_for_status()
            except httpx.TransportError:
                return acknowledged, sent
            acknowledged[key] = number
            begun.set()
    return acknowledged, sent


def crash_again_and_again(folder: Path, port: int, cycles: int) -> None:
    with dvidzarr.open(folder) as catalog:
        root = catalog.create_repo("test").root
        catalog.repos[0].create_instance("keyvalue", "kv")
    url = f"http://127.0.0.1:{port}/api/node/{root}/kv"
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    for cycle in range(cycles):
        with server(folder, port) as process, ThreadPoolExecutor(WRITERS) as pool:
            begun = threading.Event()
            jobs = [
                pool.submit(write_until_it_dies, url, writer, cycle * 10_000_000, begun)
                for writer in range(WRITERS)
            ]
            assert begun.wait(PATIENCE_S)
            time.sleep(random.uniform(0.1, 1.0))
            process.send_signal(signal.SIGKILL)
            results = [job.result() for job in jobs]
        for acknowledged, sent in results:
            least |= acknowledged
            most |= sent  # what was sent may turn up, even only when the next writer recovers the log
        with dvidzarr.open(folder, "r") as catalog:
            found = {
                key: int(value.split()[0]) for key, value in catalog.repos[0].instance("kv").at().range()
            }
        wrong = [
            (key, number, found.get(key))
            for key, number in least.items()
            if not number <= found.get(key, -1) <= max(most.get(key, 0), number)
        ]
        assert wrong == []
        least |= found
    assert least
    with dvidzarr.open(folder) as catalog:
        assert [finding for finding in catalog.verify(deep=True) if finding.severity == "error"] == []


def test_nothing_acknowledged_is_lost(tmp_path: Path, free_port: int) -> None:
    crash_again_and_again(tmp_path / "store", free_port, 2)


@pytest.mark.kill9
def test_nothing_acknowledged_is_lost_in_many_crashes(tmp_path: Path, free_port: int) -> None:
    crash_again_and_again(tmp_path / "store", free_port, 25)


def test_a_batch_without_its_blobs_is_void_after_a_power_loss(tmp_path: Path) -> None:
    overrides = {"storage.durability": "fast", "storage.flush_interval_s": 1000.0}
    settings = Settings.load(env={}, overrides=overrides)
    with dvidzarr.open(tmp_path / "store", settings=settings) as catalog:
        repo = catalog.create_repo("test")
        view = repo.create_instance("keyvalue", "kv").at()
        assert isinstance(view, KeyValueView)
        view["before"] = b"1"
        view.update({"small": b"2", "large": os.urandom(100_000)})
        view["after"] = b"3"
        shutil.copytree(tmp_path / "store", tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
        (blob,) = catalog.context.backend.keys(f"{view.instance.prefix}/blobs")
        (tmp_path / "copy" / blob).write_bytes(b"")
    with dvidzarr.open(tmp_path / "copy", "w", settings) as catalog:
        assert dict(catalog.repos[0].instance("kv").at().range()) == {"before": b"1", "after": b"3"}
    with dvidzarr.open(tmp_path / "store", "r") as catalog:
        assert len(list(catalog.repos[0].instance("kv").at().range())) == 4
