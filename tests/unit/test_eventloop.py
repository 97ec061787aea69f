"""Coroutines that run up to their first wait before a task is made of them behave like tasks from then on."""

import asyncio
from contextvars import ContextVar

import pytest

from dvidzarr.server.eventloop import in_task, start

PLACE: ContextVar[str] = ContextVar("place", default="outside")


def test_what_never_waits_is_done_at_once() -> None:
    said: list[str] = []

    async def work() -> None:
        said.append("done")

    async def main() -> None:
        assert start(work()) is None
        assert said == ["done"]

    asyncio.run(main())


def test_it_goes_on_after_each_wait() -> None:
    said: list[object] = []

    async def work(first: asyncio.Future[int], second: asyncio.Future[int]) -> None:
        said.append("begun")
        said.append(await first)
        try:
            await second
        except ValueError as error:
            said.append(str(error))
        await asyncio.sleep(0)
        said.append("ended")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        task = start(work(first, second))
        assert task is not None
        assert said == ["begun"]
        loop.call_later(0.01, first.set_result, 7)
        loop.call_later(0.02, second.set_exception, ValueError("no"))
        await task

    asyncio.run(main())
    assert said == ["begun", 7, "no", "ended"]


def test_it_is_cancelled_where_it_waits() -> None:
    said: list[str] = []

    async def work(never: asyncio.Future[None]) -> None:
        try:
            await never
        finally:
            said.append("cleaned up")

    async def main() -> None:
        never = asyncio.get_running_loop().create_future()
        task = start(work(never))
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert never.cancelled()

    asyncio.run(main())
    assert said == ["cleaned up"]


def test_it_is_cancelled_before_its_task_had_a_turn() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            said.append("cleaned up")
            raise

    async def main() -> None:
        task = start(work())
        assert task is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert said == ["cleaned up"]


def test_it_may_survive_a_cancellation() -> None:
    async def work(result: list[str]) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            await asyncio.sleep(0.01)
            result.append("answered")

    async def main() -> None:
        result: list[str] = []
        task = start(work(result))
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        await task
        assert result == ["answered"]

    asyncio.run(main())


def test_what_it_sets_stays_its_own() -> None:
    seen: list[str] = []

    async def work() -> None:
        before = PLACE.set("inside")
        await asyncio.sleep(0)
        seen.append(PLACE.get())
        PLACE.reset(before)
        seen.append(PLACE.get())

    async def main() -> None:
        task = start(work())
        assert PLACE.get() == "outside"
        assert task is not None
        await task
        assert PLACE.get() == "outside"

    asyncio.run(main())
    assert seen == ["inside", "outside"]


def test_timeouts_work_in_a_task() -> None:
    ended: list[str] = []

    async def work() -> None:
        await in_task()
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            ended.append("in time")

    async def main() -> None:
        task = start(work())
        assert task is not None
        await task

    asyncio.run(main())
    assert ended == ["in time"]


def test_an_error_before_the_first_wait_reaches_the_caller() -> None:
    async def work() -> None:
        raise LookupError("here")

    async def main() -> None:
        with pytest.raises(LookupError, match="here"):
            start(work())

    asyncio.run(main())
