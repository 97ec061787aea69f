"""Ctrl-C and SIGTERM: at once while modules are imported, by unwinding while a command runs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds as Ctrl-C does, so that no unfinished file stays behind."""


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let a signal end the process with one line: raised in the midst of an import it would hit any library anywhere."""
    with _handled(_leave, signal.SIGINT, signal.SIGTERM):
        yield


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM raise, as Ctrl-C does; a server puts handlers of its own in its place."""
    with _handled(_unwind, signal.SIGTERM):
        yield


def ending(error: BaseException | None) -> tuple[str, int]:
    """Return what an interrupt is called and its exit code."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    return ENDINGS[number], 128 + number


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, f"dvidzarr: {ENDINGS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _unwind(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


_USUAL = (signal.SIG_DFL, signal.default_int_handler, _unwind)
"""What may be replaced: who ignores a signal, or handles it, has reasons."""


@contextmanager
def _handled(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        changed = [number for number in numbers if before[number] in _USUAL]
        for number in changed:
            signal.signal(number, handler)
    except ValueError:  # not the main thread: no signal is handled here
        changed = []
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
