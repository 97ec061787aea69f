"""Ctrl-C and SIGTERM end a command with one line and its exit code, also while modules are still imported."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.cli_process import PATIENCE, Shell

ENDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}
STRUCK = """
import os, signal, sys
from dvidzarr.cli.main import main

class Strike:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Strike())
sys.exit(main(sys.argv[3:]))
"""


def check_ending(shell: Shell, number: signal.Signals, program: str, *words: str | Path) -> None:
    """Run a program that sends itself a signal; it must end with that signal's one line and exit code."""
    outcome = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=shell.env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    name, code = ENDS[number]
    assert (outcome.returncode, outcome.stderr) == (code, f"dvidzarr: {name}\n")


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("module", ["click", "dvidzarr.cli.commands", "dvidzarr.cli.export", "numpy"])
def test_a_signal_during_an_import(shell: Shell, tmp_path: Path, module: str, number: signal.Signals) -> None:
    check_ending(
        shell, number, STRUCK, module, str(int(number)), "export", tmp_path, "a/b", tmp_path / "x.h5"
    )


SWALLOWED = """
import signal, sys, weakref
from dvidzarr.cli.main import main

class Strike:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            thing = Strike()
            reference = weakref.ref(thing, lambda _: signal.raise_signal(int(sys.argv[2])))
            del thing  # Python passes over what is raised in there

sys.meta_path.insert(0, Strike())
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("module", ["dvidzarr.server.app", "uvloop"])
def test_a_signal_is_not_lost_in_an_import(
    shell: Shell, tmp_path: Path, module: str, number: signal.Signals
) -> None:
    """A server that was told to end while it began served on."""
    words = ("serve", tmp_path / "store", "--port", "0", "--workers", "1")
    check_ending(shell, number, SWALLOWED, module, str(int(number)), *words)


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_when_the_command_is_done(shell: Shell, number: signal.Signals) -> None:
    """Python takes a moment to end, with zarr some tenths of a second."""
    program = "import signal; from dvidzarr.cli.main import main; main(); signal.raise_signal({})"
    check_ending(shell, number, program.format(int(number)), "--version")


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_leaves_no_unfinished_file(shell: Shell, tmp_path: Path, number: signal.Signals) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    out.mkdir()
    shell.ok("new", "repo", store)
    shell.ok("new", "instance", store, ":master", "keyvalue", "kv")
    shell.ok("kv", "put", store, ":master/kv", "key", "pyproject.toml")
    words = ("kv", "export", store, ":master/kv", out / "all.tar")
    with shell.held("dvidzarr.cli.bundles:_Archive.add", 1, *words) as process:
        assert list(out.iterdir())
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
    name, code = ENDS[number]
    assert (process.returncode, err.strip()) == (code, f"dvidzarr: {name}")
    assert not list(out.iterdir())
