"""One process of a server with several: what the supervisor starts, with the descriptor of their channel as its argument.

Number 0 is home: it writes (or, where nothing is written, keeps what the server has once), and answers what others forward
to it at its private socket. The others follow the store, answer reads, and forward the rest. All of them take
connections, which the supervisor hands out.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from dvidzarr.core.errors import DvidzarrError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.sinks import sinks
from dvidzarr.server.access import ADMIN_TOKEN, Access
from dvidzarr.server.activitytopic import activity_topic
from dvidzarr.server.app import LOG, make_server, tune_memory
from dvidzarr.server.board import CLOSED, Board
from dvidzarr.server.channel import DRAIN, FINISH, Channel
from dvidzarr.server.eventloop import event_loop
from dvidzarr.server.fleet import Fleet, private_socket
from dvidzarr.server.httpserver import ConnectionCounts
from dvidzarr.server.logs import logging_to
from dvidzarr.server.opening import open_store
from dvidzarr.server.order import GRACE_S, Order
from dvidzarr.server.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.server.connections import Connection
    from dvidzarr.server.forwarding import Home

_LOOK_S = 1.0
_FOLLOW_S = 0.1
"""How often a follower reads on by itself, so that no request finds it far behind."""


class SharedCounts(ConnectionCounts):
    """The connections of one process, whose ends the supervisor learns from the board."""

    def __init__(self, limit: int, row: memoryview) -> None:
        self._row = row
        self._open = 0
        super().__init__(limit)

    @property
    def open(self) -> int:
        """How many there are."""
        return self._open

    @open.setter
    def open(self, number: int) -> None:
        if number < self._open:
            self._row[CLOSED] += 1
        self._open = number


class Worker:
    """A process while it serves. Lives on one event loop."""

    def __init__(self, order: Order, channel: Channel, catalog: "Catalog", settings: Settings) -> None:
        self._order = order
        self._channel = channel
        self._catalog = catalog
        folder = Path(order.folder)
        self._home = None if order.number == 0 else _home_at(folder)
        board = Board(order.count, order.board)
        self._row = board.row(order.number)
        fleet = Fleet(order.read_only, order.number, order.count, board, self._home, folder)
        self._runtime = Runtime(catalog, settings, fleet)
        self._runtime.connections = SharedCounts(self._runtime.connections.limit, self._row)
        self._patience = settings.storage.drain_timeout_s
        access = Access.of(settings.server, order.host, os.environ.get(ADMIN_TOKEN, ""))
        self._server = make_server(self._runtime, access)
        if self._home is not None:
            self._server.hand_on = channel.hand_over
        self._private = make_server(self._runtime, access, private=True)
        self._place = private_socket(folder, order.number)
        Path(self._place).unlink(missing_ok=True)  # of a process that was killed
        self._finishing = asyncio.Event()
        self._alone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the supervisor says so, or is gone."""
        loop = asyncio.get_running_loop()
        door = await loop.create_unix_server(self._private, self._place)
        loop.add_signal_handler(signal.SIGTERM, lambda: self._channel.say(stop=True))
        self._channel.attend(self._take, self._told, self._orphaned)
        if self._order.writes:
            self._catalog.announce(self._order.url)
        else:
            self._spawn(self._follow())
        self._channel.say(ready=True)
        self._runtime.load_all()
        LOG.info("worker serves", extra={"pid": os.getpid(), "writes": self._order.writes})
        await self._finishing.wait()
        await self._finish()
        door.close()
        if self._order.number == 0:  # the last of all; a supervisor that was killed has left the sockets
            rmtree(self._order.folder, ignore_errors=True)

    def _take(self, connection: socket.socket, moved: bool) -> None:
        connection.setblocking(False)
        self._spawn(self._connect(connection, self._server.go_on_with if moved else self._server))

    async def _connect(self, connection: socket.socket, protocol: "Callable[[], Connection]") -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)
        except OSError:  # the client left already
            self._row[CLOSED] += 1
            connection.close()

    def _told(self, word: bytes) -> None:
        if word == DRAIN:
            self._runtime.draining = True
        elif word == FINISH:
            self._finishing.set()

    def _orphaned(self) -> None:
        self._runtime.draining = True
        self._finishing.set()
        self._alone.set()

    def _spawn(self, work: Any) -> None:  # noqa: ANN401
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self) -> None:
        """Read on in the logs now and then."""
        said = ""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await self._runtime.offload(self._catalog.catch_up)
            except DvidzarrError as error:  # requests that need it will say the same
                if str(error) != said:
                    LOG.warning("cannot follow the store: %s", error)
                said = str(error)

    async def _finish(self) -> None:
        """Finish what runs; home answers the others until they are done."""
        LOG.info("stopping", extra={"active": self._runtime.activity.active})
        until = time.monotonic() + self._patience
        for server in (self._server, self._private):
            if server is self._private and self._order.number == 0:
                await self._alone.wait()
            await server.shutdown(max(0.0, until - time.monotonic()))
        for task in self._tasks:
            task.cancel()
        if self._home is not None:
            await self._home.close()
        await asyncio.get_running_loop().run_in_executor(None, self._runtime.close)


def _home_at(folder: Path) -> "Home":
    from dvidzarr.server.forwarding import Home  # noqa: PLC0415 - what home itself need not load

    return Home(private_socket(folder, 0))


def _die_with(parent: int, patience: float) -> None:
    """End this process some time after its supervisor if it did not end by itself; runs in a thread."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    time.sleep(patience)
    os._exit(1)


@contextmanager
def _opened(order: Order, settings: Settings) -> "Iterator[Catalog]":
    catalog = open_store(order.store, settings, write=order.writes)
    with catalog, sinks(catalog, settings) if order.number == 0 else nullcontext():
        yield catalog


def main() -> int:
    """Do what the supervisor orders; return the exit code."""
    # Ctrl-C and a hang-up of the terminal reach the supervisor too, which knows the order of things
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        order = Order(**channel.hear())
    except EOFError:  # the start of the server failed, or was given up
        return 1
    settings = Settings.load(env={}, overrides=order.settings)
    patience = settings.storage.drain_timeout_s + GRACE_S
    threading.Thread(target=_die_with, args=(os.getppid(), patience), daemon=True).start()
    facts = {"worker": order.number}
    try:
        with (
            logging_to(turns=order.board, facts=facts),
            _opened(order, settings) as catalog,
            activity_topic(settings),
            asyncio.Runner(loop_factory=event_loop()) as runner,
        ):
            runner.run(_serve(order, channel, catalog, settings))
    except DvidzarrError as error:
        with suppress(OSError):
            channel.say(failed=type(error).__name__, message=str(error))
        return 1
    finally:
        channel.close()
    return 0


async def _serve(order: Order, channel: Channel, catalog: "Catalog", settings: Settings) -> None:
    tune_memory()
    await Worker(order, channel, catalog, settings).run()


if __name__ == "__main__":
    sys.exit(main())
