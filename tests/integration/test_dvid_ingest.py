"""Copying from a running DVID: a stub that answers as its specification says, and our own server."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.geometry import Box
from tests.integration.cli_process import PATIENCE, Shell
from tests.integration.dvid_stub import BLOCK, Coord, Dvid, Node, serving
from tests.integration.test_cli_copy import BEFORE_A_BRICK_IS_JOURNALLED

ROOT, CHILD, SIDE = "a" * 32, "b" * 32, "c" * 32
RANDOM = np.random.default_rng(8)
GRAY, LABELS = "uint8blk", "labelblk"


def noise(dtype: str) -> np.ndarray:
    return RANDOM.integers(0, 256, (BLOCK,) * 3 + (np.dtype(dtype).itemsize,), np.uint8).view(dtype)[..., 0]


def far_away() -> Dvid:
    """Return a DVID with an image and labels in three versions: a root, its child, and a branch."""
    root = Node(ROOT, None, note="as imaged")
    child = Node(CHILD, ROOT, note="first fixes", locked=False)
    side = Node(SIDE, ROOT, branch="try/out", note="an idea")
    for name, dtype in (("gray", "u1"), ("seg", "<u8")):
        for x in (-1, 0, 1, 2, 5):
            root.blocks[name, (x, 0, 1)] = noise(dtype)
        child.blocks[name, (1, 0, 1)] = noise(dtype)
        child.blocks[name, (1, 3, 1)] = noise(dtype)
        child.blocks[name, (2, 0, 1)] = root.blocks[name, (2, 0, 1)]  # written again, as it was
        side.blocks[name, (0, 0, 1)] = noise(dtype)
    instances = {
        "gray": (GRAY, "uint8", "LZ4 compression, level -1"),
        "seg": (LABELS, "uint64", "LZ4 compression, level -1"),
    }
    return Dvid({ROOT: root, CHILD: child, SIDE: side}, instances)


@pytest.fixture
def dvid() -> Dvid:
    return far_away()


@pytest.fixture(params=["path", "url"])
def store(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Iterator[str]:
    """Return a store without the versions of the source."""
    shell.ok("new", "repo", tmp_path / "store", "--root", "f" * 32)
    if request.param == "path":
        yield str(tmp_path / "store")
    else:
        with shell.server(tmp_path / "store") as url:
            yield url


def held(folder: Path, ref: str, name: str) -> dict[Coord, bytes]:
    """Return the blocks of an instance at a version by coordinate x, y, z; absent ones are left out."""
    with dvidzarr.open(folder, mode="r") as catalog:
        view = catalog.repo(ref).instance(name).at(ref)
        assert view.extents is not None
        found = view.blocks(view.extents.chunks(view.instance.chunk))
        return {coord[::-1]: block.tobytes() for coord, block in found if block is not None}


def wanted(dvid: Dvid, uuid: str, name: str) -> dict[Coord, bytes]:
    coords = {coord for node in dvid.nodes.values() for each, coord in node.blocks if each == name}
    found = {coord: dvid.block(uuid, name, coord) for coord in coords}
    return {coord: block.tobytes() for coord, block in found.items() if block is not None}


def own_chunks(folder: Path, ref: str, name: str) -> int:
    """Return how many chunks a version wrote itself."""
    with dvidzarr.open(folder, mode="r") as catalog:
        view = catalog.repo(ref).instance(name).at(ref)
        run = view.chunks.postings.snapshot()
        return int((run.rows["ordinal"] == view.ordinal).sum())


@pytest.mark.parametrize("name", ["gray", "seg"])
@pytest.mark.parametrize("compression", ["LZ4 compression, level -1", "No compression, level -1"])
def test_one_version(
    shell: Shell, store: str, tmp_path: Path, dvid: Dvid, name: str, compression: str
) -> None:
    dvid.instances[name] = (*dvid.instances[name][:2], compression)
    with serving(dvid) as host:
        shell.ok("ingest", store, f"ffff/{name}", f"dvid://{host}/bbbb/{name}")
    assert held(tmp_path / "store", "f" * 32, name) == wanted(dvid, CHILD, name)
    with dvidzarr.open(tmp_path / "store", mode="r") as catalog:
        instance = catalog.repos[0].instance(name)
        assert instance.datatype.name == dvid.instances[name][0]
        assert instance.chunk == (BLOCK,) * 3
        assert [round(size, 4) for size in instance.settings.voxel_size_xyz] == [4, 4, 13.1]
        assert instance.settings.background == 7
        assert instance.tags == {"stain": "osmium"}
        assert instance.compression == ("lz4" if "LZ4" in compression else "none")
        assert instance.at().extents == Box.from_xyz((-8, 0, 8), (56, 32, 8))


def test_part_of_a_volume_on_another_grid(shell: Shell, store: str, tmp_path: Path, dvid: Dvid) -> None:
    box = ("--box", "-8,0,8:20,8,16")
    with serving(dvid) as host:
        shell.ok("ingest", store, "ffff/gray", f"dvid://{host}/aaaa/gray", "--block-size", 16, *box)
    blocks = wanted(dvid, ROOT, "gray")
    with dvidzarr.open(tmp_path / "store", mode="r") as catalog:
        view = catalog.repos[0].instance("gray").at()
        assert view.instance.chunk == (16, 16, 16)
        for x in range(-2, 4):
            shown = view.read(Box.from_xyz((x * BLOCK, 0, BLOCK), (BLOCK,) * 3)).tobytes()
            assert shown == blocks.get((x, 0, 1), bytes(BLOCK**3))
        around = view.blocks(Box((0, 0, -16), (16, 16, 64)).chunks((16, 16, 16)))
        assert [coord[2] for coord, block in around if block is not None] == [-1, 0, 1]
        assert view.extents == Box.from_xyz((-8, 0, 8), (28, 8, 8))


@pytest.mark.parametrize("head", [CHILD, SIDE])
def test_version_by_version(shell: Shell, tmp_path: Path, dvid: Dvid, head: str) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder)
    with serving(dvid) as host:
        words = ("ingest", folder, f"{ROOT}/gray,labels", f"dvid://{host}/{head}/gray,seg", "--versions")
        shell.ok(*words)
        asked = len(dvid.asked)
        shell.ok(*words)  # locked versions are complete; of an open one all is compared and nothing written
        assert len(dvid.asked) - asked <= 2
    for uuid in (ROOT, head):
        for theirs, ours in (("gray", "gray"), ("seg", "labels")):
            assert held(folder, uuid, ours) == wanted(dvid, uuid, theirs)
            assert own_chunks(folder, uuid, ours) == {ROOT: 5, CHILD: 2, SIDE: 1}[uuid]
    (repo,) = [each for each in json.loads(shell.ok("repos", folder, "--json")) if each["root"] == ROOT]
    assert (repo["alias"], repo["description"]) == ("fly", "from afar")
    shown = [(each["uuid"], each["branch"], each["note"], each["locked"]) for each in repo["versions"]]
    far = [dvid.nodes[ROOT], dvid.nodes[head]]
    assert shown == [(each.uuid, each.branch, each.note, each.locked) for each in far]


def test_history_below_a_version_that_exists(shell: Shell, store: str, tmp_path: Path, dvid: Dvid) -> None:
    """The root takes the place of a version; UUIDs that are taken elsewhere in the store are replaced."""
    shell.ok("new", "repo", store, "--root", SIDE)
    with serving(dvid) as host:
        words = ("ingest", store, "ffff/gray", f"dvid://{host}/{SIDE}/gray", "--versions")
        shell.ok(*words)
        shell.ok(*words)
    (repo,) = [each for each in json.loads(shell.ok("repos", store, "--json")) if each["root"] == "f" * 32]
    root, side = repo["versions"]
    assert root["note"] == "as imaged"
    assert (side["branch"], side["note"], side["locked"]) == ("try/out", "an idea", True)
    assert side["uuid"] not in dvid.nodes
    assert held(tmp_path / "store", side["uuid"], "gray") == wanted(dvid, SIDE, "gray")


def test_a_history_that_lacks_something_is_not_taken_as_complete(
    shell: Shell, tmp_path: Path, dvid: Dvid
) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", ROOT)
    with serving(dvid) as host:
        shell.ok("ingest", folder, f"{ROOT}/gray", f"dvid://{host}/{SIDE}/gray", "--versions")
        line = shell.fails("ingest", folder, f"{ROOT}/seg", f"dvid://{host}/{SIDE}/seg", "--versions")
    assert "copied together" in line


def test_busy_and_broken_servers_are_asked_again(
    shell: Shell, tmp_path: Path, dvid: Dvid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvidzarr.cli.session._FIRST_PAUSE_S", 0.01)
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", "f" * 32)
    dvid.faults += [503, "drop", "cut", 503]
    with serving(dvid) as host:
        shell.ok("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray")
    assert not dvid.faults
    assert held(folder, "f" * 32, "gray") == wanted(dvid, ROOT, "gray")


def test_busy_and_broken_servers_are_asked_again_for_values(
    shell: Shell, tmp_path: Path, dvid: Dvid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvidzarr.cli.session._FIRST_PAUSE_S", 0.01)
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", "f" * 32)
    dvid.instances["notes"] = ("keyvalue", "", "none")
    dvid.values = {"a": b"1" * 100, "c/d": b"2" * 100, "empty": b""}
    dvid.faults += [503, "drop", "cut", "drop", 503]
    with serving(dvid) as host:
        shell.ok("ingest", folder, "ffff/notes", f"dvid://{host}/aaaa/notes")
    assert not dvid.faults
    with dvidzarr.open(folder, mode="r") as catalog:
        assert dict(catalog.repos[0].instance("notes").at().items()) == dvid.values  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (b"\0" * 100_000, "more than"),
        (b"not a stream", "cannot be read"),
        (
            np.array([9, 9, 9, 4], "<i4").tobytes() + b"abcd",
            "cannot be read",
        ),  # a block that nobody asked for
        (np.array([0, 0, 1, 9], "<i4").tobytes() + b"\0\2\0\0abcde", "cannot be read"),
        (500, "throttled"),
    ],
)
def test_answers_that_cannot_be_right(
    shell: Shell, tmp_path: Path, dvid: Dvid, fault: bytes | int, words: str
) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", "f" * 32)
    dvid.faults.append(fault)
    with serving(dvid) as host:
        assert words in shell.fails("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray")
    with dvidzarr.open(folder, mode="r") as catalog:
        view = catalog.repos[0].instance("gray").at()
        assert all(block is None for _, block in view.blocks(Box((0, 0, 0), (64, 64, 64)).chunks((8, 8, 8))))


def test_what_cannot_be_copied_is_said(shell: Shell, tmp_path: Path, dvid: Dvid) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", "f" * 32)
    shell.ok("new", "instance", folder, "ffff", "uint16blk", "wide")
    dvid.instances["bodies"] = ("labelmap", "uint64", "LZ4 compression, level -1")
    with serving(dvid) as host:

        def line(place: str, source: str, *words: str, code: int = 1) -> str:
            return shell.fails("ingest", folder, place, source, *words, code=code)

        assert "could not find UUID" in line("ffff/gray", f"dvid://{host}/abc/gray")
        assert "no instance 'absent'" in line("ffff/gray", f"dvid://{host}/aaaa/absent")
        assert "labelmap" in line("ffff/bodies", f"dvid://{host}/aaaa/bodies")
        assert "uint16blk" in line("ffff/wide", f"dvid://{host}/aaaa/gray")
        assert "2 instances" in line("ffff/gray", f"dvid://{host}/aaaa/gray,seg")
        assert "host:port/uuid/instance" in line("ffff/gray", f"dvid://{host}/aaaa")
        assert "no answer" in line("ffff/gray", "dvid://127.0.0.1:1/aaaa/gray")
        outcome = shell.run("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray", "--offset", "1,2,3")
        assert (outcome.code, "--offset" in outcome.err) == (2, True)
        dvid.token = "secret"
        assert "DVID_SOURCE_TOKEN" in line("ffff/gray", f"dvid://{host}/aaaa/gray")
        shell.ok("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray", DVID_SOURCE_TOKEN="secret")
    shell.ok("commit", folder, "ffff")
    with serving(far_away()) as host:
        assert "locked" in shell.fails("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray")


@pytest.mark.parametrize(
    "body", [b"<html>welcome</html>", b"{}", b"[]", b'{"DAG": {"Nodes": {"a": 3}}}', b""]
)
def test_servers_of_another_kind(shell: Shell, tmp_path: Path, dvid: Dvid, body: bytes) -> None:
    folder = tmp_path / "store"
    shell.ok("new", "repo", folder, "--root", "f" * 32)
    dvid.pretends = body
    with serving(dvid) as host:
        line = shell.fails("ingest", folder, "ffff/gray", f"dvid://{host}/aaaa/gray")
    assert "does not speak DVID's API" in line


# --- our own server as the source ------------------------------------------------------------------------------


TYPES = ("uint8blk", "uint16blk", "uint32blk", "uint64blk", "float32blk", "rgba8blk", "labelblk")
BOX = Box((0, 0, 0), (64, 48, 80))


def original(folder: Path, *types: str) -> str:
    """Make a store with a history: root, two branches that change it, and their merge."""
    with dvidzarr.open(folder, "w") as catalog:
        repo = catalog.create_repo("original", root=ROOT)
        for each in types:
            repo.create_instance(each, each, {"BlockSize": "16,16,16"}, version=repo.dag.root)
            view = repo.instance(each).at(repo.dag.root)
            view.write(BOX, RANDOM.integers(0, 200, BOX.shape).astype(view.instance.dtype))
        repo.commit(repo.dag.root, note="as imaged")
        ends = []
        for name, corner in (("left", (0, 0, 0)), ("right", (32, 32, 64))):
            end = repo.branch(ROOT, name, note=f"the {name} one")
            for each in types:
                part = Box(corner, tuple(at + 16 for at in corner))
                view = repo.instance(each).at(end)
                view.write(part, RANDOM.integers(0, 200, part.shape).astype(view.instance.dtype))
            ends.append(repo.commit(end))
        return repo.merge(ends, note="both").uuid


def test_all_types_and_merges(shell: Shell, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "store"
    head = original(source, *TYPES)
    shell.ok("new", "repo", folder)
    with shell.server(source) as url:
        address = f"dvid://{url}/{head}/{','.join(TYPES)}"
        shell.ok("ingest", folder, f"{ROOT}/{','.join(TYPES)}", address, "--versions")
    with dvidzarr.open(source, mode="r") as far, dvidzarr.open(folder, mode="r") as near:
        theirs, ours = far.repo(ROOT), near.repo(ROOT)
        assert [each.uuid for each in ours.dag] == [each.uuid for each in theirs.dag]
        for version in theirs.dag:
            mine = ours.version(version.uuid)
            assert (mine.branch, mine.note, mine.locked) == (version.branch, version.note, version.locked)
            assert mine.parents == version.parents
            for each in TYPES:
                one, other = (repo.instance(each).at(version.uuid) for repo in (theirs, ours))
                assert np.array_equal(one.read(BOX), other.read(BOX))
                assert one.extents == other.extents
        for version, count in zip(ours.dag, (60, 1, 1, 0), strict=True):
            assert all(own_chunks(folder, version.uuid, each) == count for each in TYPES)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_copy_goes_on(shell: Shell, tmp_path: Path, number: signal.Signals) -> None:
    source, folder = tmp_path / "source", tmp_path / "store"
    with dvidzarr.open(source, "w") as catalog:
        repo = catalog.create_repo("original", root=ROOT)
        view = repo.create_instance("uint8blk", "gray", {"BlockSize": "64,64,64"}).at()
        voxels = RANDOM.integers(0, 256, (256, 256, 512), np.uint8)
        view.write(Box((0, 0, 0), voxels.shape), voxels)
        repo.commit(repo.dag.root)
        child = repo.new_version(repo.dag.root)
        changed = voxels.copy()
        changed[64:128, :64, :64] = 0
        repo.instance("gray").at(child)[64:128, :64, :64] = 0
    shell.ok("new", "repo", folder, "--root", ROOT)
    with shell.server(source) as url:
        words = ("ingest", folder, f"{ROOT}/gray", f"dvid://{url}/{child.uuid}/gray", "--versions")
        slow = ("--memory", 16, "--workers", 1)
        for count in (2, 3):
            with shell.held(BEFORE_A_BRICK_IS_JOURNALLED, count, *words, *slow) as process:
                process.send_signal(number)
                _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == (130 if number == signal.SIGINT else -number), err
        shell.ok(*words)
    assert not list(shell.state.glob("dvidzarr/ingest/*"))
    with dvidzarr.open(folder, mode="r") as catalog:
        instance = catalog.repo(ROOT).instance("gray")
        assert np.array_equal(instance.at(ROOT)[:], voxels)
        assert np.array_equal(instance.at(child.uuid)[:], changed)
    assert (own_chunks(folder, ROOT, "gray"), own_chunks(folder, child.uuid, "gray")) == (128, 1)


def test_regions_and_values_travel_along(shell: Shell, tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "store"
    with dvidzarr.open(source, "w") as catalog:
        repo = catalog.create_repo("original", root=ROOT)
        region = repo.create_instance("roi", "medulla", {"BlockSize": "16,16,16"})
        values = repo.create_instance("keyvalue", "notes")
        region.at(ROOT).replace([[0, 0, 0, 3], [1, -2, 4, 5]])  # type: ignore[attr-defined]
        values.at(ROOT).put_many({"a": b"1", "b": b"2", "c/d é": bytes(2 << 20)})  # type: ignore[attr-defined]
        repo.commit(ROOT)
        child = repo.new_version(ROOT)
        region.at(child).replace([[7, 7, 7, 7]])  # type: ignore[attr-defined]
        values.at(child).put("b", b"changed")  # type: ignore[attr-defined]
        values.at(child).remove(["a"])  # type: ignore[attr-defined]
    shell.ok("new", "repo", folder, "--root", ROOT)
    with shell.server(source) as url:
        words = ("ingest", folder, f"{ROOT}/region,kv", f"dvid://{url}/{child.uuid}/medulla,notes")
        for _ in range(2):
            outcome = shell.run(*words, "--versions")
            assert outcome.code == 0, outcome
    assert "region at" in outcome.err
    assert outcome.err.count(" 0 ") == 2
    with dvidzarr.open(folder, mode="r") as catalog:
        repo = catalog.repo(ROOT)
        spans = [repo.instance("region").at(ref).spans.tolist() for ref in (ROOT, child.uuid)]  # type: ignore[attr-defined]
        assert spans == [[[0, 0, 0, 3], [1, -2, 4, 5]], [[7, 7, 7, 7]]]
        assert repo.instance("region").block == (16, 16, 16)  # type: ignore[attr-defined]
        old, new = (dict(repo.instance("kv").at(ref).items()) for ref in (ROOT, child.uuid))  # type: ignore[attr-defined]
        assert old == {"a": b"1", "b": b"2", "c/d é": bytes(2 << 20)}
        assert new == {"b": b"changed", "c/d é": bytes(2 << 20)}


def test_a_history_comes_with_a_store_of_its_own(shell: Shell, dvid: Dvid, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shell.fails("ingest", folder, f"{ROOT}/gray", "dvid://127.0.0.1:9/aaaa/gray", "--versions")
    assert not folder.exists()  # nothing is made for a source that does not answer
    with serving(dvid) as host:
        source = f"dvid://{host}/{CHILD}/gray"
        assert "dvidzarr new repo" in shell.fails("ingest", folder, ":master/gray", source)
        shell.ok("ingest", folder, f"{ROOT}/gray", source, "--versions")
    assert held(folder, CHILD, "gray") == wanted(dvid, CHILD, "gray")
