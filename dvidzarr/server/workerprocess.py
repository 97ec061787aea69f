"""A process that serves, as the one that started it sees it."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dvidzarr.core.errors import DvidzarrError
from dvidzarr.server.channel import Channel
from dvidzarr.server.order import Order

LOG = logging.getLogger("dvidzarr.server")

_STDERR = 2


@dataclass(slots=True)
class WorkerProcess:
    """A started process; `sent` counts the connections it was given."""

    number: int
    child: subprocess.Popen[bytes]
    channel: Channel
    ready: asyncio.Future[None]
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    ordered: bool = False
    """Whether it was told what to do."""
    sent: int = 0
    leaving: bool = False
    buried: bool = False
    """Whether its end was noticed."""
    failure: DvidzarrError | None = None
    begun: float = field(default_factory=time.monotonic)

    def give(self, order: Order) -> None:
        """Tell it what to do; if it ended before that, `ready` says so."""
        self.ordered = True
        with suppress(OSError):
            self.channel.say(**asdict(order))

    def hand_over(self, connection: socket.socket, *, moved: bool = False) -> bool:
        """Give it a connection, one of another process if it is `moved`; False if it takes none."""
        taken = self.channel.hand_over(connection, moved=moved)
        self.sent += taken
        return taken

    def tell(self, word: bytes) -> None:
        """Send it a word; one that waits for its order ends instead."""
        if not self.ordered:
            self.channel.shut()
        elif not self.ended.is_set():
            self.channel.tell(word)

    @property
    def serves(self) -> bool:
        """Whether it can be given connections."""
        if self.leaving:
            return False
        return self.ready.done() and self.ready.exception() is None and self.child.returncode is None

    async def gone(self, patience: float) -> None:
        """Wait for its end; kill it when its time is over."""
        try:
            async with asyncio.timeout(patience):
                await self.ended.wait()
        except TimeoutError:
            LOG.warning("worker %d did not end in time and is killed", self.number)
            self.child.kill()
            await self.ended.wait()


def launched(number: int, board: int) -> WorkerProcess:
    """Start a process on the running event loop; `board` is the file descriptor of the counters that all share."""
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    with theirs, _held_interrupts():
        child = subprocess.Popen(
            (sys.executable, "-P", "-m", "dvidzarr.server.worker", str(theirs.fileno())),
            env=os.environ | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=_STDERR,
            pass_fds=(theirs.fileno(), board),
        )
    return WorkerProcess(number, child, Channel(ours), asyncio.get_running_loop().create_future())


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Take no Ctrl-C meanwhile: a process that is started here never does, not even before it can say so itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
