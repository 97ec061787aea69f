"""Keys and values outside of a store: a folder with a file for each key, or a tar archive.

In a folder the name of a file is its key with "/", "%", control characters, a dot at the start, and bytes that are not
UTF-8 as %XX; files in subfolders are keys with slashes. In an archive the names are the keys as they are.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote_to_bytes

import click

from dvidzarr.cli.unfinished import is_workplace, naming, workplace
from dvidzarr.core.errors import FormatError, InvalidInputError

ARCHIVES = {".tar": "w", ".tgz": "w:gz", ".tar.gz": "w:gz"}
_OTHER_ARCHIVES = (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z")
_LONGEST_NAME = 255
_KEYS = "keys"
_ESCAPED = re.compile(rb"[%/\\\x00-\x1f\x7f-\xff]|^\.")


class Sink(Protocol):
    """Takes keys with their values."""

    def add(self, key: str, value: bytes) -> None:
        """Take one."""


def pairs(source: Path) -> tuple[int, Iterator[tuple[str, bytes]]]:
    """Return how many keys a folder or an archive holds, and an iterator over them with their values."""
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.is_file() and not _is_left(path, source))
        return len(files), ((_key_of(path.relative_to(source)), path.read_bytes()) for path in files)
    try:
        with tarfile.open(source) as archive:
            count = sum(member.isfile() for member in archive)
    except tarfile.TarError as error:
        raise FormatError(f"{source} is no folder and no tar archive: {str(error).splitlines()[0]}") from None
    return count, _members(source)


def _is_left(path: Path, source: Path) -> bool:
    """Tell whether an export that was killed left this file: no key."""
    return is_workplace(path.relative_to(source).parts[0])


def _members(source: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError) as error:
        raise FormatError(f"{source} cannot be read to its end: {error}") from None


@contextmanager
def sink(target: Path, *, force: bool) -> Iterator[Sink]:
    """Open a new folder or archive, by the ending of its name; an archive or a file gets its name when it is complete."""
    if target.exists() and not force and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInputError(f"{target} exists already: say --force to write into it or replace it")
    mode = next((mode for ending, mode in ARCHIVES.items() if target.name.endswith(ending)), None)
    if mode is None and target.suffix in _OTHER_ARCHIVES and not target.is_dir():
        raise InvalidInputError(f"{target}: archives that can be written end in {', '.join(ARCHIVES)}")
    if mode is None:
        target.mkdir(parents=True, exist_ok=True)
        with naming(target), workplace(target, _KEYS) as place:
            yield _Folder(target, place / "value")
        return
    with naming(target), workplace(target.parent, target.name) as place:
        with tarfile.open(place / "archive", mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
            yield _Archive(archive)
        os.replace(place / "archive", target)


class _Folder:
    def __init__(self, path: Path, part: Path) -> None:
        self._path = path
        self._part = part

    def add(self, key: str, value: bytes) -> None:
        name = _name_of(key)
        if len(name) > _LONGEST_NAME:
            raise click.ClickException(
                f"the key {key[:80]!r}… is too long for the name of a file: export to a .tar instead"
            )
        self._part.write_bytes(value)
        self._part.replace(self._path / name)


class _Archive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, key: str, value: bytes) -> None:
        info = tarfile.TarInfo(key)
        info.size = len(value)
        self._archive.addfile(info, BytesIO(value))


def _name_of(key: str) -> str:
    raw = key.encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _ESCAPED.sub(lambda found: f"%{found[0][0]:02X}".encode(), raw).decode()
    return re.sub(r"[%/\\\x00-\x1f\x7f]|^\.", lambda found: f"%{ord(found[0]):02X}", key)


def _key_of(path: Path) -> str:
    """Return the key that a file stands for; a "%" without two hex digits behind it is itself."""
    return unquote_to_bytes(os.fsencode(path.as_posix())).decode("utf-8", "surrogateescape")
