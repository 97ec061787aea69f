"""A server with several processes: what starts them, hands connections to them, and replaces or stops them.

Problem. One Python process serves on one core. A store has one writing process and any number of followers, so reads can
spread over processes; clients must not notice: whoever got an answer to a write sees it in every later read, whichever
process that one reaches.

Design. This process opens no store. It starts process 0, which writes ("home"), then the others, which follow the logs, and
gives each new connection to the process that has the fewest. Every process answers every request: followers answer what
reads, after comparing the numbers that the writer publishes in shared memory (`applied` of each log, `generation` of the
store) with what they have seen; they forward the rest to home (`forwarding.py`), whose answer to a write goes out after
these numbers were set. After a forwarded write the connection itself goes to home, between two requests and by way of this
process: who writes goes on writing, and forwarding costs as much as a small write. So a read that begins after the answer
sees the write, at the price of a look at memory.

A process that dies is noticed by the end of its channel. A follower is started again (after a pause that grows while it
keeps dying); its connections are lost, no acknowledged write is. If home dies, nobody can write, and a second writer must
first recover the logs: the service stops, with an error. If this process dies, the others finish what runs and exit.

Rejected. SO_REUSEPORT: the kernel spreads connections by a hash; of 16 over two processes one got 10 or more in 45 % and 11
or more in 20 % of 200 tries, and those that wait at a process that dies are reset. One listening socket inherited by
all: an event loop that wakes takes all that wait; of 16 opened at once one got 12 to 16. Handing out gives each process 8;
it costs a connection, not a request, some 0.1 ms.
"""

import asyncio
import logging
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from dvidzarr.core import errors
from dvidzarr.core.errors import DvidzarrError, StorageError
from dvidzarr.core.settings import Settings
from dvidzarr.server.access import Access
from dvidzarr.server.board import CLOSED, Board
from dvidzarr.server.channel import DRAIN, FINISH
from dvidzarr.server.eventloop import event_loop
from dvidzarr.server.listening import Ready, url_of
from dvidzarr.server.logs import logging_to
from dvidzarr.server.order import GRACE_S, Order
from dvidzarr.server.processlimits import allow_descriptors, connections_of_each, end_with_signals
from dvidzarr.server.reception import Reception
from dvidzarr.server.workerprocess import WorkerProcess, launched

LOG = logging.getLogger("dvidzarr.server")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _HEALTHY_S = 0.2, 30.0, 60.0
"""Before a process is started again; the pause doubles unless it lived long enough."""

_LOOK_S = 1.0
"""So often it looks whether all processes live."""
_TOLD_S = 0.5


def supervise(store: str, settings: Settings, ready: Ready | None = None) -> None:
    """Serve a store with several processes until SIGTERM, SIGINT or SIGHUP, then finish running requests.

    Parameters
    ----------
    store
        Folder of the store; made if it is missing or empty, unless `server.read_only` is set.
    ready
        Called with host and port once all processes answer.

    Raises
    ------
    BusyError
        The port is taken, or another process writes to the store.
    InvalidInputError
        Others could reach the server, and the settings do not say what they may do.
    StorageError
        The store cannot be opened, or the process that writes died.
    """
    Access.of(settings.server, settings.server.host, "")
    count = settings.server.process_count
    with tempfile.TemporaryDirectory(prefix="dvidzarr-") as folder, tempfile.TemporaryFile() as file:
        file.write(bytes(Board.size(count)))  # no hole: to touch it on a full disk would end the process
        file.flush()
        with (
            logging_to(turns=file.fileno(), facts={"worker": "supervisor"}),
            asyncio.Runner(loop_factory=event_loop()) as runner,
        ):
            allow_descriptors()
            runner.run(Supervisor(store, settings, Path(folder), file.fileno()).run(ready))


class Supervisor:
    """The processes of one server. Lives on one event loop."""

    def __init__(self, store: str, settings: Settings, folder: Path, board: int) -> None:
        self._store = store
        self._settings = settings
        self._folder = folder
        self._board_file = board
        self._count = settings.server.process_count
        self._share = connections_of_each(settings.limits.max_connections, self._count)
        self._board = Board(self._count, board)
        self._read_only = settings.server.read_only
        self._url = ""
        self._reception = Reception(self._candidates)
        self._processes: dict[int, WorkerProcess] = {}
        self._pauses = dict.fromkeys(range(self._count), _FIRST_PAUSE_S)
        self._stop = asyncio.Event()
        self._stopping = False
        self._failure: DvidzarrError | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, ready: Ready | None) -> None:
        """Serve until a signal, or until the process that writes is gone."""
        loop = asyncio.get_running_loop()
        end_with_signals(loop, self._stop)
        host, port = self._reception.listen(self._settings.server.host, self._settings.server.port)
        self._spawn(self._watch())
        try:
            self._url = url_of(host, port)
            await self._start_all()
            if not self._stop.is_set():
                self._reception.open()
                LOG.info("serving", extra={"host": host, "port": port, "store": self._store})
                if ready is not None:
                    ready(host, port)
            await self._stop.wait()
        finally:
            self._stopping = True
            await self._end()
        if self._failure is not None:
            raise self._failure

    # --- processes -------------------------------------------------------------------------------------------

    async def _start_all(self) -> None:
        """Start all, which takes each of them a while, but let home go first: it may have to make the store."""
        home, *others = [self._launch(number) for number in range(self._count)]
        home.give(self._order(0))
        await self._begun(home)
        if self._stop.is_set():
            return
        for process in others:
            process.give(self._order(process.number))
        for process in others:
            await self._begun(process)

    async def _begun(self, process: WorkerProcess) -> None:
        """Wait until a process serves; raise what kept it from that."""
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((process.ready, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if process.ready.done():
            process.ready.result()

    def _launch(self, number: int) -> WorkerProcess:
        """Start a process, which loads what it needs and waits for its order."""
        self._board.clear(number)
        process = self._processes[number] = launched(number, self._board_file)
        process.channel.listen(
            lambda report: self._heard(process, report),
            lambda connection: self._take_home(connection, process),
            lambda: self._bury(process),
        )
        return process

    def _order(self, number: int) -> Order:
        return Order(
            store=self._store,
            read_only=self._read_only,
            host=self._settings.server.host,
            url=self._url,
            number=number,
            count=self._count,
            folder=str(self._folder),
            board=self._board_file,
            settings={key: value for key, value, _ in self._settings.items()},
        )

    def _heard(self, process: WorkerProcess, report: dict[str, Any]) -> None:
        if "ready" in report and not process.ready.done():
            process.ready.set_result(None)
            self._reception.resume()
        elif "failed" in report:
            kind = getattr(errors, report["failed"], StorageError)
            process.failure = kind(report["message"])
        elif "stop" in report and process.number == 0:
            # what stops a group of processes tells them all: then this one is told in a moment
            why = f"the process that writes ({process.child.pid}) was told to stop"
            asyncio.get_running_loop().call_later(_TOLD_S, self._fail, why)
        elif "stop" in report:
            process.leaving = True
            asyncio.get_running_loop().call_later(_TOLD_S, self._let_go, process)

    def _take_home(self, connection: socket.socket, origin: WorkerProcess) -> None:
        """Give the connection of a client that writes to home, or back where home has its share."""
        home = self._processes.get(0)
        is_free = home is not None and home.serves and self._load(home)[0] < self._share
        with connection:
            takers = [home, origin] if home and is_free else [origin]
            any(taker.hand_over(connection, moved=True) for taker in takers)

    def _let_go(self, process: WorkerProcess) -> None:
        """Let a process end that was told to; if all were told, they end in order instead."""
        if not self._stopping and not process.ended.is_set():
            process.channel.tell(FINISH)

    async def _watch(self) -> None:
        """Notice who ended with words unread: uvloop takes the reset of its channel for no event at all."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for process in list(self._processes.values()):
                if process.child.poll() is not None:
                    self._bury(process)

    def _bury(self, process: WorkerProcess) -> None:
        if not process.buried:
            process.buried = True
            self._spawn(self._buried(process))

    async def _buried(self, process: WorkerProcess) -> None:
        """See to the end of a process: replace it, or stop the service."""
        process.channel.close()
        code = await asyncio.get_running_loop().run_in_executor(None, process.child.wait)
        process.ended.set()
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        what = f"worker {process.number} (process {process.child.pid}) ended with {why}"
        served = process.ready.done()
        if not served:
            process.ready.set_exception(process.failure or StorageError(f"{what} before it served"))
            process.ready.exception()  # looked at: who restarts it does not wait for it
        if self._stopping or not (served or self._reception.opened):  # the latter is an error of the start
            return
        if process.number == 0 and not self._read_only:
            self._fail(f"the process that writes, {what}: start the server again")
            return
        await self._replace(process, what)

    async def _replace(self, process: WorkerProcess, what: str) -> None:
        number = process.number
        if time.monotonic() - process.begun > _HEALTHY_S:
            self._pauses[number] = _FIRST_PAUSE_S
        del self._processes[number]
        while True:
            pause = self._pauses[number]
            self._pauses[number] = min(2 * pause, _LONGEST_PAUSE_S)
            LOG.error("%s; it is started again in %.1f s", what, pause)
            await asyncio.sleep(pause)
            if self._stopping:
                return
            try:
                self._launch(number).give(self._order(number))
            except OSError as error:  # no memory, no process, no file: what may have ended the one before
                what = f"worker {number} cannot be started: {error}"
            else:
                return

    def _fail(self, why: str) -> None:
        if not self._stop.is_set():
            LOG.error("%s", why)
            self._failure = StorageError(why)
        self._stop.set()

    # --- the end ---------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Stop in order: no new connections, the followers' requests, those that home answers for them, home."""
        if self._failure is None and self._reception.opened:
            self._tell_all(DRAIN)
            await asyncio.sleep(self._settings.server.stop_delay_s)
        if self._reception.opened:
            LOG.info("stopping")
        self._reception.close()
        self._tell_all(FINISH)
        running = dict(self._processes)
        home = running.pop(0, None)
        patience = self._settings.storage.drain_timeout_s + GRACE_S
        await asyncio.gather(*(each.gone(patience) for each in running.values()))
        if home is not None:
            home.channel.shut()
            await home.gone(patience)
        for task in list(self._tasks):
            task.cancel()

    def _candidates(self) -> list[WorkerProcess]:
        """Return the processes that serve, the one with the fewest connections first."""
        serving = [process for process in self._processes.values() if process.serves]
        return sorted(serving, key=self._load)

    def _load(self, process: WorkerProcess) -> tuple[int, int]:
        return process.sent - self._board.row(process.number)[CLOSED], process.sent

    def _tell_all(self, word: bytes) -> None:
        for process in self._processes.values():
            process.tell(word)

    def _spawn(self, work: Any) -> None:  # noqa: ANN401
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
