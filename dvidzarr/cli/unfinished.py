"""Hidden folders for what gets its name when it is complete; those of runs that were killed are cleared by the next run."""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dvidzarr.core.errors import StorageError
from dvidzarr.core.interrupts import interrupts_later

_MARK = ".unfinished-"
_NAME = re.compile(rf"\..*{re.escape(_MARK)}[0-9a-f]{{8}}", re.DOTALL)


def is_workplace(name: str) -> bool:
    """Tell whether a folder of this name holds what is not complete."""
    return _NAME.fullmatch(name) is not None


@contextmanager
def workplace(parent: Path, name: str, rescue: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Give a hidden folder in `parent` that is gone afterwards.

    Parameters
    ----------
    name
        What it is for: the folders that killed runs left for the same are removed first.
    rescue
        Called with each folder before it is removed, those and this one, to take out of it what must not be lost.
    """
    rescue = rescue or (lambda _folder: None)
    for left in [each for each in parent.iterdir() if _is_for(each.name, name)]:
        with _alone(left) as alone:
            if alone:
                rescue(left)
                shutil.rmtree(left)
    folder = parent / f".{name}{_MARK}{secrets.token_hex(4)}"
    folder.mkdir()
    with _alone(folder):
        try:
            yield folder
        finally:
            # the next run tries again; what went wrong before is what matters
            with interrupts_later(), suppress(OSError):
                rescue(folder)
                shutil.rmtree(folder)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add what was to be written to an error that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error


def _is_for(found: str, name: str) -> bool:
    return found[: -len(secrets.token_hex(4))] == f".{name}{_MARK}" and is_workplace(found)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Lock a folder until the process ends or is killed; False if another one has it, or nothing can be locked here."""
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(number)
