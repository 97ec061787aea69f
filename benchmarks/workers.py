"""One process that serves beside two, asked over 16 connections: requests per second and memory."""

import json
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.process import Server, resident_mb, running, serve
from benchmarks.served import raw_path
from benchmarks.timing import Figure
from benchmarks.volumes import BLOCK, Built, Plan, boxes

ROOT = Path(__file__).resolve().parents[1]
_WORKERS = (1, 2)
_CONNECTIONS = 16
_TURN_S = 1
_TURNS_PER_SECOND = 5


def cases(plan: Plan, built: Built) -> Iterator[Figure]:
    """Yield the figures; none where the kernel cannot throw answers away."""
    if not hasattr(select, "epoll"):
        return
    places = boxes(plan.size, BLOCK, aligned=True)
    script = plan.folder / "workers.json"
    script.write_text(json.dumps([raw_path(built.root, box) for box in places]))
    twin = plan.folder / "twin"  # a store has one writer, and both servers are to have one
    shutil.copytree(built.store, twin)
    one, two = (
        serve(store, "full", "--workers", number)
        for store, number in zip((built.store, twin), _WORKERS, strict=True)
    )
    with running(*one) as first, running(*two) as second:
        servers = (first, second)
        rates: list[list[float]] = [[], []]
        for server in servers:
            _rate(server.url, script)  # warms caches
        for turn in range(max(1, round(plan.seconds * _TURNS_PER_SECOND))):
            for which in (0, 1) if turn % 2 else (1, 0):  # nobody always follows the other
                rates[which].append(_rate(servers[which].url, script))
        ratios = [100 * two / one for one, two in zip(*rates, strict=True)]
        for number, samples in zip(_WORKERS, rates, strict=True):
            yield _figure(f"GET {BLOCK}³, {_CONNECTIONS} connections", _who(number), samples, "req/s")
        yield _figure(
            f"GET {BLOCK}³, {_CONNECTIONS} connections", "dvidzarr serve, two over one", ratios, "%"
        )
        for number, server in zip(_WORKERS, servers, strict=True):
            yield _figure("resident memory, all processes", _who(number), [_resident(server)], "MB")


def _who(workers: int) -> str:
    return f"dvidzarr serve, --workers {workers}"


def _figure(name: str, who: str, samples: list[float], unit: str) -> Figure:
    low, value, high = np.percentile(samples, (25, 50, 75)).tolist()
    return Figure(name, who, value, unit, low, high, max(samples), len(samples))


def _rate(url: str, script: Path) -> float:
    """Return the requests per second of one turn."""
    words = (sys.executable, "-m", "benchmarks.discarding", url, script, _CONNECTIONS, _TURN_S)
    said = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return float(said)


def _resident(server: Server) -> float:
    """Return the memory of a server with its children."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return sum(map(resident_mb, (server.pid, *map(int, children))))
