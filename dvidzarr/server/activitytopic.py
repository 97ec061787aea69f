"""Every request as a message in Kafka's activity topic, as DVID publishes it (spec-server §8.1)."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from dvidzarr.repo.kafkamessages import topic_name
from dvidzarr.repo.sinks import kafka_producer
from dvidzarr.server.accesslog import Entry, entries_to
from dvidzarr.wire.gotext import without_surrogates

if TYPE_CHECKING:
    from dvidzarr.core.settings import Settings

_CLOSING_S = 5.0

_logger = logging.getLogger("dvidzarr.events")


class ActivityTopic:
    """Takes the entries of the access log. Nothing waits for it: what does not fit into Kafka's queue is dropped."""

    def __init__(self, producer: Any, topic: str) -> None:  # noqa: ANN401 - confluent-kafka has no types
        self._producer = producer
        self._topic = topic
        self.dropped = 0

    def take(self, entry: Entry) -> None:
        """Queue the message of a request; the producer is safe in threads."""
        try:
            self._producer.produce(self._topic, message(entry), str(int(entry.created * 1e9)).encode())
        except BufferError:
            self.dropped += 1
        self._producer.poll(0)

    def close(self) -> None:
        """Send what is queued, if the cluster takes it soon."""
        left = self._producer.flush(_CLOSING_S)
        if left or self.dropped:
            _logger.warning("Kafka did not get %d requests of the topic %s", left + self.dropped, self._topic)


def message(entry: Entry) -> bytes:
    """Return the message of a request. The URI comes without its query, which may hold the admin token."""
    members = {
        "time": int(entry.created),
        "duration": round(entry.seconds * 1000),
        "status": entry.status,
        "user": entry.user,
        "client": entry.app,
        "method": entry.method,
        "uri": without_surrogates(entry.path),
        "bytes_in": entry.bytes_in,
        "bytes_out": entry.bytes_out,
        "remote_addr": entry.peer,
    }
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS)


@contextmanager
def activity_topic(settings: "Settings") -> Iterator[None]:
    """Publish the requests of this server, if the settings name a cluster."""
    if not settings.kafka.servers:
        yield
        return
    host = settings.server.name or platform.node()
    topic = topic_name(settings.kafka.topic_activity or f"dvidactivity-{host}")
    activity = ActivityTopic(kafka_producer(",".join(settings.kafka.servers)), topic)
    try:
        with entries_to(activity.take):
            yield
    finally:
        activity.close()
