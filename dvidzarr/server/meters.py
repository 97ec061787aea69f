"""Counters of answered requests. Counting is a look-up and some additions; `metrics.py` makes text of them."""

from bisect import bisect_left

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of the histogram of durations; one more bucket holds what took longer."""


class Meter:
    """The requests of one operation that ended with one status."""

    __slots__ = ("buckets", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.received = 0
        self.sent = 0
        self.buckets = [0] * (len(BOUNDS_S) + 1)

    @property
    def count(self) -> int:
        """How many they are."""
        return sum(self.buckets)


class Meters:
    """All meters by (operation, status); counted up by the event loop only, copies may be read anywhere."""

    def __init__(self) -> None:
        self._meters: dict[tuple[str, int], Meter] = {}

    def note(self, operation: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Count a request that is over."""
        meter = self._meters.get((operation, status))
        if meter is None:
            meter = self._meters[operation, status] = Meter()
        meter.seconds += seconds
        meter.received += received
        meter.sent += sent
        meter.buckets[bisect_left(BOUNDS_S, seconds)] += 1

    def items(self) -> list[tuple[tuple[str, int], Meter]]:
        """Return the meters, sorted by operation and status."""
        return sorted(list(self._meters.items()), key=lambda item: item[0])  # noqa: C414 - the loop adds meanwhile
