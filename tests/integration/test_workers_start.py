"""The start of a server with several processes while something comes between."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import dvidzarr
from tests.integration.cli_process import COMMAND
from tests.integration.workers_client import PATIENCE_S, wait_for

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="child processes are listed in /proc"
)


def starting(store: Path) -> "subprocess.Popen[str]":
    words = (*COMMAND, "serve", str(store), "--workers", "3", "--port", "0")
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def children(server: "subprocess.Popen[str]") -> list[int]:
    listed = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()
    return sorted(map(int, listed.split()))


@pytest.mark.parametrize("delay_s", [0.0, 0.1, 0.2, 0.4])
def test_ctrl_c_during_the_start_is_a_clean_end(tmp_path: Path, delay_s: float) -> None:
    with starting(tmp_path / "store") as server:
        wait_for(lambda: bool(children(server)), "a first process")
        time.sleep(delay_s)
        os.killpg(server.pid, signal.SIGINT)
        _, said = server.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in said
    assert "error" not in said
    assert server.returncode == 0


def test_a_follower_that_ends_before_it_was_needed_is_named(tmp_path: Path) -> None:
    holder = dvidzarr.open(tmp_path / "store", "w")  # so that the process that writes takes its time
    with starting(tmp_path / "store") as server:
        wait_for(lambda: len(children(server)) == 3, "all processes")
        os.kill(children(server)[1], signal.SIGKILL)
        leaving = threading.Timer(0.5, holder.close)
        leaving.start()
        _, said = server.communicate(timeout=PATIENCE_S)
        leaving.join()
    assert server.returncode == 1
    assert "worker 1 (process " in said
    assert "ended with signal 9 before it served" in said
