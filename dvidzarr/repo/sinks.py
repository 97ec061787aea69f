"""Places outside the store that events go to: a file of JSON lines, Kafka. All are at-least-once."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import orjson

from dvidzarr.core.errors import InvalidInputError, StorageError
from dvidzarr.repo.events import Event, as_json
from dvidzarr.repo.kafkamessages import Topics, messages
from dvidzarr.repo.subscriptions import subscribe

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings
    from dvidzarr.repo.catalog import Catalog

_logger = logging.getLogger("dvidzarr.events")

_WAIT_S = 0.2
_BLOCK = 1 << 16


class JsonLines:
    """An append-only file with one event a line; a line that a crash left incomplete is cut off."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        try:
            _cut_torn_line(self._path)
            self._file = self._path.open("ab")
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}") from error

    def take(self, event: Event) -> None:
        """Append an event."""
        self._file.write(orjson.dumps(as_json(event), option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Put what was appended on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def stop(self) -> None:
        """Return: nothing here waits."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def kafka_producer(servers: str, options: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - has no types
    """Return a producer for a cluster; raise if the package for it is missing."""
    try:
        from confluent_kafka import Producer  # noqa: PLC0415 - an extra
    except ImportError:
        raise InvalidInputError(
            "publishing to Kafka needs the package confluent-kafka: pip install 'dvidzarr[kafka]'"
        ) from None
    return Producer({"bootstrap.servers": servers, "linger.ms": 5, "logger": _logger, **(options or {})})


class Kafka:
    """Topics of a Kafka cluster, in DVID's format. A message counts as sent when the cluster has acknowledged it."""

    def __init__(
        self,
        servers: str,
        topics: Topics,
        put_blob: Callable[[bytes], str],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        # idempotence keeps the order of messages when some have to be sent again
        self._producer = kafka_producer(servers, {"enable.idempotence": True, **(options or {})})
        self._topics = topics
        self._put_blob = put_blob
        self._stopped = threading.Event()
        self._failure = ""

    def take(self, event: Event) -> None:
        """Queue the messages of an event; waits while the queue is full."""
        for message in messages(event, self._topics, self._put_blob):
            while not self._queued(message.topic, message.key, message.value):
                self._check()
                self._producer.poll(_WAIT_S)
        self._producer.poll(0)
        self._check()

    def _queued(self, topic: str, key: bytes, value: bytes) -> bool:
        try:
            self._producer.produce(topic, value, key, on_delivery=self._delivered)
        except BufferError:
            return False
        return True

    def _delivered(self, error: object, _: object) -> None:
        if error is not None:
            self._failure = str(error)

    def flush(self) -> None:
        """Wait until the cluster has everything."""
        while self._producer.flush(_WAIT_S):
            self._check()
        self._check()

    def _check(self) -> None:
        failure, self._failure = self._failure, ""
        if failure:
            raise StorageError(f"Kafka refused a message: {failure}")
        if self._stopped.is_set():
            raise StorageError("stopped before Kafka had everything")

    def stop(self) -> None:
        """End what waits: messages that were not acknowledged are sent again by the next one."""
        self._stopped.set()


@contextmanager
def sinks(catalog: "Catalog", settings: "Settings") -> Iterator[None]:
    """Feed the sinks that the settings name, if this process is the writer."""
    with ExitStack() as stack:
        if settings.events.json_lines and catalog.writing:
            file = stack.enter_context(JsonLines(settings.events.json_lines))
            stack.enter_context(subscribe(catalog, "json-lines", file))
        if settings.kafka.servers and catalog.writing:
            topics = Topics(settings.kafka.topic_prefix, _suffixes(settings.kafka.topic_suffixes))
            kafka = Kafka(",".join(settings.kafka.servers), topics, catalog.blobs.put)
            stack.enter_context(subscribe(catalog, "kafka", kafka, history=False))
        yield


def _suffixes(settings: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition(":") for text in settings]
    wrong = [text for text, (uuid, _, suffix) in zip(settings, pairs, strict=True) if not (uuid and suffix)]
    if wrong:
        raise InvalidInputError(f"kafka.topic_suffixes: {wrong[0]!r} is not uuid:suffix")
    return {uuid: suffix for uuid, _, suffix in pairs}
