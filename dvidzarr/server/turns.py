"""What an event loop does itself instead of on a thread, because it is quick and nobody else is being served.

Where a sync takes 0.3 ms, to wake a thread and be woken by it costs as much again, and two threads that work at the same
time lose more by handing each other the interpreter; without, small writes per second are 1.2 times as many over one
connection and 1.4 times over eight, and 128³ takes 0.87 of the time (measured). So the loop does what is small, while it
serves nobody else, if the last of its kind was quick. After something slow, on a slow disk or while much is flushed, all
kinds go to threads until they are quick there. That bounds how often the loop is held up, not how long: what is given to
it must not be much, even if the last of its kind was unusually cheap.
"""

import asyncio
from collections.abc import Callable, Hashable

_QUICK_S = 0.005
"""So long the event loop may be held up in a turn, as far as can be foreseen."""
_KNOWN = 1000
"""Kinds of work whose last time is kept in mind."""


class Turns:
    """Lives on one event loop, which guards it.

    Parameters
    ----------
    is_alone
        Tells whether so many requests are all, and nothing else could keep the loop waiting for long.
    """

    def __init__(self, is_alone: Callable[[int], bool]) -> None:
        self._is_alone = is_alone
        self._took: dict[Hashable, tuple[float, int]] = {}
        """Seconds and amount of the last work, by kind; of no other after a slow one."""
        self._expected = 0.0  # seconds for which this turn of the loop is held up

    def may_hold_up(self, kind: Hashable, amount: int, requests: int = 1) -> bool:
        """Tell whether the loop may do so much work now, for so many requests; `took` follows unless it is cancelled."""
        seconds, last = self._took.pop(kind, (_QUICK_S, 1))
        expected = self._expected + seconds * max(1.0, amount / last)
        if expected >= _QUICK_S or not self._is_alone(requests):
            return False
        if not self._expected:
            asyncio.get_running_loop().call_soon(self._end)
        self._expected = expected
        return True

    def _end(self) -> None:
        self._expected = 0.0

    def took(self, kind: Hashable, amount: int, seconds: float) -> None:
        """Note how long some work took, on the loop or on a thread."""
        if seconds >= _QUICK_S or len(self._took) >= _KNOWN:  # what is slow for one kind is so for others
            self._took.clear()
        self._took[kind] = (seconds, amount)
