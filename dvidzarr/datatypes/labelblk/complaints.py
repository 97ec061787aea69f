"""What fails again and again is said at once, then ever more rarely; at once again when it fails otherwise."""

import time
from dataclasses import dataclass

_PAUSE_S = 60.0
_LONGEST_PAUSE_S = 6 * 3600.0


@dataclass(slots=True)
class _Said:
    problem: str
    pause: float
    due: float
    """Monotonic time from which on it is said again."""


class Complaints:
    """The problems that were said, by what they concern. Used by one thread."""

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}

    def is_due(self, about: str, problem: str) -> bool:
        """Tell whether to say a problem now, and take it as said; each pause is twice as long as the one before."""
        now, said = time.monotonic(), self._said.get(about)
        if said is None or said.problem != problem:
            self._said[about] = _Said(problem, _PAUSE_S, now + _PAUSE_S)
            return True
        if now < said.due:
            return False
        said.pause = min(2 * said.pause, _LONGEST_PAUSE_S)
        said.due = now + said.pause
        return True

    def withdraw(self, about: str) -> None:
        """Note that nothing is wrong any more."""
        self._said.pop(about, None)
