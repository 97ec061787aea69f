"""Chunks kept in memory: only those asked for again and again, within the limit, the least recently used first to go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.storage.cache import CacheKey, ChunkCache

SIZE = 1 << 10
TIMES, DEAR_TIMES = 5, 2


def key(number: int, name: str = "") -> CacheKey:
    return 1, number, 1, name


def chunk(size: int = SIZE) -> np.ndarray:
    return np.zeros(size, np.uint8)


def ask(cache: ChunkCache, number: int, *, dear: bool = False, size: int = SIZE) -> bool:
    """Look a chunk up as a reader does, who offers it after having decoded it; tell whether it was there."""
    if cache.get(key(number)) is not None:
        return True
    cache.put(key(number), chunk(size), dear=dear)
    return False


@pytest.mark.parametrize(("dear", "times"), [(False, TIMES), (True, DEAR_TIMES)])
def test_a_chunk_is_kept_when_it_was_asked_for_often(dear: bool, times: int) -> None:
    cache = ChunkCache(100 * SIZE)
    assert [ask(cache, 1, dear=dear) for _ in range(times + 2)] == [False] * times + [True] * 2


def test_what_is_kept_cannot_be_changed() -> None:
    cache, mine = ChunkCache(100 * SIZE), chunk()
    for _ in range(TIMES):
        cache.put(key(1), mine)
    kept = cache.get(key(1))
    assert kept is mine
    with pytest.raises(ValueError, match="read-only"):
        mine[0] = 1


def test_encodings_of_one_chunk_are_kept_apart() -> None:
    cache = ChunkCache(100 * SIZE)
    for _ in range(DEAR_TIMES):
        cache.put(key(1, "jpeg"), chunk(), dear=True)
    assert cache.get(key(1, "jpeg")) is not None
    assert cache.get(key(1)) is None


def test_what_takes_a_large_part_of_the_room_is_never_kept() -> None:
    cache = ChunkCache(4 * SIZE)
    assert not any(ask(cache, 1, size=SIZE + 1) for _ in range(3 * TIMES))
    assert [ask(cache, 2, size=SIZE) for _ in range(TIMES + 1)][-1]


def test_forgetting_forgets_how_often_it_was_asked_for_too() -> None:
    cache = ChunkCache(100 * SIZE)
    for number, times in ((1, TIMES - 1), (2, TIMES)):
        for _ in range(times):
            ask(cache, number)
    cache.clear()
    assert len(cache) == 0
    for number in (1, 2):
        assert not any(ask(cache, number) for _ in range(TIMES))
        assert ask(cache, number)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, TIMES)), min_size=20, max_size=60))
def test_the_least_recently_used_goes_first(asked: list[tuple[int, int]]) -> None:
    room = 4
    cache = ChunkCache(room * SIZE)
    offers, kept = dict.fromkeys(range(7), 0), list[int]()
    for number in (number for number, times in asked for _ in range(times)):
        assert ask(cache, number) == (number in kept)
        if number in kept:
            kept.remove(number)
        else:
            offers[number] += 1
            if offers[number] < TIMES:
                continue
            offers[number] = 0
        kept = [*kept, number][-room:]
        assert len(cache) == len(kept)


def test_what_was_asked_for_long_ago_is_forgotten() -> None:
    cache = ChunkCache(4 * SIZE)
    for _ in range(TIMES - 1):
        ask(cache, -1)
    for number in range(1 << 13):
        ask(cache, number)
    assert not ask(cache, -1)
    assert not ask(cache, -1)
