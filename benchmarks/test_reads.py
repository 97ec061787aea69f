"""The cases of `./dev bench` over a small volume: they cannot rot, and with `--benchmark-enable` they are timed."""

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark", reason="the extra `bench` is not installed")

import dvidzarr
from benchmarks import reads
from benchmarks.datasets import gray
from benchmarks.timing import Case, interleave
from benchmarks.volumes import BLOCK, Built, Plan, boxes, build, gray_view, settings
from dvidzarr.core.geometry import Box

SIZE = 128


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return Plan(tmp_path_factory.mktemp("bench"), gray(SIZE, real=False), 0.0, (1, 3))


@pytest.fixture(scope="module")
def built(plan: Plan) -> Built:
    return build(plan)


def test_all_readers_see_the_same_voxels(plan: Plan, built: Built) -> None:
    readers = reads.peers(built.array)
    assert {"zarr-python", "dask from zarr"} <= readers.keys()
    with dvidzarr.open(built.store, "r") as catalog:
        readers["dvidzarr"] = gray_view(catalog, built.root).read
        for box in boxes(SIZE, BLOCK, aligned=False)[:5]:
            wanted = plan.data.voxels[reads.slices(box)]
            for who, read in readers.items():
                np.testing.assert_array_equal(np.asarray(read(box)), wanted, err_msg=who)


def test_groups_of_reads_run(plan: Plan, built: Built) -> None:
    for group in reads.cases(plan, built):
        assert len({case.name for case in group}) == 1
        figures = interleave(group, 0.0)
        assert [figure.who for figure in figures] == [case.who for case in group]
        assert all(figure.low <= figure.value <= figure.high for figure in figures)


@pytest.mark.parametrize(("edge", "aligned"), [(BLOCK, True), (BLOCK, False), (SIZE, True)])
def test_view_read(plan: Plan, built: Built, benchmark: object, edge: int, aligned: bool) -> None:
    with dvidzarr.open(built.store, "w", settings()) as catalog:
        view = gray_view(catalog, built.root)
        box = boxes(SIZE, edge, aligned=aligned)[0]
        voxels = benchmark(view.read, box)  # type: ignore[operator]
    np.testing.assert_array_equal(voxels, plan.data.voxels[reads.slices(box)])


def test_zarr_python(plan: Plan, built: Built, benchmark: object) -> None:
    read, box = reads.peers(built.array)["zarr-python"], Box((0, 0, 0), (BLOCK,) * 3)
    voxels = benchmark(read, box)  # type: ignore[operator]
    np.testing.assert_array_equal(voxels, plan.data.voxels[reads.slices(box)])


def test_boxes_are_what_they_are_called() -> None:
    assert all(box.is_aligned((BLOCK,) * 3) for box in boxes(256, BLOCK, aligned=True))
    assert not any(box.is_aligned((BLOCK,) * 3) for box in boxes(256, 100, aligned=False))
    assert boxes(256, 100, aligned=False) == boxes(256, 100, aligned=False)
    assert all(max(box.stop) <= 256 and min(box.start) >= 0 for box in boxes(256, 100, aligned=False))


def test_turns_respect_the_number_of_calls() -> None:
    called: list[str] = []
    cases = [
        Case("wait", "rare", lambda: called.append("rare"), calls=2),
        Case("wait", "often", lambda: called.append("often"), prepare=lambda: called.append("before")),
    ]
    rare, often = interleave(cases, 0.0)
    assert rare.samples == called.count("rare") == 2
    assert often.samples >= 3
    assert called.count("before") == called.count("often")


@pytest.mark.parametrize("real", [True, False])
def test_volumes_are_cubes(real: bool) -> None:
    data = gray(160, real=real)
    assert data.voxels.shape == (160,) * 3
    assert data.voxels.dtype == np.uint8
    assert data.voxels.std() > 10
