"""dvidtools, unmodified: lists repos and versions, reads instances, reads and writes what lies in keyvalues."""

import importlib
import importlib.util
import json
from collections.abc import Iterator
from types import ModuleType

import httpx
import numpy as np
import pytest

from tests.clients.served import BOX, Served

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(importlib.util.find_spec("dvid") is None, reason="not installed: dvidtools"),
]

KEYVALUES = (
    "segmentation_annotations",
    "segmentation_meshes",
    "segmentation_meshes_mutid",
    "segmentation_skeletons",
    "rois",
    "roi_data",
)
"""The names that dvidtools expects."""

TETRAHEDRON = np.array([[0, 0, 0], [8, 0, 0], [0, 8, 0], [0, 0, 8]], "<f4")
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "<u4")
MESH = np.uint32(len(TETRAHEDRON)).tobytes() + TETRAHEDRON.tobytes() + FACES.tobytes()
SKELETON = b'#${"mutation id": 17}\n1 0 10 20 30 1 -1\n2 0 11 21 31 1 1\n'
OBJ = b"v 0 0 0\nv 8 0 0\nv 0 8 0\nv 0 0 8\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.fixture(scope="module")
def dvid(served: Served) -> Iterator[ModuleType]:
    """Return the module of dvidtools, set up for the open version of our server."""
    module = importlib.import_module("dvid")
    module.setup(server=served.url, node=served.child, user="tester")
    with httpx.Client(base_url=served.url) as client:
        for name in KEYVALUES:
            body = {"typename": "keyvalue", "dataname": name}
            client.post(f"/api/repo/{served.child}/instance", json=body).raise_for_status()
    yield module
    for session in module.fetch.DVID_SESSIONS.values():  # it keeps them for ever
        session.close()
    module.fetch.DVID_SESSIONS.clear()


def put(served: Served, instance: str, key: str, value: bytes) -> None:
    httpx.post(f"{served.url}/api/node/{served.child}/{instance}/key/{key}", content=value).raise_for_status()


def test_projects_and_versions(served: Served, dvid: ModuleType) -> None:
    projects = dvid.list_projects()
    assert list(projects["Root"]) == [served.root]
    assert list(projects["Alias"]) == ["gray"]
    assert {"raw", "jpeg"} <= set(projects["DataInstances"][0])
    assert set(projects["DAG"][0]["Nodes"]) == {served.root, served.child}
    assert dvid.get_master_node(served.root) == served.child
    assert dvid.get_branch_history(served.root[:6]) == [served.child, served.root]


@pytest.mark.parametrize("instance", ["raw", "jpeg"])
def test_info_of_grayscale(
    served: Served, dvid: ModuleType, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dvid.config, "segmentation", instance)
    info = dvid.get_segmentation_info(node=served.root)
    assert info["Base"]["TypeName"] == "uint8blk"
    assert info["Base"]["RepoUUID"] == served.root
    assert info["Extended"]["VoxelSize"] == [8, 8, 8]
    assert info["Extended"]["MinPoint"] == list(BOX.start[::-1])
    assert info["Extended"]["MaxPoint"] == [edge - 1 for edge in BOX.stop[::-1]]


def test_annotations(dvid: ModuleType) -> None:
    assert dvid.get_annotation(12, verbose=False) == {}
    dvid.edit_annotation(12, {"name": "Größe", "status": "Traced"}, verbose=False)
    dvid.edit_annotation(12, {"status": "Roughly traced"}, verbose=False)
    assert dvid.get_annotation(12) == {"name": "Größe", "status": "Roughly traced"}


def test_meshes(served: Served, dvid: ModuleType) -> None:
    put(served, "segmentation_meshes", "12.ngmesh", MESH)
    put(served, "segmentation_meshes_mutid", "12", b"17")
    assert list(dvid.has_mesh([12, 13], progress=False)) == [True, False]
    (mesh,) = dvid.get_meshes(12, output="trimesh", on_error="raise")
    assert mesh.mutation_id == 17
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(8**3 / 6)
    with pytest.warns(UserWarning, match="13: "):
        assert dvid.get_meshes(13, output="trimesh") == []


@pytest.mark.filterwarnings(
    "ignore::UserWarning:dvid"
)  # it hangs attributes on tables, which pandas dislikes
def test_skeletons(served: Served, dvid: ModuleType) -> None:
    put(served, "segmentation_skeletons", "12_swc", SKELETON)
    assert list(dvid.has_skeleton([12, 13], progress=False)) == [True, False]
    (skeleton,) = dvid.get_skeletons([12], output="table", on_error="raise", progress=False)
    assert skeleton.mutation_id == 17
    assert skeleton[["x", "y", "z"]].to_numpy().tolist() == [[10, 20, 30], [11, 21, 31]]


def test_regions_as_meshes(served: Served, dvid: ModuleType) -> None:
    put(served, "rois", "LO", json.dumps({"->": {"key": "LO.obj"}}).encode())
    put(served, "roi_data", "LO.obj", OBJ)
    assert dvid.get_available_rois() == ["LO"]
    assert dvid.get_roi("LO").volume == pytest.approx(8**3 / 6)
