"""Texts that are no UTF-8, and JSON that only Go takes: in keys, paths and bodies, over HTTP."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.geometry import Box
from dvidzarr.core.ids import Author
from dvidzarr.core.settings import Settings
from dvidzarr.datatypes.keyvalue import formats
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.events import Event, KeysPut
from dvidzarr.repo.kafkamessages import Topics, messages
from dvidzarr.repo.sinks import JsonLines
from dvidzarr.repo.subscriptions import subscribe
from dvidzarr.server.accesslog import Entry
from dvidzarr.server.activitytopic import message
from dvidzarr.server.app import running

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path_factory.mktemp("foreign") / "store") as catalog:
        yield catalog


@pytest.fixture(scope="module")
def http(catalog: Catalog) -> Iterator[httpx.Client]:
    with running(catalog, Settings()) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as http:
        yield http


@pytest.fixture
def root(http: httpx.Client) -> str:
    root = str(http.post("/api/repos", json={}).json()["root"])
    body = {"typename": "keyvalue", "dataname": "kv"}
    http.post(f"/api/repo/{root}/instance", json=body).raise_for_status()
    return root


def put(http: httpx.Client, root: str, key: str, value: bytes) -> None:
    http.post(f"/api/node/{root}/kv/key/{key}", content=value).raise_for_status()


def test_a_key_that_is_no_utf8_is_in_the_mutations(http: httpx.Client, root: str) -> None:
    put(http, root, "%ff", b"x")
    put(http, root, "a%e4%b8", b"yy")
    http.delete(f"/api/node/{root}/kv/key/%ff").raise_for_status()
    for place in ("mutations", f"mutations-range/{root}/{root}"):
        answer = http.get(f"/api/node/{root}/kv/{place}")
        assert answer.status_code == 200
        assert [(each["Action"], each["Key"]) for each in answer.json()] == [
            ("postkv", "\ufffd"),
            ("postkv", "a\ufffd\ufffd"),
            ("delete", "\ufffd"),
        ]
    assert http.get(f"/api/node/{root}/kv/keys").json() == ["a\ufffd\ufffd"]


def test_a_key_that_is_no_utf8_is_an_event(catalog: Catalog, root: str, tmp_path: Path) -> None:
    events: list[Event] = []
    view = catalog.repo(root).instance("kv").at()
    with (
        JsonLines(tmp_path / "events") as lines,
        subscribe(catalog, "lines", lines.take, (KeysPut,), history=False) as to_file,
        subscribe(catalog, "list", events.append, (KeysPut,), history=False) as to_list,
    ):
        view["\udcff"] = b"x"
        assert to_file.caught_up(PATIENCE_S)
        assert to_list.caught_up(PATIENCE_S)
    (event,) = events
    assert isinstance(event, KeysPut)
    assert event.keys == ((b"\xff", 1),)
    assert json.loads((tmp_path / "events").read_bytes())["keys"] == [["\\xff", 1]]
    (published,) = messages(event, Topics(), lambda _: "")
    assert json.loads(published.value)["Key"] == "\ufffd"


def test_texts_that_are_no_unicode_are_refused_and_spoil_no_log(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as store:
        repo = store.create_repo()
        kv = repo.create_instance("keyvalue", "kv")
        refused: list[Callable[[], object]] = [
            lambda: repo.set_note(repo.root, "\udcff"),
            lambda: repo.append_log(["\ud800"]),
            lambda: repo.create_instance("keyvalue", "\udcff"),
            lambda: repo.create_instance("keyvalue", "x", {"Tags": "a=\udcff"}),
            lambda: kv.set_tags({"a": "\udcff"}),
            lambda: repo.commit(repo.root, "\udcff"),
            lambda: store.create_repo("\udcff"),
        ]
        for each in refused:
            with pytest.raises(InvalidInputError, match="surrogates"):
                each()
        assert len(list((tmp_path / "store" / "repos").iterdir())) == 1
        repo.set_note(repo.root, "fine")
        kv.set_tags({"a": "b"})
    with dvidzarr.open(tmp_path / "store") as store:
        (repo,) = store.repos
        assert (repo.dag.root.note, repo.dag.root.locked, list(repo.instances)) == ("fine", False, ["kv"])
        assert repo.instance("kv").tags == {"a": "b"}


def test_what_is_refused_leaves_no_chunks(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as store:
        gray = store.create_repo().create_instance("uint8blk", "gray").at()
        with pytest.raises(InvalidInputError, match="surrogates"):
            gray.write(Box((0, 0, 0), (64, 64, 64)), np.ones((64, 64, 64), np.uint8), author=Author("\udcff"))
        assert not list(tmp_path.rglob("c/*/*/*"))
        gray.write(Box((0, 0, 0), (64, 64, 64)), np.ones((64, 64, 64), np.uint8))
        assert list(tmp_path.rglob("c/*/*/*"))


def test_a_path_that_is_no_utf8_is_in_the_activity_topic() -> None:
    entry = Entry(1.0, "id", "peer", "GET", "/api/\udcff", 404, 0.1, 0, 0, "", "")
    assert json.loads(message(entry))["uri"] == "/api/\ufffd"


def test_errors_show_paths_that_are_no_utf8(http: httpx.Client, root: str) -> None:
    put(http, root, "bad", b"nope")
    answer = http.get(f"/api/node/{root}/kv/keyrangevalues/a/%FF?json=true&check=true")
    assert answer.status_code == 400
    assert answer.json() == {"error": f'bad JSON for key "bad" (/api/node/{root}/kv/keyrangevalues/a/\ufffd)'}


@pytest.mark.parametrize(
    "value",
    [
        b"1e999",
        b"1" * 400,
        b'"\xff"',
        b'"\\ud800"',
        b"[" * 800 + b"1e999" + b"]" * 800,
        b'{"a":[1e999,"\xff"]}',
    ],
)
def test_values_that_go_takes_for_json(http: httpx.Client, root: str, value: bytes) -> None:
    put(http, root, "a", value)
    for answer in (
        http.get(f"/api/node/{root}/kv/keyrangevalues/a/b?json=true&check=true"),
        http.request("GET", f"/api/node/{root}/kv/keyvalues?json=true&check=true", content=b'["a"]'),
    ):
        assert (answer.status_code, answer.content) == (200, b'{"a":' + value + b"}")
    put(http, root, "a", b"x" + value)
    asked = json.dumps([{"key": "a", "byte_start": 1, "byte_end": len(value)}])
    answer = http.request("GET", f"/api/node/{root}/kv/keyvalues?json=true", content=asked)
    assert (answer.status_code, answer.content) == (200, b'{"a":' + value + b"}")


def test_a_slice_that_is_the_whole_value_must_be_json(http: httpx.Client, root: str) -> None:
    put(http, root, "bad", b"nope")
    put(http, root, "good", b"true")
    place = f"/api/node/{root}/kv/keyvalues?json=true"
    for key, status in (("bad", 400), ("good", 200)):
        asked = json.dumps([{"key": key, "byte_start": 0, "byte_end": 3}])
        assert http.request("GET", place, content=asked).status_code == status
    assert http.request("GET", place, content=b'["bad"]').text == '{"bad":nope}'


def test_what_is_too_long_to_be_checked_is_refused(
    http: httpx.Client, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "CHECKED_BYTES", 10)
    put(http, root, "long", b"[1,2,3,4,5]")
    asked = json.dumps([{"key": "long", "byte_start": 0, "byte_end": 10}] * 2)
    for answer in (
        http.get(f"/api/node/{root}/kv/keyrangevalues/a/z?json=true&check=true"),
        http.request("GET", f"/api/node/{root}/kv/keyvalues?json=true", content=asked),
    ):
        assert (answer.status_code, '11 bytes for key \\"long\\"' in answer.text) == (400, True)
    answer = http.get(f"/api/node/{root}/kv/keyrangevalues/a/z?json=true")
    assert answer.json() == {"long": [1, 2, 3, 4, 5]}


def test_long_bodies_are_read_as_short_ones(http: httpx.Client, root: str) -> None:
    note = "a" * 100_000
    assert http.post(f"/api/node/{root}/note", json={"note": note}).status_code == 200
    assert http.get(f"/api/node/{root}/note").json() == {"note": note}
    assert http.post(f"/api/node/{root}/kv/tags", json={"t": note}).status_code == 200
    assert http.get(f"/api/node/{root}/kv/tags").json() == {"Tags": {"t": note}}
    for word in ("note", "kv/tags", "tag"):
        answer = http.post(f"/api/node/{root}/{word}", content=b'{"note":"' + note.encode())
        assert (answer.status_code, "Malformed JSON" in answer.text) == (400, True)


def test_bodies_hold_what_is_no_unicode(http: httpx.Client, root: str) -> None:
    for body in (b'{"note":"a\xff"}', b'{"note":"a\\ud800"}', b'{"note":"a\\udc00"}'):
        assert http.post(f"/api/node/{root}/note", content=body).status_code == 200
        assert http.get(f"/api/node/{root}/note").json() == {"note": "a\ufffd"}
    put(http, root, "%ef%bf%bd", b"1")
    answer = http.request("GET", f"/api/node/{root}/kv/keyvalues?json=true", content=b'["\xff"]')
    assert (answer.status_code, answer.text) == (200, '{"\ufffd":1}')


@pytest.mark.parametrize("word", ["note", "newversion", "tag", "kv/tags", "commit"])
def test_a_body_of_blanks_is_no_json(http: httpx.Client, root: str, word: str) -> None:
    if word == "newversion":
        http.post(f"/api/node/{root}/commit", json={}).raise_for_status()
    answer = http.post(f"/api/node/{root}/{word}", content=b"  ")
    assert (answer.status_code, "unexpected end of JSON input" in answer.text) == (400, True)
    if word == "newversion":
        assert http.post(f"/api/node/{root}/newversion").status_code == 200
