"""Log records as JSON lines, written by their own thread: a slow reader of stderr never stops the server."""

import fcntl
import json
import logging
import select
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO, FileIO

import orjson

from dvidzarr.server.accesslog import ACCESS, MESSAGE, Entry, entries_to

_QUEUED_RECORDS = 10_000
_TOGETHER = 64
"""Records of which lines are made before others have the interpreter: less than a millisecond."""
_INTERVAL_S, _BUSY_INTERVAL_S = 0.2, 0.02
"""Pauses between writing. Where there is much, writing less at a time makes the slowest of small requests faster."""
_CLOSING_S = 5.0
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


_EXCEPTIONS = logging.Formatter()


def _line(record: logging.LogRecord | Entry, facts: Mapping[str, object]) -> bytes:
    """Return a record as one line of JSON: time, level, logger, message, what is its own (`extra`), then `facts`."""
    second, microseconds = divmod(int(record.created * 1e6), 1_000_000)
    line: dict[str, object] = {"time": f"{_second(second)}.{microseconds // 1000:03}+00:00"}
    if isinstance(record, Entry):
        line |= {"level": "info", "logger": ACCESS.name, "message": MESSAGE, **record.facts(), **facts}
    else:
        own = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        line |= {"level": record.levelname.lower(), "logger": record.name, "message": _message(record)}
        line |= {**own, **facts}
        if record.exc_info:
            line["exception"] = _EXCEPTIONS.formatException(record.exc_info)
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # clients may send bytes that are no UTF-8: they are escaped
        return json.dumps(line, default=str).encode() + b"\n"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format must not end the log
        return f"{record.msg} {record.args}"


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class _Writer(logging.Handler):
    """Collects records and writes them several times a second from its own thread.

    Waking a thread for each record would cost every request a switch of the interpreter lock. Records are dropped when
    the stream is far behind, rather than waited for.
    """

    def __init__(self, stream: FileIO | BytesIO, turns: int | None, facts: Mapping[str, object]) -> None:
        super().__init__()
        self._stream = stream
        self._turns = turns
        self._records: deque[logging.LogRecord | Entry] = deque()
        self._stop = threading.Event()
        self._cut = False  # whether the last line in the stream is not whole
        self._facts = facts
        self._thread = threading.Thread(target=self._run, name="dvidzarr-log", daemon=True)

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record."""
        self.take(record)
        return True

    def take(self, record: logging.LogRecord | Entry) -> None:
        """Keep a record until its turn; appending to a deque needs no lock."""
        if len(self._records) < _QUEUED_RECORDS:
            self._records.append(record)

    def _run(self) -> None:
        pause = _INTERVAL_S
        while not self._stop.wait(pause):
            pause = _BUSY_INTERVAL_S if self._records else _INTERVAL_S
            self._write()
        self._write()

    def _write(self) -> None:
        while count := min(len(self._records), _TOGETHER):
            lines = [_line(self._records.popleft(), self._facts) for _ in range(count)]
            try:
                with self._turn():
                    self._cut = not self._put(b"\n" * self._cut + b"".join(lines))
                if self._cut:
                    return
            except (OSError, ValueError):  # nobody reads the log any more: the server goes on
                return

    def _put(self, text: bytes) -> bool:
        """Write all of a text; False if a stream that does not block takes no more for a while."""
        rest = memoryview(text)
        while rest:
            written = self._stream.write(rest)
            if written is None and not select.select((), (self._stream,), (), _INTERVAL_S)[1]:
                return False
            rest = rest[written or 0 :]
        return True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep the other processes that write to the stream waiting: a long text can be written in pieces."""
        if self._turns is None:
            yield
            return
        fcntl.lockf(self._turns, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._turns, fcntl.LOCK_UN)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what is left; where nobody reads, give that up after some seconds."""
        if not self._stop.is_set():  # `logging` closes what is left once more
            self._stop.set()
            self._thread.join(_CLOSING_S)
        super().close()


@contextmanager
def logging_to(
    stream: FileIO | BytesIO | None = None,
    *,
    turns: int | None = None,
    facts: Mapping[str, object] | None = None,
) -> Iterator[None]:
    """Send the log of this package to an unbuffered stream (stderr) while the context lasts.

    Several processes that write to one stream lock the file `turns` (a descriptor) in turn; `facts` stand in each line.
    """
    # not `sys.stderr`: a thread that waits for a reader would hold its lock, without which the interpreter cannot end
    handler = _Writer(stream or FileIO(2, "wb", closefd=False), turns, facts or {})
    logger = logging.getLogger("dvidzarr")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    handler.start()
    try:
        with entries_to(handler.take, is_log=True):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
