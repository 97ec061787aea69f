"""A disk that loses power: files and folders as they are, and what of them is durable.

Every change is an operation (a tuple) given to `Disk.apply`; a list of operations is the whole history, so that the disk
can be built as it was after each of them. `survivors` draws one state in which a power loss may leave the disk:

* what was written to a file since its last sync survives, is lost, is cut off, or misses a part, write by write: there
  the old bytes are still there, and zeros behind the old end;
* each name in a folder that was not synced since shows any of the files it had, or none, whatever its neighbours show;
* a renamed folder has either its old or its new name; a folder whose name is lost is lost with all that is in it.

What was synced survives, and nothing else is promised: no order between operations, none between files and folders.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Op = tuple[Any, ...]
Image = dict[str, bytes | None]
"""Path → contents, None for a folder."""

ROOT = 0
_ATOMIC = 8  # bytes that are written whole or not at all
_WORDS_KEPT = 3  # of a mapped word that is never synced, only the last values are interesting


@dataclass(slots=True)
class File:
    """Contents as processes see them, as they are durable, and the changes in between."""

    content: bytes = b""
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes), or (size, None) for a truncation."""
    doomed: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Changes whose sync failed: a later sync does not write them any more."""


@dataclass(slots=True)
class Folder:
    """Names and inode numbers as processes see them, as they are durable, and per name what it was since."""

    entries: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)
    pending: dict[str, list[int | None]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Move:
    source: int
    old: str
    target: int
    new: str
    number: int


def changed(base: bytes, change: tuple[int, bytes | None]) -> bytes:
    """Return contents after a write or a truncation."""
    at, data = change
    if data is None:
        return base[:at].ljust(at, b"\0")
    return base[:at].ljust(at, b"\0") + data + base[at + len(data) :]


class Disk:
    """Inodes by number; 0 is the root folder."""

    def __init__(self) -> None:
        self.nodes: dict[int, File | Folder] = {ROOT: Folder()}
        self._moves: list[_Move] = []

    @classmethod
    def after(cls, image: Image) -> "Disk":
        """Return a disk that holds exactly this, durably."""
        disk, numbers = cls(), {"": ROOT}
        for path in sorted(image):
            content = image[path]
            number = numbers[path] = len(disk.nodes)
            above, _, name = path.rpartition("/")
            disk.nodes[number] = Folder() if content is None else File(content, content)
            parent = disk.folder(numbers[above])
            parent.entries[name] = parent.durable[name] = number
        return disk

    def file(self, number: int) -> File:
        """Return a file."""
        node = self.nodes[number]
        assert isinstance(node, File)
        return node

    def folder(self, number: int) -> Folder:
        """Return a folder."""
        node = self.nodes[number]
        assert isinstance(node, Folder)
        return node

    # --- operations ------------------------------------------------------------------------------------------

    def apply(self, op: Op) -> None:
        """Carry out an operation: its first item names a method below."""
        getattr(self, f"_{op[0]}")(*op[1:])

    def replay(self, ops: Iterable[Op]) -> "Disk":
        """Carry out many operations."""
        for op in ops:
            self.apply(op)
        return self

    def _create(self, folder: int, name: str, number: int) -> None:
        self.nodes[number] = File()
        self._name(folder, name, number)

    def _mkdir(self, folder: int, name: str, number: int) -> None:
        self.nodes[number] = Folder()
        self._name(folder, name, number)

    def _name(self, folder: int, name: str, number: int | None) -> None:
        """Let a name mean an inode, or nothing."""
        node = self.folder(folder)
        node.pending.setdefault(name, []).append(number)
        if number is None:
            del node.entries[name]
        else:
            node.entries[name] = number

    def _rename(self, folder: int, old: str, target: int, new: str) -> None:
        number = self.folder(folder).entries[old]
        if isinstance(self.nodes[number], File):
            self._name(target, new, number)
            self._name(folder, old, None)
            return
        self._moves.append(_Move(folder, old, target, new, number))
        del self.folder(folder).entries[old]
        self.folder(target).entries[new] = number

    def _write(self, number: int, offset: int, data: bytes) -> None:
        file = self.file(number)
        file.pending.append((offset, data))
        file.content = changed(file.content, (offset, data))

    def _word(self, number: int, value: bytes) -> None:
        """Store to a mapped word."""
        self._write(number, 0, value)
        pending = self.file(number).pending
        del pending[: max(0, len(pending) - _WORDS_KEPT)]

    def _truncate(self, number: int, size: int) -> None:
        file = self.file(number)
        file.pending.append((size, None))
        file.content = changed(file.content, (size, None))

    def _sync(self, number: int) -> None:
        node = self.nodes[number]
        if isinstance(node, File):
            for change in node.pending:
                node.durable = changed(node.durable, change)
            node.pending.clear()
            return
        for name, states in node.pending.items():
            _set(node.durable, name, states[-1])
        node.pending.clear()
        for move in [move for move in self._moves if number in {move.source, move.target}]:
            self._settle(move)

    def _settle(self, move: _Move) -> None:
        """Make the renaming of a folder durable, on both sides at once."""
        source, target = self.folder(move.source), self.folder(move.target)
        source.pending.pop(move.old, None)
        source.durable.pop(move.old, None)
        target.durable[move.new] = move.number
        self._moves.remove(move)

    def _doom(self, number: int) -> None:
        """Fail to sync a file: what was pending is forgotten by the system, and may or may not be on the disk."""
        file = self.file(number)
        file.doomed.extend(file.pending)
        file.pending.clear()

    # --- power loss ------------------------------------------------------------------------------------------

    def survivors(self, chance: random.Random) -> Image:
        """Draw what is there after a power loss now."""
        keep = chance.choice((0.0, 0.0, 0.2, 0.5, 0.8, 1.0))
        moved = [move for move in self._moves if chance.random() < keep]
        return dict(self._walk(ROOT, "", keep, moved, chance))

    def _walk(
        self, number: int, path: str, keep: float, moved: list[_Move], chance: random.Random
    ) -> Iterator[tuple[str, bytes | None]]:
        for name, child in self._entries_left(number, keep, moved, chance).items():
            place, node = f"{path}/{name}", self.nodes[child]
            if isinstance(node, File):
                yield place, _contents_left(node, keep, chance)
            else:
                yield place, None
                yield from self._walk(child, place, keep, moved, chance)

    def _entries_left(
        self, number: int, keep: float, moved: list[_Move], chance: random.Random
    ) -> dict[str, int]:
        node = self.folder(number)
        if not node.pending and not self._moves:
            return node.durable
        left = dict(node.durable)
        for name, states in node.pending.items():
            if chance.random() < keep:
                _set(left, name, states[-1])
            elif keep:
                _set(left, name, chance.choice([node.durable.get(name), *states]))
        for move in moved:
            if move.source == number:
                left.pop(move.old, None)
            if move.target == number:
                left[move.new] = move.number
        return left


def _set(entries: dict[str, int], name: str, number: int | None) -> None:
    if number is None:
        entries.pop(name, None)
    else:
        entries[name] = number


def _contents_left(file: File, keep: float, chance: random.Random) -> bytes:
    content = file.durable
    for change in (*file.doomed, *file.pending) if file.pending or file.doomed else ():
        if chance.random() < keep:
            content = changed(content, change)
        elif keep and change[1] and len(change[1]) > _ATOMIC:
            content = _torn(content, change[0], change[1], chance)
    return content


def _torn(content: bytes, at: int, data: bytes, chance: random.Random) -> bytes:
    """Return what may be left of a write that was not synced: a beginning, or all but a part in the middle.

    What was there before stays in the part that is missing; behind the old end there are zeros.
    """
    start, stop = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    if chance.random() < 0.5:
        return changed(content, (at, data[:stop]))
    if chance.random() < 0.3:
        start, stop = 0, len(data)
    old = content[at + start : at + stop].ljust(stop - start, b"\0")
    return changed(content, (at, data[:start] + old + data[stop:]))
