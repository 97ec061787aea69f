"""Requests to a server that speaks DVID's HTTP API: retries, bounded answers, errors by meaning."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx
import orjson

from dvidzarr.core.errors import (
    BusyError,
    DvidzarrError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from dvidzarr.core.ids import Author

TRIES = 6
PATIENCE_S = 120.0
"""Longest wait for the first byte of an answer; a commit may drain for 30 s."""

TARGET_TOKEN = "DVID_ADMIN_TOKEN"
SOURCE_TOKEN = "DVID_SOURCE_TOKEN"
"""What is copied from gets a token of its own: that of the target is none of its business."""

_ERROR_BYTES = 1 << 16  # the text of an error may be longer than what was asked for
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_NO_ROUTE = "404 page not found"
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class Session:
    """Requests to one server: author, token, retries of 503, errors by meaning."""

    def __init__(self, url: str, author: Author, token_name: str = TARGET_TOKEN) -> None:
        token = os.environ.get(token_name)
        self.url = url.rstrip("/")
        self._token_name = token_name
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            params={key: value for key, value in (("u", author.user), ("app", author.app)) if value},
            timeout=httpx.Timeout(PATIENCE_S, connect=10.0),
            trust_env=False,
        )

    def request(
        self, method: str, *words: str, content: bytes | None = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        """Send one request, again while the server says that it is busy, and return the answer's body."""
        path = _path(words)
        for attempt in range(TRIES):
            with self._answering(method, path):
                answer = self._http.request(method, self.url + path, content=content, params=query)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == TRIES - 1:
                break
            time.sleep(min(float(_seconds(answer.headers.get("retry-after"))), _LONGEST_PAUSE_S))
        if answer.is_success:
            return answer.content
        raise self._error(path, answer.status_code, answer.text.strip() or answer.reason_phrase)

    def fetch(
        self,
        *words: str,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        limit: int | None = None,
    ) -> bytes:
        """Get what a copy needs; again while the server is busy, and after a broken connection.

        Parameters
        ----------
        content
            What the request says in its body.
        limit
            Bytes that the answer can have; None if it may be of any size.

        Raises
        ------
        StorageError
            The server does not answer, or sends more than `limit` bytes, which are not kept.
        """
        path, pause = _path(words), _FIRST_PAUSE_S
        for _ in range(TRIES - 1):
            try:
                return self._fetched(path, params, content, limit)
            except (BusyError, _BrokenError):
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        return self._fetched(path, params, content, limit)

    def _fetched(
        self, path: str, params: Mapping[str, str] | None, content: bytes | None, limit: int | None
    ) -> bytes:
        with (
            self._answering("GET", path),
            self._http.stream("GET", self.url + path, params=params, content=content) as answer,
        ):
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if limit is not None and len(body) > max(limit, _ERROR_BYTES):
                    raise StorageError(f"{self.url} sent more than the {limit} bytes that {path} can have")
            if answer.is_success:
                return bytes(body)
        raise self._error(path, answer.status_code, body.decode("utf-8", "replace").strip())

    @contextmanager
    def _answering(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise _BrokenError(f"no answer from {self.url} ({method} {path}): {reason}") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise InvalidInputError(f"{self.url} is no address of a server: {error}") from error

    def _error(self, path: str, status: int, text: str) -> DvidzarrError:
        if text.startswith("<") or text == _NO_ROUTE:  # another kind of server, or too long an address
            text = f"{self.url}{path} has status {status}: is {self.url} a DVID or dvidzarr server, http://host:port?"
        return _error(status, text, self._token_name)

    def json(
        self,
        method: str,
        *words: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:  # noqa: ANN401
        """Send one request with a JSON body and return the decoded answer."""
        content = None if body is None else orjson.dumps(body)
        answer = self.request(method, *words, content=content, query=query)
        try:
            return orjson.loads(answer) if answer else None
        except orjson.JSONDecodeError as error:
            raise StorageError(
                f"{self.url} does not speak DVID's API: the answer to {'/'.join(words)} is not JSON"
            ) from error

    @contextmanager
    def understanding(self, what: str) -> Iterator[None]:
        """Raise `StorageError` where an answer has not the members that DVID's have."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(
                f"{self.url} does not speak DVID's API: its {what} lacks something ({error!r})"
            ) from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class _BrokenError(StorageError):
    """No connection, or one that broke."""


def _path(words: tuple[str, ...]) -> str:
    return "/api/" + "/".join(quote(word, safe=":~_,") for word in words)


def _seconds(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 2


def _error(status: int, text: str, token_name: str) -> DvidzarrError:
    if status in _REFUSED:
        return ForbiddenError(
            f"{text[:200] or 'refused'} (status {status}): set {token_name} to a valid token"
        )
    if status == httpx.codes.NOT_FOUND:
        return NotFoundError(text)
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return BusyError(text)
    return InvalidInputError(text) if status < httpx.codes.INTERNAL_SERVER_ERROR else StorageError(text)
