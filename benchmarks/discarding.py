"""A client that asks over many connections and throws the answers away in the kernel: the machine is left to the server.

Run as a program by `workers.py`: on two cores, a client that looks at 256 KiB per answer takes a quarter of the machine, and
then two processes that serve cannot be twice as fast as one, however good they are.
"""

import itertools
import json
import re
import select
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

_HEAD_BYTES = 4096
_SCRATCH = bytearray(1 << 20)
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")


class Link:
    """One connection, with one request on its way."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self._missing = 0

    def ask(self, path: str) -> None:
        """Send a request."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def read(self) -> bool:
        """Take what has come; tell whether the answer is over. `ValueError` if it is no 200."""
        if not self._missing:
            head = self.socket.recv(_HEAD_BYTES)
            end = head.index(b"\r\n\r\n") + 4
            length = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200 ") or length is None:
                raise ValueError(f"an answer without 200 or length: {head[:end]!r}")
            self._missing = int(length[1]) - (len(head) - end)
        else:
            got = self.socket.recv_into(_SCRATCH, min(self._missing, len(_SCRATCH)), socket.MSG_TRUNC)
            if not got:
                raise ValueError("the server closed a connection within an answer")
            self._missing -= got
        return not self._missing


def rate(url: str, paths: list[str], connections: int, seconds: float) -> float:
    """Return the answers per second."""
    address = urlsplit(url)
    links = [Link(address.hostname or "", address.port or 0) for _ in range(connections)]
    todo = itertools.cycle(paths)
    waiting = select.epoll()
    by_number = {link.socket.fileno(): link for link in links}
    for number, link in by_number.items():
        waiting.register(number, select.EPOLLIN)
        link.ask(next(todo))
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) < started + seconds:
        for number, _ in waiting.poll(1):
            link = by_number[number]
            if link.read():
                done += 1
                link.ask(next(todo))
    for link in links:
        link.socket.close()
    return done / (now - started)


if __name__ == "__main__":
    _, where, file, count, duration = sys.argv
    print(rate(where, json.loads(Path(file).read_text()), int(count), float(duration)))
