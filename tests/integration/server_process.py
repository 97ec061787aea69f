"""A server in a process of its own, whose memory and log can be looked at."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.cli_process import CHECKOUT, COMMAND

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Served:
    """Where it is and which process it is."""

    url: str
    process: "subprocess.Popen[str]"
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        """Return what the log says; a line that is being written is left out."""
        text = self.log.read_bytes()
        return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    @property
    def resident(self) -> int:
        """Bytes of memory in use; 0 where there is no /proc."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return 0
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def _hear_hang_ups() -> None:
    """Take SIGHUP as usual, also if the tests were started by `nohup`: what is ignored, processes inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def served(store: Path, *words: object, command: Sequence[str] = COMMAND, **env: str) -> Iterator[Served]:
    """Serve a store on a free port, with one process unless words say `--workers`; the log lies beside the store."""
    if "--workers" not in words:
        words = ("--workers", 1, *words)
    log = store.parent / f"{store.name}.log"
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    with log.open("w") as errors:
        process = subprocess.Popen(
            (*command, "serve", str(store), "--port", "0", *map(str, words)),
            env=os.environ | {"PYTHONPATH": path} | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=_hear_hang_ups,  # noqa: PLW1509 - it only sets how a signal is taken
        )
    with process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, log.read_text()
            yield Served(url, process, log)
        finally:
            process.kill()
