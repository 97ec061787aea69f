"""Log records as JSON lines, written by their own thread: a slow reader of stderr never stops the server."""

import fcntl
import json
import logging
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

import orjson

_QUEUED_RECORDS = 10_000
_INTERVAL_S = 0.2
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message and whatever `extra` holds, then `facts`."""

    def __init__(self, facts: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._facts = dict(facts or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {
            name: value for name, value in record.__dict__.items() if name not in _STANDARD
        } | self._facts
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # clients may send bytes that are no UTF-8: they are escaped
            return json.dumps(line, default=str)


class _Writer(logging.Handler):
    """Collects records and writes them a few times a second from its own thread.

    Waking a thread for each record would cost every request a switch of the interpreter lock. Records are dropped when
    the stream is far behind, rather than waited for.
    """

    def __init__(self, stream: TextIO, turns: int | None, facts: Mapping[str, object]) -> None:
        super().__init__()
        self._stream = stream
        self._turns = turns
        self._records: deque[logging.LogRecord] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dvidzarr-log", daemon=True)
        self.setFormatter(JsonFormatter(facts))

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record; appending to a deque needs no lock."""
        if len(self._records) < _QUEUED_RECORDS:
            self._records.append(record)
        return True

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._write()
        self._write()

    def _write(self) -> None:
        lines = [self.format(self._records.popleft()) + "\n" for _ in range(len(self._records))]
        if lines:
            try:
                with self._turn():
                    self._stream.write("".join(lines))
                    self._stream.flush()
            except (OSError, ValueError):  # nobody reads the log any more: the server goes on
                return

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
        """Write what is left."""
        self._stop.set()
        self._thread.join()
        super().close()


@contextmanager
def logging_to(
    stream: TextIO | None = None,
    level: int = logging.INFO,
    *,
    turns: int | None = None,
    facts: Mapping[str, object] | None = None,
) -> Iterator[None]:
    """Send the log of this package to a stream (stderr) while the context lasts.

    Several processes that write to one stream lock the file `turns` (a descriptor) in turn; `facts` stand in each line.
    """
    handler = _Writer(stream or sys.stderr, turns, facts or {})
    logger = logging.getLogger("dvidzarr")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(level)
    handler.start()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
