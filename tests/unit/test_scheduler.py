"""Many chunks on threads: results in order, and nothing goes on after a failure."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

import dvidzarr
from dvidzarr.compute import schedule
from dvidzarr.compute.schedule import Scheduler
from dvidzarr.core.settings import Settings
from dvidzarr.server.runtime import Runtime


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler(2)
    yield made
    made.close()


def ways_of(scheduler: Scheduler) -> dict[str, Callable[[Callable[[int], object], int], object]]:
    return {
        "read small": partial(scheduler.read, chunk_bytes=1 << 10),
        "read medium": partial(scheduler.read, chunk_bytes=1 << 18),
        "read large": partial(scheduler.read, chunk_bytes=1 << 20),
        "write": scheduler.write,
        "encode": scheduler.encode,
    }


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Note what is given to threads beside the calling one."""
    given: list[object] = []
    submit = ThreadPoolExecutor.submit
    monkeypatch.setattr(
        ThreadPoolExecutor, "submit", lambda pool, work: given.append(work) or submit(pool, work)
    )
    return given


@pytest.mark.parametrize("way", ["write", "encode"])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_results_come_in_order(scheduler: Scheduler, way: str, count: int) -> None:
    run_all = getattr(scheduler, way)
    assert run_all(lambda index: index * 3, count) == [index * 3 for index in range(count)]


@pytest.mark.parametrize(
    ("way", "count", "expected"),
    [
        ("read small", 100, 1),
        ("read medium", 32, 1),
        ("read medium", 33, 2),
        ("read medium", 1000, 4),
        ("read large", 0, 1),
        ("read large", 2, 1),
        ("read large", 3, 2),
        ("read large", 100, 8),
        ("write", 5, 5),
        ("write", 100, 16),
        ("encode", 7, 1),
        ("encode", 8, 2),
        ("encode", 100, 4),
    ],
)
def test_how_many_threads_work(submitted: list[object], way: str, count: int, expected: int) -> None:
    with closing(Scheduler(8)) as scheduler:
        for _ in range(2):  # the first has ended when the second one begins
            submitted.clear()
            ways_of(scheduler)[way](lambda index: index, count)
            assert 1 + len(submitted) == expected


@pytest.mark.parametrize(("way", "expected"), [("read medium", 1), ("read large", 4)])
@pytest.mark.parametrize("busy", ["with a server", "another reads"])
def test_who_is_not_alone_reads_medium_chunks_with_one_thread(
    submitted: list[object], way: str, expected: int, busy: str
) -> None:
    with closing(Scheduler(4)) as scheduler:
        read = ways_of(scheduler)[way]
        if busy == "with a server":
            scheduler.busy = True
            read(lambda _: None, 100)
        else:
            scheduler.read(lambda _: read(lambda _: None, 100), 1, 1)
    assert 1 + len(submitted) == expected


async def test_a_server_needs_the_processors_beside_readers(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        assert not catalog.scheduler.busy
        runtime = Runtime(catalog, Settings())
        assert catalog.scheduler.busy
        await asyncio.to_thread(runtime.close)
        assert not catalog.scheduler.busy


def test_many_threads_write(scheduler: Scheduler) -> None:
    seen: set[int] = set()
    ready = threading.Barrier(4)

    def work(_: int) -> None:
        seen.add(threading.get_ident())
        ready.wait(120)

    scheduler.write(work, 4)
    assert len(seen) == 4


@pytest.mark.parametrize("way", ["read small", "read medium", "read large", "write", "encode"])
def test_a_failure_ends_it_and_nothing_runs_on(scheduler: Scheduler, way: str) -> None:
    begun, running = [], set()

    def work(index: int) -> None:
        begun.append(index)
        running.add(index)
        try:
            time.sleep(0.001)
            if index == 5:
                raise ValueError(f"chunk {index}")
        finally:
            running.discard(index)

    with pytest.raises(ValueError, match="chunk 5"):
        ways_of(scheduler)[way](work, 5000)
    assert not running
    assert len(begun) < 2500


def test_a_request_gets_on_while_others_have_all_threads(scheduler: Scheduler) -> None:
    go, full = threading.Event(), threading.Barrier(16 + 2 + 1)

    def slow(_: int) -> None:
        full.wait(120)
        go.wait(120)

    others = [threading.Thread(target=scheduler.write, args=(slow, count)) for count in (16, 2)]
    for other in others:  # two callers and, for them, the sixteen threads there are
        other.start()
    try:
        full.wait(120)
        assert scheduler.write(lambda index: index, 50) == list(range(50))
    finally:
        go.set()
        for other in others:
            other.join()


def test_an_interrupt_is_raised_when_nothing_runs_any_more(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the threads work on, such as an open file, may be gone as soon as the call has ended."""
    running: set[int] = set()
    main, begun = threading.get_ident(), threading.Event()

    def work(index: int) -> None:
        if threading.get_ident() == main:
            assert begun.wait(120)  # another thread works too
            return
        running.add(index)
        begun.set()
        time.sleep(0.05)
        running.discard(index)

    def interrupted(futures: Iterable[Future[None]]) -> None:
        if interrupts:
            interrupts.pop()
            raise KeyboardInterrupt
        wait(futures)

    interrupts = [1, 2]
    monkeypatch.setattr(schedule, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scheduler.write(work, 1000)
    assert not running
    assert not interrupts


def test_an_interrupt_while_threads_are_put_to_work(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They worked on when the call had ended."""
    begun, go, ended = threading.Event(), threading.Event(), list[int]()
    submit = ThreadPoolExecutor.submit

    def work(index: int) -> None:
        begun.set()
        assert go.wait(120)
        ended.append(index)

    def submit_and_interrupt(pool: ThreadPoolExecutor, task: Callable[[], None]) -> Future[None]:
        if begun.is_set():
            raise KeyboardInterrupt
        future = submit(pool, task)
        assert begun.wait(120)
        return future

    def let_go(futures: Iterable[Future[None]]) -> None:
        go.set()
        wait(futures)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", submit_and_interrupt)
    monkeypatch.setattr(schedule, "wait", let_go)
    with pytest.raises(KeyboardInterrupt):
        scheduler.write(work, 1000)
    seen = list(ended)
    go.set()
    assert seen == [0]
