"""Small requests over HTTP that the event loop does itself, beside the same on threads (see `server/turns.py`)."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.process import HttpError, running, serve
from benchmarks.served import raw_path
from benchmarks.timing import Case
from benchmarks.volumes import BLOCK, Plan, boxes, over
from benchmarks.writes import Poster
from dvidzarr.core.geometry import Box

_PUTS, _POSTS, _GETS = 2000, 400, 200
_EDGE = 2 * BLOCK
_VALUE = bytes(200)
_PROGRAMS = {"the loop": "dvidzarr.cli.main", "threads": "benchmarks.onthreads"}


def cases(plan: Plan) -> Iterator[list[Case]]:
    """Yield groups of cases that do the same."""
    chunk = np.ascontiguousarray(plan.data.voxels[:BLOCK, :BLOCK, :BLOCK])
    box = Box((0, 0, 0), (BLOCK, BLOCK, BLOCK))
    puts, posts = [], []
    gets: dict[bool, list[Case]] = {True: [], False: []}
    with ExitStack() as stack:
        for number, (where, program) in enumerate(_PROGRAMS.items()):
            words = serve(plan.folder / f"onloop{number}", "full")
            server = stack.enter_context(running(program, *words[1:]))
            poster = Poster(server.url)
            stack.callback(poster.client.close)
            putter = stack.enter_context(closing(Putter(server.url, poster)))
            who, post = f"dvidzarr serve, on {where}", partial(poster.write(chunk), box)
            puts.append(Case("PUT 200 B", who, putter, calls=_PUTS))
            posts.append(Case("POST 64³ again, alone", who, post, chunk.nbytes, calls=_POSTS))
            poster.renew()
            poster.ingest(plan.data.voxels)
            for aligned, group in gets.items():
                places = boxes(plan.size, _EDGE, aligned=aligned)
                paths = [raw_path(poster.root, place, poster.name) for place in places]
                what = f"GET {_EDGE}³ {'aligned' if aligned else 'unaligned'}"
                group.append(Case(what, who, over(paths, poster.client.get), _EDGE**3, calls=_GETS))
        yield from (puts, posts, *gets.values())


class Putter:
    """One connection to a keyvalue instance of its own, and no more work on it than must be; each call puts a new key."""

    def __init__(self, url: str, poster: Poster) -> None:
        parts = urlsplit(url)
        poster.client.send(
            f"/api/repo/{poster.root}/instance", orjson.dumps({"typename": "keyvalue", "dataname": "kv"})
        )
        self._path = f"/api/node/{poster.root}/kv/key"
        self._head = f"HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {len(_VALUE)}\r\n\r\n"
        self._numbers = count()
        self._link = socket.create_connection((parts.hostname, parts.port))

    def __call__(self) -> None:
        """Put a key."""
        self._link.sendall(f"POST {self._path}/{next(self._numbers):08d} {self._head}".encode() + _VALUE)
        answer = self._link.recv(4096)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise HttpError(f"PUT: {answer[:300]!r}")

    def close(self) -> None:
        """End the connection."""
        self._link.close()
