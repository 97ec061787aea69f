"""The audit log: one JSON line per request that may change something, also for those that were refused.

Lines are written by a thread of their own, some times a second: no answer waits for them. What cannot be written stays in
memory and is tried again; it is said in the log of the server and in its metrics. When too much waits, new lines are
lost, counted, and the first line that can be written afterwards says how many.
"""

import json
import logging
import os
import threading
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from dvidzarr.core.errors import StorageError

if TYPE_CHECKING:
    from dvidzarr.http.request import Request

LOG = logging.getLogger("dvidzarr.server")

WAITING_LINES = 100_000
"""So many lines wait while the file cannot be written."""

_INTERVAL_S = 0.1
_READING = ("read", "query")


class AuditLog:
    """An append-only file of JSON lines; opened anew when it was moved away or removed (log rotation)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file; `StorageError` if that fails: a server that shall be audited does not start without."""
        self._path = Path(path)
        self._lines: deque[dict[str, Any]] = deque()
        self._rest = b""
        self._failing = False
        self.lost = 0
        """Lines that were never written."""
        self._untold = 0
        try:
            self._file = self._open()
        except OSError as error:
            raise StorageError(f"audit log {self._path}: {error.strerror or error}") from error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dvidzarr-audit", daemon=True)
        self._thread.start()

    def note(self, request: "Request", role: str, status: int, ms: float) -> None:
        """Note a request that was answered, unless its endpoint only reads. Never waits, never fails."""
        row, call = request.subject or (None, None)
        if row is not None and row.effect in _READING:
            return
        if len(self._lines) >= WAITING_LINES:
            self.lost += 1
            self._untold += 1
            return
        query = request.query
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request": request.identity,
            "peer": request.peer,
            "user": query.get("u", ""),
            "app": query.get("app", ""),
            "role": role,
            "operation": "" if row is None else row.operation,
            "method": request.method,
            "path": request.path,  # the query may hold the admin token
        }
        if call is not None and call.target is not None:
            line["repo"] = call.target.repo.root
            line["uuid"] = call.named_version.uuid
            line["instance"] = "" if call.target.instance is None else call.target.instance.name
        self._lines.append(line | {"bytes": request.body.received, "status": status, "ms": round(ms, 2)})

    @property
    def waiting(self) -> int:
        """Lines that are not in the file yet."""
        return len(self._lines) + self._rest.count(b"\n")

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._stop.set()
        self._thread.join()
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._write_out()
        self._write_out()
        if self._failing:
            LOG.error("audit lines lost", extra={"path": str(self._path), "lines": self.waiting})

    def _write_out(self) -> None:
        if not self._lines and not self._rest:
            return
        try:
            self._follow_rotation()
            while self._lines or self._rest:
                self._rest = self._rest or self._next_lines()
                self._rest = self._rest[os.write(self._file, self._rest) :]
        except OSError as error:
            if not self._failing:
                LOG.error(  # noqa: TRY400 - no traceback
                    "the audit log cannot be written; it is tried again",
                    extra={"path": str(self._path), "error": error.strerror or str(error)},
                )
            self._failing = True
            return
        if self._failing:
            LOG.warning("the audit log is written again", extra={"path": str(self._path)})
        self._failing = False

    def _next_lines(self) -> bytes:
        """Return some lines; they leave the queue together."""
        lines = [self._lines.popleft() for _ in range(min(len(self._lines), 1000))]
        if self._untold:
            told, self._untold = self._untold, 0
            lines.append({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "lost": told})
        return b"".join(_encoded(line) for line in lines)

    def _follow_rotation(self) -> None:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            there = None
        mine = os.fstat(self._file)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            if self._rest:  # half a line lies at the end of the old file: the other half belongs there
                self._rest = self._rest[os.write(self._file, self._rest) :]
            fresh = self._open()
            os.close(self._file)
            self._file = fresh


def _encoded(line: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # clients may send bytes that are no UTF-8: they are escaped
        return json.dumps(line).encode() + b"\n"
