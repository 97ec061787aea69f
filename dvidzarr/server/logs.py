"""Log records as JSON lines, written by their own thread: a slow reader of stderr never stops the server."""

import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

import orjson

_QUEUED_RECORDS = 10_000
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message and whatever `extra` holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class _Handler(logging.handlers.QueueHandler):
    """Hands records to the writing thread; drops them when it is far behind, rather than wait."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # same process: no need to format twice

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            return


@contextmanager
def logging_to(stream: TextIO | None = None, level: int = logging.INFO) -> Iterator[None]:
    """Send the log of this package to a stream (stderr) while the context lasts."""
    target = logging.StreamHandler(stream or sys.stderr)
    target.setFormatter(JsonFormatter())
    records: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUED_RECORDS)
    handler = _Handler(records)
    listener = logging.handlers.QueueListener(records, target)
    logger = logging.getLogger("dvidzarr")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(level)
    listener.start()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        listener.stop()
