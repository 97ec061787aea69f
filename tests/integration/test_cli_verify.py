"""`dvidzarr verify`: what it finds, what it mends, and how it ends."""

import json
from pathlib import Path

import dvidzarr
from tests.integration.cli_process import Shell
from tests.integration.damaged_store import DOCUMENTS, SETTINGS, WORLD, damage_after, flip, new_store, noise


def test_verify_finds_a_whole_store_whole(shell: Shell, tmp_path: Path) -> None:
    shell.ok("demo", tmp_path / "store", "--size", "70,64,40")
    outcome = shell.run("verify", tmp_path / "store", "--deep")
    assert outcome.code == 0
    assert "0 errors remain" in outcome.err


def test_verify_finds_a_flipped_bit(shell: Shell, tmp_path: Path) -> None:
    shell.ok("demo", tmp_path / "store", "--size", "70,64,40")
    chunk = next(item for item in sorted((tmp_path / "store").glob("repos/*/data/*/versions/*/0/c/0/0/0")))
    flip(chunk)
    shallow = shell.run("verify", tmp_path / "store")
    assert (shallow.code, "0 errors remain" in shallow.err) == (0, True), "it has the right length"
    outcome = shell.run("verify", tmp_path / "store", "--deep", "--json")
    assert outcome.code == 1
    assert any(json.loads(line)["severity"] == "error" for line in outcome.out.splitlines())


def test_verify_finds_a_short_chunk_without_reading_it(shell: Shell, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    root = next(path.parent for path in sorted(store.glob("repos/*/data/*/versions/*/zarr.json")))
    chunk = root / "0/c/0/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    outcome = shell.run("verify", store)
    assert outcome.code == 1
    assert "chunk (0, 1, 0)" in outcome.out


def test_repair_of_a_healthy_store_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    logs = {path: path.read_bytes() for path in store.rglob("log/*.log")}
    for words in (("--repair",), ("--repair", "--deep")):
        outcome = shell.run("verify", store, *words)
        assert outcome.code == 0, outcome.err
        assert "0 errors, 0 warnings, 0 errors remain" in outcome.err
        assert "(repaired)" not in outcome.out
    assert {path: path.read_bytes() for path in store.rglob("log/*.log")} == logs


def test_repair_gives_up_a_damaged_record_and_names_it(shell: Shell, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    damage_after(store, "gray", 2)
    found = shell.run("verify", store)
    assert found.code == 1
    assert "are lost" in found.out
    repaired = shell.run("verify", store, "--repair", "--json")
    assert repaired.code == 0, repaired.err
    (gap,) = [row for row in map(json.loads, repaired.out.splitlines()) if row["severity"] == "error"]
    assert gap["repaired"]
    assert "are damaged; records" in gap["message"]
    assert gap["message"].endswith("are lost")
    assert gap["place"].endswith("/log")
    assert list((store / "trash").iterdir()), "its bytes are kept"
    assert shell.run("verify", store, "--deep").code == 0
    with dvidzarr.open(store, "w", SETTINGS) as catalog:
        view = catalog.repos[0].instance("gray").at()
        view.write(WORLD, noise(9))
        assert (view.read(WORLD) == noise(9)).all()


def test_repair_leaves_damaged_values_in_the_findings(shell: Shell, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    for path in store.rglob("blobs/*"):
        flip(path)
    assert shell.run("verify", store, "--repair").code == 0, "values are read with --deep only"
    outcome = shell.run("verify", store, "--repair", "--deep")
    assert outcome.code == 1
    assert outcome.out.count("error: ") == 4, (
        outcome.out
    )  # one large document of each version of gray, one of other
    assert "b'blob'" in outcome.out
    assert len(DOCUMENTS) > 1


def test_repair_is_refused_while_another_process_writes(shell: Shell, tmp_path: Path) -> None:
    store = new_store(tmp_path / "store")
    with dvidzarr.open(store, "w", SETTINGS):
        outcome = shell.run("verify", store, "--repair")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    assert "is being written by process" in outcome.err
