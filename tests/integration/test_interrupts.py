"""Ctrl-C in the middle of a write, as in a notebook: it is raised, and the next write goes on."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

import dvidzarr
from dvidzarr.core.interrupts import Terminated, Unwinding
from dvidzarr.storage import locks
from dvidzarr.storage.locks import Stripes
from dvidzarr.storage.log import LocalLog


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Any]:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with dvidzarr.open(tmp_path / "store", "w") as catalog:
        repo = catalog.create_repo()
        repo.create_instance("uint8blk", "gray", {"BlockSize": "4,4,4"}).at()[0, 0, 0] = 1
        repo.create_instance("keyvalue", "notes").at()["a"] = b"1"
        yield catalog
    signal.signal(signal.SIGINT, before)


def press_while_it_writes(monkeypatch: pytest.MonkeyPatch, early: bool, late: bool) -> None:
    """Let each frame of a log be written with a Ctrl-C before or after it."""
    put: Callable[..., None] = LocalLog._put_frame

    def put_and_press(log: LocalLog, frame: bytes) -> None:
        if early:
            signal.raise_signal(signal.SIGINT)
        put(log, frame)
        if late:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LocalLog, "_put_frame", put_and_press)


@pytest.mark.parametrize(("early", "late"), [(True, False), (False, True), (True, True)])
def test_ctrl_c_comes_when_the_record_is_whole(
    catalog: Any,  # noqa: ANN401 - the views of its instances are of several types
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    early: bool,
    late: bool,
) -> None:
    """The log did not know whether it was, and took no more until the store was opened again."""
    repo = catalog.repos[0]
    gray, notes = repo.instance("gray").at(), repo.instance("notes").at()
    with monkeypatch.context() as patch:
        press_while_it_writes(patch, early, late)
        with pytest.raises(KeyboardInterrupt):
            gray[0, 0, 0] = 2
        with pytest.raises(KeyboardInterrupt):
            notes["a"] = b"2"
        with pytest.raises(KeyboardInterrupt):
            repo.append_log(["interrupted"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (gray[0, 0, 0], notes["a"], len(repo.log)) == (2, b"2", 3)
    gray[0, 0, 0], notes["a"] = 3, b"3"
    repo.commit(repo.root)
    with dvidzarr.open(tmp_path / "store", "r") as again:
        view: Any = again.repos[0].instance("gray").at()
        assert view[0, 0, 0] == 3
        assert not [found for found in again.verify(deep=True) if found.severity == "error"]


class PressedLock:
    """A lock with a Ctrl-C, or another signal, as soon as somebody lets go of it."""

    def __init__(self, lock: threading.Lock, number: signal.Signals) -> None:
        self._lock = lock
        self._number = number

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        signal.raise_signal(self._number)


def check_struck_write(
    catalog: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    view = catalog.repos[0].instance("gray").at()
    log = view.instance.dataset.log
    with monkeypatch.context() as patch:
        patch.setattr(log, "_lock", PressedLock(log._lock, number))
        with pytest.raises(raised):
            view[0, 0, 0] = 2
    assert view[0, 0, 0] == 2
    view[0, 0, 0] = 3


def test_ctrl_c_between_queueing_a_record_and_writing_it(
    catalog: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody wrote the record then, and whoever wrote next waited for ever."""
    check_struck_write(catalog, monkeypatch, signal.SIGINT, KeyboardInterrupt)


def leave(number: int) -> NoReturn:
    os._exit(number)


def test_sigterm_of_a_command_between_queueing_a_record_and_writing_it(
    catalog: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The threads of the command waited for ever, and closing the store for half a minute."""
    before = signal.signal(signal.SIGTERM, Unwinding(leave))
    try:
        check_struck_write(catalog, monkeypatch, signal.SIGTERM, Terminated)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_ones_own_is_called_at_once(
    catalog: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pressed: list[int] = []

    def press(number: int, _: object) -> None:
        pressed.append(number)

    signal.signal(signal.SIGINT, press)
    press_while_it_writes(monkeypatch, early=True, late=False)
    catalog.repos[0].instance("gray").at()[0, 0, 0] = 2
    assert pressed
    assert signal.getsignal(signal.SIGINT) is press


def test_ctrl_c_while_locks_are_taken_leaves_none_held() -> None:
    """Whoever needed it waited for ever. Python looks for signals after each call of a function that is written in C."""
    stripes = Stripes(4)
    for number in itertools.count(1):
        calls = itertools.count(1)

        def press(frame: FrameType, event: str, _: object) -> None:
            here = frame.f_code.co_filename == locks.__file__ and event == "c_return"
            if here and next(calls) == number:  # noqa: B023 - called in this turn alone
                raise KeyboardInterrupt

        sys.setprofile(press)
        try:
            with stripes.hold(range(8)):
                pass
        except KeyboardInterrupt:
            assert not any(lock.locked() for lock in stripes._locks)
        else:
            assert number > 1
            return
        finally:
            sys.setprofile(None)
