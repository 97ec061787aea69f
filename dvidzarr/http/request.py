"""A request as it came off the wire."""

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from dvidzarr.http.incoming import Body
    from dvidzarr.http.writer import Writer


REQUEST_ID = "X-Request-Id"
"""Header by which one process of a server tells another how it calls a request in its logs."""

_BAD_PAIR = re.compile(r";|%(?![0-9a-fA-F]{2})")
"""What Go does not take in a pair of a query: it leaves the pair out."""


class Request:
    """One request of a connection, and the way back for its answer. Lives on one event loop.

    Attributes
    ----------
    method
        HTTP verb.
    target
        Path and query as they came; bytes that are not UTF-8 as surrogate escapes.
    path, query_string
        The two parts of it, not decoded.
    headers
        By name in lower case; the values of a repeated one are joined by commas.
    body
        What follows the headers, maybe still on its way.
    writer
        Takes the answer.
    peer
        Address of the client; empty where it has none.
    keep_alive
        Whether the connection may take another request after the answer.
    is_old
        Whether the client speaks HTTP/1.0.
    task
        What answers it.
    operation
        What it is counted as, once its endpoint is known.
    identity
        What it is called in the logs.
    moves_home
        Whether another process answers it, which shall have the connection afterwards.
    subject
        What the audit log needs to know of a request that may change something.
    """

    __slots__ = (
        "_query",
        "begun",
        "body",
        "given_up",
        "headers",
        "identity",
        "is_old",
        "keep_alive",
        "method",
        "moves_home",
        "operation",
        "path",
        "peer",
        "query_string",
        "subject",
        "target",
        "task",
        "writer",
    )

    def __init__(
        self,
        method: str,
        target: str,
        headers: "Mapping[str, str]",
        body: "Body",
        writer: "Writer",
        peer: str = "",
        *,
        keep_alive: bool = True,
        is_old: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.path, _, self.query_string = target.partition("?")
        self.headers = headers
        self.body = body
        self.writer = writer
        self.peer = peer
        self.keep_alive = keep_alive
        self.is_old = is_old
        self.task: asyncio.Task[None] | None = None
        self.operation = "none"
        self.identity = ""
        self.moves_home = False
        self.subject: Any = None
        self.begun = False
        """Whether an answer has begun."""
        self.given_up = False
        """Whether it was cancelled because it made no progress."""
        self._query: dict[str, str] | None = None

    @property
    def progress(self) -> int:
        """A number that changes with every byte that comes or goes."""
        return self.body.received + self.writer.sent

    @property
    def query(self) -> dict[str, str]:
        """The decoded query; of a repeated name the first value. What is no UTF-8 shows as U+FFFD, as in Go's JSON.

        Pairs with a semicolon or a broken escape are left out, as Go does.
        """
        if self._query is None:
            self._query = {}
            for name, value in _pairs(self.query_string):
                self._query.setdefault(name, value)
        return self._query

    def give_up(self) -> None:
        """End what answers it: it has not moved for too long."""
        if self.task is not None:
            self.given_up = True
            self.task.cancel()

    def abort(self) -> None:
        """Reset the connection."""
        self.writer.abort()


def _pairs(query: str) -> list[tuple[str, str]]:
    if _BAD_PAIR.search(query):
        query = "&".join(pair for pair in query.split("&") if not _BAD_PAIR.search(pair))
    return parse_qsl(query, keep_blank_values=True) if query else []
