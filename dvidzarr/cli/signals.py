"""Ctrl-C and SIGTERM: at once while modules are imported, by unwinding while a command runs."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from dvidzarr.core.interrupts import Handler, Terminated, Unwinding, handled, unwinds

ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def leave_at_the_end() -> None:
    """Let a signal end this process with one line also when all is done and Python itself ends, which may take a moment."""
    with suppress(ValueError):  # not the main thread
        for number in ENDINGS:
            if _is_usual(signal.getsignal(number)):
                signal.signal(number, _leave)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Let a signal end the process with one line."""
    with handled(signal.SIGINT, _leave, _is_usual), handled(signal.SIGTERM, _leave, _is_usual):
        yield


@contextmanager
def unwinding() -> Iterator[None]:
    """Let SIGTERM raise, as Ctrl-C does, but for imports; a server puts handlers of its own in their place."""
    handler = Unwinding(_leave)
    with handled(signal.SIGINT, handler, _is_usual), handled(signal.SIGTERM, handler, _is_usual):
        yield


def ending(error: BaseException | None) -> tuple[str, int]:
    """Return what an interrupt is called and its exit code."""
    number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    return ENDINGS[number], 128 + number


def _leave(number: int, _frame: FrameType | None = None) -> NoReturn:
    os.write(2, f"dvidzarr: {ENDINGS[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)


def _is_usual(handler: Handler) -> bool:
    return handler in (signal.SIG_DFL, _leave) or unwinds(handler)
