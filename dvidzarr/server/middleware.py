"""The frame around every request: id, path, CORS, errors, access log."""

import asyncio
import logging
import secrets
import time
from traceback import clear_frames

from aiohttp import web

from dvidzarr.core.errors import DvidzarrError, StorageError
from dvidzarr.http import responses
from dvidzarr.http.errors import PlainError
from dvidzarr.http.responses import abort
from dvidzarr.server.access import SAFE_METHODS, Access
from dvidzarr.server.connections import SERVER_NAME, Connection
from dvidzarr.server.dispatch import OPERATION, Dispatcher
from dvidzarr.server.paths import decoded_path, redirect_of
from dvidzarr.server.runtime import Runtime

ACCESS = logging.getLogger("dvidzarr.access")
LOG = logging.getLogger("dvidzarr.server")

_SERVER = {"Server": SERVER_NAME}

_RECORD = vars(
    logging.makeLogRecord(
        {"name": ACCESS.name, "levelno": logging.INFO, "levelname": "INFO", "msg": "request"}
    )
)
"""What all records of the access log have in common: the logger would look for its caller each time."""


class Front:
    """What aiohttp calls for each request."""

    def __init__(self, runtime: Runtime, access: Access, *, counted: bool = True) -> None:
        self._counted = counted
        self._activity = runtime.activity
        self._meters = runtime.meters
        self._watch = runtime.watch
        self._access = access
        self._audit = runtime.audit
        self._dispatcher = Dispatcher(runtime, access)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; every error becomes an answer."""
        identity = secrets.token_hex(6)
        started = time.perf_counter()
        if self._counted:
            self._activity.begin(request.method)
        status = 499  # the client left
        size = 0
        connection = request.protocol
        if isinstance(connection, Connection):
            connection.begin()
        try:
            response = await self._watched(request, identity)
            status, size = response.status, response.body_length
        except ConnectionError as error:
            _let_go(error)
            abort(request)
            return web.Response()  # goes nowhere: aiohttp wants one
        else:
            return response
        finally:
            if isinstance(connection, Connection):
                connection.end(whole=request.content.is_eof())
            if self._counted:
                self._count(request, identity, status, size, started)

    def _count(self, request: web.BaseRequest, identity: str, status: int, size: int, started: float) -> None:
        self._activity.end()
        seconds = time.perf_counter() - started
        received = request.content.total_bytes
        self._meters.note(request.get(OPERATION, "none"), status, seconds, received, size)
        if self._audit is not None and request.method not in SAFE_METHODS:
            role = self._access.role(request)
            self._audit.note(request, identity, role, status, received, seconds * 1000)
        _log(request, identity, status, received, size, seconds)

    async def _watched(self, request: web.BaseRequest, identity: str) -> web.StreamResponse:
        """Answer and send, or give up when the request stands still for too long.

        It is sent here rather than left to aiohttp, which waits forever for a client that does not read.
        """
        deadline = asyncio.timeout(None)
        watched = self._watch.begin(request, deadline)
        response: web.StreamResponse | None = None
        try:
            async with deadline:
                response = await self._answer(request, identity)
                watched.sending = True
                await _send(request, response)
        except TimeoutError:
            if response is not None:
                abort(request)
                return response
            path = request.raw_path.partition("?")[0]
            LOG.warning("gave up a request that stood still", extra={"request": identity, "path": path})
            if request.writer.output_size:
                raise ConnectionAbortedError from None
            response = responses.failure(
                PlainError(504, "the request made no progress and was given up"), path
            )
            response.force_close()
            await _send(request, response)
        finally:
            self._watch.end(deadline)
        return response

    async def _answer(self, request: web.BaseRequest, identity: str) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        headers = _SERVER | self._access.headers(request)
        response: web.StreamResponse | None
        try:
            path = decoded_path(request)
            response = self._access.preflight(request) or redirect_of(request)
            if response is None:
                self._access.check_host(request)
                self._access.check_origin(request)
                response = await self._dispatcher.answer(request, path, headers)
        except DvidzarrError as error:
            if isinstance(error, StorageError):
                LOG.exception("storage failed", extra={"request": identity, "path": path})
            response = responses.failure(error, path)
        except ConnectionError:
            raise  # the client left
        except Exception:
            LOG.exception("unexpected failure", extra={"request": identity, "path": path})
            response = responses.failure(
                PlainError(500, f"Internal error on request {identity}: see the server's log"), path
            )
        if not response.prepared:
            for name, value in headers.items():
                response.headers.setdefault(name, value)
        return response


async def _send(request: web.BaseRequest, response: web.StreamResponse) -> None:
    await response.prepare(request)
    await response.write_eof()


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


def _log(
    request: web.BaseRequest, identity: str, status: int, received: int, size: int, seconds: float
) -> None:
    if not ACCESS.isEnabledFor(logging.INFO):
        return
    query = request.query if request.query_string else {}
    # the query is not logged as it came: it may hold the admin token
    facts = {
        "created": time.time(),
        "request": identity,
        "peer": request.remote,
        "method": request.method,
        "path": request.raw_path.partition("?")[0],
        "status": status,
        "ms": round(seconds * 1000, 2),
        "bytes_in": received,
        "bytes_out": size,
        "user": query.get("u", ""),
        "app": query.get("app", ""),
    }
    record = logging.LogRecord.__new__(logging.LogRecord)
    record.__dict__ = _RECORD | facts
    ACCESS.handle(record)
