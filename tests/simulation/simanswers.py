"""What simulated system calls answer with."""

from dataclasses import dataclass
from typing import Self


class Word(bytearray):
    """The mapping of a small file."""

    def close(self) -> None:
        """Unmap; the file keeps what was stored."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `os.stat` gives."""

    st_size: int
    st_mtime_ns: int


class Entry:
    """What `os.scandir` gives."""

    def __init__(self, name: str, folder: bool) -> None:
        self.name = name
        self._folder = folder

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether it is a folder."""
        return self._folder


class Reading:
    """What `os.fdopen` gives."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def readall(self) -> bytes:
        """Return the contents."""
        return self._content
