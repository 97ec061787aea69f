"""Subscribers: each follows the logs of a store in a thread of its own, at its own speed, from durable cursors.

A write is acknowledged without waiting for anybody. A subscriber sees it because it is in the log; cursors below
`subscribers/<name>/` say up to where it has. They are written after the fact: after a crash, or a callback that failed,
some events come again, and none is missing. Works in the writing process and in those that follow it.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self

from dvidzarr.core.errors import BusyError, InvalidInputError
from dvidzarr.repo.events import Event
from dvidzarr.repo.feed import RepoFeed
from dvidzarr.storage.locks import WriterLock

if TYPE_CHECKING:
    from dvidzarr.repo.catalog import Catalog
    from dvidzarr.repo.repo import Repo

_logger = logging.getLogger("dvidzarr.events")

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_POLL_S = 0.05
_SAVE_EVERY_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Sink(Protocol):
    """Takes events, and says when they are safe."""

    def take(self, event: Event) -> None:
        """Take an event; raise to get it again later."""
        ...

    def flush(self) -> None:
        """Return once everything taken is safe; raise to get it again."""
        ...

    def stop(self) -> None:
        """End a `take` or `flush` that waits, by raising; called from another thread."""
        ...


class _Callback:
    """A function as a sink."""

    def __init__(self, function: Callable[[Event], object]) -> None:
        self._function = function

    def take(self, event: Event) -> None:
        """Call the function."""
        self._function(event)

    def flush(self) -> None:
        """Return: what was called is done."""

    def stop(self) -> None:
        """Return: a function ends on its own."""


class _StoppedError(Exception):
    """The subscription is being closed."""


def subscribe(
    source: "Catalog | Repo",
    name: str,
    callback: Callable[[Event], object] | Sink,
    kinds: tuple[type[Event], ...] = (Event,),
    *,
    history: bool = True,
) -> "Subscription":
    """Call `callback` with every event of a store, or of a repo, until the subscription is closed.

    Parameters
    ----------
    source
        An open store, or one of its repos.
    name
        Of the subscriber: its cursors are kept under it, so that it goes on where it was. One process at a time.
    callback
        A function, called from one thread, in order of each log and at least once for each event; or a `Sink`, which
        also says when events are safe. What it raises is logged, and the events since the last saved cursor come again.
    kinds
        Classes of events to be called with.
    history
        Whether a new subscriber gets what happened before it was there.

    Returns
    -------
    Subscription
        Close it before the store, or use it in a `with` statement.

    Raises
    ------
    InvalidInputError
        The name is not 1 to 64 letters, digits, ".", "_" or "-", or begins with ".".
    BusyError
        The subscriber is running, here or in another process.
    StorageError
        Its folder `subscribers/<name>/` cannot be written.
    """
    from dvidzarr.repo.catalog import Catalog  # noqa: PLC0415 - it is loaded already

    catalog, only = (source, None) if isinstance(source, Catalog) else (source.catalog, source.id)
    sink = _Callback(callback) if callable(callback) else callback
    return Subscription(catalog, name, sink, kinds, only, history=history)


class Subscription:
    """A running subscriber. Close it before its store, or use it in a `with` statement."""

    def __init__(
        self,
        catalog: "Catalog",
        name: str,
        sink: Sink,
        kinds: tuple[type[Event], ...],
        only: str | None,
        *,
        history: bool,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{name[:80]!r} is no name of a subscriber: 1 to 64 letters, digits, '.', '_', '-'"
            )
        self.name = name
        self._catalog = catalog
        self._backend = catalog.context.backend
        self._folder = f"subscribers/{name}"
        self._sink, self._kinds, self._only = sink, kinds, only
        self._feeds: dict[str, RepoFeed] = {}
        self._stored: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._passed = threading.Condition()
        self._passes = 0
        self._silent = False
        self._saved_at = time.monotonic()
        self._backend.make_folder(self._folder)
        self._lock = WriterLock(f"{self._backend.root}/{self._folder}/lock")
        try:
            self._lock.acquire()
        except BusyError:
            raise BusyError(f"the subscriber {name!r} is running already") from None
        try:
            self._begin(history=history)
        except BaseException:
            self._lock.release(clean=True)
            raise
        self._thread = threading.Thread(target=self._run, name=f"subscriber {name}", daemon=True)
        self._thread.start()

    def caught_up(self, timeout: float = 30.0) -> bool:
        """Wait until everything written before this call was taken and its cursor saved; False after `timeout` seconds."""
        with self._passed:
            wanted = self._passes + 2  # a running pass may have been past the log already
            return self._passed.wait_for(lambda: self._passes >= wanted, timeout)

    def close(self) -> None:
        """End after the event in hand; the next subscription of this name goes on there."""
        self._stop.set()
        self._sink.stop()
        self._thread.join()
        self._forget()
        self._lock.release(clean=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ------------------------------------------------------------------------------------------

    def _begin(self, *, history: bool) -> None:
        """Put the cursors of a new subscriber that wants no history behind it."""
        started = f"{self._folder}/started"
        if self._backend.get(started) is None:
            self._silent = not history
            if self._silent:
                self._pass()
            self._silent = False
            self._backend.replace(started, b"")

    def _run(self) -> None:
        pause = _POLL_S
        while not self._stop.wait(pause):
            try:
                self._pass()
                pause = _POLL_S
            except _StoppedError:
                break
            except Exception as error:  # noqa: BLE001 - whatever a callback raises: said, and tried again
                pause = min(max(pause * 2, 0.1), _LONGEST_PAUSE_S)
                if not self._stop.is_set():
                    _logger.warning(
                        "subscriber %s: %s: %s; again in %.1f s",
                        self.name,
                        type(error).__name__,
                        error,
                        pause,
                    )
                self._forget()
            else:
                with self._passed:
                    self._passes += 1
                    self._passed.notify_all()

    def _pass(self) -> None:
        """Read on in all logs, then save the cursors."""
        present = [repo.id for repo in self._catalog.repos if self._only in {None, repo.id}]
        for repo_id in dict.fromkeys([*present, *self._known()]):
            self._feed(repo_id).advance()
        self._save()
        for repo_id in self._feeds.keys() - set(present):  # deleted, and read to the end
            self._feeds.pop(repo_id).close()
            self._stored.pop(repo_id, None)
            self._backend.remove([self._cursor_key(repo_id)])

    def _known(self) -> list[str]:
        """Return the repos that cursors were saved for: some may have been deleted meanwhile."""
        if self._feeds:
            return list(self._feeds)
        names = (key.rpartition("/")[2] for key in self._backend.keys(self._folder))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def _feed(self, repo_id: str) -> RepoFeed:
        feed = self._feeds.get(repo_id)
        if feed is None:
            saved = self._backend.get(self._cursor_key(repo_id))
            store_id = self._catalog.context.store_id
            feed = self._feeds[repo_id] = RepoFeed(self._backend, store_id, repo_id, saved, self._deliver)
        return feed

    def _deliver(self, event: Event) -> None:
        if self._stop.is_set():
            raise _StoppedError
        if self._silent or not isinstance(event, self._kinds):
            return
        if time.monotonic() - self._saved_at > _SAVE_EVERY_S:
            self._save()
        self._sink.take(event)

    def _save(self) -> None:
        """Save the cursors, once the sink vouches for all events before them."""
        moved = {repo_id: feed.saved() for repo_id, feed in self._feeds.items() if feed.moved}
        if moved:
            self._sink.flush()
        for repo_id, saved in moved.items():
            if saved != self._stored.get(repo_id):  # else it was only read up to where it is
                self._backend.replace(self._cursor_key(repo_id), saved)
                self._stored[repo_id] = saved
        self._saved_at = time.monotonic()

    def _cursor_key(self, repo_id: str) -> str:
        return f"{self._folder}/{repo_id}.json"

    def _forget(self) -> None:
        """Go back to the saved cursors."""
        for feed in self._feeds.values():
            feed.close()
        self._feeds, self._stored = {}, {}
