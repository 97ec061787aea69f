"""A merge with an ancestor that is itself a merge in conflict: what the other parent shows must not be forgotten."""

from pathlib import Path

import dvidzarr


def test_a_conflict_at_one_parent_does_not_hide_what_the_other_shows(tmp_path: Path) -> None:
    with dvidzarr.open(tmp_path / "store") as catalog:
        repo = catalog.create_repo("merges")
        gray = repo.create_instance("uint8blk", "gray", {"BlockSize": "8,8,8"})
        notes = repo.create_instance("keyvalue", "notes")
        root = repo.commit(repo.root)
        one, other = repo.branch(root, "one"), repo.branch(root, "other")
        for number, version in enumerate((one, other), 1):
            gray.at(version)[0:8, 0:8, 0:8] = number
            notes.at(version)["key"] = bytes([number])
            repo.commit(version)
        conflict = repo.commit(repo.merge([other, one]))
        settled = repo.commit(repo.merge([one, conflict]))
        last = repo.merge([conflict, settled])
        shown = [(int(gray.at(v)[0, 0, 0]), dict(notes.at(v))) for v in (conflict, settled, last)]
    assert shown == [(0, {}), (1, {"key": b"\1"}), (1, {"key": b"\1"})]
