"""The text of `/metrics`: what the server, its memory and the logs do, in the format of Prometheus."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from dvidzarr.core.errors import BusyError, StorageError
from dvidzarr.server.meters import BOUNDS_S, Meters

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from dvidzarr.repo.instance import Instance
    from dvidzarr.server.runtime import Runtime

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(runtime: "Runtime") -> bytes:
    """Return all metrics of a server; may read the disk.

    Metrics of the process (memory, CPU, descriptors) are prometheus-client's own and exist on Linux only.
    """
    # imported by the first who asks: a server that nobody watches starts without it
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest  # noqa: PLC0415

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collector(runtime))
    return generate_latest(registry)


class _Collector:
    """Reads the figures when they are asked for: keeping them costs the requests next to nothing."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    def describe(self) -> list["Metric"]:
        """Return nothing, so that registering collects nothing."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """Yield all metrics."""
        yield from _requests(self._runtime.meters)
        yield from _gauges(self._runtime)
        yield from _store(self._runtime)


def _requests(meters: Meters) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily  # noqa: PLC0415

    labels = ("operation", "status")
    seconds = HistogramMetricFamily(
        "dvidzarr_request_seconds", "Requests answered, and how long that took", labels=labels
    )
    received = CounterMetricFamily("dvidzarr_request_bytes", "Bytes of request bodies", labels=labels)
    sent = CounterMetricFamily("dvidzarr_response_bytes", "Bytes of answers", labels=labels)
    bounds = (*map(str, BOUNDS_S), "+Inf")
    for (operation, status), meter in meters.items():
        values = (operation, str(status))
        seconds.add_metric(
            values, list(zip(bounds, accumulate(meter.buckets), strict=True)), sum_value=meter.seconds
        )
        received.add_metric(values, meter.received)
        sent.add_metric(values, meter.sent)
    yield from (seconds, received, sent)


def _gauges(runtime: "Runtime") -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415

    counts, admission = runtime.connections, runtime.admission
    facts = (
        ("requests_active", "Requests being answered", runtime.activity.active),
        ("connections", "Open connections", counts.open),
        ("in_flight_bytes", "Bytes of large bodies and answers in memory", admission.held),
        ("in_flight_bytes_limit", "Most bytes of them at one time", admission.budget),
        ("requests_waiting", "Requests waiting for their share of these bytes", admission.waiting),
        (
            "chunk_cache_chunks",
            "Chunks in memory, decoded or as they are sent",
            len(runtime.catalog.context.chunk_cache),
        ),
        ("draining", "1 while the server stops", int(runtime.draining)),
        ("full_write", "1 if administrators may write locked versions", int(runtime.catalog.full_write)),
    )
    if runtime.audit is not None:
        yield GaugeMetricFamily(
            "dvidzarr_audit_lines_waiting", "Lines not in the audit log yet", runtime.audit.waiting
        )
        yield CounterMetricFamily(
            "dvidzarr_audit_lines_lost", "Lines that never got into the audit log", runtime.audit.lost
        )
    for name, text, value in facts:
        yield GaugeMetricFamily(f"dvidzarr_{name}", text, value)
    yield CounterMetricFamily(
        "dvidzarr_connections_refused", "Connections beyond the limit, closed at once", counts.refused
    )
    yield CounterMetricFamily(
        "dvidzarr_malformed_requests", "Requests that are no HTTP, answered 400", counts.malformed
    )
    yield CounterMetricFamily(
        "dvidzarr_requests_shed", "Requests answered 503 because memory stayed taken", admission.shed
    )
    yield CounterMetricFamily(
        "dvidzarr_requests_given_up", "Requests without progress that were ended", counts.given_up
    )


def _store(runtime: "Runtime") -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    catalog = runtime.catalog
    try:
        repos = catalog.repos
    except StorageError:
        repos = None
    yield GaugeMetricFamily("dvidzarr_store_readable", "Whether the store can be listed", repos is not None)
    yield GaugeMetricFamily("dvidzarr_repos", "Repos served", len(repos or ()))
    yield GaugeMetricFamily("dvidzarr_repos_broken", "Repos that cannot be opened", len(catalog.broken))
    opened = [item for repo in repos or () for item in repo.instances.values() if item.opened]
    yield from _logs(opened)


def _logs(instances: Iterable["Instance"]) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    labels = ("repo", "instance")
    records = GaugeMetricFamily("dvidzarr_log_records", "Records in the log of an instance", labels=labels)
    writable = GaugeMetricFamily(
        "dvidzarr_log_writable", "0 if the log is damaged or its disk failed", labels=labels
    )
    for instance in instances:
        values = (instance.repo.root, instance.name)
        records.add_metric(values, instance.dataset.log.tail.sequence)
        writable.add_metric(values, _writable(instance))
    yield from (records, writable)


def _writable(instance: "Instance") -> int:
    try:
        instance.dataset.log.check_writable()
    except (BusyError, StorageError):
        return 0
    return 1
