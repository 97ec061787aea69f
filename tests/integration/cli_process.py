"""Running the command line as a user does: in a process of its own, on a path and on the URL of a server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from dvidzarr.cli.main import main

COMMAND = (sys.executable, "-m", "dvidzarr.cli.main")
CHECKOUT = Path(__file__).parents[2]
PATIENCE = 120

HELD = """
import itertools, pkgutil, signal, sys, threading
from dvidzarr.cli.main import main

owner, name = sys.argv[1].rsplit(".", 1)
number, calls, go = int(sys.argv[2]), itertools.count(1), threading.Event()
owner = pkgutil.resolve_name(owner)
method = getattr(owner, name)

def held(*args):
    if next(calls) == number:
        print("held", flush=True)
        go.wait()
    return method(*args)

def interrupted(*_):
    go.set()
    raise KeyboardInterrupt

setattr(owner, name, held)
signal.signal(signal.SIGINT, interrupted)
sys.exit(main(sys.argv[3:]))
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


class Shell:
    """Runs commands with a state folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        self.env = os.environ | {"XDG_STATE_HOME": str(self.state), "PYTHONPATH": path}
        self.env.pop("DVID_ADMIN_TOKEN", None)

    def start(self, *words: object, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            (*COMMAND, *map(str, words)),
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextmanager
    def held(self, place: str, number: int, *words: object) -> "Iterator[subprocess.Popen[str]]":
        """Start a command that stops before so many-th call of a method, until Ctrl-C; yield it once it is there.

        To be interrupted in the middle is no matter of who is faster then.
        """
        with subprocess.Popen(
            (sys.executable, "-c", HELD, place, str(number), *map(str, words)),
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "held\n", process.communicate(timeout=PATIENCE)
                yield process
            finally:
                process.kill()

    def run(self, *words: object, **env: str) -> Outcome:
        """Run a command in this process, which saves half a second each time."""
        out, err = StringIO(), StringIO()
        with (
            patch.dict(os.environ, self.env | env, clear=True),
            patch.object(sys, "excepthook", sys.excepthook),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main([str(word) for word in words])
        return Outcome(code, out.getvalue(), err.getvalue())

    def ok(self, *words: object, **env: str) -> str:
        """Run a command that must succeed and return what it printed."""
        outcome = self.run(*words, **env)
        assert outcome.code == 0, outcome
        return outcome.out.strip()

    def fails(self, *words: object, code: int = 1, **env: str) -> str:
        """Run a command that must fail with one line and return that line."""
        outcome = self.run(*words, **env)
        assert outcome.code == code, outcome
        lines = outcome.err.strip().splitlines()
        assert len(lines) == 1, outcome.err
        return lines[0]

    @contextmanager
    def server(self, store: Path, *words: object, **env: str) -> Iterator[str]:
        """Serve a store on a free port and yield the URL; the server must end cleanly."""
        process = self.start("serve", store, "--port", 0, *words, **env)
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.communicate(timeout=PATIENCE)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
