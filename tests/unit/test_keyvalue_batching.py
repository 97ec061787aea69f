"""Writes that arrive while others are made durable go together."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dvidzarr.core.errors import BusyError
from dvidzarr.server.batching import Batches
from dvidzarr.server.threads import Threads


def never(_: int) -> bool:
    """Somebody else is served all the time."""
    return False


class Pool:
    """Runs what it is given when told to."""

    def __init__(self) -> None:
        self.calls: list[list[object]] = []
        self.go = asyncio.Event()

    def run(self, function: Callable[[Any], object], args: tuple[Any, ...]) -> "asyncio.Future[object]":
        self.calls.append(args[0])
        return asyncio.ensure_future(self._when_told(function, args[0]))

    async def _when_told(self, function: Callable[[Any], object], items: list[object]) -> object:
        await self.go.wait()
        return function(items)


async def test_what_waits_goes_together_and_keys_apart() -> None:
    pool = Pool()
    batches = Batches(pool.run, never)
    done: list[object] = []
    tasks = [asyncio.create_task(batches.together("k", done.extend, 0))]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(batches.together("k", done.extend, number)) for number in (1, 2)]
    tasks += [asyncio.create_task(batches.together("other", done.extend, "x"))]
    await asyncio.sleep(0.01)
    assert pool.calls == [[0], ["x"]]
    pool.go.set()
    await asyncio.gather(*tasks)
    assert pool.calls == [[0], ["x"], [1, 2]]
    assert set(done) == {0, 1, 2, "x"}
    await batches.together("k", done.extend, 3)
    assert pool.calls[-1] == [3]


async def test_a_failure_is_everybodys_and_the_next_goes_on() -> None:
    pool = Pool()
    pool.go.set()
    batches = Batches(pool.run, never)

    def fail(items: list[object]) -> None:
        if "bad" in items:
            raise BusyError("no")

    first = [asyncio.create_task(batches.together("k", fail, item)) for item in ("good", "bad")]
    results = await asyncio.gather(*first, return_exceptions=True)
    assert [type(result) for result in results] == [BusyError, BusyError]
    await batches.together("k", fail, "good")


async def test_who_leaves_does_not_stop_the_others() -> None:
    pool = Pool()
    batches = Batches(pool.run, never)
    done: list[object] = []
    gone, stays = (asyncio.create_task(batches.together("k", done.extend, item)) for item in ("a", "b"))
    await asyncio.sleep(0.01)
    gone.cancel()
    pool.go.set()
    await stays
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert set(done) == {"a", "b"}


async def test_what_cannot_be_run_fails_and_the_next_goes_on() -> None:
    pool = Pool()
    pool.go.set()
    broken = [True]

    def run(function: Callable[[Any], object], args: tuple[Any, ...]) -> "asyncio.Future[object]":
        if broken.pop():
            raise RuntimeError("can't start new thread")
        return pool.run(function, args)

    batches = Batches(run, never)
    done: list[object] = []
    with pytest.raises(RuntimeError, match="new thread"):
        await asyncio.wait_for(batches.together("k", done.extend, 1), 20)
    broken.append(False)
    await asyncio.wait_for(batches.together("k", done.extend, 2), 20)
    assert done == [2]


# --- on the event loop itself ----------------------------------------------------------------------------------


class Places:
    """Notes on which threads its batches ran; sleeps as long as the items say, or fails."""

    def __init__(self) -> None:
        self.on_loop: list[bool] = []
        self._loop_thread = threading.get_ident()

    def __call__(self, items: list[float]) -> None:
        self.on_loop.append(threading.get_ident() == self._loop_thread)
        if min(items) < 0:
            raise BusyError("no")
        time.sleep(sum(items))


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(2, "test")
    yield made
    made.close()


async def test_what_is_quick_runs_on_the_loop_and_after_something_slow_on_threads(threads: Threads) -> None:
    batches, places = Batches(threads.run, lambda _: True), Places()
    for seconds in (0, 0, 0.02, 0, 0):
        await batches.together("k", places, seconds)
    # nothing is known of the first; after the slow one a thread finds out that it is over
    assert places.on_loop == [False, True, True, False, True]
    await batches.together("other", places, 0)
    assert places.on_loop[-1] is False


async def test_many_at_a_time_do_not_hold_the_loop_up(threads: Threads) -> None:
    batches, places = Batches(threads.run, lambda _: True), Places()
    await batches.together("k", places, 0)
    await asyncio.gather(*(batches.together("k", places, 0) for _ in range(16)))
    await asyncio.gather(*(batches.together("k", places, 0) for _ in range(17)))
    assert places.on_loop == [False, True, False]


async def test_others_are_not_held_up(threads: Threads) -> None:
    counts: list[int] = []

    def is_alone(count: int) -> bool:
        counts.append(count)
        return count == served

    batches, places = Batches(threads.run, is_alone), Places()
    await batches.together("k", places, 0)
    served = 3
    await asyncio.gather(*(batches.together("k", places, 0) for _ in range(2)))
    served = 2
    await asyncio.gather(*(batches.together("k", places, 0) for _ in range(2)))
    assert counts == [2, 2]
    assert places.on_loop == [False, False, True]
    served = 1
    with pytest.raises(BusyError):
        await batches.together("k", places, -1)
    assert places.on_loop[-1]  # nobody that left or failed is counted
    await batches.together("k", places, 0)
    assert places.on_loop[-1]
