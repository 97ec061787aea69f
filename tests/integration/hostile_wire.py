"""Requests as no client library sends them, and just enough of a client to read what comes back."""

import random
import re
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
BATCH = 8
BATCH_BYTES = 64 << 10
"""So much fits into the buffers of a connection, so that sending never waits for reading."""

_SILENCE_S = 0.03
_ENOUGH = 1 << 20

HEADERS = (
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Expect: something\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Host: other\r\n",
    b"Host: \xff\r\n",
    b"Origin: null\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Authorization: Bearer \xff\xfe\r\n",
    b"Range: bytes=0-,-1,9-1\r\n",
    b"If-None-Match: *\r\n",
    b"X: " + b"y" * 9000 + b"\r\n",
    b"X: y\r\n" * 300,
    b" folded: yes\r\n",
    b"no colon\r\n",
    b"Nul: \x00\r\n",
    b"\r\n",
)
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhel",
    b"ffffffffffffffff\r\nx",
    b"-1\r\nx\r\n",
    b"5;ext=" + b"e" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"zz\r\n",
    b"",
)


def request(method: str, path: str, body: bytes = b"", *more: bytes) -> bytes:
    """Return a whole request as it goes over the wire."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
    return head + b"".join(more) + b"\r\n" + body


def mutated(chance: random.Random, raw: bytes) -> bytes:
    """Return a request with one to three things wrong (or, rarely, none)."""
    for _ in range(chance.randint(1, 3)):
        raw = chance.choice(_MUTATIONS)(chance, raw)
    return raw


def _flip(chance: random.Random, raw: bytes) -> bytes:
    place = chance.randrange(min(len(raw), 200) or 1)
    return raw[:place] + bytes([chance.randrange(256)]) + raw[place + 1 :]


def _cut(chance: random.Random, raw: bytes) -> bytes:
    return raw[: chance.randrange(len(raw) + 1)]


def _drop(chance: random.Random, raw: bytes) -> bytes:
    place = chance.randrange(len(raw) + 1)
    return raw[:place] + raw[place + chance.randint(1, 20) :]


def _insert(chance: random.Random, raw: bytes) -> bytes:
    place = chance.randrange(min(len(raw), 200) + 1)
    return raw[:place] + chance.randbytes(chance.randint(1, 30)) + raw[place:]


def _header(chance: random.Random, raw: bytes) -> bytes:
    line, end, rest = raw.partition(b"\r\n")
    return line + end + chance.choice(HEADERS) + rest


def _chunked(chance: random.Random, raw: bytes) -> bytes:
    head = re.sub(
        rb"Content-Length: \d+\r\n",
        b"Transfer-Encoding: chunked\r\n",
        raw.partition(b"\r\n\r\n")[0] + b"\r\n",
    )
    return head + b"\r\n" + chance.choice(CHUNKS)


def _bare_newlines(_chance: random.Random, raw: bytes) -> bytes:
    return raw.replace(b"\r\n", b"\n", 3)


def _longer(chance: random.Random, raw: bytes) -> bytes:
    line, end, rest = raw.partition(b" HTTP/")
    return line + b"/" + b"a" * chance.choice((300, 9000, 70_000)) + end + rest


def _version(chance: random.Random, raw: bytes) -> bytes:
    return raw.replace(
        b"HTTP/1.1", chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9", b"X")), 1
    )


def _twice(_chance: random.Random, raw: bytes) -> bytes:
    return raw + raw


_MUTATIONS = (
    _flip,
    _cut,
    _drop,
    _insert,
    _header,
    _header,
    _chunked,
    _bare_newlines,
    _longer,
    _version,
    _twice,
)


def connect(url: str) -> socket.socket:
    address = urlsplit(url)
    return socket.create_connection((address.hostname, address.port), timeout=120)


def statuses(url: str, raws: list[bytes]) -> list[list[int]]:
    """Send each of these over a connection of its own, at the same time; return the statuses that come back for each.

    What is not answered within a moment of silence gets the end of sending, upon which the server hangs up.
    """
    with ExitStack() as stack:
        links = {stack.enter_context(connect(url)): b"" for _ in raws}
        for link, raw in zip(links, raws, strict=True):
            with suppress(ConnectionError):
                link.sendall(raw)
        _collect(links, _SILENCE_S)
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_WR)
        _collect(links, 30)
        return [[int(status) for status in STATUS.findall(answer)] for answer in links.values()]


def _collect(links: dict[socket.socket, bytes], silence: float) -> None:
    """Read until all have hung up or sent a lot, or nothing came for a while."""
    with selectors.DefaultSelector() as waiting:  # unlike select(), it takes descriptors of any number
        for link in links:
            waiting.register(link, selectors.EVENT_READ, link)
        while waiting.get_map() and (ready := waiting.select(silence)):
            for key, _ in ready:
                link, data = key.data, b""
                with suppress(ConnectionError):
                    data = link.recv(1 << 18)
                links[link] += data
                if not data or len(links[link]) > _ENOUGH:
                    waiting.unregister(link)


def pipelined(url: str, requests: list[tuple[str, bytes]]) -> Iterator[int]:
    """Send (method, request) pairs without waiting for answers; yield the statuses that came.

    Takes the pairs off the list; what is left when the server hangs up stays on it.
    """
    batch: list[tuple[str, bytes]] = []
    with connect(url) as link, link.makefile("rb") as answers, suppress(ConnectionError):
        while requests:
            size = 0
            while requests and len(batch) < BATCH and (not batch or size + len(requests[0][1]) < BATCH_BYTES):
                size += len(requests[0][1])
                batch.append(requests.pop(0))
            link.sendall(b"".join(raw for _, raw in batch))
            for method, _ in batch:
                status = _read_answer(answers, method)
                if status is None:
                    return
                yield status
            batch.clear()


def _read_answer(answers: "socket.SocketIO", method: str) -> int | None:  # type: ignore[name-defined]
    line = answers.readline()
    if not line:
        return None
    status, length, chunked = int(line.split()[1]), 0, False
    while (header := answers.readline().strip().lower()) != b"":
        name, _, value = header.partition(b":")
        if name == b"content-length":
            length = int(value)
        chunked = chunked or (name == b"transfer-encoding" and b"chunked" in value)
    if method == "HEAD" or status in (204, 304):
        return status
    while chunked and (size := int(answers.readline(), 16)):
        answers.read(size + 2)
    answers.read(2 if chunked else length)
    return status
