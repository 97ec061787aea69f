"""Mutations published to Kafka in DVID's form: against the cluster that librdkafka brings for tests."""

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import dvidzarr
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.settings import Settings
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.kafkamessages import MAX_MESSAGE, Topics
from dvidzarr.repo.sinks import Kafka, sinks
from dvidzarr.repo.subscriptions import subscribe
from tests.integration.server_process import served

kafka = pytest.importorskip("confluent_kafka", reason="needs confluent-kafka")

PATIENCE_S = 120.0
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} \S+")


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    """Yield the address of a cluster inside this process."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"test.mock.num.brokers": 1})
    brokers = admin.list_topics(timeout=PATIENCE_S).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    del admin  # the cluster ends with it


def published(
    servers: str, topic: str, count: int, timeout: float = PATIENCE_S
) -> list[tuple[int, dict[str, Any]]]:
    """Return (key, message) of a topic in order, once there are `count`."""
    consumer = kafka.Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False})
    partitions: list[Any] = []
    deadline = time.monotonic() + timeout
    while not partitions and time.monotonic() < deadline:
        found = consumer.list_topics(timeout=10).topics.get(topic)
        partitions = list(found.partitions) if found else []
        time.sleep(0.05)
    consumer.assign([kafka.TopicPartition(topic, number, kafka.OFFSET_BEGINNING) for number in partitions])
    got: list[tuple[int, dict[str, Any]]] = []
    while len(got) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            got.append((int(message.key()), json.loads(message.value())))
    consumer.close()
    return sorted(got, key=lambda pair: pair[0])  # the cluster spreads them over partitions


def settings_for(servers: str, **more: object) -> Settings:
    about = {"kafka.servers": servers.split(","), **{f"kafka.{key}": value for key, value in more.items()}}
    return Settings.load(env={}, overrides=about)


def test_messages_are_those_of_dvid(servers: str, tmp_path: Path) -> None:
    settings = settings_for(servers, topic_prefix="lab-")
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog:
        catalog.create_repo("old news").append_log(["before"])
        with sinks(catalog, settings):
            repo = catalog.create_repo("test")
            kv = repo.create_instance("keyvalue", "kv")
            repo.create_instance("roi", "region")
            repo.set_note(":master" if len(catalog.repos) == 1 else repo.root, "a note")
            repo.append_version_log(repo.root, ["a line"])
            kv.at(repo.root)["key"] = b"four"
            kv.at(repo.root).update({"x": b"1", "ü": b"22"})
            del kv.at(repo.root)["key"]
            repo.commit(repo.root, "done", ["last line"])
            child = repo.new_version(repo.root, "next")
            side = repo.branch(repo.root, "side", "aside")
            repo.tag(repo.root, "v1")
            repo.commit(child)
            repo.commit(side)
            repo.merge([child, side])
            operations = published(servers, f"lab-dvidrepo-{repo.root}-repo-ops", 10)
            mutations = published(servers, f"lab-dvidrepo-{repo.root}-data-{kv.uuid}", 4)
    told = [message for _, message in operations]
    assert [message["Action"] for message in told] == [
        *("newinstance", "newinstance", "nodenote", "nodelog", "commit"),
        *("newversion", "branch", "tag", "commit", "commit"),
    ]
    root = repo.root
    assert told[0] == {"Action": "newinstance", "UUID": root, "Typename": "keyvalue", "Dataname": "kv"}
    assert told[2] == {"Action": "nodenote", "UUID": root, "Note": "a note"}
    assert told[3]["Log"] == ["a line"]
    assert told[4]["Note"] == "done"
    assert told[4]["Log"] == ["last line"]
    assert told[5] == {"Action": "newversion", "Parent": root, "Child": child.uuid, "Note": "next"}
    expected = {"Action": "branch", "Parent": root, "Child": side.uuid, "Branch": "side", "Note": "aside"}
    assert told[6] == expected
    assert (told[7]["Parent"], told[7]["Child"], told[7]["Branch"], told[7]["Tag"]) == (
        *(root, "v1", "tag-v1", "v1"),
    )
    pairs = [message for _, message in mutations]
    assert [(pair["Action"], pair["Key"], pair.get("Bytes")) for pair in pairs] == [
        ("postkv", "key", 4),
        ("postkv", "x", 1),
        ("postkv", "ü", 2),
        ("delete", "key", None),
    ]
    assert {pair["UUID"] for pair in pairs} == {root}
    assert all(TIME.fullmatch(pair["Timestamp"]) for pair in pairs)
    assert all(abs(key / 1e9 - time.time()) < 3600 for key, _ in mutations)


def test_suffixes_and_odd_roots(servers: str, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        uuid = catalog.create_repo("test", root="röot").create_instance("keyvalue", "kv").uuid
    settings = settings_for(servers, topic_suffixes=[f"{uuid}:mine"])
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog, sinks(catalog, settings):
        catalog.repos[0].instance("kv").at()["a"] = b""
        assert len(published(servers, f"dvidrepo-r-ot-data-{uuid}-mine", 1)) == 1


def test_a_bad_suffix_is_refused(tmp_path: Path) -> None:
    settings = settings_for("127.0.0.1:1", topic_suffixes=["mine"])
    with (
        dvidzarr.open(tmp_path / "store", "w") as catalog,
        pytest.raises(InvalidInputError, match="uuid:suffix"),
        sinks(catalog, settings),
    ):
        pass


def test_a_message_too_long_goes_into_the_blob_store(servers: str, tmp_path: Path) -> None:
    settings = settings_for(servers)
    with dvidzarr.open(tmp_path / "store", "w", settings) as catalog, sinks(catalog, settings):
        repo = catalog.create_repo("long")
        repo.set_note(repo.root, "x" * MAX_MESSAGE)
        repo.set_note(repo.root, "y" * (MAX_MESSAGE - 200))
        (_, first), (_, second) = published(servers, f"dvidrepo-{repo.root}-repo-ops", 2)
        assert first.keys() == {"Action", "DataRef"}
        found = catalog.blobs.get(base64.urlsafe_b64decode(first["DataRef"]))
        assert found is not None
        assert json.loads(b"".join(found[1]))["Note"] == "x" * MAX_MESSAGE
        assert second["Note"] == "y" * (MAX_MESSAGE - 200)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Yield an address at which nobody listens, nor can."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{deaf.getsockname()[1]}"


def test_without_a_cluster_writes_go_on_and_are_published_later(
    servers: str, nowhere: str, tmp_path: Path
) -> None:
    away = settings_for(nowhere)
    with dvidzarr.open(tmp_path / "store", "w", away) as catalog:
        kv = catalog.create_repo("test").create_instance("keyvalue", "kv")
        with sinks(catalog, away):
            for number in range(100):
                kv.at()[str(number)] = b"x"
            time.sleep(0.3)
        kv.at()["last"] = b"x"
    back = settings_for(servers)
    with dvidzarr.open(tmp_path / "store", "w", back) as catalog, sinks(catalog, back):
        repo = catalog.repos[0]
        told = published(servers, f"dvidrepo-{repo.root}-data-{repo.instance('kv').uuid}", 101)
    keys = {pair["Key"] for _, pair in told}
    assert keys == {*map(str, range(100)), "last"}


def small_queue(catalog: Catalog, servers: str) -> Kafka:
    return Kafka(servers, Topics(), catalog.blobs.put, {"queue.buffering.max.messages": 10})


def test_a_full_queue_is_waited_for(servers: str, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo("test")
        kv = repo.create_instance("keyvalue", "kv")
        kv.at().update({str(number): b"" for number in range(300)})
        with subscribe(catalog, "small", small_queue(catalog, servers)) as running:
            assert running.caught_up(PATIENCE_S)
        assert len(published(servers, f"dvidrepo-{repo.root}-data-{kv.uuid}", 300)) == 300


def test_serve_publishes(servers: str, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo("test")
        uuid = repo.create_instance("keyvalue", "kv").uuid
        root = repo.root
    with served(tmp_path / "store", DVIDZARR_KAFKA_SERVERS=servers) as server:
        httpx.post(f"{server.url}/api/node/{root}/kv/key/a", content=b"123").raise_for_status()
        ((_, message),) = published(servers, f"dvidrepo-{root}-data-{uuid}", 1)
    assert (message["Action"], message["Key"], message["Bytes"]) == ("postkv", "a", 3)


def test_requests_are_published(servers: str, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        root = catalog.create_repo("test").root
        catalog.repos[0].create_instance("keyvalue", "kv")
    topic = {"DVIDZARR_KAFKA_TOPIC_ACTIVITY": "what:is done"}
    start = int(time.time())
    with served(tmp_path / "store", DVIDZARR_KAFKA_SERVERS=servers, **topic) as server:
        url = f"{server.url}/api/node/{root}/kv/key/a?u=me&app=mine&admintoken=secret"
        httpx.post(url, content=b"123").raise_for_status()
        assert httpx.get(url).content == b"123"
        assert httpx.get(f"{server.url}/api/node/{root}/kv/key/b").status_code == 404
        sent = [message for _, message in published(servers, "what-is-done", 3)]
    path = f"/api/node/{root}/kv/key/a"
    post, get, missing = sent
    assert start <= post.pop("time") <= time.time()
    assert post.pop("duration") >= 0
    assert post.pop("bytes_out") >= 0
    common = {"user": "me", "client": "mine", "uri": path, "remote_addr": "127.0.0.1", "status": 200}
    assert post == common | {"method": "POST", "bytes_in": 3}
    assert (get["method"], get["bytes_in"]) == ("GET", 0)
    assert get["bytes_out"] >= 3
    assert (missing["status"], missing["user"]) == (404, "")


def test_requests_do_not_wait_for_a_cluster_that_is_away(nowhere: str, tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store"):
        pass
    with served(tmp_path / "store", DVIDZARR_KAFKA_SERVERS=nowhere) as server:
        assert httpx.get(f"{server.url}/api/server/info", timeout=PATIENCE_S).status_code == 200
