"""Background tasks: their order, what waits for what, what runs at the end."""

import threading
import time
from collections.abc import Iterator

import pytest

from dvidzarr.core.errors import StorageError
from dvidzarr.storage.housekeeper import Housekeeper


@pytest.fixture
def housekeeper() -> Iterator[Housekeeper]:
    keeper = Housekeeper()
    yield keeper
    keeper.close()


def test_one_task_after_another_in_the_order_of_their_times(housekeeper: Housekeeper) -> None:
    done: list[str] = []
    housekeeper.schedule(0.2, "second", lambda: done.append("second"))
    housekeeper.schedule(0.1, "first", lambda: done.append("first"))
    housekeeper.schedule(0.1, "first", lambda: done.append("first again"))
    assert housekeeper.waiting == {"first", "second"}
    time.sleep(0.2)
    assert housekeeper.settle(30)
    assert done == ["first", "second"]


def test_a_task_that_fails_keeps_no_other_from_running(
    housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise StorageError("no room")

    done = threading.Event()
    housekeeper.schedule(0, "fails", fail)
    housekeeper.schedule(0, "follows", done.set)
    assert done.wait(30)
    assert "background task fails: no room" in caplog.text


def test_a_prompt_task_does_not_wait_for_a_long_one(housekeeper: Housekeeper) -> None:
    begun, go_on, prompt, other = (threading.Event() for _ in range(4))

    def take_long() -> None:
        begun.set()
        assert go_on.wait(30)

    housekeeper.schedule(0, "long", take_long)
    assert begun.wait(30)
    housekeeper.schedule(0, "prompt", prompt.set, prompt=True)
    housekeeper.schedule(0, "other", other.set)
    assert prompt.wait(30)
    assert not other.is_set()
    assert not housekeeper.settle(0.05)
    go_on.set()
    assert housekeeper.settle(30)
    assert other.is_set()


def test_settling_waits_for_what_tasks_schedule(housekeeper: Housekeeper) -> None:
    done = threading.Event()

    def hand_on() -> None:
        time.sleep(0.05)
        housekeeper.schedule(0, "handed on", done.set)

    housekeeper.schedule(0, "hands on", hand_on, prompt=True)
    assert housekeeper.settle(30)
    assert done.is_set()


def test_nothing_runs_while_it_is_paused(housekeeper: Housekeeper) -> None:
    done: list[str] = []
    with housekeeper.paused():
        for prompt in (False, True):
            housekeeper.schedule(0, prompt, lambda: done.append("ran"), prompt=prompt)
        time.sleep(0.1)
        assert done == []
    assert housekeeper.settle(30)
    assert done == ["ran", "ran"]


def test_closing_runs_what_must_not_wait(housekeeper: Housekeeper) -> None:
    done: list[str] = []
    housekeeper.schedule(1000, "needed", lambda: done.append("needed"))
    housekeeper.schedule(1000, "not needed", lambda: done.append("not needed"), at_close=False)
    housekeeper.schedule(1000, "flush", lambda: done.append("flush"), at_close=False, prompt=True)
    housekeeper.close()
    assert done == ["needed"]
    housekeeper.schedule(0, "late", lambda: done.append("late"))
    assert done == ["needed"]


def test_tasks_that_run_may_schedule_others_while_somebody_wants_a_pause(housekeeper: Housekeeper) -> None:
    begun = threading.Event()

    def schedule() -> None:
        begun.set()
        time.sleep(0.1)
        housekeeper.schedule(1000, "later", begun.clear)

    for prompt in (False, True):
        housekeeper.schedule(0, prompt, schedule, prompt=prompt)
        assert begun.wait(30)
        with housekeeper.paused():
            assert "later" in housekeeper.waiting
        begun.clear()
