"""Regions of interest in a real store: versions, merges, other processes, and volumes within a region."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dvidzarr
from dvidzarr.core.errors import InvalidInputError, VersionLockedError
from dvidzarr.core.geometry import Box
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.repo import Repo
from tests.integration import server_stub

A, B, C = [0, 0, 0, 1], [0, 1, 0, 1], [2, 0, 5, 5]


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with dvidzarr.open(tmp_path / "store") as found:
        yield found


@pytest.fixture
def repo(catalog: Catalog) -> Repo:
    return catalog.create_repo()


@pytest.fixture
def roi(repo: Repo) -> Any:  # noqa: ANN401 - an instance of a type that tests reach by name only
    return repo.create_instance("roi", "r", {"BlockSize": "4,4,4"}, repo.dag.root)


def shown(instance: Any, version: object) -> list[list[int]]:  # noqa: ANN401
    return instance.at(version).spans.tolist()


def fork(repo: Repo) -> tuple[Any, Any]:
    root = repo.commit(repo.dag.root)
    return repo.branch(root, "left"), repo.branch(root, "right")


def test_a_version_shows_its_own_spans_or_those_of_its_ancestor(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    root = repo.dag.root
    roi.at(root).replace([B, A, A])
    root = repo.commit(root)
    child = repo.new_version(root)
    assert shown(roi, child) == [A, B]
    roi.at(child).replace([C])
    assert (shown(roi, root), shown(roi, child)) == ([A, B], [C])
    roi.at(child).clear()
    assert (shown(roi, root), shown(roi, child)) == ([A, B], [])
    assert roi.at(child).extents is None
    with pytest.raises(VersionLockedError):
        roi.at(root).replace([C])


def test_a_refused_span_changes_nothing(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    view = roi.at(repo.dag.root)
    view.replace([A])
    with pytest.raises(InvalidInputError, match="weird span"):
        view.replace([B, [0, 0, 3, 2]])
    assert shown(roi, repo.dag.root) == [A]


def test_a_merge_shows_what_both_lines_stored(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    roi.at(repo.dag.root).replace([A, B])
    left, right = fork(repo)
    roi.at(left).replace([A])
    roi.at(right).replace([C])
    parents = [repo.commit(left), repo.commit(right)]
    assert not any(repo.conflicts(parents))
    merged = repo.merge(parents)
    assert shown(roi, merged) == [A, C]
    again = repo.new_version(repo.commit(merged))
    assert shown(roi, again) == [A, C]
    roi.at(again).replace([B])
    assert (shown(roi, again), shown(roi, merged)) == ([B], [A, C])


def test_what_one_line_replaced_is_hidden_in_the_merge(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    roi.at(repo.dag.root).replace([A, B])
    left, right = fork(repo)
    roi.at(right).clear()
    merged = repo.merge([repo.commit(left), repo.commit(right)])
    assert shown(roi, merged) == []


def test_merges_of_merges(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    """What a later line replaces hides only the part of the merge that it had seen."""
    left, right = fork(repo)
    roi.at(left).replace([A])
    roi.at(right).replace([B])
    left, right = repo.commit(left), repo.commit(right)
    merged = repo.commit(repo.merge([left, right]))
    later = repo.branch(left, "later")
    roi.at(later).replace([C])
    last = repo.merge([merged, repo.commit(later)])
    assert shown(roi, last) == [B, C]


def test_unversioned_spans_are_those_of_all_versions(repo: Repo) -> None:
    roi: Any = repo.create_instance("roi", "all", {"Versioned": "false"}, repo.dag.root)
    roi.at(repo.dag.root).replace([A])
    child = repo.new_version(repo.commit(repo.dag.root))
    roi.at(child).replace([C])
    assert shown(roi, repo.dag.root) == [C]


def test_spans_and_their_heights_survive_a_restart_and_reach_other_processes(tmp_path: Path) -> None:
    many = np.stack([np.arange(9000), np.zeros(9000), np.zeros(9000), np.arange(9000)], axis=1).astype(int)
    url = tmp_path / "store"
    with dvidzarr.open(url) as writer:
        repo = writer.create_repo()
        root = repo.root
        mine: Any = repo.create_instance("roi", "r", {}, repo.dag.root)
        with dvidzarr.open(url, mode="r") as reader:
            mine.at().replace(many)
            theirs: Any = reader.repo(root).instance("r")
            assert np.array_equal(theirs.at().spans, many)
            mine.at().replace([[7, 0, 0, 0]])
            assert theirs.at().spans.tolist() == [[7, 0, 0, 0]]
            assert theirs.extended(theirs.repo.dag.root)["MinZ"] == 7
    with dvidzarr.open(url) as again:
        found: Any = again.repo(root).instance("r")
        assert found.at().spans.tolist() == [[7, 0, 0, 0]]
        assert found.extended(found.repo.dag.root) == {"BlockSize": [32, 32, 32], "MinZ": 7, "MaxZ": 7}


def test_masks_boxes_and_points(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    view = roi.at(repo.dag.root)
    view.replace([[0, 0, 0, 1], [-1, 2, 0, 0]])
    assert view.boxes.tolist() == [[[-4, 8, 0], [0, 12, 4]], [[0, 0, 0], [4, 4, 8]]]
    assert view.extents == Box((-4, 0, 0), (4, 12, 8))
    mask = view.mask(view.extents)
    assert mask.dtype == bool
    assert mask.sum() == 3 * 64
    assert view.contains([[0, 0, 7], [0, 0, 8], [-1, 11, 3]]).tolist() == [True, False, True]
    array = view.xarray()
    assert array.dims == ("z", "y", "x")
    assert bool(array.sel(z=-4, y=8, x=3))
    assert pickle.loads(pickle.dumps(view)).spans.tolist() == view.spans.tolist()


@pytest.mark.parametrize("text", ["4,4", "4,4,4,4", "a,b,c", "0,1,1", "1.5,1,1", "99999999999,1,1", ""])
def test_bad_block_sizes(repo: Repo, text: str) -> None:
    with pytest.raises(InvalidInputError):
        repo.create_instance("roi", "bad", {"BlockSize": text}, repo.dag.root)


# --- volumes within a region ---------------------------------------------------------------------------------


@pytest.fixture
def volume(repo: Repo) -> Any:  # noqa: ANN401
    config = {"BlockSize": "4,4,4", "Background": "9"}
    return repo.create_instance("uint8blk", "gray", config, repo.dag.root)


def test_reads_within_a_region_are_blank_outside(repo: Repo, roi: Any, volume: Any) -> None:  # noqa: ANN401
    view = volume.at(repo.dag.root)
    box = Box((0, 0, 0), (4, 4, 16))
    voxels = np.random.default_rng(1).integers(10, 255, box.shape, np.uint8)
    view.write(Box((0, 0, 0), (4, 4, 12)), voxels[:, :, :12])
    roi.at(repo.dag.root).replace([[0, 0, 1, 1], [0, 0, 3, 3]])
    wanted = np.full(box.shape, 9, np.uint8)
    wanted[:, :, 4:8] = voxels[:, :, 4:8]
    wanted[:, :, 12:] = 0  # inside, but never written
    assert np.array_equal(view.read(box, roi="r"), wanted)
    assert np.array_equal(view.read(box, roi=roi.at(repo.dag.root)), wanted)
    inner = Box((1, 2, 3), (3, 4, 15))
    assert np.array_equal(view.read(inner, roi="r"), wanted[1:3, 2:4, 3:15])
    masked = view.masked("r")
    assert np.array_equal(masked.dask().compute(), wanted[:, :, :12])
    assert np.array_equal(pickle.loads(pickle.dumps(masked)).read(box), wanted)
    slabs = masked.reader(box)
    parts = [slabs.read(Box((z, 0, 0), (z + 2, 4, 16))) for z in (0, 2)]
    assert np.array_equal(np.concatenate(parts), wanted)
    with pytest.raises(InvalidInputError):
        masked.store()
    repo.create_instance("keyvalue", "values", {}, repo.dag.root)
    for name in ("gray", "values"):
        for asked in (box, Box((0, 0, 0), (2, 2, 2))):
            with pytest.raises(InvalidInputError, match="not of roi data type"):
                view.read(asked, roi=name)
    roi.at(repo.dag.root).clear()
    assert view.read(Box((0, 0, 0), (2, 2, 2)), roi="r").max() == 9


def test_writes_within_a_region_leave_the_rest(repo: Repo, roi: Any, volume: Any) -> None:  # noqa: ANN401
    view = volume.at(repo.dag.root)
    box = Box((0, 0, 0), (4, 4, 12))
    view.write(box, np.full(box.shape, 1, np.uint8))
    roi.at(repo.dag.root).replace([[0, 0, 1, 1]])
    wide = Box((0, 0, 0), (4, 4, 20))
    view.masked("r").write(wide, np.full(wide.shape, 5, np.uint8))
    wanted = np.full(wide.shape, 1, np.uint8)
    wanted[:, :, 4:8] = 5
    wanted[:, :, 12:] = 0
    assert np.array_equal(view.read(wide), wanted)
    assert view.extents == wide  # also by what was not written, as in DVID
    blocks = np.full((3, 4, 4, 4), 7, np.uint8)
    view.masked("r").write_blocks(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 2]]), blocks)
    wanted[:, :, 4:8] = 7
    assert np.array_equal(view.read(wide), wanted)


def test_a_write_wholly_outside_grows_the_extents_only(repo: Repo, roi: Any, volume: Any) -> None:  # noqa: ANN401
    roi.at(repo.dag.root).clear()
    view = volume.at(repo.dag.root)
    box = Box((0, 0, 0), (4, 4, 4))
    view.masked("r").write(box, np.full(box.shape, 5, np.uint8))
    assert not view.read(box).any()
    assert view.extents == box


def test_labels_within_a_region_reach_their_followers(repo: Repo, roi: Any) -> None:  # noqa: ANN401
    root = repo.dag.root
    fine: Any = repo.create_instance("labelblk", "fine", {"BlockSize": "4,4,4"}, root)
    half: Any = repo.create_instance("labelblk", "half", {"BlockSize": "4,4,4"}, root)
    half.set_syncs(["fine"])
    roi.at(root).replace([[0, 0, 0, 0]])
    box = Box((0, 0, 0), (4, 4, 8))
    fine.at(root).masked("r").write(box, np.full(box.shape, 3, np.uint64))
    assert half.at(root).read(Box((0, 0, 0), (2, 2, 4)))[0, 0].tolist() == [3, 3, 0, 0]


def test_the_region_of_the_same_version_counts(repo: Repo, roi: Any, volume: Any) -> None:  # noqa: ANN401
    box = Box((0, 0, 0), (4, 4, 4))
    volume.at(repo.dag.root).write(box, np.full(box.shape, 1, np.uint8))
    roi.at(repo.dag.root).replace([A])
    child = repo.new_version(repo.commit(repo.dag.root))
    roi.at(child).clear()
    assert volume.at(repo.dag.root).read(box, roi="r").max() == 1
    assert volume.at(child).read(box, roi="r").min() == 9


def test_an_unversioned_volume_is_within_the_region_of_the_root_as_over_http(
    catalog: Catalog,
    repo: Repo,
    roi: Any,  # noqa: ANN401
) -> None:
    volume: Any = repo.create_instance("uint8blk", "v", {"BlockSize": "4,4,4", "Versioned": "false"})
    box = Box((0, 0, 0), (4, 4, 16))
    volume.at().write(box, np.ones(box.shape, np.uint8))
    roi.at().replace([[0, 0, 0, 0]])
    child = repo.new_version(repo.commit(repo.dag.root))
    roi.at(child).replace([[0, 0, 2, 3]])
    shown = volume.at(child).read(box, roi="r")
    assert shown.max(axis=(0, 1)).tolist() == [1] * 4 + [0] * 12
    with server_stub.client(catalog) as client:
        answer = client.get(f"/api/node/{child.uuid}/v/raw/0_1_2/16_4_4/0_0_0?roi=r")
    assert answer.content == shown.tobytes()
