"""Who reads the log, or does not."""

import json
import logging
import os
import shlex
import subprocess
import time
from io import BytesIO, FileIO
from pathlib import Path

import httpx
import pytest

from dvidzarr.server.logs import logging_to
from tests.integration.cli_process import CHECKOUT, COMMAND

PATIENCE_S = 60
PIPE_BYTES = 64 << 10


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_nobody_reads_holds_up_neither_requests_nor_the_end(tmp_path: Path, workers: int) -> None:
    reading, writing = os.pipe()
    with (
        os.fdopen(reading, "rb") as log,
        subprocess.Popen(
            (*COMMAND, "serve", str(tmp_path / "store"), "--port", "0", "--workers", str(workers)),
            env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=writing,
        ) as process,
    ):
        os.close(writing)
        try:
            assert process.stdout is not None
            with httpx.Client(
                base_url=process.stdout.readline().decode().strip(), timeout=PATIENCE_S
            ) as http:
                path = "/api/help/" + "x" * 1000
                for _ in range(2 * PIPE_BYTES // len(path)):
                    http.get(path)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            assert log.read(PIPE_BYTES // 2).count(path.encode()) > 10
        finally:
            process.kill()


def test_a_stream_that_does_not_block_is_not_waited_for_busily() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    log = logging.getLogger("dvidzarr.test")
    with os.fdopen(reading, "rb") as reader, FileIO(writing, "wb") as stream, logging_to(stream):
        log.info("x" * 4 * PIPE_BYTES)
        used = time.process_time()
        time.sleep(1)
        assert time.process_time() - used < 0.5
        os.set_blocking(reading, False)
        cut = reader.read()
        log.info("the next")
        time.sleep(0.5)
        rest = reader.read()
    assert cut is not None
    assert b"\n" not in cut
    assert json.loads(rest.splitlines()[-1])["message"] == "the next"


def test_a_wrong_format_does_not_end_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("dvidzarr"), "propagate", False)  # pytest would raise
    stream = BytesIO()
    log = logging.getLogger("dvidzarr.test")
    with logging_to(stream):
        log.info("%d pieces", "many")
        log.info("%d pieces", 3)
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["%d pieces ('many',)", "3 pieces"]


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [pid, *(int(child) for thread in threads for child in (thread / "children").read_text().split())]


@pytest.mark.parametrize("workers", [1, 2])
def test_without_stderr_nothing_of_the_store_takes_its_place(tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    words = shlex.join((*COMMAND, "serve", str(store), "--port", "0", "--workers", str(workers)))
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {words} 2>&-"],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().decode().strip()
            assert httpx.post(url + "/api/repos", json={"alias": "a"}).status_code == 200
            if Path(
                "/proc/self/fd"
            ).exists():  # of several processes, it would be the counters that they share
                assert {os.readlink(f"/proc/{pid}/fd/2") for pid in family(process.pid)} == {os.devnull}
            time.sleep(0.5)  # the log is written a few times a second
            holding = [
                path for path in store.rglob("*") if path.is_file() and b"request" in path.read_bytes()
            ]
            assert not holding
            assert httpx.get(url + "/metrics").status_code == 200
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
