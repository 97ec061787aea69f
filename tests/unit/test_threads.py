"""Threads that run blocking functions for an event loop."""

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from dvidzarr.server.threads import Threads

PATIENCE_S = 20


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads(2, "test")
    yield made
    await asyncio.to_thread(made.close)


async def test_results_and_failures_come_back(threads: Threads) -> None:
    assert await threads.run(divmod, (7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await threads.run(divmod, (7, 0))
    results = await asyncio.gather(*(threads.run(pow, (number, 2)) for number in range(100)))
    assert results == [number**2 for number in range(100)]


async def test_a_thread_is_started_only_when_all_others_are_busy(threads: Threads) -> None:
    names = {await threads.run(lambda: threading.current_thread().name, ()) for _ in range(20)}
    assert len(names) == 1
    both = threading.Barrier(2)
    await asyncio.wait_for(
        asyncio.gather(*(threads.run(both.wait, (PATIENCE_S,)) for _ in range(2))), PATIENCE_S
    )


async def test_no_more_threads_than_allowed(threads: Threads) -> None:
    go, running, most = threading.Event(), [], []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        go.wait(PATIENCE_S)
        running.pop()

    calls = [threads.run(work, ()) for _ in range(6)]
    await asyncio.sleep(0.05)
    go.set()
    await asyncio.gather(*calls)
    assert max(most) == 2


async def test_what_is_cancelled_before_its_turn_is_not_called(threads: Threads) -> None:
    go, called = threading.Event(), []
    busy = [threads.run(go.wait, (PATIENCE_S,)) for _ in range(2)]
    waiting = threads.run(called.append, (1,))
    waiting.cancel()
    last = threads.run(called.append, (2,))
    go.set()
    await asyncio.gather(*busy, last)
    assert called == [2]


async def test_what_is_cancelled_while_it_runs_goes_on_alone(threads: Threads) -> None:
    begun, go, called = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        go.wait(PATIENCE_S)
        called.append(1)

    running = threads.run(work, ())
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    running.cancel()
    go.set()
    await threads.run(int, ())
    await asyncio.to_thread(threads.close)
    assert called == [1]
    assert running.cancelled()


async def test_closing_waits_for_what_runs_and_cancels_the_rest() -> None:
    threads = Threads(1, "test")
    begun, go = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        go.wait(PATIENCE_S)
        return "whole"

    running, waiting = threads.run(work, ()), threads.run(int, ())
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    closing = asyncio.ensure_future(asyncio.to_thread(threads.close))
    await asyncio.sleep(0.05)
    assert not closing.done()
    late = threads.run(int, ())
    go.set()
    await closing
    assert await running == "whole"
    assert waiting.cancelled()
    assert late.cancelled()


class Large:
    """What a call uses."""


async def test_nothing_of_a_call_is_kept(threads: Threads) -> None:
    def fail(_: Large) -> None:
        raise ValueError

    large = Large()
    trace = weakref.ref(large)
    gc.disable()
    try:
        with suppress(ValueError):
            await threads.run(fail, (large,))
        del large
        await threads.run(int, ())
        assert trace() is None
    finally:
        gc.enable()


def scarce(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    """Let no more than so many threads start."""
    start, left = threading.Thread.start, [allowed]

    def starting(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)


async def test_without_room_for_more_threads_those_that_are_there_do_all(
    threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce(monkeypatch, 1)
    results = await asyncio.wait_for(
        asyncio.gather(*(threads.run(pow, (number, 2)) for number in range(5))), PATIENCE_S
    )
    assert results == [0, 1, 4, 9, 16]
    monkeypatch.undo()
    both = threading.Barrier(2)
    await asyncio.wait_for(
        asyncio.gather(*(threads.run(both.wait, (PATIENCE_S,)) for _ in range(2))), PATIENCE_S
    )


async def test_without_any_thread_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(1, "test")
    scarce(monkeypatch, 0)
    with pytest.raises(RuntimeError, match="new thread"):
        threads.run(int, ())
    monkeypatch.undo()
    assert await asyncio.wait_for(threads.run(int, ()), PATIENCE_S) == 0
    await asyncio.to_thread(threads.close)


async def test_whoever_comes_while_it_is_closed_is_answered() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            threads = Threads(2, "test")
            calls = [threads.run(int, ()) for _ in range(6)]
            closing = asyncio.ensure_future(asyncio.to_thread(threads.close))
            calls += [threads.run(int, ()) for _ in range(6)]
            await asyncio.wait_for(closing, PATIENCE_S)
            ended = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)
            assert {type(each) for each in ended} <= {int, asyncio.CancelledError}
    finally:
        sys.setswitchinterval(interval)
