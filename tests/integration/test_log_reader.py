"""Who reads the log, or does not."""

import os
import subprocess
from pathlib import Path

import httpx
import pytest

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
