"""Writes that arrive while others are made durable go together."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dvidzarr.core.errors import BusyError
from dvidzarr.server.batching import Batches


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
    batches = Batches(pool.run)
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
    batches = Batches(pool.run)

    def fail(items: list[object]) -> None:
        if "bad" in items:
            raise BusyError("no")

    first = [asyncio.create_task(batches.together("k", fail, item)) for item in ("good", "bad")]
    results = await asyncio.gather(*first, return_exceptions=True)
    assert [type(result) for result in results] == [BusyError, BusyError]
    await batches.together("k", fail, "good")


async def test_who_leaves_does_not_stop_the_others() -> None:
    pool = Pool()
    batches = Batches(pool.run)
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

    batches = Batches(run)
    done: list[object] = []
    with pytest.raises(RuntimeError, match="new thread"):
        await asyncio.wait_for(batches.together("k", done.extend, 1), 20)
    broken.append(False)
    await asyncio.wait_for(batches.together("k", done.extend, 2), 20)
    assert done == [2]
