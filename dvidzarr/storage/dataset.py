"""One data instance on the store: its log, its chunked arrays, its documents, and the caches of all that.

State in memory changes only in `_apply`, called with each record in sequence once it is durable: at replay, while
following another process, and after an append. Design: storage §2–§5, §8.
"""

import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any

from dvidzarr.core.errors import BusyError, CorruptionError, DvidzarrError, StorageError
from dvidzarr.core.ids import Author
from dvidzarr.storage.caches import DatasetCaches
from dvidzarr.storage.chunks import ChunkStore
from dvidzarr.storage.codecs import ChunkCodec
from dvidzarr.storage.context import Model, StoreContext
from dvidzarr.storage.documents import Documents
from dvidzarr.storage.frames import Entry, Kind, Position
from dvidzarr.storage.locks import Stripes
from dvidzarr.storage.log import LocalLog
from dvidzarr.storage.merging import Versions
from dvidzarr.storage.packs import Packs
from dvidzarr.storage.runs import LENGTH, LOCATION, Row
from dvidzarr.storage.words import DOCUMENT_KINDS, placed_words

_CACHE_EVERY = 64 << 20  # bytes of log after which caches are written: a start replays at most that much

Draft = tuple[Kind, int | None, Author, dict[str, Any], bytes]
"""Kind, version, author, header and payload of a record to be appended."""


class Dataset:
    """Owner of an instance's log and of the state that follows from it.

    `stripes` guards read-modify-write of chunks and keys; a writer holds it until its record is applied.
    """

    def __init__(
        self, context: StoreContext, prefix: str, data_id: str, versions: Versions, model: Model
    ) -> None:
        self.context = context
        self.prefix = prefix
        self.data_id = data_id
        self.versions = versions
        self.arrays: dict[int, ChunkStore] = {}
        self.stripes = Stripes()
        self.packs = Packs(context.backend, context.open_packs)
        self.writable = False
        self.finished: set[int] = set()
        """Ordinals of the versions whose chunks all lie under their Zarr keys."""
        self.unfinished: set[int] = set()
        """Ordinals of the others that wrote chunks."""
        self.flushed = 0
        """Durability `fast`: records up to this one have their objects on the disk."""
        self.unflushed: deque[str] = deque()
        """Durability `fast`: objects that are not synced yet."""
        self.flushing = threading.Lock()
        """Held while `unflushed` is worked off, and while superseded chunks are given back."""
        self.flush_soon: Callable[[], None] = lambda: None
        """Durability `fast`: called after each record that is not synced."""
        self.voided: frozenset[int] = frozenset()
        self.check_exists: Callable[[], None] = lambda: None
        """Raises if it was deleted: what cannot be read then is no damage."""
        self.caches = DatasetCaches(context.cache_dir / data_id, context.store_id, data_id, versions)
        self.caches.later = self._soon("index")
        self._model = model
        self._codecs: dict[int, ChunkCodec] = {}
        self._cached_size = 0
        self.log = LocalLog(context.backend, f"{prefix}/log", (context.store_id, data_id), self._apply)

    def add_array(self, scale: int, codec: ChunkCodec) -> None:
        """Declare a chunked array; the model does so before `open`."""
        context = self.context
        store = ChunkStore(context.backend, self.prefix, scale, codec, self.versions, context.chunk_cache)
        store.refresh, store.failure = self.follow, self.failure
        store.postings.stack.later = self._soon("merge", scale)
        self._codecs[scale] = codec
        self.arrays[scale] = store

    # --- life ------------------------------------------------------------------------------------------------

    def open(self, *, writable: bool) -> None:
        """Load the caches and replay what they lack; as the writer recover the log and take appends."""
        self.caches.owner = self.writable = writable
        self._load()
        self.log.recover() if writable else self.log.follow()
        self.caches.replayed()

    def _load(self) -> None:
        loaded = self.caches.load()
        if loaded is None:
            return
        cursor, state, runs = loaded
        if runs.keys() != self.arrays.keys() or not self.log.resume(cursor):
            self.caches.drop()
            return
        self.voided = frozenset(state["voided"])
        self.flushed, self.finished = state["flushed"], set(state["finished"])
        self.log.unflushed_after = state["unflushed_after"]
        for scale, some in runs.items():
            self.arrays[scale].postings.load(*some)
            self.unfinished |= self.arrays[scale].postings.writers() - self.finished
        self._model.restore(state["model"])

    def _start_again(self, upto: int) -> None:
        """Replace the state by one without the requests that `void` records name.

        It is built beside the old one, which readers see meanwhile, from the records up to `upto`. Then the arrays, the
        documents and the model flip one after another. `voided` comes last: when one of them fails, all is done again.
        """
        names = [entry.header["sequences"] for entry in self.log.records() if entry.kind == Kind.VOID]
        folder = self.context.cache_dir / f"{self.data_id}-again"
        if self.caches.owner:  # others keep theirs in memory; what is there is not theirs
            shutil.rmtree(folder, ignore_errors=True)
        context = replace(self.context, cache_dir=folder)
        again = Dataset(context, self.prefix, self.data_id, self.versions, self._model.blank())
        again.voided = frozenset(number for numbers in names for number in numbers)
        again.caches.owner = self.caches.owner
        for scale, codec in self._codecs.items():
            again.add_array(scale, codec)
        for entry in self.log.records(upto):
            again._apply(entry)
        again.caches.replayed()
        with self.flushing:  # nothing is removed while it is not known what is live
            self.flushed = again.flushed
            self.finished, self.unfinished = again.finished, again.unfinished
            for scale, store in self.arrays.items():
                store.postings.take_over(again.arrays[scale].postings)
            self.caches.adopt(again.caches)
            self._model.restore(again._model.snapshot())
            self.voided = again.voided
        if self.caches.owner:
            shutil.rmtree(folder, ignore_errors=True)

    def follow(self) -> None:
        """Apply what the writing process published since (nothing to do for the writer itself)."""
        if self.writable:
            return
        try:
            self.log.follow()
        except StorageError:
            self.check_exists()
            raise

    def promote(self) -> None:
        """Become the writer after having followed; the caller holds the writer lock."""
        if not self.writable:
            self.log.recover()
            self.caches.take_over()
            self.writable = True

    def save_caches(self) -> None:
        """Write the caches. The stamp is taken before the state: a record applied twice changes nothing."""
        if not self.writable or self.log.damage:
            return
        stamp = self.caches.stamp(self.log.cursor)
        state = {
            "flushed": self.flushed,
            "finished": sorted(self.finished),
            "unflushed_after": self.log.unflushed_after,
            "voided": sorted(self.voided),
            "model": self._model.snapshot(),
        }
        runs = {scale: store.postings.runs() for scale, store in self.arrays.items()}
        self.caches.save(stamp, state, runs, self._sync_log)

    def _sync_log(self) -> None:
        """Make durable what was applied; raise if that failed, now or before."""
        if not self.log.durable:
            self.log.flush()
            self.log.check_writable()  # a second try would succeed without anything being on the disk

    def close(self) -> None:
        """Close the files; `save_caches` is the caller's choice."""
        self.writable = False  # background tasks that still hold it change nothing on the store
        self.log.close()
        self.packs.close()
        self.caches.close()

    # --- records ---------------------------------------------------------------------------------------------

    def append(
        self, kind: Kind, version: int | None, author: Author, header: dict[str, Any], payload: bytes = b""
    ) -> Position:
        """Append a record about a version (or about the instance): the commit point of every mutation."""
        return self.append_all([(kind, version, author, header, payload)])

    def append_all(self, records: Sequence[Draft]) -> Position:
        """Append several records at the price of one: all become durable, or none. Returns the position of the last."""
        if not self.writable:
            raise StorageError(f"{self.prefix} is not open for writing")
        now = time.time()
        full = []
        for kind, version, author, header, payload in records:
            about = {"t": now, "u": author.user, "a": author.app, **header}
            if version is not None:
                about["v"] = self.versions.id_of(version)
            full.append((kind, about, payload))
            self._cached_size += len(payload) + 256
        position = self.log.append_all(full)
        if not self.log.durable and records[-1][0] != Kind.CHECKPOINT:
            self.flush_soon()
        if self._cached_size > _CACHE_EVERY:
            self._cached_size = 0
            self._soon("caches")(self.save_caches)
        return position

    def _soon(self, *name: Hashable) -> Callable[[Callable[[], None]], None]:
        """Return what has the housekeeper do something soon, once for all who ask by then."""
        schedule, whole = self.context.housekeeper.schedule, (self.data_id, *name)
        return lambda task: schedule(0, whole, task, at_close=False)

    def _apply(self, entry: Entry) -> None:
        if entry.sequence in self.voided:
            return
        ordinal = self._ordinal_of(entry)
        if ordinal is None:
            return
        if entry.kind == Kind.CHUNKS:
            self._apply_chunks(entry, ordinal)
        elif entry.kind in DOCUMENT_KINDS:
            self.documents.put_all(placed_words(entry, ordinal))  # all of a record at once
        elif entry.kind == Kind.FINISHED:
            self._apply_finished(ordinal, entry.sequence)
        elif entry.kind == Kind.CHECKPOINT:
            self.flushed = entry.header["upto"]
        elif entry.kind == Kind.VOID and not self.voided.issuperset(entry.header["sequences"]):
            self._start_again(entry.sequence - 1)
        self._model.apply(entry, ordinal)

    def _ordinal_of(self, entry: Entry) -> int | None:
        """Return the version of a record, None if that was given up when the log of the repo was repaired."""
        version = entry.header.get("v")
        if version is None:
            return -1
        ordinal = self.versions.ordinal_of(version)
        if ordinal is None and not self.versions.incomplete:
            raise CorruptionError(
                f"{self.prefix}: record {entry.sequence} names the unknown version {version}"
            )
        return ordinal

    def _apply_chunks(self, entry: Entry, ordinal: int) -> None:
        scale = entry.header["s"]
        old = self.arrays[scale].publish(entry.payload, ordinal, entry.sequence)
        self.finished.discard(ordinal)
        self.unfinished.add(ordinal)
        if old and self.writable:
            self._discard_later(scale, ordinal, old, entry.sequence)

    def _discard_later(
        self, scale: int, ordinal: int, old: list[tuple[int, Row]], upto: int, wait: float = 0
    ) -> None:
        """Give back superseded pieces of packs once what superseded them, record `upto`, is safe.

        A power loss may void that record, which brings them back: so look again before they go.
        """

        def discard() -> None:
            with self.flushing:
                if self.log.refusal is not None:  # what superseded them may be lost, whatever `flushed` says
                    return
                store = self.arrays[scale]
                live = {row[LOCATION] for row in store.postings.own([key for key, _ in old], ordinal) if row}
                if self.log.unflushed_after is None or self.flushed >= upto:
                    gone = [row for _, row in old if row[LOCATION] not in live]
                    self.context.backend.discard(
                        [store.part(ordinal, (0, 0, 0), row[LOCATION], row[LENGTH]) for row in gone]
                    )
                    return
            self._discard_later(scale, ordinal, old, upto, self.context.settings.storage.flush_interval_s)

        self.later(("superseded", str(upto)), discard, wait)

    def later(self, name: tuple[str, ...], task: Callable[[], None], wait: float = 0) -> None:
        """Do something after the grace period in which readers may still use what they resolved before."""
        grace = max(wait, self.context.settings.storage.rewrite_grace_s)
        self.context.housekeeper.schedule(grace, (self.data_id, *name), task, at_close=False)

    def _apply_finished(self, ordinal: int, sequence: int) -> None:
        for store in self.arrays.values():
            store.postings.settle(ordinal, sequence)
        self.finished.add(ordinal)
        self.unfinished.discard(ordinal)

    @property
    def documents(self) -> Documents:
        """The index of the documents."""
        return self.caches.documents

    def failure(self, sequence: int, what: str) -> DvidzarrError:
        """Return the error to raise when what a record names is not whole: damage, unless a power loss explains it."""
        self.check_exists()
        if self.writable or self.log.unflushed_after is None or sequence <= self.flushed:
            return CorruptionError(what)
        return BusyError(
            f"{what}. It was acknowledged but not flushed (durability fast): if the power failed since then, the store "
            f"awaits recovery, which opening it for writing does"
        )
