"""The programs from end to end over a tiny volume."""

import select
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from benchmarks import (
    compare,
    depth,
    keys,
    labels,
    onloop,
    plots,
    report,
    scaling,
    served,
    startup,
    threads,
    workers,
    writes,
)
from benchmarks.datasets import gray
from benchmarks.process import CHECKOUT
from benchmarks.timing import Case, Figure, interleave, of_samples
from benchmarks.volumes import Plan, build

SIZE = 128

Items = Iterator[list[Case]] | Iterator[list[Case] | Figure]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, gray(SIZE, real=False), 0.0, (1, 3), (10, 100))


@pytest.mark.parametrize(
    ("cases", "wanted"),
    [
        (depth.cases, {"commit and new version", "read 64³ of the root", "GET 64³ of the root"}),
        (writes.cases, {"write 64³", "write 64³ again", "ingest 128³", "POST 64³", "POST 64³ again"}),
        (startup.cases, {"start to first answer, empty", "resident memory, idle and empty"}),
        (keys.cases, {"get a value of 200 B", "get a value of the root", "rebuild the index of keys"}),
        (lambda plan: served.cases(plan, build(plan)), {"GET 64³ aligned", "GET slice 128² png"}),
        (threads.cases, {"read 128³ from chunks of 64³", "read 128³ from chunks of 128³"}),
        (onloop.cases, {"PUT 200 B", "POST 64³ again, alone"}),
        (labels.cases, {"labels on disk", "GET labels 64³, googlegzip", "GET subvolblocks 64³, jpeg"}),
    ],
    ids=["depth", "writes", "startup", "keys", "served", "threads", "onloop", "labels"],
)
def test_groups_run(plan: Plan, cases: Callable[[Plan], Items], wanted: set[str]) -> None:
    figures: list[Figure] = []
    for item in cases(plan):
        figures += [item] if isinstance(item, Figure) else interleave(item, 0.0)
    assert wanted <= {figure.name for figure in figures}
    assert all(figure.value > 0 for figure in figures)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="the client of this benchmark needs epoll")
def test_workers_are_compared(plan: Plan) -> None:
    figures = list(workers.cases(plan, build(plan)))
    assert [figure.unit for figure in figures] == ["req/s", "req/s", "%", "MB", "MB"]
    assert all(figure.value > 0 for figure in figures)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "results"
    for module in (report, scaling):
        monkeypatch.setattr(module, "RESULTS", folder)
    return folder


def test_compare_writes_a_table_and_json(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare.main(
        ["--quick", "--size", f"{SIZE}", "--only", "startup", "--name", "tiny", "--folder", str(tmp_path)]
    )
    said = orjson.loads((results / "tiny.json").read_bytes())
    assert said["volume"].endswith("128³")
    assert {figure["name"] for figure in said["figures"]["startup"]} == {
        "start to first answer, empty",
        "resident memory, idle and empty",
    }
    assert "start to first answer" in capsys.readouterr().out


def test_compare_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--only", "nonsense"], ["--size", "100"]):
        with pytest.raises(SystemExit):
            compare.parse(words)
    assert "nonsense" in capsys.readouterr().err


def test_two_commits(tmp_path: Path, results: Path) -> None:
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        pytest.skip("no git repository to take another commit from")
    words = ("git", "-C", str(CHECKOUT), "rev-parse", "HEAD")
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("the repository has no commit")
    compare.main(
        ["--quick", "--against", "HEAD", "--size", f"{SIZE}", "--only", "reads", "--folder", str(tmp_path)]
    )
    figures = orjson.loads((results / "against.json").read_bytes())["figures"]["reads"]
    assert len({figure["who"] for figure in figures}) == 2
    assert all(figure["who"] == "this checkout" for figure in figures[1::2])


def test_curves(tmp_path: Path) -> None:
    figures = [
        *scaling.depth_curves(tmp_path, (1, 2)),
        *scaling.postings_curves((100, 1000)),
        *scaling.store_curves(tmp_path, (100, 1000)),
    ]
    assert {figure.name for figure in figures} >= set(plots.PICTURES[-1].names)
    assert all(figure.who.isdigit() for figure in figures)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
    figures = [of_samples("open a store", size, [0.1, 0.2]) for size in ("10", "100")]
    (path,) = plots.draw(figures, tmp_path)
    assert "Opening a store" in path.read_text()
