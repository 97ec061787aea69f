"""Whether strace can do here what the tests want of it."""

import shutil
import subprocess
import sys
from functools import cache


@cache
def strace_refusal() -> str | None:
    """Return why strace cannot be used here, None if it can: for programs that it starts, and for running ones."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    words = [strace, "-f", "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"]
    started = subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    if started.returncode:
        return f"strace does not work here: {started.stderr[:200]}"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=pipe, stderr=subprocess.DEVNULL
    ) as running:
        with subprocess.Popen([*words, "-p", str(running.pid)], stderr=pipe, text=True) as tracer:
            said = tracer.stderr.readline() if tracer.stderr else ""
            tracer.terminate()  # which lets go of the process
        running.kill()
    return None if "attached" in said else f"strace cannot attach to processes here: {said[:200]}"
