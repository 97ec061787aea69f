"""Writes of several requests that share their syncs: each is a request of its own, in order, whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

import dvidzarr
from dvidzarr.compute.write import BoxWrite
from dvidzarr.core.errors import InvalidInputError, VersionLockedError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.server.app import running

EDGE = 32
CHUNK = (EDGE, EDGE, EDGE)


def filled(value: int, shape: tuple[int, ...] = CHUNK) -> np.ndarray:
    return np.full(shape, value, np.uint8)


def at(place: int) -> Box:
    return Box((0, 0, EDGE * place), (EDGE, EDGE, EDGE * (place + 1)))


@pytest.mark.parametrize("before", [False, True])
def test_of_writes_to_one_chunk_the_last_wins(catalog: Catalog, tmp_path: Path, *, before: bool) -> None:
    repo = catalog.create_repo("together")
    view = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"}).at(":master")
    if before:
        view.write(Box((0, 0, 0), (EDGE, EDGE, 3 * EDGE)), filled(9, (EDGE, EDGE, 3 * EDGE)))
    told = view.instance.dataset.log.tail.sequence
    writes = [(0, 1), (1, 2), (0, 3), (2, 4), (1, 5), (0, 6)]
    view.write_all([BoxWrite(at(place), filled(value), Author(f"user {value}")) for place, value in writes])
    assert [int(view.read(at(place)).max()) for place in range(3)] == [6, 5, 4]
    assert view.instance.dataset.log.tail.sequence == told + len(writes)
    users = [entry.header["u"] for entry in view.instance.dataset.log.records(after=told)]
    assert users == [f"user {value}" for _, value in writes]
    repo.commit(view.version)
    catalog.close()
    with dvidzarr.open(tmp_path / "store", "r") as again:
        seen = again.repos[0].instance("gray").at(view.version.uuid)
        assert [int(seen.read(at(place)).min()) for place in range(3)] == [6, 5, 4]


def test_only_whole_chunks_are_written_together(catalog: Catalog) -> None:
    repo = catalog.create_repo("parts")
    view = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"}).at(":master")
    part = BoxWrite(Box((0, 0, 0), (EDGE, EDGE, 5)), filled(1, (EDGE, EDGE, 5)))
    with pytest.raises(InvalidInputError, match="whole chunks"):
        view.write_all([part, BoxWrite(at(1), filled(2))])
    assert not view.read(Box((0, 0, 0), (EDGE, EDGE, 2 * EDGE))).any()
    view.write_all([part])
    assert view.read(at(0)).sum() == EDGE * EDGE * 5


def test_what_does_not_fit_keeps_all_of_them_out(catalog: Catalog) -> None:
    repo = catalog.create_repo("misfit")
    view = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"}).at(":master")
    with pytest.raises(InvalidInputError, match="do not fit"):
        view.write_all([BoxWrite(at(0), filled(1)), BoxWrite(at(1), filled(2, (1, 1, 1)))])
    assert not view.read(at(0)).any()
    repo.commit(view.version)
    with pytest.raises(VersionLockedError):
        view.write_all([BoxWrite(at(0), filled(1)), BoxWrite(at(1), filled(2))])


@pytest.mark.parametrize("kind", ["uint8blk", "labelblk"])
def test_many_clients_write_at_the_same_time(catalog: Catalog, kind: str) -> None:
    """Each has a chunk of its own and one that all want; it sees its own last write at once, and all end equal."""
    repo = catalog.create_repo("many")
    repo.create_instance(kind, "volume", {"BlockSize": "32,32,32"})
    dtype = np.dtype("<u8") if kind == "labelblk" else np.dtype("u1")
    node = f"/api/node/{repo.root}/volume/raw/0_1_2/{EDGE}_{EDGE}_{EDGE}"
    clients, turns = 8, 12

    def client(number: int, url: str) -> set[int]:
        parts = urlsplit(url)
        link = HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        own, shared = f"{node}/{EDGE * (number + 1)}_0_0", f"{node}/0_0_0"
        written = set()
        for turn in range(turns):
            value = 1 + number * turns + turn
            for place in (own, shared):
                link.request("POST", f"{place}?u=user{number}", np.full(CHUNK, value, dtype).tobytes())
                answer = link.getresponse()
                assert (answer.status, answer.read()) == (200, b"")
            written.add(value)
            link.request("GET", own)
            assert set(np.frombuffer(link.getresponse().read(), dtype).tolist()) == {value}
            link.request("GET", shared)
            assert len(set(np.frombuffer(link.getresponse().read(), dtype).tolist())) == 1
        link.close()
        return written

    with running(catalog, Settings()) as url, ThreadPoolExecutor(clients) as pool:
        written = set().union(*pool.map(client, range(clients), [url] * clients))
    view = repo.instance("volume").at(":master")
    (last,) = np.unique(view.read(at(0))).tolist()
    assert last in written
    records = [entry.header for entry in view.instance.dataset.log.records(after=0) if "grow" in entry.header]
    assert len(records) == 2 * clients * turns
    assert len({record["m"] for record in records}) == len(records)
    assert {record["u"] for record in records} == {f"user{number}" for number in range(clients)}
