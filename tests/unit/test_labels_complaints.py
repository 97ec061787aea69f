"""How often a follower of labels says that it cannot follow."""

from itertools import pairwise

import pytest

from dvidzarr.datatypes.labelblk import complaints as module
from dvidzarr.datatypes.labelblk.complaints import Complaints

DAY_S = 86_400


def test_a_lasting_problem_is_said_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    complaints, said = Complaints(), []
    for now in range(0, DAY_S, 30):
        monkeypatch.setattr(module.time, "monotonic", lambda now=now: float(now))
        if complaints.is_due("source", "unreadable"):
            said.append(now)
    assert said[:4] == [0, 60, 180, 420]
    pauses = [later - earlier for earlier, later in pairwise(said)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 6 * 3600


def test_another_problem_another_source_and_one_that_comes_back_are_said_at_once() -> None:
    complaints = Complaints()
    assert complaints.is_due("source", "unreadable")
    assert not complaints.is_due("source", "unreadable")
    assert complaints.is_due("source", "no room")
    assert complaints.is_due("other", "no room")
    assert complaints.is_due("source", "unreadable")
    complaints.withdraw("source")
    assert complaints.is_due("source", "unreadable")
