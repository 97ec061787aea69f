"""What a supervisor tells a process that it started."""

from dataclasses import dataclass
from typing import Any

GRACE_S = 5.0
"""So much longer than its requests may take to finish a process has to end."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is to do."""

    store: str
    read_only: bool
    host: str
    url: str
    number: int
    count: int
    folder: str
    board: int
    settings: dict[str, Any]

    @property
    def writes(self) -> bool:
        """Whether it is the process that writes."""
        return self.number == 0 and not self.read_only
