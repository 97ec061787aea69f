"""Lineages against the chain of first parents."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dvidzarr.core.lineage import Lineage
from dvidzarr.repo.dag import Version, VersionDAG
from tests.property.dags import RandomVersions, version_graphs


def as_dag(versions: RandomVersions) -> VersionDAG:
    dag = VersionDAG()
    for ordinal, parents in enumerate(versions.above):
        dag = dag.with_version(Version(str(ordinal), str(ordinal), ordinal, ordinal + 1, "", parents, "", ""))
    return dag


@given(version_graphs())
def test_ranks_count_along_the_first_parents(versions: RandomVersions) -> None:
    dag = as_dag(versions)
    everything = np.arange(len(versions.above) + 3)
    for ordinal in range(len(versions.above)):
        chain = versions.chain(ordinal)
        want = [chain.index(v) if v in chain else -1 for v in everything.tolist()]
        for lineage in (versions.lineage(ordinal), dag.lineage(ordinal)):
            assert lineage.rank_of(everything).tolist() == want
            assert [v in lineage for v in everything.tolist()] == [rank >= 0 for rank in want]
        assert dag.ancestors(ordinal) == versions.ancestors(ordinal)


@given(version_graphs(), st.lists(st.integers(0, 12)), st.data())
def test_the_nearest_is_the_one_with_the_highest_rank(
    versions: RandomVersions, given_ordinals: list[int], data: st.DataObject
) -> None:
    ordinal = data.draw(st.integers(0, len(versions.above) - 1))
    chain = versions.chain(ordinal)
    nearest = versions.lineage(ordinal).nearest(np.array(given_ordinals, np.int64))
    on_it = [chain.index(v) for v in given_ordinals if v in chain]
    assert (nearest is None) == (not on_it)
    assert nearest is None or chain.index(given_ordinals[nearest]) == max(on_it)


def test_a_lineage_of_unversioned_data_sees_itself() -> None:
    assert 0 in Lineage.root(0)
    assert 1 not in Lineage.root(0)
