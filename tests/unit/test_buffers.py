"""Buffers of large answers: used again, but never while anybody sees a part of one."""

import pytest

from dvidzarr.http.buffers import SMALLEST, BufferPool


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(3 * SMALLEST, keep_s=0)


def address(pool: BufferPool, size: int = SMALLEST) -> int:
    return int(pool.take(size).ctypes.data)


def test_a_buffer_that_nobody_uses_is_given_again(pool: BufferPool) -> None:
    first = address(pool)
    assert address(pool) == first
    assert pool.held == SMALLEST


def test_a_part_that_is_still_seen_keeps_its_buffer_away_from_others(pool: BufferPool) -> None:
    buffer = pool.take(SMALLEST)
    first = int(buffer.ctypes.data)
    part = memoryview(buffer.view("<u8").reshape(-1, 2))[3:5]
    del buffer
    assert address(pool) != first
    del part
    assert first in {address(pool), int(pool.take(SMALLEST).ctypes.data)}


def test_no_more_than_the_limit_is_kept(pool: BufferPool) -> None:
    taken = [pool.take(SMALLEST) for _ in range(5)]
    assert len({int(each.ctypes.data) for each in taken}) == 5
    assert pool.held == 3 * SMALLEST


def test_much_smaller_requests_do_not_take_a_large_buffer(pool: BufferPool) -> None:
    large = address(pool, 3 * SMALLEST)
    assert address(pool, SMALLEST) != large
    assert pool.take(1000).nbytes == 1000
    assert pool.held == 3 * SMALLEST


def test_what_is_unused_is_let_go(pool: BufferPool) -> None:
    kept = pool.take(SMALLEST)
    address(pool)
    pool.purge()
    assert pool.held == SMALLEST
    del kept
    pool.purge()  # it was used until a moment ago
    pool.purge()
    assert pool.held == 0
