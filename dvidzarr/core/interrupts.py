"""Ctrl-C and SIGTERM: by unwinding, but later where half done is worse, and at once where nothing could unwind."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM: unwinds as Ctrl-C does, so that no unfinished file stays behind."""


class Unwinding:
    """A handler of SIGINT and SIGTERM that raises, but leaves the process while the main thread imports a module.

    What is raised there hits any library anywhere: C code takes it for a module that is missing or goes on without it,
    callbacks pass over it, so that the signal is lost, and modules stay half made for those who use them later.
    """

    def __init__(self, leave: Callable[[int], NoReturn]) -> None:
        self._leave = leave

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handle a signal."""
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                self._leave(number)
            frame = frame.f_back
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


Handler = Callable[[int, FrameType | None], object] | int | None
"""As `signal.getsignal` returns it."""


def unwinds(handler: Handler) -> bool:
    """Tell whether a handler raises: who handles a signal in another way has reasons."""
    return handler is signal.default_int_handler or isinstance(handler, Unwinding)


@contextmanager
def handled(
    number: signal.Signals,
    handler: Callable[[int, FrameType | None], object],
    instead_of: Callable[[Handler], bool],
) -> Iterator[None]:
    """Handle a signal in another way if `instead_of` says so of how it is handled now; in the main thread alone."""
    before = signal.getsignal(number)
    changed = instead_of(before)
    if changed:
        try:
            signal.signal(number, handler)
        except ValueError:  # not the main thread: no signal is handled here
            changed = False
    try:
        yield
    finally:
        if changed:
            signal.signal(number, before)


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Raise when the block has ended, not in the middle, what Ctrl-C raises, and SIGTERM in a command.

    Only where Python would raise it: in the main thread.
    """
    # asked first, since to ask how a signal is handled takes microseconds
    if threading.get_ident() != threading.main_thread().ident:
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    try:
        with handled(signal.SIGINT, note, unwinds), handled(signal.SIGTERM, note, unwinds):
            yield
    finally:
        if came:
            signal.raise_signal(came[0])
