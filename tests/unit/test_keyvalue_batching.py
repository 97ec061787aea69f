"""Writes that arrive while others are made durable go together."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dvidzarr.core.errors import BusyError
from dvidzarr.server import batching
from dvidzarr.server.batching import Batches
from dvidzarr.server.threads import Threads
from dvidzarr.server.turns import Turns

NEVER = Turns(lambda _: False)
"""Somebody else is served all the time."""


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
    batches = Batches(pool.run, NEVER)
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
    batches = Batches(pool.run, NEVER)

    def fail(items: list[object]) -> None:
        if "bad" in items:
            raise BusyError("no")

    first = [asyncio.create_task(batches.together("k", fail, item)) for item in ("good", "bad")]
    results = await asyncio.gather(*first, return_exceptions=True)
    assert [type(result) for result in results] == [BusyError, BusyError]
    await batches.together("k", fail, "good")


async def test_who_leaves_does_not_stop_the_others() -> None:
    pool = Pool()
    batches = Batches(pool.run, NEVER)
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

    batches = Batches(run, NEVER)
    done: list[object] = []
    with pytest.raises(RuntimeError, match="new thread"):
        await asyncio.wait_for(batches.together("k", done.extend, 1), 20)
    broken.append(False)
    await asyncio.wait_for(batches.together("k", done.extend, 2), 20)
    assert done == [2]


# --- on the event loop itself ----------------------------------------------------------------------------------


class Places:
    """Notes on which threads its batches ran. An item is the seconds that it takes by the clock, or what it raises."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_loop: list[bool] = []
        self._loop_thread = threading.get_ident()

    def clock(self) -> float:
        return self.now

    def __call__(self, items: list[float | BaseException]) -> None:
        self.on_loop.append(threading.get_ident() == self._loop_thread)
        for item in items:
            if isinstance(item, BaseException):
                raise item
            self.now += item


class Panic(BaseException):
    """What compiled code raises."""


@pytest.fixture
async def places(monkeypatch: pytest.MonkeyPatch) -> Places:
    made = Places()
    monkeypatch.setattr(batching, "monotonic", made.clock)
    return made


@pytest.fixture
def threads() -> Iterator[Threads]:
    made = Threads(2, "test")
    yield made
    made.close()


@pytest.fixture
def batches(threads: Threads) -> Batches:
    return Batches(threads.run, Turns(lambda _: True))


async def put(batches: Batches, key: object, places: Places, *items: float | BaseException) -> None:
    await asyncio.gather(*(batches.together(key, places, item) for item in items))


async def test_what_is_quick_runs_on_the_loop_and_after_something_slow_on_threads(
    batches: Batches, places: Places
) -> None:
    for seconds in (0.001, 0.001, 0.02, 0.001, 0.001):
        await put(batches, "k", places, seconds)
    # nothing is known of the first; after the slow one a thread finds out that it is over
    assert places.on_loop == [False, True, True, False, True]


async def test_all_keys_learn_from_something_slow(batches: Batches, places: Places) -> None:
    for key in ("a", "b", "a", "b"):
        await put(batches, key, places, 0.001)
    await put(batches, "a", places, 0.02)
    await put(batches, "b", places, 0.001)
    assert places.on_loop == [False, False, True, True, True, False]


async def test_the_loop_is_held_up_for_a_while_only(batches: Batches, places: Places) -> None:
    await put(batches, "k", places, 0.002)
    await put(batches, "k", places, *[0.001] * 2)  # might take 0.004
    await put(batches, "k", places, *[0.002] * 5)  # 0.01, which is slow
    assert places.on_loop == [False, True, False]
    await put(batches, "k", places, 0)
    await put(batches, "k", places, *[0] * 16)
    await put(batches, "k", places, *[0] * 17)
    assert places.on_loop[-3:] == [False, True, False]


async def test_keys_share_the_time_of_a_turn(batches: Batches, places: Places) -> None:
    keys = range(4)
    for key in keys:
        await put(batches, key, places, 0.002)
    places.on_loop.clear()
    await asyncio.gather(*(put(batches, key, places, 0.002) for key in keys))
    assert places.on_loop.count(True) == 2
    places.on_loop.clear()
    for key in keys:
        await put(batches, key, places, 0.002)
    assert places.on_loop == [True] * 4


async def test_others_are_not_held_up(threads: Threads, places: Places) -> None:
    counts: list[int] = []

    def is_alone(count: int) -> bool:
        counts.append(count)
        return count == served

    batches = Batches(threads.run, Turns(is_alone))
    await put(batches, "k", places, 0)
    served = 3
    await put(batches, "k", places, 0, 0)
    served = 2
    await put(batches, "k", places, 0, 0)
    assert counts == [2, 2]
    assert places.on_loop == [False, False, True]
    served = 1
    with pytest.raises(BusyError):
        await put(batches, "k", places, BusyError("no"))
    await put(batches, "k", places, 0)
    assert places.on_loop[-2:] == [True, True]  # nobody that failed is counted any more


@pytest.mark.parametrize(("failure", "raised"), [(Panic(), Panic), (StopIteration(), RuntimeError)])
async def test_whatever_fails_the_next_goes_on(
    batches: Batches, places: Places, failure: BaseException, raised: type[BaseException]
) -> None:
    for on_loop in (False, True):
        with pytest.raises(raised):
            await put(batches, "k", places, failure)
        await put(batches, "k", places, 0)
        assert places.on_loop[-2:] == [on_loop, True]


async def test_what_was_cancelled_says_nothing_of_its_time(threads: Threads, places: Places) -> None:
    batches = Batches(threads.run, Turns(lambda _: True))
    await asyncio.to_thread(threads.close)
    for _ in range(2):
        with pytest.raises(asyncio.CancelledError):
            await batches.together("k", places, 0)
    assert places.on_loop == []
