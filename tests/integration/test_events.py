"""Subscribers: every acknowledged write arrives at least once, in order of its log, whatever ends in between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import BusyError, InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.core.settings import Settings
from dvidzarr.repo.events import (
    ChunksWritten,
    Event,
    ExtentsChanged,
    InstanceCreated,
    InstanceDeleted,
    InstanceRenamed,
    KeysDeleted,
    KeysPut,
    LogAppended,
    NoteChanged,
    RepoCreated,
    RepoDeleted,
    RepoDescribed,
    SettingsChanged,
    VersionAdded,
    VersionCommitted,
)
from dvidzarr.repo.sinks import JsonLines, sinks
from dvidzarr.repo.subscriptions import subscribe
from tests.integration.cli_process import CHECKOUT
from tests.integration.server_process import served

PATIENCE_S = 120.0


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def put(events: list[Event]) -> list[bytes]:
    return [key for event in events if isinstance(event, KeysPut) for key, _ in event.keys]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with a key-value instance `kv`."""
    with dvidzarr.open(tmp_path / "store") as catalog:
        catalog.create_repo("test").create_instance("keyvalue", "kv")
    return tmp_path / "store"


def test_everything_that_happens_is_told(tmp_path: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(tmp_path / "store") as catalog, subscribe(catalog, "all", events.append) as running:
        repo = catalog.create_repo("test", "about")
        kv = repo.create_instance("keyvalue", "kv")
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"})
        assert running.caught_up(PATIENCE_S)
        kv.at().update({"a": b"1", "b": b"22"})
        del kv.at()["a"]
        gray.at()[0:32, 0:32, 32:96] = np.ones((32, 32, 64), np.uint8)
        kv.set_tags({"color": "red"})
        repo.describe(alias="other")
        repo.append_log(["a line"])
        repo.set_note(":master", "a note")
        assert running.caught_up(PATIENCE_S)
        repo.commit(":master", "done")
        child = repo.branch(repo.dag.root, "side")
        kv.at(child)["c"] = b"3"
        assert running.caught_up(PATIENCE_S)
        repo.rename_instance("kv", "pairs")
        repo.delete_instance("pairs")
        assert running.caught_up(PATIENCE_S)
        root = repo.root
        catalog.delete_repo(root)
        assert running.caught_up(PATIENCE_S)
    assert {event.repo for event in events} == {root}
    from_repo = names([event for event in events if event.log == repo.id])
    kinds: list[type[Event]] = [RepoCreated, VersionAdded, InstanceCreated, InstanceCreated, RepoDescribed]
    kinds += [LogAppended, NoteChanged, VersionCommitted, VersionAdded, InstanceRenamed, InstanceDeleted]
    kinds += [InstanceDeleted, RepoDeleted]
    assert from_repo == [kind.__name__ for kind in kinds]
    of_kv = [event for event in events if event.log == kv.id]
    assert names(of_kv) == ["KeysPut", "KeysDeleted", "SettingsChanged", "KeysPut"]
    assert isinstance(of_kv[0], KeysPut)
    assert of_kv[0].keys == ((b"a", 1), (b"b", 2))
    assert (of_kv[0].version, of_kv[0].name, of_kv[0].type_name) == (root, "kv", "keyvalue")
    assert isinstance(of_kv[1], KeysDeleted)
    assert of_kv[1].keys == (b"a",)
    assert isinstance(of_kv[2], SettingsChanged)
    assert of_kv[2].settings["tags"] == {"color": "red"}
    assert isinstance(of_kv[3], KeysPut)
    assert of_kv[3].version == child.uuid
    chunks = next(event for event in events if isinstance(event, ChunksWritten))
    assert chunks.written.tolist() == [[0, 0, 1], [0, 0, 2]]
    assert len(chunks.deleted) == 0
    added = [event for event in events if isinstance(event, VersionAdded)][1]
    assert (added.parents, added.branch, added.parent_branch) == ((root,), "side", "")


def test_a_version_is_told_before_what_is_written_to_it(store: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(store) as catalog, subscribe(catalog, "all", events.append) as running:
        repo = catalog.repos[0]
        version = repo.dag.root
        for number in range(60):
            repo.commit(version)
            version = repo.new_version(version)
            repo.instance("kv").at(version)[str(number)] = b""
        assert running.caught_up(PATIENCE_S)
    seen: set[str] = set()
    for event in events:
        if isinstance(event, VersionAdded):
            seen.add(event.version)
        elif isinstance(event, KeysPut):
            assert event.version in seen
    assert put(events) == [b"%d" % number for number in range(60)]


def test_it_goes_on_where_it_was(store: Path) -> None:
    events: list[Event] = []
    for part in range(3):
        with dvidzarr.open(store) as catalog:
            view = catalog.repos[0].instance("kv").at()
            view[f"before {part}"] = b""
            with subscribe(catalog, "again", events.append, (KeysPut,)) as running:
                view[f"during {part}"] = b""
                assert running.caught_up(PATIENCE_S)
    assert put(events) == [f"{when} {part}".encode() for part in range(3) for when in ("before", "during")]


def test_without_history_only_what_is_new_comes(store: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(store) as catalog:
        view = catalog.repos[0].instance("kv").at()
        view["old"] = b""
        for key in ("one", "two"):
            with subscribe(catalog, "new", events.append, history=False) as running:
                view[key] = b""
                assert running.caught_up(PATIENCE_S)
            view[f"{key} between"] = b""
        with subscribe(catalog, "new", events.append, history=False) as running:
            assert running.caught_up(PATIENCE_S)
    assert put(events) == [b"one", b"one between", b"two", b"two between"]
    assert names(events) == ["KeysPut"] * 4


def test_a_callback_that_fails_gets_it_again(store: Path) -> None:
    events: list[Event] = []
    failures = iter([True, False, False, True, True] + [False] * 1000)

    def take(event: Event) -> None:
        if next(failures):
            raise ValueError("not now")
        events.append(event)

    with dvidzarr.open(store) as catalog:
        view = catalog.repos[0].instance("kv").at()
        for number in range(10):
            view[str(number)] = b""
        with subscribe(catalog, "failing", take, (KeysPut,)) as running:
            assert running.caught_up(PATIENCE_S)
    keys = put(events)
    assert list(dict.fromkeys(keys)) == [b"%d" % number for number in range(10)]
    assert len(keys) < 30


def test_a_write_waits_for_nobody(store: Path) -> None:
    release, waited = threading.Event(), []

    def take(_: Event) -> None:
        waited.append(release.wait(PATIENCE_S))

    with dvidzarr.open(store) as catalog:
        running = subscribe(catalog, "stuck", take)
        view = catalog.repos[0].instance("kv").at()
        for number in range(20):
            view[str(number)] = b""
        catalog.repos[0].commit(":master")
        assert not running.caught_up(0.2)
        release.set()
        running.close()
    assert all(waited), "the writes waited until the subscriber gave up"


def test_a_follower_is_told_too(store: Path) -> None:
    events: list[Event] = []
    with (
        dvidzarr.open(store, "r") as follower,
        subscribe(follower, "far", events.append, (KeysPut, VersionAdded)) as running,
        dvidzarr.open(store) as catalog,
    ):
        view = catalog.repos[0].instance("kv").at()
        for number in range(50):
            view[str(number)] = b""
        catalog.create_repo("second").create_instance("keyvalue", "more").at()["x"] = b""
        assert running.caught_up(PATIENCE_S)
    keys = put(events)
    assert [key for key in keys if key != b"x"] == [b"%d" % number for number in range(50)]
    assert keys.count(b"x") == 1  # of another log: at any place


def test_only_one_repo(store: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(store) as catalog:
        second = catalog.create_repo("second")
        with subscribe(second, "second", events.append) as running:
            catalog.repo(second.root).append_log(["x"])
            assert running.caught_up(PATIENCE_S)
    assert {event.repo for event in events} == {second.root}


def test_what_was_deleted_meanwhile_is_told_to_its_end(store: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(store) as catalog:
        repo = catalog.repos[0]
        with subscribe(catalog, "late", events.append, (KeysPut, InstanceDeleted, RepoDeleted)) as running:
            assert running.caught_up(PATIENCE_S)
        repo.instance("kv").at()["last words"] = b""
        repo.delete_instance("kv")
        repo.create_instance("keyvalue", "kv").at()["another"] = b""
        catalog.delete_repo(repo.root)
        with subscribe(catalog, "late", events.append, (KeysPut, InstanceDeleted, RepoDeleted)) as running:
            assert running.caught_up(PATIENCE_S)
    assert names(events) == ["KeysPut", "InstanceDeleted", "KeysPut", "InstanceDeleted", "RepoDeleted"]


def test_a_cursor_that_does_not_match_is_set_back(store: Path) -> None:
    events: list[Event] = []
    with dvidzarr.open(store) as catalog:
        catalog.repos[0].instance("kv").at()["a"] = b""
        with subscribe(catalog, "moved", events.append) as running:
            assert running.caught_up(PATIENCE_S)
        before = names(events)
        (cursors,) = (store / "subscribers" / "moved").glob("*.json")
        places = json.loads(cursors.read_bytes())
        for place in places.values():
            place["checksum"] ^= 1
        cursors.write_text(json.dumps(places))
        with subscribe(catalog, "moved", events.append) as running:
            assert running.caught_up(PATIENCE_S)
    assert names(events) == before * 2


def test_one_at_a_time_and_by_a_name(store: Path) -> None:
    with dvidzarr.open(store) as catalog:
        with subscribe(catalog, "once", print), pytest.raises(BusyError, match="'once' is running"):
            subscribe(catalog, "once", print)
        for name in ("", "../x", "a/b", ".", "x" * 65):
            with pytest.raises(InvalidInputError, match="no name of a subscriber"):
                subscribe(catalog, name, print)


def test_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    for torn, kept in ((b'{"a":1}\n{"b"', b'{"a":1}\n'), (b'{"b"', b""), (b"", b""), (b"x\n", b"x\n")):
        file.write_bytes(torn)
        JsonLines(file).close()
        assert file.read_bytes() == kept
    file.write_bytes(b"first\n" + b"x" * 200_000)
    JsonLines(file).close()
    assert file.read_bytes() == b"first\n"


def test_lines_say_what_happened(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    settings = Settings.load(env={}, overrides={"events.json_lines": str(file)})
    with dvidzarr.open(store, "w", settings) as catalog, sinks(catalog, settings):
        repo = catalog.repos[0]
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "32,32,32"})
        gray.at()[0:32, 0:32, 0:32] = np.ones((32, 32, 32), np.uint8)
        repo.instance("kv").at()["é\udcff"] = b"12"
        deadline = time.monotonic() + PATIENCE_S
        while file.read_bytes().count(b"\n") < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kinds = {line["event"]: line for line in lines}
    assert {"RepoCreated", "VersionAdded", "InstanceCreated", "ChunksWritten", "KeysPut"} <= kinds.keys()
    assert kinds["KeysPut"]["keys"] == [["é\\xff", 2]]
    assert kinds["ChunksWritten"]["written"] == [[0, 0, 0]]


def lines_of(file: Path) -> list[dict[str, object]]:
    text = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


_WRITES_BEFORE_A_KILL = 20


def crash_and_compare(store: Path, cycles: int) -> None:
    file = store.parent / "events.jsonl"
    acknowledged: list[str] = []
    for cycle in range(cycles):
        with (
            served(store, DVIDZARR_EVENTS_JSON_LINES=str(file)) as server,
            httpx.Client(timeout=PATIENCE_S) as client,
        ):
            end = threading.Timer(0.2 + cycle % 3 * 0.2, server.process.send_signal, [signal.SIGKILL])
            for number in range(100_000):
                if number == _WRITES_BEFORE_A_KILL:
                    end.start()
                key = f"{cycle}-{number}"
                try:
                    client.post(
                        f"{server.url}/api/node/:master/kv/key/{key}", content=b"x"
                    ).raise_for_status()
                except httpx.TransportError:
                    break
                acknowledged.append(key)
    with (
        dvidzarr.open(store) as catalog,
        JsonLines(file) as sink,
        subscribe(catalog, "json-lines", sink) as running,
    ):
        assert running.caught_up(PATIENCE_S)
    told = [key for line in lines_of(file) if line["event"] == "KeysPut" for key, _ in line["keys"]]  # type: ignore[attr-defined]
    first = list(dict.fromkeys(told))
    assert len(acknowledged) >= _WRITES_BEFORE_A_KILL * cycles
    assert [key for key in first if key in set(acknowledged)] == acknowledged
    assert len(first) <= len(acknowledged) + cycles


def test_nothing_is_lost_when_the_server_is_killed(store: Path) -> None:
    crash_and_compare(store, 2)


@pytest.mark.kill9
def test_nothing_is_lost_when_the_server_is_killed_again_and_again(store: Path) -> None:
    crash_and_compare(store, 15)


FOLLOWER = """
import sys, dvidzarr
from dvidzarr.repo.sinks import JsonLines
from dvidzarr.repo.subscriptions import subscribe
catalog = dvidzarr.open(sys.argv[1], "r")
subscription = subscribe(catalog, "follower", JsonLines(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_nothing_is_lost_when_a_follower_is_killed(store: Path) -> None:
    file = store.parent / "followed.jsonl"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = (sys.executable, "-c", FOLLOWER, str(store), str(file))
    count = 0
    with dvidzarr.open(store) as catalog:
        view = catalog.repos[0].instance("kv").at()
        for _ in range(3):
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            ) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == b"ready\n"
                end = time.monotonic() + 0.4
                while time.monotonic() < end:
                    view[f"{count:06}"] = b"x"
                    count += 1
                process.kill()
        with JsonLines(file) as sink, subscribe(catalog, "follower", sink) as running:
            assert running.caught_up(PATIENCE_S)
    told = [key for line in lines_of(file) if line["event"] == "KeysPut" for key, _ in line["keys"]]  # type: ignore[attr-defined]
    assert list(dict.fromkeys(told)) == [f"{number:06}" for number in range(count)]


def test_extents_are_told(store: Path) -> None:
    events: list[Event] = []
    with (
        dvidzarr.open(store) as catalog,
        subscribe(catalog, "e", events.append, (ExtentsChanged,)) as running,
    ):
        gray = catalog.repos[0].create_instance("uint8blk", "gray")
        gray.at().set_extents(Box((0, 1, 2), (10, 11, 12)))
        assert running.caught_up(PATIENCE_S)
    assert [(event.start, event.stop) for event in events if isinstance(event, ExtentsChanged)] == [
        ((0, 1, 2), (10, 11, 12))
    ]
