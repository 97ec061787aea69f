"""A process that ends before it has read what it was told is noticed, as any other."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.cli_process import PATIENCE, Shell

if TYPE_CHECKING:
    import subprocess


def opened_by_children(process: "subprocess.Popen[str]") -> set[str]:
    """Return the files that the processes which this one has started hold open."""
    found = set()
    with suppress(FileNotFoundError):
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):
                    found.add(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
def test_a_server_that_waits_for_its_store_can_be_interrupted(shell: Shell, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with (
        shell.server(store, "--workers", 1),
        shell.start("serve", store, "--port", 0, "--workers", 2) as waiting,
    ):
        while not any(str(store) in path for path in opened_by_children(waiting)):
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGINT)
        try:
            waiting.wait(timeout=PATIENCE / 6)
        finally:
            waiting.kill()
