"""What a process of a server knows of the others. A server of one process has nobody else."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dvidzarr.server.board import Board

if TYPE_CHECKING:
    from dvidzarr.server.forwarding import Home


@dataclass(frozen=True, slots=True)
class Fleet:
    """The processes of one server, as one of them sees them.

    Attributes
    ----------
    read_only
        Whether the server as a whole takes no writes.
    number, count
        Which of how many it is; 0 is home: the one that writes.
    board
        Counters that all of them share.
    home
        Where requests go that only home can answer; None at home.
    folder
        Where the private sockets lie; None for a single process.
    """

    read_only: bool
    number: int = 0
    count: int = 1
    board: Board = field(default_factory=Board)
    home: "Home | None" = None
    folder: Path | None = None

    def others(self) -> dict[int, str]:
        """Return the paths of the private sockets of the other processes by number."""
        if self.folder is None:
            return {}
        return {
            number: private_socket(self.folder, number)
            for number in range(self.count)
            if number != self.number
        }


def private_socket(folder: Path, number: int) -> str:
    """Return the path of the socket at which the other processes reach one."""
    return str(folder / f"{number}.sock")
