"""Assembly and life of a server."""

import asyncio
import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from dvidzarr.repo.sinks import sinks
from dvidzarr.server.access import ADMIN_TOKEN, Access
from dvidzarr.server.activitytopic import activity_topic
from dvidzarr.server.eventloop import event_loop
from dvidzarr.server.httpserver import ConnectionCounts, HttpServer
from dvidzarr.server.listening import BACKLOG, Ready, listening, url_of
from dvidzarr.server.logs import logging_to
from dvidzarr.server.middleware import SERVER_NAME, Front
from dvidzarr.server.processlimits import allow_descriptors, end_with_signals
from dvidzarr.server.runtime import Runtime

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

LOG = logging.getLogger("dvidzarr.server")

_PRIVATE_IDLE_S = 3600.0
"""The other process closes first."""
_ESCAPED = 3
"""So many times as long a line is after each of its bytes was escaped."""

_COLLECT_AFTER = 10_000
"""Objects: a request makes some hundreds, and nearly all of them go without the collector."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 32 << 20  # the most that glibc takes for the second one


def make_server(runtime: Runtime, access: Access, *, private: bool = False) -> HttpServer:
    """Return what serves connections.

    `private` is for requests that another process of this server took, counted and, in their targets, escaped. Bodies stay
    as they came: DVID ignores a request's Content-Encoding, and decoding hides bombs.
    """
    limits = runtime.settings.limits
    if private:
        line_bytes = _ESCAPED * limits.max_line_bytes
        limits = replace(limits, idle_timeout_s=_PRIVATE_IDLE_S, max_line_bytes=line_bytes)
        counts = ConnectionCounts(sys.maxsize)
    else:
        counts = runtime.connections
    return HttpServer(Front(runtime, access, counted=not private), counts, limits, SERVER_NAME)


def serve(
    catalog: "Catalog",
    settings: "Settings",
    host: str | None = None,
    port: int | None = None,
    ready: Ready | None = None,
) -> None:
    """Serve a store until SIGTERM, SIGINT or SIGHUP, then finish running requests and close the catalog.

    Parameters
    ----------
    catalog : Catalog
        Open store; closed when this returns.
    host, port
        Where to listen; default as in `settings.server`. Port 0 takes a free one.
    ready
        Called with host and port once the server answers.

    Raises
    ------
    BusyError
        The port is taken.
    InvalidInputError
        Others could reach it, and the settings do not say what they may do.
    """
    tune_memory()
    stop = asyncio.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end_with_signals(loop, stop)
        await _run(catalog, settings, settings.server.host if host is None else host, port, ready, stop)

    with (
        logging_to(),
        catalog,
        sinks(catalog, settings),
        activity_topic(settings),
        asyncio.Runner(loop_factory=event_loop()) as runner,
    ):
        allow_descriptors()
        runner.run(main())


def tune_memory() -> None:
    """Prepare a process that only serves, after it has loaded most of what it needs.

    glibc shall keep buffers of up to 32 MiB that were freed, instead of asking the kernel for zeroed pages each time. The
    garbage collector shall pass over what lives as long as the process, and look less often (5 % of a small request).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):
        allocator.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        allocator.mallopt(_M_TRIM_THRESHOLD, 4 * _KEPT_BYTES)


@contextmanager
def running(catalog: "Catalog", settings: "Settings", host: str = "127.0.0.1") -> Iterator[str]:
    """Serve a store on a free port from a thread, for tests and notebooks; yield the URL.

    The catalog stays open.
    """
    address: Future[str] = Future()
    handles: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        handles.append((asyncio.get_running_loop(), stop))
        await _run(
            catalog, settings, host, 0, lambda *place: address.set_result(url_of(*place)), stop, shared=True
        )

    def body() -> None:
        try:
            with asyncio.Runner(loop_factory=event_loop()) as runner:
                runner.run(main())
        except Exception as error:
            LOG.exception("the server ended")
            if not address.done():
                address.set_exception(error)

    thread = threading.Thread(target=body, name="server", daemon=True)
    thread.start()
    try:
        yield address.result()
    finally:
        for loop, stop in handles:
            with suppress(RuntimeError):  # it ended by itself, and its loop is closed
                loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _run(
    catalog: "Catalog",
    settings: "Settings",
    host: str,
    port: int | None,
    ready: Ready | None,
    stop: asyncio.Event,
    *,
    shared: bool = False,
) -> None:
    access = Access.of(settings.server, host, os.environ.get(ADMIN_TOKEN, ""))
    runtime = Runtime(catalog, settings, shared=shared)
    server = make_server(runtime, access)
    loop = asyncio.get_running_loop()
    doors: list[asyncio.Server] = []
    try:
        sockets = listening(host, settings.server.port if port is None else port)
        address = sockets[0].getsockname()
        doors += [await loop.create_server(server, sock=each, backlog=BACKLOG) for each in sockets]
        LOG.info("serving", extra={"host": address[0], "port": address[1], "store": catalog.url})
        if catalog.full_write:
            LOG.warning("locked versions may be written", extra={"by": access.administrators})
        if catalog.writing:
            catalog.announce(url_of(address[0], address[1]))
        if ready is not None:
            ready(address[0], address[1])
        runtime.load_all()
        await stop.wait()
        runtime.draining = True
        await asyncio.sleep(settings.server.stop_delay_s)
        LOG.info("stopping", extra={"active": runtime.activity.active})
    finally:
        for door in doors:
            door.close()
        await server.shutdown(settings.storage.drain_timeout_s)
        await loop.run_in_executor(None, runtime.close)
