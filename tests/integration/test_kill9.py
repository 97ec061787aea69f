"""Processes that are killed in the middle of everything lose nothing that was acknowledged."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import dvidzarr
from dvidzarr.core.geometry import Box
from dvidzarr.repo.catalog import Catalog
from dvidzarr.repo.dag import Version
from dvidzarr.repo.repo import Repo
from dvidzarr.storage.writing import get_document
from tests.integration import stamps
from tests.integration.stamps import INSTANCE, KEYS, REGIONS, number_of, value_of

ROOT = Path(__file__).resolve().parents[2]
PLACES = (*map(str, range(len(REGIONS))), *(key.decode() for key in KEYS))


@dataclass
class Other:
    """What the journal says of an instance that comes and goes."""

    WORDS: ClassVar = ("created", "written", "renaming", "renamed", "deleting", "deleted")
    names: tuple[str, ...] = ()
    number: int | None = None
    deleting: bool = False
    deleted: bool = False

    def said(self, what: str, words: list[str]) -> None:
        """Take in a line of the journal."""
        if what == "written":
            self.number = int(words[0])
        elif words:
            self.names = tuple(words)
        self.deleting = self.deleting or what == "deleting"
        self.deleted = self.deleted or what == "deleted"


class Watch:
    """What the journal says must be there, and what was seen in locked versions."""

    def __init__(self, folder: Path, durability: str) -> None:
        self.folder = folder
        self.settings = stamps.settings_for(durability)
        self.durability = durability
        self.journal = folder.parent / "journal"
        self.hashes: dict[str, str] = {}
        self.acknowledged = 0
        with dvidzarr.open(folder, "w", self.settings) as catalog:
            catalog.create_repo("numbers").create_instance("uint8blk", INSTANCE, {"BlockSize": "8,8,8"})

    def run_and_kill(self, seed: int, seconds: float) -> None:
        """Let a process write for a while, counted from its first answer, then kill it."""
        before = self.journal.stat().st_size if self.journal.exists() else 0
        command = [sys.executable, stamps.__file__, self.folder, self.durability, self.journal, seed]
        process = subprocess.Popen([*map(str, command)], cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
        try:
            deadline = time.monotonic() + 120
            while b"done" not in self.written(before):
                assert process.poll() is None, "the writer ended by itself"
                assert time.monotonic() < deadline, "the writer did not begin"
                time.sleep(0.005)
            time.sleep(seconds)
            assert process.poll() is None, self.journal.read_text().splitlines()[-1]
        finally:
            process.kill()
            process.wait()
        self.forget_half_a_line()

    def forget_half_a_line(self) -> None:
        """Cut what the kill left of a line: one that is not whole was not written before what it says."""
        whole = self.journal.read_bytes().rpartition(b"\n")
        os.truncate(self.journal, len(whole[0]) + len(whole[1]))

    def written(self, start: int) -> bytes:
        """Return what the journal holds from a byte on."""
        return self.journal.read_bytes()[start:] if self.journal.exists() else b""

    def read_journal(self) -> dict[tuple[str, str], tuple[int | None, set[int]]]:
        """Return, per version and place, the last acknowledged number, and those sent since."""
        facts: dict[tuple[str, str], tuple[int | None, set[int]]] = defaultdict(lambda: (None, set()))
        self.locked, self.made, self.acknowledged = set(), set(), 0
        self.others: dict[str, Other] = defaultdict(Other)
        for line in self.journal.read_text().splitlines():
            what, uuid, *rest = line.split()
            assert what != "failed", line
            if what in Other.WORDS:
                self.others[uuid].said(what, rest)
            elif what == "sent":
                facts[uuid, rest[0]][1].add(int(rest[1]))
            elif what == "done":
                facts[uuid, rest[0]] = (int(rest[1]), set())
                self.acknowledged += 1
            else:
                (self.locked if what == "locked" else self.made).add(uuid)
        return facts

    def check(self, catalog: Catalog, *, everything: bool) -> None:
        """Compare the store with the journal."""
        repo, facts = catalog.repos[0], self.read_journal()
        self.check_others(repo)
        known = {version.uuid: version for version in repo.dag}
        assert self.locked | self.made <= known.keys()
        assert all(known[uuid].locked for uuid in self.locked)
        seen: dict[int, dict[str, int]] = {}
        start = 0 if everything else max(0, len(repo.dag) - 25)
        for version in list(repo.dag)[start:]:
            seen[version.ordinal] = numbers = self.numbers(repo, version)
            for place in PLACES:
                last, later = facts[version.uuid, place]
                allowed = later | ({last} if last is not None else set())
                parents = [seen.get(parent) for parent in version.parents]
                if last is None:
                    allowed |= {parent[place] for parent in parents if parent} | (
                        {0} if not parents else set()
                    )
                assert numbers[place] in allowed or None in parents, (
                    version,
                    place,
                    numbers[place],
                    last,
                    later,
                )
            if version.locked:
                text = hashlib.sha256(repr(sorted(numbers.items())).encode()).hexdigest()
                assert self.hashes.setdefault(version.uuid, text) == text, (
                    f"the locked version {version} changed"
                )

    def check_others(self, repo: Repo) -> None:
        """Compare the instances that come and go with the journal."""
        found = {instance.id: instance for instance in repo.instances.values() if instance.name != INSTANCE}
        for each, other in self.others.items():
            if each not in found:
                assert other.deleting, f"instance {each} is gone"
                continue
            assert not other.deleted, f"instance {each} is back"
            assert found[each].name in other.names
            number = number_of(found[each].at().read(Box((0, 0, 0), (8, 8, 8))))
            assert number == other.number or other.number is None

    @staticmethod
    def numbers(repo: Repo, version: Version) -> dict[str, int]:
        """Return what a version says in each place (0: nothing)."""
        view = repo.instance(INSTANCE).at(version)
        found = {str(index): number_of(view.read(box)) for index, (box, _) in enumerate(REGIONS)}
        for key in KEYS:
            value = get_document(view.instance.dataset, key, view.lineage())
            number = int((value or b"0").split(b" ", 1)[0])
            assert value is None or value == value_of(key, number), f"a mixed value of {key!r}"
            found[key.decode()] = number
        return found

    def cycle(self, seed: int, chance: random.Random, *, everything: bool) -> None:
        """Run, kill, look."""
        self.run_and_kill(seed, chance.uniform(0.02, 0.3))
        if chance.random() < 0.4:
            shutil.rmtree(self.folder / "cache", ignore_errors=True)
        with dvidzarr.open(self.folder, "r" if chance.random() < 0.2 else "w", self.settings) as catalog:
            self.check(catalog, everything=everything)
            assert [f for f in catalog.verify(deep=True) if f.severity == "error"] == []


def run_cycles(folder: Path, durability: str, cycles: int, seed: int) -> Watch:
    folder.mkdir(exist_ok=True)
    watch, chance = Watch(folder / "store", durability), random.Random(seed)
    for number in range(1, cycles + 1):
        watch.cycle(number, chance, everything=number % 10 == 0 or number == cycles)
    return watch


@pytest.mark.parametrize("durability", ["full", "fast"])
def test_a_few_kills(tmp_path: Path, durability: str) -> None:
    watch = run_cycles(tmp_path, durability, 4, 1)
    assert watch.acknowledged >= 4


@pytest.mark.kill9
@pytest.mark.slow
@pytest.mark.parametrize("durability", ["full", "fast"])
def test_many_kills(tmp_path: Path, durability: str) -> None:
    """Several stores, so that looking at all of one after each kill takes no longer than writing it."""
    watches = [run_cycles(tmp_path / str(seed), durability, 25, seed) for seed in range(2, 6)]
    assert all(watch.acknowledged >= 25 for watch in watches)  # at least one before each kill
