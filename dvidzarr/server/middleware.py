"""The frame around every request: id, path, CORS, errors, access log."""

import asyncio
import logging
import secrets
import time
from itertools import count
from traceback import clear_frames

from dvidzarr.core.errors import DvidzarrError, StorageError
from dvidzarr.http import responses
from dvidzarr.http.errors import PlainError
from dvidzarr.http.request import REQUEST_ID, Request
from dvidzarr.http.response import Response
from dvidzarr.server.access import SAFE_METHODS, Access
from dvidzarr.server.accesslog import Entry, note
from dvidzarr.server.dispatch import Dispatcher
from dvidzarr.server.paths import decoded_path, redirect_of
from dvidzarr.server.runtime import Runtime

LOG = logging.getLogger("dvidzarr.server")

SERVER_NAME = "dvidzarr"
_SERVER = {"Server": SERVER_NAME}

_BOOT = secrets.token_hex(4)
_NUMBERS = count(0x1000)

_SHOWN = 1024
"""Characters of a name that the access log keeps: a query may be long, and thousands of entries wait for their turn."""


class Front:
    """What is called for each request."""

    def __init__(self, runtime: Runtime, access: Access, *, counted: bool = True) -> None:
        self._counted = counted
        self._activity = runtime.activity
        self._meters = runtime.meters
        self._access = access
        self._audit = runtime.audit
        self._dispatcher = Dispatcher(runtime, access)

    async def __call__(self, request: Request) -> None:
        """Answer a request; every error becomes an answer."""
        if not self._counted:
            request.identity = request.headers.get(REQUEST_ID.lower(), "")
            self._activity.forwarded += 1
            try:
                await self._served(request)
            finally:
                self._activity.forwarded -= 1
            return
        request.identity = f"{_BOOT}{next(_NUMBERS):x}"
        started = time.perf_counter()
        self._activity.begin(request.method)
        status, size = 499, 0  # the client left
        try:
            response = await self._served(request)
            if response is not None:
                status, size = response.status, response.sent
        finally:
            self._count(request, status, size, started)

    def _count(self, request: Request, status: int, size: int, started: float) -> None:
        self._activity.end()
        seconds = time.perf_counter() - started
        received = request.body.received
        self._meters.note(request.operation, status, seconds, received, size)
        if self._audit is not None and request.method not in SAFE_METHODS:
            self._audit.note(request, self._access.role(request), status, seconds * 1000)
        query = request.query
        user, app = query.get("u", ""), query.get("app", "")
        note(
            Entry(
                time.time(),
                request.identity,
                request.peer,
                request.method,
                request.path,
                status,
                seconds,
                received,
                size,
                user[:_SHOWN],
                app[:_SHOWN],
            )
        )

    async def _served(self, request: Request) -> Response | None:
        """Answer and send; None if the client left, or does not read."""
        try:
            response = await self._answer(request)
            response.send(request)
        except ConnectionError as error:
            _let_go(error)
            request.abort()
            return None
        return response

    async def _answer(self, request: Request) -> Response:
        path, identity = request.path, request.identity
        headers = _SERVER | self._access.headers(request)
        response: Response | None
        try:
            path = decoded_path(request)
            response = self._access.preflight(request)
            if response is not None:
                headers = _SERVER  # it says itself what its origin may, maybe nothing
            else:
                response = redirect_of(request)
            if response is None:
                self._access.check_host(request)
                self._access.check_origin(request)
                response = await self._dispatcher.answer(request, path, headers)
        except DvidzarrError as error:
            if isinstance(error, StorageError):
                LOG.exception("storage failed", extra={"request": identity, "path": path})
            response = responses.failure(error, path)
        except ConnectionError:
            raise  # the client left, or does not read
        except asyncio.CancelledError:
            if not request.given_up:
                raise
            response = _given_up(request)
        except Exception:
            LOG.exception("unexpected failure", extra={"request": identity, "path": path})
            response = responses.failure(
                PlainError(500, f"Internal error on request {identity}: see the server's log"), path
            )
        if not response.begun:
            response.headers = headers | response.headers
        return response


def _given_up(request: Request) -> Response:
    """Return the answer to a request that was cancelled because it stood still; `ConnectionError` if it is too late."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
    LOG.warning(
        "gave up a request that stood still", extra={"request": request.identity, "path": request.path}
    )
    if request.begun:
        raise ConnectionAbortedError
    response = responses.failure(
        PlainError(504, "the request made no progress and was given up"), request.path
    )
    response.close = True
    return response


def _let_go(error: BaseException) -> None:
    """Free what the frames that an error came through hold: slabs of many MiB.

    asyncio's futures keep the error that ended them, its frames keep the futures: without this, the memory of answers
    that were cut short would wait for the next full garbage collection (2 GiB after ten of them, measured).
    """
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:  # a cause may lead back to what it caused
        seen.add(id(link))
        clear_frames(link.__traceback__)
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
