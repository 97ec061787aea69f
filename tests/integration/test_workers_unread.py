"""A process that ends before it has read what it was told is noticed, as any other."""

import os
import signal
import time
from pathlib import Path

from tests.integration.cli_process import PATIENCE, Shell

TELLING = """
import pathlib, time, types
from dvidzarr.server import opening

def sleep(seconds):
    pathlib.Path({mark!r}).touch()
    time.sleep(seconds)

opening.time = types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
"""
"""Run by each Python that starts: who waits for a store says so."""


def test_a_server_that_waits_for_its_store_can_be_interrupted(shell: Shell, tmp_path: Path) -> None:
    store, mark = tmp_path / "store", tmp_path / "waits"
    (tmp_path / "sitecustomize.py").write_text(TELLING.format(mark=str(mark)))
    path = f"{tmp_path}{os.pathsep}{shell.env['PYTHONPATH']}"
    with (
        shell.server(store, "--workers", 1),
        shell.start("serve", store, "--port", 0, "--workers", 2, PYTHONPATH=path) as waiting,
    ):
        while not mark.exists():
            assert waiting.poll() is None
            time.sleep(0.01)
        waiting.send_signal(signal.SIGINT)
        try:
            waiting.wait(timeout=PATIENCE / 6)
        finally:
            waiting.kill()
