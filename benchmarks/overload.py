"""Small requests beside four times as many large ones as the server has memory for."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.process import CHECKOUT, Client, running, serve
from benchmarks.served import raw_path
from benchmarks.timing import Figure, of_samples
from benchmarks.volumes import BLOCK, GRAY, Built, Plan, boxes
from dvidzarr.http.pump import PIECES

_AT_A_TIME = 4
"""Large answers that fit into the memory; each holds slabs of one layer of chunks."""
_CONNECTIONS = 4 * _AT_A_TIME
_TURNS = 20
"""So many times the seconds of a case: a hundredth of few calls says nothing."""


def cases(plan: Plan, built: Built) -> Iterator[Figure]:
    """Yield the figures; none where the kernel cannot throw answers away."""
    if not hasattr(select, "epoll"):
        return
    memory = _AT_A_TIME * PIECES * BLOCK * plan.size**2
    limits = (f"limits.bytes_in_flight={memory}", "limits.queue_timeout_s=3600")
    words = ("--workers", 0, "--read-only", "--set", limits[0], "--set", limits[1])
    node = f"/api/node/{built.root}"
    block = boxes(plan.size, BLOCK, aligned=True)[0]
    small = {"GET 64³": raw_path(built.root, block), "GET info": f"{node}/{GRAY}/info", "GET livez": "/livez"}
    with running(*serve(built.store, "full", *words)) as server:
        client = Client(server.url)
        for who in ("alone", "overloaded"):
            with _large_requests(plan, built, server.url, wanted=who == "overloaded"):
                for name, path in small.items():
                    yield _asked(client, f"{name}, small", path, f"dvidzarr serve, {who}", plan.seconds)
        client.close()


def _asked(client: Client, name: str, path: str, who: str, seconds: float) -> Figure:
    samples: list[float] = []
    until = time.perf_counter() + _TURNS * seconds
    while (start := time.perf_counter()) < until or len(samples) < _TURNS:
        client.get(path)
        samples.append(time.perf_counter() - start)
    return of_samples(name, who, samples)


@contextmanager
def _large_requests(plan: Plan, built: Built, url: str, *, wanted: bool) -> Iterator[None]:
    """Ask for the whole volume over many connections."""
    if not wanted:
        yield
        return
    script = Path(plan.folder) / "overload.json"
    (whole,) = boxes(plan.size, plan.size, aligned=True)[:1]
    script.write_text(json.dumps([raw_path(built.root, whole)]))
    words = (sys.executable, "-m", "benchmarks.discarding", url, script, _CONNECTIONS, 3600)
    asking = subprocess.Popen(list(map(str, words)), cwd=CHECKOUT)
    try:
        time.sleep(1)  # they have begun
        yield
    finally:
        asking.kill()
        asking.wait()
